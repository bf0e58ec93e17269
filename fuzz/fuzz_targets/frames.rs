//! The frame tracker against a parser that reads all of a stream: wherever the bytes are cut, both know the same
//! boundaries, messages and ends, and both lose the thread at the same frame.
//!
//! The first byte of the input says who sends and how the rest is cut.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use roost_proxy::fuzzing::Tracker;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// What is known at the end of a part of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    framed: bool,
    at_boundary: bool,
    messages: u64,
    closed: bool,
}

/// Reads the frames of `bytes` from the beginning; also says where the last boundary among them is.
fn oracle(bytes: &[u8], of_client: bool) -> (Known, Option<usize>) {
    let mut known = Known { framed: true, at_boundary: true, messages: 0, closed: false };
    let mut at = 0;
    while at < bytes.len() {
        known.at_boundary = false;
        let rest = &bytes[at..];
        let Some(size) = header_size(rest) else { break };
        // The masking key says nothing: it need not be there.
        let header = [&rest[..size], &[0; 4]].concat();
        let (header, length) = match FrameHeader::parse(&mut Cursor::new(header)) {
            Ok(Some((header, length))) if is_frame(&header, length, of_client) => (header, length),
            _ => {
                known.framed = false;
                return (known, None);
            }
        };
        known.messages += u64::from(matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary)));
        let size = size as u64 + length + if of_client { 4 } else { 0 };
        if size > rest.len() as u64 {
            break;
        }
        at += size as usize;
        known.at_boundary = true;
        known.closed |= header.opcode == OpCode::Control(Control::Close);
    }
    (known, Some(at))
}

/// How long a header is without its masking key, if all of that is there.
fn header_size(bytes: &[u8]) -> Option<usize> {
    let size = match bytes.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (bytes.len() >= size).then_some(size)
}

fn is_frame(header: &FrameHeader, length: u64, of_client: bool) -> bool {
    let control = matches!(header.opcode, OpCode::Control(_));
    let known = !matches!(
        header.opcode,
        OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_))
    );
    known
        && header.mask.is_some() == of_client
        && length <= i64::MAX as u64
        && (!control || (header.is_final && length <= 125))
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let (of_client, step) = (how & 1 != 0, usize::from(how >> 1).max(1));
    let mut tracker = Tracker::new(of_client);
    let mut at = 0;
    let mut before = oracle(&[], of_client).0;
    for piece in bytes.chunks(step) {
        let last = tracker.last_boundary(piece);
        tracker.feed(piece);
        at += piece.len();
        let (known, boundary) = oracle(&bytes[..at], of_client);
        let told = Known {
            framed: tracker.is_known(),
            at_boundary: tracker.at_boundary(),
            messages: tracker.messages(),
            closed: tracker.closed(),
        };
        if !known.framed {
            assert!(!told.framed && !told.at_boundary, "{told:?} for {known:?}");
            assert_eq!((told.messages, told.closed), (known.messages, known.closed));
            break;
        }
        assert_eq!(told, known, "at {at}");
        if before.framed {
            let start = at - piece.len();
            let expected = boundary.filter(|end| *end > start || before.at_boundary).map(|end| end.saturating_sub(start));
            assert_eq!(last, expected, "in {start}..{at}");
        }
        before = known;
    }
});
