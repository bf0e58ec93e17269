//! What a client says, out of the bytes of its socket.
//!
//! Owns a message that is not finished, and where in a frame the bytes have ended.
//!
//! ```text
//!              ┌────────────── a frame is whole; of a message the last one: a message ───────────────┐
//!              ▼                                                                                     │
//!   Header (0 to 13 bytes of one) ── whole, and such a frame may come here ──► Payload (left, key) ──┘
//!              │                                                                   │
//!              └──────────► Ended ◄── a Close, or what must not come ◄─────────────┘
//! ```

use std::mem;
use std::str;

use bytes::Bytes;

use super::head::{Head, LONGEST};
use super::{Opcode, Violation, head, mask};
use crate::tunnel::may_be_sent;
use crate::websocket::deflate;
use crate::websocket::event::Message;

/// What a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The longest message, in bytes; of a compressed one what it was before.
    pub(crate) max_message: usize,
    /// Of how many frames a message may consist.
    pub(crate) max_fragments: u32,
    /// Compressed messages may come: permessage-deflate was agreed upon.
    pub(crate) deflate: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: 1 << 20, max_fragments: 131_072, deflate: false }
    }
}

/// Something that has come from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A message, whole, and of how many frames it was.
    Message(Message, u32),
    /// What is to be answered with a pong of the same.
    Ping(Bytes),
    /// The answer to a ping, or a sign of life.
    Pong(Bytes),
    /// The last that comes: its code and its reason, if it has one.
    Close(Option<(u16, String)>),
}

/// One client's frames. It holds nothing but what has come of a message that is not whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoder {
    pub(super) limits: Limits,
    pub(super) place: Place,
    /// The payload of an unfinished message, without its masking.
    pub(super) data: Vec<u8>,
    /// That of an unfinished control frame, which may come between two frames of a message.
    pub(super) control: Vec<u8>,
    /// The frames of the unfinished message that began. There is one if this is not 0.
    pub(super) fragments: u32,
    /// It is text.
    pub(super) text: bool,
    /// It is compressed.
    pub(super) compressed: bool,
    /// At the end of `data`: how many bytes are the beginning of a character of text.
    pub(super) partial: u8,
}

/// Where the bytes have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a header, of which there are so many bytes; none between two frames.
    Header { bytes: [u8; LONGEST - 1], have: u8 },
    /// In a payload.
    Payload(Frame),
    /// Nothing counts any more.
    Ended,
}

impl Place {
    pub(super) const BOUNDARY: Self = Self::Header { bytes: [0; LONGEST - 1], have: 0 };
}

/// The frame whose payload comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// How many bytes are still to come.
    pub(super) left: u64,
    /// What the next byte is masked with is the first of these.
    pub(super) key: [u8; 4],
    pub(super) opcode: Opcode,
    pub(super) last: bool,
}

