//! Which requests go where, and the answers to those that go nowhere.

use crate::support::*;

#[tokio::test]
async fn the_function_sees_its_part_of_the_path_and_the_query_untouched() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    proxy.function("f.staging", &[&function]);
    let (mut client, mut at_function) = (proxy.connect().await, None);
    for (asked, seen) in [
        ("/function/f", "/"),
        ("/function/f/", "/"),
        ("/function/f?", "/?"),
        ("/function/f/a/b%20c/?x=%2F&y=//..&z", "/a/b%20c/?x=%2F&y=//..&z"),
        ("/function/f.openfaas-fn/a", "/a"),
        ("/function/f.staging/a%2Fb", "/a%2Fb"),
        ("/function/f//a//?x=//", "//a//?x=//"),
        ("/function/f/./../%2e%2E/%2fsystem/..", "/./../%2e%2E/%2fsystem/.."),
        ("http://roost/function/f/absolute", "/absolute"),
    ] {
        client.send(format!("GET {asked} HTTP/1.1\r\nhost: roost\r\n\r\n")).await;
        if at_function.is_none() {
            at_function = Some(function.accept().await);
        }
        let wire = at_function.as_mut().unwrap();
        assert_eq!(wire.head().await.line, format!("GET {seen} HTTP/1.1"), "{asked}");
        wire.send(ok("hi")).await;
        assert_eq!(client.answer().await.body, "hi");
    }
}

#[tokio::test]
async fn a_path_that_names_no_function_and_is_not_canonical_is_sent_to_its_clean_form() {
    let proxy = Proxy::start().await;
    for (asked, location) in [
        ("/function//f?x=//", "/function/f?x=//"),
        ("/function/../g", "/g"),
        ("/system/./functions", "/system/functions"),
        ("//evil.example/", "/evil.example/"),
        ("/function/%2e%2e/system", "/system"),
    ] {
        let answer = proxy.get(asked).await;
        assert_eq!((answer.head.status(), answer.head.value("location")), (301, Some(location)), "{asked}");
        assert_eq!(answer.body, "");
    }
}

#[tokio::test]
async fn everything_else_goes_to_the_fallback() {
    let proxy = Proxy::start().await;
    for path in ["/", "/healthz?x", "/function/", "/functions/f", "/function/f%20g"] {
        assert_eq!(proxy.get(path).await.body, format!("fallback {path} 127.0.0.1"));
    }
}

#[tokio::test]
async fn an_unknown_function_is_a_404_that_names_it() {
    let proxy = Proxy::start().await;
    for (segment, name) in [("nope", "nope.openfaas-fn"), ("a.b.c", "a.b.c"), ("A_b", "A_b.openfaas-fn")] {
        let answer = proxy.get(&format!("/function/{segment}/x")).await;
        assert_eq!(answer.head.status(), 404);
        assert_eq!(answer.body, format!("error finding function {name}: no such function on this host\n"));
        assert_eq!(answer.head.value("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.head.value("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.head.value("x-openfaas-internal"), Some("proxy"));
        assert_eq!(answer.head.value("x-call-id").map(str::len), Some(36));
    }
}

#[tokio::test]
async fn a_function_takes_seven_methods_and_no_other() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[]);
    let (endpoint, _) = function.serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    upstream.publish(vec![endpoint]);
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD"] {
        let request = format!("{method} /function/f HTTP/1.1\r\nhost: roost\r\n\r\n");
        assert_eq!(proxy.ask(&request).await.head().await.status(), 200, "{method}");
    }
    for method in ["TRACE", "PROPFIND", "get"] {
        let request = format!("{method} /function/f HTTP/1.1\r\nhost: roost\r\n\r\n");
        let answer = proxy.ask(&request).await.answer().await;
        assert_eq!((answer.head.status(), answer.body.as_str()), (405, ""), "{method}");
        assert_eq!(answer.head.value("allow"), None);
    }
    let connect = "CONNECT example:80 HTTP/1.1\r\nhost: example:80\r\n\r\n";
    assert_eq!(proxy.ask(connect).await.head().await.status(), 405);
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_no_more() {
    let proxy = Proxy::start().await;
    let mut wire = proxy.ask("GET /panic HTTP/1.1\r\nhost: roost\r\n\r\n").await;
    assert_eq!(wire.closed().await, b"");
    assert_eq!(proxy.get("/").await.head.status(), 200);
}
