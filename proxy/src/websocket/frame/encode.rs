//! What a client is told, as frames.
//!
//! Owns the headers that this side sends: of whole frames, and without a key. A frame that many are told is made once
//! and shared; one that is large need not be copied behind its header.

use std::ops::Deref;

use bytes::Bytes;

use super::Opcode;
use super::head::MAX_CONTROL;
use crate::tunnel::CloseFrame;
use crate::websocket::deflate::Deflate;
use crate::websocket::event::Message;

/// The longest header without a key.
const LONGEST: usize = 10;

/// What is before a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The header of a frame with a payload of so many bytes, for whoever sends that behind it.
pub(crate) fn header(opcode: Opcode, payload: usize, compressed: bool) -> Header {
    debug_assert!(!opcode.is_control() || payload <= MAX_CONTROL.into(), "no control frame");
    let mut bytes = [0; LONGEST];
    bytes[0] = 0x80 | u8::from(compressed) << 6 | opcode as u8;
    let length = match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short @ 0..=125), _) => {
            bytes[1] = short;
            2
        }
        (_, Ok(length)) => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, length }
}

/// A frame: one allocation, which all clones share.
pub(crate) fn encode(opcode: Opcode, payload: &[u8], compressed: bool) -> Bytes {
    let header = header(opcode, payload.len(), compressed);
    let mut frame = Vec::with_capacity(header.len() + payload.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    frame.into()
}

/// A message, compressed where that was agreed upon and is worth it.
pub(crate) fn message(message: &Message, deflate: Option<Deflate>) -> Bytes {
    let opcode = if message.text { Opcode::Text } else { Opcode::Binary };
    match deflate.and_then(|deflate| deflate.compress(&message.data)) {
        Some(compressed) => encode(opcode, &compressed, true),
        None => encode(opcode, &message.data, false),
    }
}

/// A Close.
pub(crate) fn close(frame: &CloseFrame) -> Bytes {
    frame.to_client().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_as_few_bytes_as_it_needs() {
        for (payload, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (255, &[0x82, 126, 0, 255]),
            (256, &[0x82, 126, 1, 0]),
            (0xffff, &[0x82, 126, 0xff, 0xff]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (0x12_3456_789a, &[0x82, 127, 0, 0, 0, 0x12, 0x34, 0x56, 0x78, 0x9a]),
        ] {
            assert_eq!(*header(Opcode::Binary, payload, false), *expected, "{payload}");
        }
    }

    #[test]
    fn a_frame_is_its_header_and_its_payload() {
        for (opcode, compressed, first) in [
            (Opcode::Text, false, 0x81),
            (Opcode::Text, true, 0xc1),
            (Opcode::Binary, true, 0xc2),
            (Opcode::Ping, false, 0x89),
            (Opcode::Pong, false, 0x8a),
        ] {
            assert_eq!(encode(opcode, b"ab", compressed), [first, 2, b'a', b'b'][..]);
        }
        assert_eq!(close(&CloseFrame::new(4000, "x")), b"\x88\x03\x0f\xa0x"[..]);
    }

    #[test]
    fn a_message_is_compressed_only_where_it_was_agreed_upon_and_makes_it_smaller() {
        let message_of = |text, size| Message { text, data: vec![b'x'; size].into() };
        let deflate = Deflate::of_window(15);
        for (said, deflate, first) in [
            (message_of(true, 1000), None, 0x81),
            (message_of(true, 1000), deflate, 0xc1),
            (message_of(false, 1000), deflate, 0xc2),
            (message_of(false, 100), deflate, 0x82),
        ] {
            let frame = message(&said, deflate);
            assert_eq!(frame[0], first);
            assert_eq!(frame.len() < said.data.len(), first & 0x40 != 0);
        }
    }
}