impl Decoder {
    /// Of a connection that begins now.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            place: Place::BOUNDARY,
            data: Vec::new(),
            control: Vec::new(),
            fragments: 0,
            text: false,
            compressed: false,
            partial: 0,
        }
    }

    /// The next thing that has come. Takes the bytes that it consists of off the front of `input`.
    ///
    /// `None`: all of `input` is taken, and more has to come. Whoever stops before has to keep the rest of `input`, and
    /// goes on with that: nothing of it is kept here. After a Close or a violation all that comes is taken and means
    /// nothing.
    ///
    /// # Errors
    ///
    /// For what a client must not do: the connection is to be closed with that.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Violation> {
        let came = self.advance(input);
        if matches!(came, Err(_) | Ok(Some(Incoming::Close(_)))) {
            *self = Self { place: Place::Ended, ..Self::new(self.limits) };
            *input = &[];
        }
        came
    }

    /// Is nothing unfinished here: neither a message nor a frame?
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    pub(crate) fn is_between_messages(&self) -> bool {
        self.fragments == 0 && matches!(self.place, Place::Header { have: 0, .. } | Place::Ended)
    }

    /// How many bytes of what is not finished are held.
    #[cfg_attr(not(any(test, feature = "fuzzing")), expect(dead_code, reason = "for tests"))]
    pub(crate) fn held(&self) -> usize {
        self.data.capacity() + self.control.capacity()
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Violation> {
        while !input.is_empty() {
            let frame = match self.place {
                Place::Header { bytes, have } => match self.take_header(&bytes[..have.into()], input)? {
                    Some(frame) => frame,
                    None => break,
                },
                Place::Payload(frame) => frame,
                Place::Ended => {
                    *input = &[];
                    break;
                }
            };
            if let Some(incoming) = self.take_payload(frame, input)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// Goes on with a header of which `before` has come. `None` if it goes on behind `input`.
    fn take_header(&mut self, before: &[u8], input: &mut &[u8]) -> Result<Option<Frame>, Violation> {
        let mut header = [0; LONGEST];
        let more = input.len().min(LONGEST - before.len());
        let have = before.len() + more;
        header[..before.len()].copy_from_slice(before);
        header[before.len()..have].copy_from_slice(&input[..more]);
        if let Some((head, length)) = head::read(&header[..have])? {
            // Longer than what was there before: that was not all of it.
            *input = &input[length - before.len()..];
            return self.admit(&head).map(Some);
        }
        *input = &[];
        let mut bytes = [0; LONGEST - 1];
        bytes[..have].copy_from_slice(&header[..have]);
        self.place = Place::Header { bytes, have: have as u8 };
        Ok(None)
    }

    /// May such a frame come here?
    fn admit(&mut self, head: &Head) -> Result<Frame, Violation> {
        let begins = matches!(head.opcode, Opcode::Text | Opcode::Binary);
        if head.compressed && !(begins && self.limits.deflate) {
            return Err(Violation::protocol("a reserved bit is set"));
        }
        if !head.opcode.is_control() {
            match (begins, self.fragments) {
                (false, 0) => return Err(Violation::protocol("there is no message to go on with")),
                (true, 1..) => return Err(Violation::protocol("a message begins within another")),
                (true, 0) => (self.text, self.compressed) = (head.opcode == Opcode::Text, head.compressed),
                (false, _) => {}
            }
            if self.fragments >= self.limits.max_fragments {
                return Err(Violation::too_big("a message has too many fragments"));
            }
            if head.length > (self.bound().saturating_sub(self.data.len())) as u64 {
                return Err(Violation::too_big("a message is too long"));
            }
            self.fragments += 1;
        }
        Ok(Frame { left: head.length, key: head.key, opcode: head.opcode, last: head.last })
    }

    /// How many bytes of the unfinished message may come.
    pub(super) fn bound(&self) -> usize {
        let most = self.limits.max_message;
        // What cannot be made smaller becomes a little longer.
        if self.compressed { deflate::longest(most) } else { most }
    }

    /// Takes what there is of a payload.
    fn take_payload(&mut self, mut frame: Frame, input: &mut &[u8]) -> Result<Option<Incoming>, Violation> {
        let (piece, rest) = input.split_at(fit(frame.left).min(input.len()));
        *input = rest;
        if frame.opcode.is_control() {
            self.control.reserve_exact(piece.len());
            append(&mut self.control, piece, frame.key);
        } else {
            self.reserve(piece.len(), &frame);
            append(&mut self.data, piece, frame.key);
            if self.text && !self.compressed {
                self.check_text(piece.len())?;
            }
        }
        frame.left -= piece.len() as u64;
        frame.key = mask::advance(frame.key, piece.len());
        if frame.left > 0 {
            self.place = Place::Payload(frame);
            return Ok(None);
        }
        self.place = Place::BOUNDARY;
        match frame.opcode {
            Opcode::Ping => Ok(Some(Incoming::Ping(mem::take(&mut self.control).into()))),
            Opcode::Pong => Ok(Some(Incoming::Pong(mem::take(&mut self.control).into()))),
            Opcode::Close => read_close(&mem::take(&mut self.control)).map(Some),
            _ if frame.last => self.finish().map(Some),
            _ => Ok(None),
        }
    }

    /// Makes room for `more` bytes of a message: as much as is known to be needed, but a header alone is not believed.
    /// There is never room for more than twice of what has come.
    fn reserve(&mut self, more: usize, frame: &Frame) {
        let have = self.data.len();
        let need = have + more;
        if need > self.data.capacity() {
            let most = if frame.last { have.saturating_add(fit(frame.left)) } else { self.bound() };
            let room = need.saturating_mul(2).min(most).max(need);
            self.data.reserve_exact(room - have);
        }
    }

    /// Is the text, to which `more` bytes have come, one still? The end of it may be a part of a character.
    fn check_text(&mut self, more: usize) -> Result<(), Violation> {
        let unknown = &self.data[self.data.len() - more - usize::from(self.partial)..];
        self.partial = match str::from_utf8(unknown) {
            Ok(_) => 0,
            // A character has at most four bytes.
            Err(error) if error.error_len().is_none() => (unknown.len() - error.valid_up_to()) as u8,
            Err(_) => return Err(NO_TEXT),
        };
        Ok(())
    }

    /// The message is whole.
    fn finish(&mut self) -> Result<Incoming, Violation> {
        let fragments = mem::take(&mut self.fragments);
        let mut data = mem::take(&mut self.data);
        if self.compressed {
            data = deflate::inflate(&data, self.limits.max_message)?;
        }
        if self.text && (self.partial > 0 || (self.compressed && str::from_utf8(&data).is_err())) {
            return Err(NO_TEXT);
        }
        Ok(Incoming::Message(Message { text: self.text, data: data.into() }, fragments))
    }
}

const NO_TEXT: Violation = Violation::data("a text is not UTF-8");

/// As a size; the largest one for what is no size here.
fn fit(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Appends what `piece` is without its masking.
fn append(to: &mut Vec<u8>, piece: &[u8], key: [u8; 4]) {
    let from = to.len();
    to.extend_from_slice(piece);
    mask::apply(&mut to[from..], key);
}

/// What the payload of a Close says.
fn read_close(payload: &[u8]) -> Result<Incoming, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Incoming::Close(None)),
            _ => Err(Violation::protocol("half a code in a Close")),
        };
    };
    let code = u16::from_be_bytes(*code);
    let reason = str::from_utf8(reason).map_err(|_| Violation::data("the reason of a Close is not UTF-8"))?;
    if !may_be_sent(code) {
        return Err(Violation::protocol("the code of a Close is none that may be sent"));
    }
    Ok(Incoming::Close(Some((code, reason.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A frame of a client, its first byte as given.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = super::super::header(Opcode::Binary, payload.len(), false).to_vec();
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend(KEY);
        append(&mut bytes, payload, KEY);
        bytes
    }

    /// Everything that comes of `bytes`, and why nothing more does.
    fn read(decoder: &mut Decoder, mut bytes: &[u8]) -> (Vec<Incoming>, Option<Violation>) {
        let mut all = Vec::new();
        loop {
            match decoder.next(&mut bytes) {
                // A test that asks of how many frames it was asks the decoder.
                Ok(Some(Incoming::Message(message, _))) => all.push(Incoming::Message(message, 1)),
                Ok(Some(incoming)) => all.push(incoming),
                Ok(None) => return (all, None),
                Err(violation) => return (all, Some(violation)),
            }
        }
    }

    fn refused(limits: Limits, frames: &[Vec<u8>]) -> Option<Violation> {
        read(&mut Decoder::new(limits), &frames.concat()).1
    }

    fn text(data: &'static str) -> Incoming {
        Incoming::Message(Message { text: true, data: data.into() }, 1)
    }

    #[test]
    fn one_stops_between_two_messages_and_goes_on_with_the_rest() {
        let bytes = [frame(0x81, b"one"), frame(0x82, b"two"), frame(0x89, b""), frame(0x01, b"th")].concat();
        let mut decoder = Decoder::new(Limits::default());
        let mut rest = &bytes[..];
        assert_eq!(decoder.next(&mut rest), Ok(Some(text("one"))));
        assert_eq!(rest.len(), bytes.len() - 9);
        assert!(decoder.is_between_messages());
        let kept = rest.to_vec();
        let mut rest = &kept[..];
        let two = Message { text: false, data: "two".into() };
        assert_eq!(decoder.next(&mut rest), Ok(Some(Incoming::Message(two, 1))));
        assert_eq!(decoder.next(&mut rest), Ok(Some(Incoming::Ping(Bytes::new()))));
        assert_eq!((decoder.held(), decoder.next(&mut rest)), (0, Ok(None)));
        assert!(rest.is_empty() && !decoder.is_between_messages());
        assert_eq!(read(&mut decoder, &frame(0x8a, b"x")).0, [Incoming::Pong("x".into())]);
        assert!(!decoder.is_between_messages());
        assert_eq!(read(&mut decoder, &frame(0x80, b"ree")).0, [text("three")]);
        assert!(decoder.is_between_messages());
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn what_a_client_must_not_send_ends_it_with_a_code() {
        let deflate = Limits { deflate: true, ..Limits::default() };
        let few = Limits { max_message: 10, max_fragments: 3, ..Limits::default() };
        for (limits, frames, code) in [
            (Limits::default(), &[frame(0xc1, b"a")][..], 1002),
            (deflate, &[frame(0x41, b"a"), frame(0xc0, b"a")], 1002),
            (deflate, &[frame(0xc9, b"a")], 1002),
            (deflate, &[frame(0xa1, b"a")], 1002),
            (Limits::default(), &[frame(0x80, b"a")], 1002),
            (Limits::default(), &[frame(0x81, b"a"), frame(0x00, b"a")], 1002),
            (Limits::default(), &[frame(0x01, b"a"), frame(0x81, b"a")], 1002),
            (Limits::default(), &[frame(0x02, b"a"), frame(0x02, b"a")], 1002),
            (Limits::default(), &[frame(0x89, &[0; 126])], 1002),
            (Limits::default(), &[frame(0x88, &[3])], 1002),
            (Limits::default(), &[frame(0x88, b"\x03\xe8\xff")], 1007),
            (Limits::default(), &[frame(0x81, b"\xff")], 1007),
            (Limits::default(), &[frame(0x81, b"\xc3")], 1007),
            (Limits::default(), &[frame(0x01, b"\xc3"), frame(0x80, b"")], 1007),
            (Limits::default(), &[frame(0x01, b"\xc3"), frame(0x80, b"x")], 1007),
            (deflate, &[frame(0xc1, &[0xff])], 1007),
            // A byte that is no text, as a block which is not compressed.
            (deflate, &[frame(0xc1, &[0, 1, 0, 0xfe, 0xff, 0xff, 0])], 1007),
            (few, &[frame(0x82, &[0; 11])], 1009),
            (few, &[frame(0x02, &[0; 5]), frame(0x00, &[0; 5]), frame(0x80, &[0; 1])], 1009),
            (few, &[frame(0x02, b""), frame(0x00, b""), frame(0x00, b""), frame(0x80, b"")], 1009),
        ] {
            let violation = refused(limits, frames);
            assert_eq!(violation.map(|violation| violation.code), Some(code), "{frames:x?}");
            let close = violation.unwrap().to_close();
            assert_eq!((close.code(), close.reason()), (Some(code), violation.unwrap().reason));
        }
        for frames in [
            &[frame(0x82, &[0; 10])][..],
            &[frame(0x02, &[0; 5]), frame(0x00, &[0; 5]), frame(0x89, &[0; 125]), frame(0x80, b"")],
        ] {
            assert_eq!(refused(few, frames), None);
        }
    }

    #[test]
    fn a_close_tells_its_code_and_reason_and_nothing_counts_behind_it() {
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            let payload = [&u16::to_be_bytes(code)[..], "so längst".as_bytes()].concat();
            let bytes = [frame(0x88, &payload), frame(0x81, b"more"), vec![0xff; 30]].concat();
            let mut decoder = Decoder::new(Limits::default());
            let close = Incoming::Close(Some((code, "so längst".to_owned())));
            assert_eq!(read(&mut decoder, &bytes), (vec![close], None));
            assert_eq!(read(&mut decoder, &frame(0x81, b"more")), (vec![], None));
        }
        assert_eq!(read(&mut Decoder::new(Limits::default()), &frame(0x88, b"")).0, [Incoming::Close(None)]);
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let violation = refused(Limits::default(), &[frame(0x88, &u16::to_be_bytes(code))]);
            assert_eq!(violation.unwrap().code, 1002, "{code}");
        }
    }

    #[test]
    fn text_that_is_none_is_found_at_its_first_wrong_byte() {
        // The character of which these are a part is beyond the last one; the frame is not even at its end.
        let bytes = frame(0x01, b"\xce\xba\xf4\x90\x80\x80 and more");
        let wrong = bytes.len() - 11;
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(read(&mut decoder, &bytes[..wrong - 1]), (vec![], None));
        let violation = read(&mut decoder, &bytes[wrong - 1..wrong]).1.unwrap();
        assert_eq!(violation.code, 1007);
        // One that is cut in the middle is none of them.
        for cut in 1..4 {
            let (first, second) = "\u{1f600}".as_bytes().split_at(cut);
            let frames = [frame(0x01, first), frame(0x00, b""), frame(0x89, b""), frame(0x80, second)];
            let (all, violation) = read(&mut Decoder::new(Limits::default()), &frames.concat());
            assert_eq!((&all[1], violation), (&text("\u{1f600}"), None));
        }
    }

    #[test]
    fn room_is_made_for_what_has_come_and_not_for_what_is_promised() {
        let bytes = frame(0x82, &vec![7; 1 << 20]);
        let mut decoder = Decoder::new(Limits::default());
        let (mut fed, mut times, mut room) = (0, 0, 0);
        for mut piece in bytes.chunks(16_384) {
            fed += piece.len();
            let came = decoder.next(&mut piece).unwrap();
            assert!(came.is_some() || decoder.held() <= 2 * fed);
            if came.is_none() && decoder.held() != room {
                (times, room) = (times + 1, decoder.held());
            }
        }
        assert_eq!(room, 1 << 20, "in the end exactly what is needed");
        assert!(times <= 8, "{times}");
        // Many small frames do not make room one by one.
        let mut decoder = Decoder::new(Limits::default());
        let (mut times, mut room) = (0, 0);
        for number in 0..100_000_u32 {
            let first = if number == 0 { 2 } else { 0 };
            assert_eq!(read(&mut decoder, &frame(first, b"x")), (vec![], None));
            assert!(decoder.held() <= 2 * (number as usize + 1));
            if decoder.held() != room {
                (times, room) = (times + 1, decoder.held());
            }
        }
        assert!(times <= 20, "{times}");
    }

    #[test]
    fn a_silent_client_takes_less_than_100_bytes() {
        assert!(size_of::<Decoder>() <= 96, "{}", size_of::<Decoder>());
    }
}
