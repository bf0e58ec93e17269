//! The decoder of event mode against another implementation: however the bytes are cut and handed over, both read the
//! same messages and both refuse the same stream, with the same code.
//!
//! The first byte of the input says how the rest is cut, and whether compressed messages may come; those only we read.

#![no_main]

use std::io::{self, Cursor, Read, Write};

use libfuzzer_sys::fuzz_target;
use roost_proxy::fuzzing::{Came, Messages};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// The longest message.
const MOST: usize = 2000;

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    Closed,
    Violation(u16),
}

/// What is read of, and nothing that is written.
struct Stream<'a>(Cursor<&'a [u8]>);

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn oracle(bytes: &[u8]) -> (Vec<Came>, End) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(MOST))
        // It takes as much memory as a header says.
        .max_frame_size(Some(1 << 20));
    let mut socket = WebSocket::from_raw_socket(Stream(Cursor::new(bytes)), Role::Server, Some(config));
    let mut all = Vec::new();
    loop {
        all.push(match socket.read() {
            Ok(Message::Text(text)) => Came::Message { text: true, data: text.as_bytes().to_vec() },
            Ok(Message::Binary(data)) => Came::Message { text: false, data: data.into() },
            Ok(Message::Ping(data)) => Came::Ping(data.into()),
            Ok(Message::Pong(data)) => Came::Pong(data.into()),
            // This is how it says that the code is none that may come.
            Ok(Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                return (all, End::Violation(1002));
            }
            Ok(Message::Close(close)) => {
                Came::Close(close.map(|close| (close.code.into(), close.reason.as_str().to_owned())))
            }
            Ok(Message::Frame(_)) => unreachable!("only written"),
            Err(Error::ConnectionClosed) => return (all, End::Closed),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (all, End::Open),
            Err(Error::Protocol(_)) => return (all, End::Violation(1002)),
            Err(Error::Utf8(_)) => return (all, End::Violation(1007)),
            Err(Error::Capacity(_)) => return (all, End::Violation(1009)),
            Err(error) => panic!("{error}"),
        });
    }
}

/// What we read, in pieces of `step` bytes, each by another process if `hand_over`.
fn read(bytes: &[u8], step: usize, deflate: bool, hand_over: bool) -> (Vec<Came>, End) {
    let (mut messages, mut all) = (Messages::new(MOST, deflate), Vec::new());
    for mut piece in bytes.chunks(step) {
        loop {
            match messages.next(&mut piece) {
                Ok(Some(Came::Close(close))) => {
                    all.push(Came::Close(close));
                    assert!(piece.is_empty() && messages.held() == 0);
                    return (all, End::Closed);
                }
                Ok(Some(came)) => all.push(came),
                Ok(None) => break,
                Err(code) => {
                    assert!(piece.is_empty() && messages.held() == 0);
                    return (all, End::Violation(code));
                }
            }
        }
        assert!(piece.is_empty());
        assert!(messages.held() <= 2 * bytes.len() + 125);
        if hand_over {
            messages.hand_over();
        }
    }
    (all, End::Open)
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let (deflate, step) = (how & 1 != 0, usize::from(how >> 1).max(1));
    let (all, end) = read(bytes, bytes.len().max(1), deflate, false);
    for came in &all {
        if let Came::Message { text, data } = came {
            assert!(data.len() <= MOST && (!text || std::str::from_utf8(data).is_ok()));
        }
    }
    assert_eq!(read(bytes, step, deflate, true), (all, end));
    if deflate {
        return;
    }
    let (all, end) = read(bytes, bytes.len().max(1), false, false);
    let (theirs, their_end) = oracle(bytes);
    match end {
        // It has one code less.
        End::Closed if matches!(all.last(), Some(Came::Close(Some((1014, _))))) => {
            assert_eq!((&all[..all.len() - 1], their_end), (&theirs[..], End::Violation(1002)));
        }
        // What is wrong we say at once, it says when the frame is whole; how long a length is it does not mind; and that
        // the frame is larger than all that may be it says first.
        End::Violation(code) if end != their_end || is_sloppy(bytes) => {
            assert!(theirs.starts_with(&all), "{all:?} {theirs:?}");
            let later = their_end == End::Open || is_sloppy(bytes);
            assert!(later || (code == 1002 && their_end == End::Violation(1009)), "{code} {their_end:?}");
        }
        end => assert_eq!((all, end), (theirs, their_end)),
    }
});

/// Is there, anywhere among these, what may be a length of more bytes than it needs?
fn is_sloppy(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|bytes| matches!(bytes, [_, 0xfe, 0]) || matches!(bytes, [_, 0xff, 0 | 0x80..]))
}
