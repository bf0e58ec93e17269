//! A decoder as numbers and bytes, for the process that goes on with its connection.
//!
//! Owns that form. What it is made of again is checked: it comes from another process, which may have had other limits.

use std::str;

use super::decode::{Frame, Place};
use super::head::{LONGEST, MAX_CONTROL};
use super::{Decoder, Limits, Opcode, head};

/// What is known of a client's frames at a moment. That of a client which is silent between two messages is all zeros,
/// without bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// ```text
    /// 0: the first 8 bytes of an unfinished header,       or how much of a payload is left
    /// 1: bytes 0 to 4: 5 more of a header,                or key and opcode
    ///    byte 5: how many there are,                      or 1 for the last frame of a message
    ///    byte 6: 0 in a header, 1 in a payload, 2 if the client has nothing more to say
    /// 2: bytes 0 to 3: frames of the unfinished message; byte 4: 1 if it is text, and 2 if it is compressed;
    ///    byte 5: the length of the unfinished control frame
    /// ```
    pub(crate) words: [u64; 3],
    /// The unfinished message and, behind it, the unfinished control frame.
    pub(crate) bytes: Vec<u8>,
}

impl Decoder {
    /// All that another one has to know to go on from here. Limits are not a part of it, nor is what was agreed upon.
    pub(crate) fn state(&self) -> State {
        let (first, second) = match self.place {
            Place::Header { bytes, have } => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m] = bytes;
                (u64::from_le_bytes([a, b, c, d, e, f, g, h]), [i, j, k, l, m, have, 0, 0])
            }
            Place::Payload(Frame { left, key: [a, b, c, d], opcode, last }) => {
                (left, [a, b, c, d, opcode as u8, last.into(), 1, 0])
            }
            Place::Ended => (0, [0, 0, 0, 0, 0, 0, 2, 0]),
        };
        let [a, b, c, d] = self.fragments.to_le_bytes();
        // What was said of the last message means nothing any more.
        let kind = if self.fragments > 0 { u8::from(self.text) | u8::from(self.compressed) << 1 } else { 0 };
        let third = [a, b, c, d, kind, self.control.len() as u8, 0, 0];
        State {
            words: [first, u64::from_le_bytes(second), u64::from_le_bytes(third)],
            bytes: [self.data.as_slice(), &self.control].concat(),
        }
    }

    /// One that goes on from there.
    ///
    /// `None` if there is no such state, or none that these limits allow: the connection cannot go on.
    pub(crate) fn from_state(limits: Limits, state: State) -> Option<Self> {
        let State { words: [first, second, third], bytes: mut data } = state;
        let [a, b, c, d, kind, control, ..] = third.to_le_bytes();
        let control = data.split_off(data.len().checked_sub(control.into())?);
        let place = read_place(first, second)?;
        let fragments = u32::from_le_bytes([a, b, c, d]);
        let (text, compressed) = (kind & 1 != 0, kind & 2 != 0);
        let mut decoder = Self { limits, place, data, control, fragments, text, compressed, partial: 0 };
        if text && !compressed {
            decoder.partial = match str::from_utf8(&decoder.data) {
                Ok(_) => 0,
                Err(error) if error.error_len().is_none() => (decoder.data.len() - error.valid_up_to()) as u8,
                Err(_) => return None,
            };
        }
        decoder.is_possible().then_some(decoder)
    }

    /// Do its parts fit each other?
    fn is_possible(&self) -> bool {
        let (message, control) = (self.data.len() as u64, self.control.len() as u64);
        let no_message = self.fragments == 0;
        let (message_left, control_left) = match self.place {
            Place::Payload(frame) if frame.left == 0 => return false,
            Place::Payload(frame) if frame.opcode.is_control() => (0, frame.left),
            Place::Payload(_) if no_message => return false,
            Place::Payload(frame) => (frame.left, 0),
            Place::Ended if !no_message => return false,
            Place::Header { .. } | Place::Ended => (0, 0),
        };
        // Nothing is held of what there is none of.
        (message == 0 || !no_message)
            && (control == 0 || control_left > 0)
            && (!self.compressed || self.limits.deflate)
            && message.saturating_add(message_left) <= self.bound() as u64
            && control.saturating_add(control_left) <= MAX_CONTROL.into()
    }
}

