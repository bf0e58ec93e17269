//! Several frames in one body, as WebSocket-over-HTTP writes them (`application/websocket-events`).
//!
//! ```text
//!   TYPE CRLF                          an event without content
//!   TYPE SP length, hexadecimal CRLF   and one with, of so many bytes
//!   content CRLF
//! ```
//!
//! Owns that grammar. Pure, and bounded: a body is never unpacked to more frames than [`MAX_FRAMES`].

use bytes::Bytes;

use crate::tunnel::CloseFrame;

/// The media type of such a body.
pub(super) const MEDIA_TYPE: &str = "application/websocket-events";

/// The most frames in one body.
pub(super) const MAX_FRAMES: usize = 1024;

/// The longest line that begins a frame, without its CRLF: the longest type, and a length of 8 digits.
const MAX_LINE: usize = "DISCONNECT ".len() + 8;

/// One frame, or one other event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The connection is open.
    Open,
    /// Text, which is valid UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// A ping.
    Ping,
    /// A pong.
    Pong,
    /// A Close, made such as may be sent.
    Close(CloseFrame),
    /// The connection has broken off.
    Disconnect,
}

/// Why a body is none of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error(
        "event {0} does not begin with a line TYPE, or TYPE and a hexadecimal length, that ends with CRLF"
    )]
    Line(usize),
    #[error("event {0} is of no type that there is")]
    Type(usize),
    #[error("the content of event {0} is not as long as it says, or no CRLF is behind it")]
    Content(usize),
    #[error("the text of event {0} is not UTF-8")]
    Text(usize),
    #[error("the Close of event {0} is neither empty nor a code of two bytes and a text")]
    Close(usize),
    #[error("there are more than {MAX_FRAMES} events")]
    TooMany,
}

/// Reads all of `body`.
pub(super) fn parse(mut body: Bytes) -> Result<Vec<Frame>, Malformed> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let at = frames.len();
        if at == MAX_FRAMES {
            return Err(Malformed::TooMany);
        }
        let (kind, length) = line(&mut body).ok_or(Malformed::Line(at))?;
        let content = match length {
            Some(length) => content(&mut body, length).ok_or(Malformed::Content(at))?,
            None => Bytes::new(),
        };
        frames.push(frame(&kind, content, at)?);
    }
    Ok(frames)
}

/// Takes the line that begins a frame: its type, and the length of its content if it has one.
fn line(body: &mut Bytes) -> Option<(Bytes, Option<usize>)> {
    let window = &body[..body.len().min(MAX_LINE + 2)];
    let end = memchr::memmem::find(window, b"\r\n")?;
    let line = body.split_to(end);
    let _crlf = body.split_to(2);
    let Some(space) = memchr::memchr(b' ', &line) else { return Some((line, None)) };
    let digits = &line[space + 1..];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let length = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((line.slice(..space), Some(usize::try_from(length).ok()?)))
}

/// Takes `length` bytes, and the CRLF behind them.
fn content(body: &mut Bytes, length: usize) -> Option<Bytes> {
    let behind = body.get(length..)?;
    if !behind.starts_with(b"\r\n") {
        return None;
    }
    let content = body.split_to(length);
    let _crlf = body.split_to(2);
    Some(content)
}

fn frame(kind: &[u8], content: Bytes, at: usize) -> Result<Frame, Malformed> {
    Ok(match kind {
        b"TEXT" if std::str::from_utf8(&content).is_err() => return Err(Malformed::Text(at)),
        b"TEXT" => Frame::Text(content),
        b"BINARY" => Frame::Binary(content),
        b"CLOSE" => Frame::Close(close(&content).ok_or(Malformed::Close(at))?),
        b"PING" => Frame::Ping,
        b"PONG" => Frame::Pong,
        b"OPEN" => Frame::Open,
        b"DISCONNECT" => Frame::Disconnect,
        _ => return Err(Malformed::Type(at)),
    })
}

