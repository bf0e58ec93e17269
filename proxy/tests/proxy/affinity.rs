//! Clients that come back to the replica that they had.

use std::num::NonZeroUsize;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use roost_proxy::{AffinityKey, Endpoint, Placement, Settings, Upstream, UpstreamLimits};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::*;

fn sticky(affinity: &str) -> Placement {
    Placement { affinity: Some(affinity.parse().unwrap()), ..Placement::default() }
}

/// Two replicas that say their names.
async fn two() -> (Arc<Endpoint>, Arc<Endpoint>) {
    let a = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
    let b = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";
    (Function::start().await.serve(a).0, Function::start().await.serve(b).0)
}

async fn ask(proxy: &Proxy, headers: &str) -> Answer {
    proxy.ask(&format!("GET /function/f?room=5 HTTP/1.1\r\nhost: h\r\n{headers}\r\n")).await.answer().await
}

/// The header by which a client sends back the cookie that it was given.
fn returned(head: &Head) -> String {
    let cookie = head.value("set-cookie").expect("a cookie");
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/function/f; HttpOnly; SameSite=Lax");
    format!("cookie: other=1; {pair}\r\n")
}

#[tokio::test]
async fn a_cookie_leads_back_and_is_given_anew_when_its_replica_is_full_gone_or_draining() {
    let proxy = Proxy::start().await;
    let (a, b) = two().await;
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
    upstream.set_placement(sticky("cookie"));
    let first = ask(&proxy, "").await;
    let cookie = returned(&first.head);
    for _ in 0..10 {
        let again = ask(&proxy, &cookie).await;
        assert_eq!(again.body, first.body);
        assert_eq!(again.head.value("set-cookie"), None, "it has it already");
    }
    let other = if first.body == "a" { "b" } else { "a" };
    let (had, left) = if first.body == "a" { (&a, &b) } else { (&b, &a) };
    // Full: the cap is one, and one is held.
    until(|| had.in_flight() == 0).await;
    let one = UpstreamLimits { cap: NonZeroUsize::new(1), ..UpstreamLimits::default() };
    upstream.publish(vec![Arc::clone(had)]);
    let held = upstream.claim().unwrap();
    upstream.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
    upstream.set_limits(one);
    let moved = ask(&proxy, &cookie).await;
    assert_eq!(moved.body, other);
    assert_eq!(ask(&proxy, &returned(&moved.head)).await.body, other);
    // There is room again, and whoever did not take the new cookie is where it was.
    drop(held);
    assert_eq!(ask(&proxy, &cookie).await.body, first.body);
    // Draining.
    upstream.publish(vec![Arc::clone(left)]);
    let moved = ask(&proxy, &cookie).await;
    assert_eq!(moved.body, other);
    let cookie = returned(&moved.head);
    upstream.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
    assert_eq!(ask(&proxy, &cookie).await.body, other);
    // Without the setting, the cookie is nothing to us.
    upstream.set_placement(Placement::default());
    assert_eq!(ask(&proxy, "").await.head.value("set-cookie"), None);
}

#[tokio::test]
async fn a_cookie_outlives_the_proxy_if_the_key_does() {
    let key = AffinityKey::random();
    let endpoints = two().await;
    let mut cookie = String::new();
    let mut served = String::new();
    for round in 0..3 {
        let settings = Settings { affinity_key: key.clone(), ..Settings::default() };
        let proxy = Proxy::with(settings).await;
        let upstream = proxy.function("f", &[]);
        upstream.set_placement(sticky("cookie"));
        let endpoint = |of: &Endpoint| Endpoint::new(of.id().clone(), of.address());
        upstream.publish(vec![endpoint(&endpoints.0), endpoint(&endpoints.1)]);
        if round == 0 {
            let first = ask(&proxy, "").await;
            (cookie, served) = (returned(&first.head), first.body);
        }
        for _ in 0..5 {
            let again = ask(&proxy, &cookie).await;
            assert_eq!((&again.body, again.head.value("set-cookie")), (&served, None));
        }
    }
}

