//! Calls of functions: what reaches them, what comes back.

use roost_tests::{Api, Config, Host, Image};
use serde_json::json;

use crate::support::{IMAGE, Table, empty, error, host, host_with, invoked, proxied};

#[tokio::test]
async fn calls_reach_the_function_and_its_answers_the_client() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    // Nobody needs a password for a function.
    let nobody = Api::new(host.port(), None);
    let mut t = Table::of(&nobody);
    let text = "text/plain; charset=utf-8";
    for name in ["echo", "echo.openfaas-fn"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            t.header("content-type", "a/b");
            t.row(&format!("{method} /function/{name}/path"), "hi", invoked(200, "a/b", "hi")).await;
        }
    }
    // A content type that nobody names is plain text.
    t.row("POST /function/echo", "hi", invoked(200, "text/plain", "hi")).await;
    t.row("HEAD /function/echo/headers", "", invoked(200, text, "")).await;
    t.row("OPTIONS /function/echo", "", proxied(empty(200))).await;
    for method in ["TRACE", "LINK", "PROPFIND"] {
        t.row(&format!("{method} /function/echo"), "", empty(405)).await;
    }
    // The client's call id stays the client's.
    t.header("x-call-id", "mine");
    t.row("POST /function/echo", "hi", invoked(200, "text/plain", "hi").with("x-call-id", "mine")).await;

    // What stands behind the name is the function's: nothing of it is cleaned or decoded.
    for path in ["//a//b/", "/a%2Fb%2f", "/./a/../b/..", "/%2e%2E/a", "/a%20b%00?q=//..&q=%2F"] {
        let seen = t.row(&format!("PUT /function/echo{path}"), "", proxied(empty(200))).await;
        assert_eq!(seen.status, 200, "{path}");
    }
    let unknown = |name: &str| {
        let text = format!("error finding function {name}: no such function on this host\n");
        proxied(error(404, &text)).with("x-openfaas-internal", "proxy")
    };
    t.row("POST /function/nobody", "hi", unknown("nobody.openfaas-fn")).await;
    t.row("GET /function/nobody/a/b?c", "", unknown("nobody.openfaas-fn")).await;
    t.row("GET /function/echo.nowhere", "", unknown("echo.nowhere")).await;
    t.row("GET /function/Not_A_Name", "", unknown("Not_A_Name.openfaas-fn")).await;
}

#[tokio::test]
async fn a_function_sees_the_clients_headers_and_the_proxys() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    let request = |headers: &[(&str, &str)]| {
        let mut request = host.api.request(&hyper::Method::GET, "/function/echo/headers?q=%2F&r=a+b");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(roost_tests::body_of("")).unwrap()
    };
    let lines = |answer: roost_tests::Answer| {
        let mut lines: Vec<_> = answer.text().lines().map(str::to_owned).collect();
        // The address of a replica differs from run to run.
        lines.retain(|line| !line.starts_with("host: "));
        lines[1..].sort();
        lines
    };
    let sent = request(&[
        ("authorization", "Bearer of the client"),
        ("cookie", "a=b"),
        ("user-agent", "client/1"),
        ("x-own", "1"),
        ("x-call-id", "mine"),
        ("x-forwarded-for", "192.0.2.9"),
        ("x-forwarded-host", "first.example"),
        ("te", "gzip"),
        ("keep-alive", "5"),
        ("proxy-authorization", "no"),
        ("proxy-connection", "no"),
        ("connection", "x-hop"),
        ("x-hop", "no"),
    ]);
    let mut seen = lines(host.api.try_send(sent).await.unwrap());
    let start = seen.iter().position(|line| line.starts_with("x-start-time: ")).expect("x-start-time");
    assert_eq!(seen.remove(start).len(), "x-start-time: ".len() + 19, "nanoseconds");
    assert_eq!(
        seen,
        [
            "GET /headers?q=%2F&r=a+b HTTP/1.1",
            "authorization: Bearer of the client",
            "cookie: a=b",
            "user-agent: client/1",
            "x-call-id: mine",
            "x-forwarded-for: 192.0.2.9, 127.0.0.1",
            "x-forwarded-host: first.example",
            "x-forwarded-proto: http",
            "x-own: 1",
        ]
    );
    // Of a client that says nothing.
    let seen = lines(host.api.try_send(request(&[])).await.unwrap());
    let value = |name: &str| {
        seen.iter().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default().to_owned()
    };
    assert_eq!(value("x-forwarded-for"), "127.0.0.1");
    assert_eq!(value("x-forwarded-host"), format!("127.0.0.1:{}", host.port()));
    assert_eq!(value("user-agent"), concat!("roost/", env!("CARGO_PKG_VERSION")));
    assert_eq!(value("x-call-id").len(), 36);
}