fn read_place(first: u64, second: u64) -> Option<Place> {
    let [a, b, c, d, e, f, g, h] = first.to_le_bytes();
    let [i, j, k, l, m, n, place, _] = second.to_le_bytes();
    match place {
        0 => {
            let bytes: [u8; LONGEST - 1] = [a, b, c, d, e, f, g, h, i, j, k, l, m];
            // It is one that goes on, and nothing is wrong with it.
            let header = bytes.get(..n.into())?;
            matches!(head::read(header), Ok(None)).then_some(Place::Header { bytes, have: n })
        }
        1 => Some(Place::Payload(Frame {
            left: first,
            key: [i, j, k, l],
            opcode: Opcode::of(m)?,
            last: n != 0,
        })),
        2 => Some(Place::Ended),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Incoming;
    use super::*;

    /// A message in two frames with a ping between them, and a Close.
    const STREAM: &[u8] = b"\x01\x84\0\0\0\0ab\xf0\x9f\x89\x83\x01\x02\x03\x04\x60\x60\x62\
        \x80\x82\0\0\0\0\x98\x80\x88\x82\0\0\0\0\x03\xe8";

    #[test]
    fn a_stream_goes_on_in_another_process_wherever_it_has_come_to() {
        let read = |decoder: &mut Decoder, mut bytes: &[u8]| -> Vec<Incoming> {
            std::iter::from_fn(|| decoder.next(&mut bytes).unwrap()).collect()
        };
        let limits = Limits::default();
        let expected = read(&mut Decoder::new(limits), STREAM);
        assert_eq!(expected.len(), 3);
        for cut in 0..=STREAM.len() {
            let mut before = Decoder::new(limits);
            let mut all = read(&mut before, &STREAM[..cut]);
            let mut after = Decoder::from_state(limits, before.state()).unwrap();
            assert_eq!(after.state(), before.state());
            all.extend(read(&mut after, &STREAM[cut..]));
            assert_eq!(all, expected, "{cut}");
        }
    }

    #[test]
    fn of_a_silent_client_there_is_nothing_to_say() {
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(decoder.state(), State::default());
        decoder.next(&mut &b"\x81\x81\0\0\0\0a"[..]).unwrap().unwrap();
        assert_eq!(decoder.state(), State::default());
    }

    #[test]
    fn what_no_decoder_has_left_is_no_state() {
        let limits = Limits { max_message: 10, ..Limits::default() };
        let word = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let payload = |opcode| word([0, 0, 0, 0, opcode, 1, 1, 0]);
        for (words, bytes) in [
            // A header of too many bytes, one that is whole, and one that must not come.
            ([0x01, word([0, 0, 0, 0, 0, 14, 0, 0]), 0], &b""[..]),
            ([0x8081, word([0, 0, 0, 0, 0, 6, 0, 0]), 0], b""),
            ([0x00ff, word([0, 0, 0, 0, 0, 2, 0, 0]), 0], b""),
            // No such place.
            ([0, word([0, 0, 0, 0, 0, 0, 3, 0]), 0], b""),
            // Payloads: nothing left of one, of no message, too long, of no opcode, of a control frame that is too long.
            ([0, payload(2), 1], b""),
            ([5, payload(2), 0], b""),
            ([8, payload(2), 1], b"abc"),
            ([u64::MAX, payload(2), 1], b"abc"),
            ([5, payload(3), 1], b"abc"),
            ([126, payload(9), 0], b""),
            ([124, payload(9), word([0, 0, 0, 0, 0, 2, 0, 0])], b"xy"),
            // A message that nobody began, and control frames that nobody ended.
            ([0, 0, 0], b"abc"),
            ([0, 0, word([1, 0, 0, 0, 0, 2, 0, 0])], b"xy"),
            ([0, 0, word([1, 0, 0, 0, 0, 5, 0, 0])], b"xy"),
            // No text, longer than it may be, compressed where that was not agreed upon, and more behind the end.
            ([0, 0, word([1, 0, 0, 0, 1, 0, 0, 0])], b"\xff"),
            ([0, 0, 1], b"0123456789a"),
            ([0, 0, word([1, 0, 0, 0, 2, 0, 0, 0])], b"abc"),
            ([0, word([0, 0, 0, 0, 0, 0, 2, 0]), 1], b"abc"),
        ] {
            let state = State { words, bytes: bytes.to_vec() };
            assert_eq!(Decoder::from_state(limits, state), None, "{words:x?}");
        }
        for (words, bytes) in [
            ([0x01, word([0, 0, 0, 0, 0, 1, 0, 0]), 0], &b""[..]),
            ([7, payload(2), 1], b"abc"),
            ([123, payload(9), word([0, 0, 0, 0, 0, 2, 0, 0])], b"xy"),
            ([0, 0, word([1, 0, 0, 0, 1, 0, 0, 0])], b"\xc3"),
        ] {
            let state = State { words, bytes: bytes.to_vec() };
            assert_eq!(
                Decoder::from_state(limits, state.clone()).map(|decoder| decoder.state()),
                Some(state)
            );
        }
    }
}
