//! TLS towards clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_proxy::tls::{Certificate, CertificateError, Tls};
use roost_proxy::{Settings, Timeouts};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// A certificate for `names`, and what a client has to trust.
fn certificate(names: &[&str]) -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    let made = made.unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    (Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap(), made.cert.der().clone())
}

fn trusting(roots: &[&CertificateDer<'static>], protocols: &[&str]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) async fn shake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    within(TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// Has `proxy` speak TLS at an address of its own.
async fn speak(proxy: &Proxy, tls: &Tls) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, tls) = (proxy.server.clone(), tls.clone());
    tokio::spawn(async move { server.serve_tls(listener, tls).await });
    address
}

/// A proxy that speaks TLS as `h.example`, and a client that believes it.
pub(crate) async fn start(settings: Settings) -> (Proxy, SocketAddr, Arc<ClientConfig>) {
    let proxy = Proxy::with(settings).await;
    let (certificate, root) = certificate(&["h.example"]);
    let address = speak(&proxy, &Tls::new(&certificate, &[]).unwrap()).await;
    (proxy, address, trusting(&[&root], &["http/1.1"]))
}

#[tokio::test]
async fn a_client_in_tls_is_served_like_any_other_and_the_function_is_told() {
    let (proxy, address, config) = start(Settings::default()).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = Wire::over(shake(address, &config, "h.example").await.unwrap());
    assert_eq!(client.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    client.send("POST /function/f HTTP/1.1\r\nhost: h.example\r\ncontent-length: 2\r\n\r\nhi").await;
    let mut wire = function.accept().await;
    let head = wire.head().await;
    assert_eq!(head.value("x-forwarded-proto"), Some("https"));
    wire.expect("hi").await;
    wire.send(ok("over")).await;
    assert_eq!(client.answer().await.body, "over");
    // An answer that is larger than all buffers on the way.
    client.send(GET).await;
    wire.head().await;
    let body = "x".repeat(8 << 20);
    let answer = ok(&body);
    let ((), answer) = tokio::join!(wire.send(answer), client.answer());
    assert!(answer.body == body);
    let plain = proxy.ask(GET).await;
    // It is served on the other lane, which has a connection of its own.
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("x-forwarded-proto"), Some("http"));
    drop(plain);
}