/// Answers one request a connection, by its path, and never names a content type. What comes in is read to its end: a
/// connection that is closed with something unread is a reset, and takes the answer with it.
const ODD: &str = r#"export ANSWER='
read -r method path version
while read -r line && [ ${#line} -gt 1 ]; do :; done
answer() { printf "HTTP/1.1 $1\r\nConnection: close\r\nContent-Length: ${#2}\r\n$3\r\n$2"; busybox cat >/dev/null; }
case "$path" in
/redirect) answer "302 Found" "" "Location: http://elsewhere.example/x\r\n";;
/teapot) answer "418 I am a teapot" tea "X-Own: 1\r\nX-Own: 2\r\n";;
/fail) ;;
/slow) busybox cat >/dev/null;;
*) answer "200 OK" ok "";;
esac'
exec busybox nc -ll -p 8080 -e /bin/busybox sh -c "$ANSWER""#;

/// A host with [`ODD`] as `odd`.
async fn odd(config: Config) -> Host {
    // What runs as the first process there does not end when it is asked to.
    let host = host_with(Config { stop_grace: "500ms", ..config }).await;
    let archive = Image::script(ODD).archive("odd:1");
    let answer = host.api.post("/system/images?name=odd:1", archive).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    host.post_function(&json!({ "service": "odd", "image": "odd:1" })).await;
    host.ready("odd").await;
    host
}

#[tokio::test]
async fn odd_answers_come_back_as_they_are() {
    let host = odd(Config::default()).await;
    let mut t = Table::of(&host.api);
    // The request's content type stands in for the function's, as ever.
    t.header("content-type", "of/request");
    t.row("POST /function/odd/", "hi", invoked(200, "of/request", "ok")).await;
    t.row("GET /function/odd/", "", invoked(200, "text/plain", "ok")).await;
    let redirect = proxied(empty(302)).with("location", "http://elsewhere.example/x");
    t.row("GET /function/odd/redirect", "", redirect).await;
    t.row("GET /function/odd/teapot", "", invoked(418, "text/plain", "tea").with("x-own", "1 | 2")).await;
    t.row("GET /function/odd/fail", "", {
        let replica = host.process_of("odd").0;
        let text = format!(
            "Can't reach service for: odd. Replica {replica} closed the connection without an answer\n"
        );
        proxied(error(500, &text)).with("x-openfaas-internal", "proxy")
    })
    .await;
}

#[tokio::test]
async fn a_function_that_does_not_answer_within_its_limit_is_not_waited_for() {
    let host = odd(Config { request_timeout: "1s", ..Config::default() }).await;
    let mut t = Table::of(&host.api);
    let slow = error(502, "function odd.openfaas-fn did not answer within its request limit of 1s\n");
    let slow = proxied(slow).with("x-openfaas-internal", "proxy").with("x-roost-timeout", "request");
    t.row("GET /function/odd/slow", "", slow).await;
}

#[tokio::test]
async fn a_function_that_does_not_come_up_is_unavailable_and_says_why() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    // Nobody listens there.
    let sent = json!({ "service": "absent", "image": "127.0.0.1:9/absent:1" });
    let failed = error(422, "").begins("absent.openfaas-fn: ");
    t.row("POST /system/functions?wait=60s", &sent, failed).await;
    let unavailable = proxied(error(503, "")).begins("function absent.openfaas-fn is not available: ");
    let unavailable = unavailable.with("retry-after", "1").with("x-openfaas-internal", "proxy");
    t.row("POST /function/absent", "hi", unavailable).await;
    let shown = host.function("absent").await;
    assert_eq!((&shown["replicas"], &shown["availableReplicas"]), (&json!(1), &json!(0)), "{shown:#}");
}
