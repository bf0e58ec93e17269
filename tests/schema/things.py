"""What there is on a host: functions, secrets and namespaces.

    things.py URL              prints it
    things.py URL BEFORE       removes what is not in BEFORE, a file that it printed to

As the user in ROOST_USER with the password in ROOST_PASSWORD.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

LOGIN = f"{os.environ.get('ROOST_USER', 'admin')}:{os.environ['ROOST_PASSWORD']}"
# How long functions may take to end, in seconds: what they are in has to be empty.
PATIENCE = 120


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(sys.argv[1] + path, data, method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def things():
    found = []
    for namespace in call("GET", "/system/namespaces"):
        query = urllib.parse.urlencode({"namespace": namespace})
        try:
            for kind in ("functions", "secrets"):
                found += [[kind, namespace, one["name"]] for one in call("GET", f"/system/{kind}?{query}")]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            continue  # It has ended meanwhile.
        found.append(["namespaces", namespace, namespace])
    return found


def remove(kind, namespace, name):
    if kind == "namespaces":
        call("DELETE", f"/system/namespace/{urllib.parse.quote(name)}", {"name": name})
    else:
        field = "functionName" if kind == "functions" else "name"
        call("DELETE", f"/system/{kind}", {field: name, "namespace": namespace})


def clear(before):
    deadline = time.monotonic() + PATIENCE
    while left := [thing for thing in things() if thing not in before]:
        refused = None
        for thing in left:
            try:
                remove(*thing)
            except urllib.error.HTTPError as error:
                refused = f"{thing}: {error.code} {error.read().decode()}"
        if refused and time.monotonic() > deadline:
            sys.exit(f"cannot be removed: {refused}")
        # Nothing announces that a function has ended.
        time.sleep(0.5)


if len(sys.argv) > 2:
    with open(sys.argv[2]) as file:
        clear(json.load(file))
else:
    json.dump(things(), sys.stdout)
