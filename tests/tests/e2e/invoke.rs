//! What a caller of a function sees: methods, headers, paths, streams.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use roost_tests::{Host, Image, Registry, body_in_pieces, body_of, eventually, next_piece};

async fn echo() -> (Registry, Host) {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    host.deploy("echo", &image).await;
    (registry, host)
}

#[tokio::test]
async fn every_method_path_and_query_reaches_the_function() {
    let (_registry, host) = echo().await;
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let answer = host.api.send(method.clone(), "/function/echo/any/path", "a body").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a body"), "{method}");
    }
    for method in [Method::GET, Method::OPTIONS] {
        let answer = host.api.send(method.clone(), "/function/echo/headers?q=1&q=2%20x", "").await;
        let first = answer.text().lines().next().unwrap_or_default().to_owned();
        assert_eq!(first, format!("{method} /headers?q=1&q=2%20x HTTP/1.1"));
    }
    // The function gets the path as it was sent; the example tells in its log which one it saw.
    for rest in ["//a//b/", "/a%2Fb%2f", "/./a/../../b/..", "/%2e%2e/a", "/a;b=c/d:e@f"] {
        host.api.post(&format!("/function/echo{rest}"), "seen").await;
        let line = format!("POST {rest} 200");
        eventually("the line of the request", || async {
            host.log_lines("echo").await.iter().any(|seen| seen.contains(&line)).then_some(())
        })
        .await;
    }
    let head = host.api.send(Method::HEAD, "/function/echo/headers", "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    for path in ["/function/echo", "/function/echo/"] {
        assert!(host.api.get(path).await.text().starts_with("This is echo"), "{path}");
    }
    let trace = host.api.send(Method::TRACE, "/function/echo", "").await;
    assert_eq!(trace.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn headers_are_passed_on_and_those_of_the_connection_are_not() {
    let (_registry, host) = echo().await;
    let request = host.api.request(&Method::GET, "/function/echo/headers");
    let request = request.header("X-Own", "mine").header("Authorization", "Bearer t").header("Cookie", "a=b");
    let request =
        request.header("Connection", "x-hop").header("X-Hop", "1").header("X-Forwarded-For", "192.0.2.9");
    let answer = host.api.try_send(request.body(body_of("")).unwrap()).await.unwrap();
    let text = answer.text().to_owned();
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    assert_eq!(value("x-own").as_deref(), Some("mine"));
    assert_eq!(value("authorization").as_deref(), Some("Bearer t"));
    assert_eq!(value("cookie").as_deref(), Some("a=b"));
    assert_eq!(value("x-forwarded-host"), Some(format!("127.0.0.1:{}", host.port())));
    assert!(
        value("x-forwarded-for").is_some_and(|chain| chain.starts_with("192.0.2.9, 127.0.0.1")),
        "{text}"
    );
    assert!(value("x-start-time").is_some_and(|time| time.len() == 19), "nanoseconds: {text}");
    let call_id = value("x-call-id").expect("a call id");
    assert_eq!(answer.header("x-call-id"), call_id, "the caller sees it, too");

    let request =
        host.api.request(&Method::GET, "/function/echo/headers").header("X-Call-Id", "of-the-caller");
    let answer = host.api.try_send(request.body(body_of("")).unwrap()).await.unwrap();
    assert_eq!(answer.header("x-call-id"), "of-the-caller");
    assert!(answer.text().contains("x-call-id: of-the-caller"), "{}", answer.text());
}

#[tokio::test]
async fn bytes_are_streamed_both_ways_while_they_come() {
    let (_registry, host) = echo().await;
    let (sender, body) = body_in_pieces();
    let request = host.api.request(&Method::POST, "/function/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"piece 0")).await.unwrap();
    let mut response = host.api.open(request).await.unwrap().into_body();
    // Each piece comes back before the next is sent: nothing on the way waits for more.
    assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), "piece 0");
    for n in 1..20 {
        let piece = format!("piece {n}");
        sender.send(piece.clone().into()).await.unwrap();
        assert_eq!(next_piece(&mut response).await.unwrap().unwrap(), piece);
    }
    drop(sender);
    assert_eq!(next_piece(&mut response).await.unwrap(), None);
}

#[tokio::test]
async fn a_large_body_comes_back_whole() {
    let (_registry, host) = echo().await;
    let body: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = host.api.post("/function/echo", body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
    assert!(host.daemon_memory() < 100 * 1024, "{} KiB: the body was kept in memory", host.daemon_memory());
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (_registry, host) = echo().await;
    let request = host.api.request(&Method::GET, "/function/echo/sse").header("Accept", "text/event-stream");
    let response = host.api.open(request.body(body_of("")).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    for n in 1..=3 {
        let event = next_piece(&mut body).await.unwrap().unwrap();
        let event = str::from_utf8(&event).unwrap();
        assert!(
            event.starts_with(&format!("id: {n}\nevent: tick\n")) && event.ends_with("\n\n"),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_function_is_not_found() {
    let host = Host::start().await;
    for path in ["/function/nobody", "/function/nobody.openfaas-fn/path", "/function/nobody.elsewhere"] {
        let answer = host.api.post(path, "hi").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.text().contains("nobody"), "{path}: {}", answer.text());
        assert!(!answer.header("x-call-id").is_empty(), "{path}");
    }
}
