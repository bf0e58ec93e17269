# Tells on its output which requests it has seen whole, one a line, and answers each with the same. Runs in gunicorn.
import os
import sys
import threading

from gunicorn.app.base import BaseApplication


def application(environ, start_response):
    length = len(environ["wsgi.input"].read())
    seen = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {length}"
    os.write(1, f"SEEN {seen}\n".encode())
    body = seen.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def ready(server):
    os.write(1, f"PORT {server.LISTENERS[0].sock.getsockname()[1]}\n".encode())


def leave_with_the_test(worker):
    # The end of the test is the end of this.
    def wait():
        sys.stdin.buffer.read()
        os.kill(os.getppid(), 15)

    threading.Thread(target=wait, daemon=True).start()


class Server(BaseApplication):
    def load_config(self):
        for name, value in {
            "bind": "127.0.0.1:0",
            "worker_class": "gthread",
            "threads": 4,
            "keepalive": 60,
            "loglevel": "critical",
            "control_socket_disable": True,
            "when_ready": ready,
            "post_fork": lambda server, worker: leave_with_the_test(worker),
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return application


Server().run()