#[tokio::test]
async fn an_address_a_header_or_a_parameter_leads_to_one_replica_and_to_the_next_best_when_it_is_gone() {
    let proxy = Proxy::start().await;
    let (a, b) = two().await;
    let upstream = proxy.function("f", &[]);
    for affinity in ["ip", "header:X-Room", "query:room"] {
        upstream.set_placement(sticky(affinity));
        upstream.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
        let first = ask(&proxy, "x-room: 5\r\n").await;
        assert_eq!(first.head.value("set-cookie"), None);
        for _ in 0..5 {
            assert_eq!(ask(&proxy, "x-room: 5\r\n").await.body, first.body, "{affinity}");
        }
        let (had, other) = if first.body == "a" { (&a, &b) } else { (&b, &a) };
        upstream.publish(vec![Arc::clone(other)]);
        assert_ne!(ask(&proxy, "x-room: 5\r\n").await.body, first.body, "{affinity}");
        upstream.publish(vec![Arc::clone(other), Arc::clone(had)]);
        assert_eq!(ask(&proxy, "x-room: 5\r\n").await.body, first.body, "{affinity}, in another order");
    }
    upstream.set_placement(sticky("header:X-Room"));
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(ask(&proxy, "").await.body);
    }
    assert!(
        seen.contains(&"a".into()) && seen.contains(&"b".into()),
        "without the header anywhere: {seen:?}"
    );
}

/// What Engine.IO, below Socket.IO, needs: a session is made by a poll and lives in the memory of one replica, where all
/// later polls and the handshake of the WebSocket have to come, each on a connection of its own.
async fn engine(listener: TcpListener, name: &'static str) {
    let sessions = Arc::new(std::sync::Mutex::new(0));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        let peeked = loop {
            let length = stream.peek(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            if text.contains("\r\n\r\n") {
                break text;
            }
        };
        let known = *sessions.lock().unwrap();
        let mine = (0..known).any(|session| peeked.contains(&format!("sid={name}{session} ")));
        if peeked.contains("transport=websocket") {
            tokio::spawn(async move {
                if !mine {
                    Wire::new(stream).send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                }
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        socket
                            .send(Message::text(format!("3{}", &message.to_text().unwrap()[1..])))
                            .await
                            .unwrap();
                    }
                }
            });
            continue;
        }
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move {
            let mut wire = Wire::new(stream);
            wire.head().await;
            let answer = if mine {
                ok("ok").replacen("HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n", 1)
            } else if peeked.contains("sid=") {
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into()
            } else {
                let mut sessions = sessions.lock().unwrap();
                let session = format!("{name}{sessions}");
                *sessions += 1;
                ok(&session).replacen("HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n", 1)
            };
            wire.send(answer).await;
        });
    }
}

async fn two_engines(upstream: &Arc<Upstream>) {
    let mut endpoints = Vec::new();
    for name in ["a", "b"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(Endpoint::new(format!("f-{name}").parse().unwrap(), listener.local_addr().unwrap()));
        tokio::spawn(engine(listener, name));
    }
    upstream.publish(endpoints);
}

#[tokio::test]
async fn a_socket_io_server_works_with_two_replicas() {
    let proxy = Proxy::start().await;
    let upstream = proxy.function("f", &[]);
    upstream.set_placement(sticky("cookie"));
    two_engines(&upstream).await;
    for _ in 0..6 {
        let poll = |query: String, cookie: &str| {
            let path = format!("/function/f/socket.io/?EIO=4&transport=polling{query}");
            let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n{cookie}\r\n");
            let proxy = &proxy;
            async move { proxy.ask(&request).await.answer().await }
        };
        let opened = poll(String::new(), "").await;
        let (session, cookie) = (opened.body, returned(&opened.head));
        for _ in 0..3 {
            assert_eq!(poll(format!("&sid={session}"), &cookie).await.body, "ok");
        }
        let url = format!("ws://h/function/f/socket.io/?EIO=4&transport=websocket&sid={session}");
        let mut request = url.into_client_request().unwrap();
        let cookie = cookie.trim_end().strip_prefix("cookie: ").unwrap().parse().unwrap();
        request.headers_mut().insert("cookie", cookie);
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (mut socket, response) = within(tokio_tungstenite::client_async(request, stream)).await.unwrap();
        assert!(!response.headers().contains_key("set-cookie"));
        socket.send(Message::text("2probe")).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text("3probe"));
    }
}

#[tokio::test]
async fn a_handshake_without_a_cookie_is_given_one_with_the_101() {
    let proxy = Proxy::start().await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_placement(sticky("cookie"));
    let mut client = proxy
        .ask("GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: lines/1\r\n\r\n")
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines/1\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    returned(&head);
}
