//! A connector as OpenFaaS' SDK makes them, as a function: it polls the API as `http://gateway:8080`, finds the functions
//! of its topic by their annotation, and calls them.

use roost_tests::{Config, Host, Image, eventually};
use serde_json::json;

use crate::support::{Table, empty, host_with};

/// What the SDK does in Go, in a shell. Each answer is a line of its output.
const CONNECTOR: &str = r#"busybox httpd -p 8080 -h /
read -r user </var/openfaas/secrets/basic-auth-user
read -r password </var/openfaas/secrets/basic-auth-password
system() { busybox wget -q -O - "http://$user:$password@gateway:8080/system/$1"; }
call() { busybox wget -q -O - --header 'X-Connector: test' --header 'X-Topic: payment.received' --post-data "$2" "http://gateway:8080/$1"; }
for namespace in $(system namespaces | busybox tr -d '[]"' | busybox tr , ' '); do
    echo "namespace $namespace"
    system "functions?namespace=$namespace" | busybox sed 's/{"name":/\n&/g' | while read -r function || [ -n "$function" ]; do
        case "$function" in *'"topic":"payment.received"'*)
            name=${function#'{"name":"'}; name=${name%%'"'*}
            echo "function $name.$namespace"
            echo "answer $(call function/$name.$namespace paid)"
            call async-function/$name.$namespace later && echo queued;;
        esac
    done
done
echo done
busybox sleep 1000000 & trap 'exit 0' TERM; wait"#;

/// Prints the head of each request, and answers `thanks`.
const RECEIVER: &str = r#"export ANSWER='
while read -r line && [ ${#line} -gt 1 ]; do echo "got ${line%?}" >&2; done
printf "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nthanks"; busybox cat >/dev/null'
exec busybox nc -ll -p 8080 -e /bin/busybox sh -c "$ANSWER""#;

async fn import(host: &Host, name: &str, namespace: &str, script: &str) {
    let path = format!("/system/images?name={name}&namespace={namespace}");
    let answer = host.api.post(&path, Image::script(script).archive(name)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_connector_that_is_a_function_calls_the_functions_of_its_topic() {
    let host = host_with(Config { stop_grace: "500ms", ..Config::default() }).await;
    let mut t = Table::of(&host.api);
    import(&host, "connector:1", "openfaas-fn", CONNECTOR).await;
    import(&host, "receiver:1", "openfaas-fn", RECEIVER).await;
    for (name, value) in [("basic-auth-user", "admin"), ("basic-auth-password", host.password())] {
        t.row("POST /system/secrets", json!({ "name": name, "value": value }), empty(202)).await;
    }
    for (name, topic) in [("receiver", "payment.received"), ("other", "payment.sent")] {
        let sent = json!({ "service": name, "image": "receiver:1", "annotations": { "topic": topic } });
        t.row("POST /system/functions?wait=60s", sent, empty(202)).await;
    }
    let secrets = ["basic-auth-user", "basic-auth-password"];
    let connector = json!({ "service": "connector", "image": "connector:1", "secrets": secrets });
    t.row("POST /system/functions?wait=60s", connector, empty(202)).await;

    let said = eventually("the connector's round", || async {
        let lines = host.log_lines("connector").await;
        lines.iter().any(|line| line == "done").then_some(lines)
    })
    .await;
    let wanted =
        ["namespace openfaas-fn", "function receiver.openfaas-fn", "answer thanks", "queued", "done"];
    assert_eq!(said, wanted);
    eventually("both calls", || async {
        let lines = host.log_lines("receiver").await;
        let count = |head: &str| lines.iter().filter(|line| line.eq_ignore_ascii_case(head)).count();
        let both = count("got X-Connector: test") == 2 && count("got X-Topic: payment.received") == 2;
        both.then_some(())
    })
    .await;
    let other = host.log_lines("other").await;
    assert!(!other.iter().any(|line| line.starts_with("got POST")), "of another topic: {other:?}");
}