#[tokio::test]
async fn http2_is_agreed_upon_in_the_handshake_and_trailers_pass_both_ways() {
    let proxy = Proxy::start().await;
    let (certificate, root) = certificate(&["h.example"]);
    let address = speak(&proxy, &Tls::new(&certificate, &[]).unwrap()).await;
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let stream = shake(address, &trusting(&[&root], &["h2", "http/1.1"]), "h.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut sent = http::HeaderMap::new();
    sent.insert("x-sum", "1".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"hi")), Frame::trailers(sent)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>)));
    let request = Request::post("https://h.example/function/f/x")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .unwrap();
    let response = sender.send_request(request);
    let answer = async {
        let mut wire = function.accept().await;
        let head = wire.head().await;
        assert_eq!(head.value("te"), Some("trailers"));
        assert_eq!(head.value("x-forwarded-proto"), Some("https"));
        wire.expect("2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n").await;
        let head = CHUNKED.replace("\r\n\r\n", "\r\ntrailer: grpc-status\r\n\r\n");
        wire.send(format!("{head}2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n")).await;
        wire
    };
    let (response, _wire) = within(async { tokio::join!(response, answer) }).await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let whole = within(response.into_body().collect()).await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "hi");
    driver.abort();
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name_and_all_are_replaced_at_once() {
    let proxy = Proxy::start().await;
    let (first, first_root) = certificate(&["first.example"]);
    let (wild, wild_root) = certificate(&["*.wild.example"]);
    let (exact, exact_root) = certificate(&["exact.wild.example", "other.example"]);
    let tls = Tls::new(&first, &[wild, exact]).unwrap();
    let address = speak(&proxy, &tls).await;
    let shown = async |name| {
        // Trusts all, and tells which it was.
        let config = trusting(&[&first_root, &wild_root, &exact_root], &[]);
        match shake(address, &config, name).await {
            Ok(stream) => Some(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()),
            Err(_) => None,
        }
    };
    assert_eq!(shown("first.example").await.as_ref(), Some(&first_root));
    assert_eq!(shown("a.wild.example").await.as_ref(), Some(&wild_root));
    assert_eq!(shown("exact.wild.example").await.as_ref(), Some(&exact_root));
    assert_eq!(shown("other.example").await.as_ref(), Some(&exact_root));
    // Of the rest a client makes what it can: it is shown the first, and does not believe it.
    for name in ["unknown.example", "a.b.wild.example", "wild.example"] {
        assert_eq!(shown(name).await, None, "{name}");
    }
    let before = shake(address, &trusting(&[&first_root], &[]), "first.example").await.unwrap();
    let (new, new_root) = certificate(&["first.example"]);
    tls.set(&new, &[]).unwrap();
    assert!(shake(address, &trusting(&[&new_root], &[]), "first.example").await.is_ok());
    assert_eq!(shown("first.example").await, None);
    let mut before = Wire::over(before);
    before.send("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(before.answer().await.head.status(), 200);
}

#[test]
fn what_is_no_certificate_with_its_key_is_refused_for_what_it_is() {
    let made = || rcgen::generate_simple_self_signed(vec!["H.example".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    let read = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes());
    assert_eq!(read(&chain, &key).unwrap().names(), ["h.example"]);
    assert!(matches!(read("", &key), Err(CertificateError::Certificate(_))));
    assert!(matches!(read(&key, &key), Err(CertificateError::Certificate(_))));
    assert!(matches!(read(&chain[..chain.len() / 2], &key), Err(CertificateError::Certificate(_))));
    assert!(matches!(read(&chain, ""), Err(CertificateError::Key(_))));
    assert!(matches!(read(&chain, &chain), Err(CertificateError::Key(_))));
    let wrong = read(&chain, &other.signing_key.serialize_pem());
    assert!(matches!(wrong, Err(CertificateError::Mismatch)), "{wrong:?}");
}

#[tokio::test]
async fn who_comes_back_shakes_hands_in_short() {
    let (_proxy, address, config) = start(Settings::default()).await;
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut wire = Wire::over(shake(address, &config, "h.example").await.unwrap());
        // The tickets come behind the handshake.
        wire.send("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(wire.answer().await.head.status(), 200);
        assert_eq!(wire.stream.get_ref().1.handshake_kind(), Some(kind));
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_or_does_not_end_holds_nothing() {
    let settings = Settings { header_timeout: Duration::from_millis(300), ..Settings::default() };
    let (proxy, address, _) = start(settings).await;
    let mut silent = Wire::new(TcpStream::connect(address).await.unwrap());
    let mut plain = Wire::new(TcpStream::connect(address).await.unwrap());
    plain.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let said = plain.closed().await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(silent.closed().await, b"");
    until(|| proxy.server.open() == 0).await;
}

#[tokio::test]
async fn in_tls_too_a_client_may_be_silent_for_only_so_long() {
    let settings = Settings { keep_alive: Duration::from_millis(300), ..Settings::default() };
    let (proxy, address, config) = start(settings).await;
    let mut wire = Wire::over(shake(address, &config, "h.example").await.unwrap());
    wire.send("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(wire.answer().await.head.status(), 200);
    assert_eq!(wire.ended().await, b"");
    drop(wire);
    until(|| proxy.server.open() == 0).await;
}

const UPGRADE: &str = "GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Both ends of a WebSocket, the client's in TLS; the first bytes of both come with the handshake.
async fn open(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    function: &Function,
) -> (Wire<TlsStream<TcpStream>>, Wire) {
    let mut client = Wire::over(shake(address, config, "h.example").await.unwrap());
    client.send([UPGRADE.as_bytes(), &[0x82, 0x81, 0, 0, 0, 0, b'1']].concat()).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send([SWITCH.as_bytes(), &[0x82, 1, b'2']].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.bytes(3).await, [0x82, 1, b'2']);
    assert_eq!(wire.bytes(7).await, [0x82, 0x81, 0, 0, 0, 0, b'1']);
    (client, wire)
}

#[tokio::test]
async fn a_websocket_in_tls_carries_every_byte_however_much_there_is() {
    let (proxy, address, config) = start(Settings::default()).await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (client, wire) = open(address, &config, &function).await;
    assert_eq!(upstream.load().tunnels, 1);
    let (mut client, mut function) = (client.stream, wire.stream);
    // In pieces of all sizes around what is read ahead, and one large one that fills all buffers before it is read.
    for size in [1, 31, 32, 33, 200, 16 << 10, 6 << 20] {
        let mut sent = vec![0x82, 0xff];
        sent.extend((size as u64).to_be_bytes());
        sent.extend([0; 4]);
        sent.extend((0..size).map(|n| u8::try_from(n % 251).unwrap()));
        let mut back = sent.clone();
        back[1] = 0x7f;
        back.drain(10..14);
        let (mut to_function, mut to_client) = (vec![0; sent.len()], vec![0; back.len()]);
        let (mut client_reads, mut client_writes) = tokio::io::split(&mut client);
        let (mut function_reads, mut function_writes) = function.split();
        let there = async {
            client_writes.write_all(&sent).await.unwrap();
            client_writes.flush().await.unwrap();
        };
        let here = async { function_writes.write_all(&back).await.unwrap() };
        let function = function_reads.read_exact(&mut to_function);
        let client = client_reads.read_exact(&mut to_client);
        let ((), (), from_client, from_function) =
            within(async { tokio::join!(there, here, function, client) }).await;
        from_client.and(from_function).unwrap();
        assert!(to_function == sent && to_client == back, "{size}");
    }
    // The client says goodbye and the function answers.
    let goodbye = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
    client.write_all(&goodbye).await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 8];
    within(function.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, goodbye);
    function.write_all(&[0x88, 2, 0x03, 0xe8]).await.unwrap();
    drop(function);
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, [0x88, 2, 0x03, 0xe8]);
    drop(client);
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_websocket_in_tls_is_closed_with_a_word() {
    let (proxy, address, config) = start(Settings::default()).await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    let (mut client, mut wire) = open(address, &config, &function).await;
    function.endpoint.end_tunnels(Duration::ZERO);
    let close = client.bytes(4).await;
    assert_eq!((close[0], &close[2..]), (0x88, &1012_u16.to_be_bytes()[..]));
    assert_eq!(client.text(usize::from(close[1]) - 2).await, "service restart");
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4]).await;
    assert_eq!(wire.bytes(2).await[0], 0x88);
    wire.send([0x88, 2, 0x03, 0xe9]).await;
    assert_eq!(client.ended().await, b"", "the end of TLS is said too");
    drop((client, wire));
    until(|| upstream.load().in_flight == 0).await;
}

#[tokio::test]
async fn a_websocket_in_tls_that_is_idle_is_closed_and_one_whose_function_is_gone_too() {
    let (proxy, address, config) = start(Settings::default()).await;
    let function = Function::start().await;
    let timeouts = Timeouts { tunnel_idle: Some(Duration::from_millis(200)), ..Timeouts::default() };
    proxy.function_with("f", &[&function], timeouts);
    let (mut client, wire) = open(address, &config, &function).await;
    assert_eq!(client.bytes(8).await, [&[0x88, 6][..], &1001_u16.to_be_bytes(), b"idle"].concat());
    drop((client, wire));
    proxy.function("f", &[&function]);
    let (mut client, wire) = open(address, &config, &function).await;
    drop(wire);
    assert_eq!(client.bytes(4).await[2..], 1011_u16.to_be_bytes());
}
