//! HTTP/2 from clients that know it is spoken here.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn an_http2_client_is_served_by_an_http1_function() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::post("http://api.example/function/f/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::from("hello"))
        .unwrap();
    let response = sender.send_request(request);
    let answer = async {
        let mut wire = function.accept().await;
        let head = wire.head().await;
        assert_eq!(head.line, "POST /x?y HTTP/1.1");
        assert_eq!(head.value("cookie"), Some("a=1; b=2"));
        assert_eq!(head.value("x-forwarded-host"), Some("api.example"));
        assert_eq!(head.value("host"), Some(function.endpoint.address().to_string().as_str()));
        match head.value("content-length") {
            Some(length) => assert_eq!(wire.text(length.parse().unwrap()).await, "hello"),
            None => assert_eq!(wire.chunk().await.as_deref(), Some("hello")),
        }
        wire.send(format!("{CHUNKED}2\r\nhi\r\n0\r\n\r\n")).await;
        wire
    };
    let (response, _wire) = within(async { tokio::join!(response, answer) }).await;
    let response = response.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    assert!(response.headers().contains_key("x-call-id"));
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "hi");
    driver.abort();
}

#[tokio::test]
async fn an_http2_stream_is_reset_when_the_answer_breaks_off_and_the_others_go_on() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let ask = |path: &str| Request::get(format!("http://h{path}")).body(Empty::new()).unwrap();
    let response = sender.send_request(ask("/function/f"));
    let answer = async {
        let mut wire = function.accept().await;
        wire.head().await;
        wire.send(format!("{CHUNKED}2\r\nhi\r\n")).await;
        wire
    };
    let (response, wire) = within(async { tokio::join!(response, answer) }).await;
    let mut body = response.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "hi");
    drop(wire);
    assert!(within(body.frame()).await.unwrap().is_err());
    // A stream that the client resets is one request cancelled.
    let dropped = sender.send_request(ask("/function/f"));
    let mut wire = {
        let mut dropped = Box::pin(dropped);
        tokio::select! {
            _ = &mut dropped => panic!("nobody has answered"),
            wire = function.accept() => wire,
        }
    };
    wire.head().await;
    assert_eq!(wire.closed().await, b"");
    until(|| upstream.load().in_flight == 0).await;
    let response = within(sender.send_request(ask("/other"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    driver.abort();
}

#[tokio::test]
async fn an_http2_body_is_streamed() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let (frames, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let body = StreamBody::new(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (frame, receiver))
    }));
    let response = sender.send_request(Request::post("http://h/function/f").body(Box::pin(body)).unwrap());
    let answer = async {
        let mut wire = function.accept().await;
        wire.head().await;
        for text in ["one", "two"] {
            frames.send(Ok(Frame::data(text.into()))).await.unwrap();
            assert_eq!(wire.chunk().await.as_deref(), Some(text));
        }
        drop(frames);
        assert_eq!(wire.chunk().await.as_deref(), Some(""));
        wire.send(ok("ok")).await;
        wire
    };
    let (response, _wire) = within(async { tokio::join!(response, answer) }).await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    driver.abort();
}
