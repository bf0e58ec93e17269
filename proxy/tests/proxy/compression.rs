//! Compression: of what, for whom, and that it holds nothing back.

use std::io::{Read, Write};
use std::sync::Arc;

use flate2::read::GzDecoder;
use flate2::write::GzDecoder as Unpacker;
use roost_proxy::{AccessEntry, AccessLog, AccessLogOptions, AccessSink, Settings};
use tokio::sync::mpsc;

use crate::support::*;

const ASK: &str = "GET /function/f HTTP/1.1\r\nhost: h\r\naccept-encoding: gzip\r\n\r\n";

/// A chunk of bytes; empty for the last.
async fn chunk(wire: &mut Wire) -> Vec<u8> {
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        line += &wire.text(1).await;
    }
    let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
    let bytes = wire.bytes(size).await;
    wire.expect("\r\n").await;
    bytes
}

async fn body(wire: &mut Wire) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let piece = chunk(wire).await;
        if piece.is_empty() {
            return body;
        }
        body.extend(piece);
    }
}

fn unpacked(body: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

fn answer(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// A proxy and a function whose answers are compressed.
async fn compressing() -> (Proxy, Function) {
    let (proxy, function) = (Proxy::start().await, Function::start().await);
    proxy.function("f", &[&function]).set_compression(true);
    (proxy, function)
}

#[tokio::test]
async fn a_text_is_smaller_on_the_wire_and_the_same_behind_it() {
    let (proxy, function) = compressing().await;
    let text = "a line of text that is like all others\n".repeat(5000);
    let mut client = proxy.ask(ASK).await;
    let mut wire = function.accept().await;
    assert_eq!(wire.head().await.value("accept-encoding"), Some("gzip"));
    wire.send(answer(
        "content-type: text/plain\r\netag: \"v1\"\r\nvary: origin\r\naccept-ranges: bytes\r\n",
        &text,
    ))
    .await;
    let head = client.head().await;
    assert_eq!(head.value("content-encoding"), Some("gzip"));
    assert_eq!((head.value("content-length"), head.value("accept-ranges")), (None, None));
    assert_eq!(head.value("etag"), Some("W/\"v1\""));
    let vary: Vec<_> =
        head.headers.iter().filter(|(name, _)| name == "vary").map(|(_, v)| v.as_str()).collect();
    assert_eq!(vary, ["origin", "accept-encoding"]);
    let body = body(&mut client).await;
    assert!(body.len() < text.len() / 20, "{}", body.len());
    assert_eq!(unpacked(&body), text);
    // The connection to the function can be used again.
    client.send(ASK).await;
    wire.head().await;
    wire.send(answer("content-type: text/plain\r\n", "short")).await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.head.value("content-encoding")), ("short", None));
}

#[tokio::test]
async fn what_comes_is_sent_before_more_is_waited_for() {
    let (proxy, function) = compressing().await;
    let mut client = proxy.ask(ASK).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.value("content-encoding"), Some("gzip"));
    let mut unpacker = Unpacker::new(Vec::new());
    for text in ["one", "two", "three"] {
        wire.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        while unpacker.get_ref().is_empty() {
            unpacker.write_all(&chunk(&mut client).await).unwrap();
            unpacker.flush().unwrap();
        }
        assert_eq!(std::mem::take(unpacker.get_mut()), text.as_bytes());
    }
    wire.send("0\r\n\r\n").await;
    unpacker.write_all(&body(&mut client).await).unwrap();
    assert_eq!(unpacker.finish().unwrap(), b"");
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_look_whole() {
    let (proxy, function) = compressing().await;
    let mut client = proxy.ask(ASK).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5000\r\n\r\nhalf").await;
    client.head().await;
    let first = chunk(&mut client).await;
    drop(wire);
    let rest = client.closed().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    let mut text = String::new();
    assert!(GzDecoder::new(&*first).read_to_string(&mut text).is_err());
    assert_eq!(text, "half");
}

