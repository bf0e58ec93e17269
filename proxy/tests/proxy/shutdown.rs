//! The end of a server.

use std::time::Duration;

use roost_proxy::Drained;

use crate::support::*;

#[tokio::test]
async fn requests_in_flight_finish_while_tunnels_and_idle_connections_close() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut silent = proxy.connect().await;
    let mut idle = proxy.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(idle.answer().await.head.status(), 200);
    let mut busy = proxy.ask(GET).await;
    let mut answering = function.accept().await;
    answering.head().await;
    let mut tunnel =
        proxy.ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    let mut far = function.accept().await;
    far.head().await;
    far.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    assert_eq!(tunnel.head().await.status(), 101);

    let server = proxy.server.clone();
    let down = tokio::spawn(async move { server.shutdown(DEADLINE).await });
    assert_eq!(idle.ended().await, b"");
    assert_eq!(silent.closed().await, b"");
    assert!(tokio::net::TcpStream::connect(proxy.address).await.is_err(), "still accepting");
    assert_eq!((tunnel.closed().await, far.closed().await), (Vec::new(), Vec::new()));

    assert!(!down.is_finished());
    answering.send(ok("done")).await;
    let answer = busy.answer().await;
    assert_eq!((answer.body.as_str(), answer.head.value("connection")), ("done", Some("close")));
    assert_eq!(within(down).await.unwrap(), Drained { cut: 0 });
}

#[tokio::test]
async fn what_has_not_finished_by_the_deadline_is_cut() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut busy = proxy.ask(GET).await;
    let mut answering = function.accept().await;
    answering.head().await;
    answering.send(CHUNKED).await;
    busy.head().await;
    let drained = within(proxy.server.shutdown(Duration::from_millis(50))).await;
    assert_eq!(drained, Drained { cut: 1 });
    assert_eq!(busy.chunk().await, None);
    assert_eq!(answering.closed().await, b"");
    within(function.endpoint.drained()).await;
    assert_eq!(proxy.server.open(), 0);
}