fn close(content: &[u8]) -> Option<CloseFrame> {
    // 0 becomes a Close without a code.
    let Some((code, reason)) = content.split_first_chunk() else {
        return content.is_empty().then(|| CloseFrame::new(0, ""));
    };
    Some(CloseFrame::new(u16::from_be_bytes(*code), std::str::from_utf8(reason).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &[u8]) -> Result<Vec<Frame>, Malformed> {
        parse(Bytes::copy_from_slice(body))
    }

    #[test]
    fn a_body_is_frames_one_behind_the_other() {
        let text = |text: &'static str| Frame::Text(text.into());
        for (body, frames) in [
            (&b""[..], vec![]),
            (b"OPEN\r\n", vec![Frame::Open]),
            (b"TEXT 5\r\nhello\r\n", vec![text("hello")]),
            (b"TEXT\r\nTEXT 0\r\n\r\n", vec![text(""), text("")]),
            (
                b"TEXT 2\r\n\r\n\r\nBINARY 0a\r\n0123456789\r\n",
                vec![text("\r\n"), Frame::Binary("0123456789".into())],
            ),
            (b"PING\r\nPONG 1\r\nx\r\nDISCONNECT\r\n", vec![Frame::Ping, Frame::Pong, Frame::Disconnect]),
            (b"CLOSE 4\r\n\x0f\xa1no\r\n", vec![Frame::Close(CloseFrame::new(4001, "no"))]),
            (b"CLOSE\r\nCLOSE 2\r\n\0\0\r\n", [0, 0].map(|_| Frame::Close(CloseFrame::new(0, ""))).into()),
        ] {
            assert_eq!(read(body), Ok(frames), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_body_that_is_wrong_anywhere_is_no_frames_at_all() {
        for (body, why) in [
            (&b"hello"[..], Malformed::Line(0)),
            (b"TEXT", Malformed::Line(0)),
            (b"TEXT 5\nhello\n", Malformed::Line(0)),
            (b"TEXT \r\n", Malformed::Line(0)),
            (b"TEXT +1\r\na\r\n", Malformed::Line(0)),
            (b"TEXT 1 1\r\na\r\n", Malformed::Line(0)),
            (b"OPEN\r\nTEXT 0x1\r\na\r\n", Malformed::Line(1)),
            (b"DISCONNECT 000000001\r\na\r\n", Malformed::Line(0)),
            (b"TEXT 1\r\n", Malformed::Content(0)),
            (b"TEXT 1\r\na", Malformed::Content(0)),
            (b"TEXT 1\r\nab\r\n", Malformed::Content(0)),
            (b"TEXT ffffffff\r\na\r\n", Malformed::Content(0)),
            (b"TEXT 1\r\n\xff\r\n", Malformed::Text(0)),
            (b"CLOSE 1\r\na\r\n", Malformed::Close(0)),
            (b"CLOSE 3\r\n\x03\xe8\xff\r\n", Malformed::Close(0)),
            (b"OPEN\r\n\r\n", Malformed::Type(1)),
            (b"text 1\r\na\r\n", Malformed::Type(0)),
        ] {
            assert_eq!(read(body), Err(why), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn more_frames_than_may_be_are_refused() {
        assert_eq!(read(&b"PING\r\n".repeat(MAX_FRAMES)).map(|frames| frames.len()), Ok(MAX_FRAMES));
        assert_eq!(read(&b"PING\r\n".repeat(MAX_FRAMES + 1)), Err(Malformed::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(contents in proptest::collection::vec((any::<bool>(), ".{0,40}"), 0..20)) {
            let mut body = Vec::new();
            let mut expected = Vec::new();
            for (text, content) in contents {
                let kind = if text { "TEXT" } else { "BINARY" };
                body.extend(format!("{kind} {:x}\r\n{content}\r\n", content.len()).into_bytes());
                let content = Bytes::from(content);
                expected.push(if text { Frame::Text(content) } else { Frame::Binary(content) });
            }
            prop_assert_eq!(read(&body), Ok(expected));
        }

        #[test]
        fn no_body_breaks_it(body in "((TEXT|BINARY|CLOSE|PING|OPEN)( [0-9a-f]{1,8})?\r\n(x{0,3}\r\n)?|\\PC){0,6}") {
            if let Ok(frames) = read(body.as_bytes()) {
                prop_assert!(frames.len() <= body.len());
            }
        }
    }
}