#[tokio::test]
async fn what_is_not_to_be_compressed_goes_through_as_it_is() {
    let (proxy, function) = compressing().await;
    let text = "x".repeat(2000);
    let mut client = proxy.connect().await;
    let mut wire = None;
    for (asked, headers, varies) in [
        ("", "content-type: text/plain\r\n", true),
        ("accept-encoding: br, gzip;q=0\r\n", "content-type: text/plain\r\n", true),
        ("accept-encoding: gzip\r\n", "content-type: image/png\r\n", false),
        ("accept-encoding: gzip\r\n", "content-type: text/event-stream\r\n", false),
        ("accept-encoding: gzip\r\n", "content-type: application/x-ndjson\r\n", false),
        ("accept-encoding: gzip\r\n", "content-type: text/plain\r\ncontent-encoding: br\r\n", false),
        ("accept-encoding: gzip\r\n", "content-type: text/plain\r\ncache-control: no-transform\r\n", false),
        ("accept-encoding: gzip\r\n", "content-type: text/plain\r\ncontent-range: bytes 0-1999/9\r\n", false),
    ] {
        client.send(format!("GET /function/f HTTP/1.1\r\nhost: h\r\n{asked}\r\n")).await;
        if wire.is_none() {
            wire = Some(function.accept().await);
        }
        let wire = wire.as_mut().unwrap();
        wire.head().await;
        wire.send(answer(&format!("{headers}etag: \"v1\"\r\n"), &text)).await;
        let got = client.answer().await;
        assert_eq!(got.body, text, "{asked}{headers}");
        assert_eq!(got.head.value("content-length"), Some("2000"), "{asked}{headers}");
        assert_eq!(got.head.value("etag"), Some("\"v1\""), "{asked}{headers}");
        assert_eq!(got.head.value("vary").is_some(), varies, "{asked}{headers}");
    }
    let wire = wire.as_mut().unwrap();
    client.send("HEAD /function/f HTTP/1.1\r\nhost: h\r\naccept-encoding: gzip\r\n\r\n").await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2000\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.value("content-length"), head.value("content-encoding")), (Some("2000"), None));
}

#[tokio::test]
async fn a_function_that_does_not_ask_for_it_is_left_alone() {
    let (proxy, function) = (Proxy::start().await, Function::start().await);
    let upstream = proxy.function("f", &[&function]);
    let text = "x".repeat(2000);
    let mut client = proxy.connect().await;
    let mut wire = None;
    for compress in [false, true, false] {
        upstream.set_compression(compress);
        client.send(ASK).await;
        if wire.is_none() {
            wire = Some(function.accept().await);
        }
        let wire = wire.as_mut().unwrap();
        wire.head().await;
        wire.send(answer("content-type: text/plain\r\n", &text)).await;
        let head = client.head().await;
        assert_eq!(head.value("content-encoding").is_some(), compress);
        assert_eq!(head.value("vary").is_some(), compress);
        let body = if compress { unpacked(&body(&mut client).await) } else { client.text(text.len()).await };
        assert_eq!(body, text);
    }
}

#[tokio::test]
async fn trailers_come_behind_the_last_compressed_byte() {
    let (proxy, function) = compressing().await;
    let mut client = proxy
        .ask("GET /function/f HTTP/1.1\r\nhost: h\r\nte: trailers\r\naccept-encoding: gzip\r\n\r\n")
        .await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    client.head().await;
    let mut packed = Vec::new();
    loop {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line += &client.text(1).await;
        }
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        if size == 0 {
            break;
        }
        packed.extend(client.bytes(size).await);
        client.expect("\r\n").await;
    }
    client.expect("x-sum: 1\r\n\r\n").await;
    assert_eq!(unpacked(&packed), "abc");
}

struct Lines(mpsc::Sender<AccessEntry>);

impl AccessSink for Lines {
    fn take(&self, entry: Box<AccessEntry>) {
        self.0.try_send(*entry).expect("a test has few");
    }
}

#[tokio::test]
async fn what_is_counted_as_sent_is_what_the_client_was_sent() {
    let (sender, mut lines) = mpsc::channel(8);
    let access_log = AccessLog::new(AccessLogOptions::default(), Lines(sender));
    let proxy = Proxy::with(Settings { access_log, ..Settings::default() }).await;
    let function = Function::start().await;
    let upstream = proxy.function("f", &[&function]);
    upstream.set_compression(true);
    let mut client = proxy.ask(ASK).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(answer("content-type: text/plain\r\n", &"x".repeat(100_000))).await;
    client.head().await;
    let sent = body(&mut client).await.len() as u64;
    assert!(sent < 10_000);
    assert_eq!(within(lines.recv()).await.unwrap().sent, Some(sent));
    assert_eq!(Arc::clone(&upstream).totals().sent_bytes, sent);
}
