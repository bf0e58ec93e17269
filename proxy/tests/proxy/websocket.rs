//! Both ends of a WebSocket, by hand.

use crate::support::*;

pub(crate) const UPGRADE: &str = "GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub(crate) const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";

/// A Close of the client, masked with zeros.
pub(crate) const CLIENTS_CLOSE: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// Both ends of an open WebSocket.
pub(crate) async fn open(proxy: &Proxy, function: &Function) -> (Wire, Wire) {
    let mut client = proxy.ask(UPGRADE).await;
    let mut wire = function.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    (client, wire)
}

/// What a function sees of a client's frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x11, 0, 0xff, 0x7e];
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..=125) => bytes.push(0x80 | length),
        _ => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A function's frame.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(payload.len()).unwrap()][..], payload].concat()
}

pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    plain(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// Reads a masked Close and gives back its payload.
pub(crate) async fn hear_close(wire: &mut Wire) -> Vec<u8> {
    let head = wire.bytes(6).await;
    assert_eq!((head[0], head[1] & 0x80), (0x88, 0x80));
    let payload = wire.bytes(usize::from(head[1] & 0x7f)).await;
    payload.iter().zip(head[2..].iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

pub(crate) async fn expect(wire: &mut Wire, bytes: &[u8]) {
    assert_eq!(wire.bytes(bytes.len()).await, bytes);
}
