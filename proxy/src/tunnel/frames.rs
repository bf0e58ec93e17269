//! Where the frames of a WebSocket begin and end, seen from outside.
//!
//! Owns what is known of one direction: how much of the current frame is still to come, or its header as far as it came,
//! and the code of a Close. Reads headers out of the buffers that pass anyway. Never unmasks a message, copies or changes
//! a byte, and never ends a stream: one that is no valid framing is let through like any other protocol's.
//!
//! ```text
//!   boundary ──first byte──► header ──last byte──► payload ──last byte──► boundary
//!                              │                      (an empty one has no bytes)
//!                              └─ impossible ──► opaque: no boundary any more
//! ```

use crate::meter::{UNIT, units};
use crate::scale::{SIZES, STEPS};

/// The longest header without its masking key: two bytes and a length of eight.
const MAX_HEADER: usize = 10;

/// The bytes of a masking key. Counted with the payload: nothing is to be known of them either.
const KEY: u64 = 4;

/// How many bytes of a Close are looked at: the masking key and the code.
const CLOSE: usize = 6;

/// The kinds of frames that are counted apart: continuation, text, binary, Close, ping and pong.
pub(super) const KINDS: usize = 6;

/// The place of what is left of the last message's unit, above how many units that takes so far, and the number of messages.
const LEFT: u32 = 48;
const UNITS: u32 = 36;

/// The most units of a message that are counted: far beyond the longest that is told apart.
const MOST_UNITS: u64 = (1 << (LEFT - UNITS)) - 1;

/// What began: frames of each kind, and what those of messages carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) frames: [u64; KINDS],
    /// Payload of text, binary and continuations.
    pub(super) bytes: u64,
    /// The units of 32 KiB that messages take, each rounded up.
    pub(super) units: u64,
    /// Messages whose last frame began, by how long they are: on the scale of [`SIZES`].
    pub(super) sizes: [u32; STEPS + 1],
}

/// Which side of a connection sends the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Masks its frames.
    Client,
    /// Does not.
    Function,
}

/// One direction of a tunnel, fed with its bytes in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Bytes of the current frame that are still to come behind its header, the masking key's included.
    left: u64,
    /// Frames of text or binary that began: one for each message. Above that, of the message that came last: how many units
    /// it takes so far, and, in the highest 16 bits, how much is left of the last of these.
    messages: u64,
    header: [u8; MAX_HEADER],
    /// How many bytes of `header` have come, 0 outside of one.
    have: u8,
    kind: Kind,
    sender: Sender,
    closed: bool,
    /// Of the first Close; 0 if that has none.
    code: u16,
}

/// The frame whose payload comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text, binary, or the continuation of either.
    Data,
    /// A ping or a pong.
    Probe,
    Close,
    /// Not a frame: nothing is known of this stream, or nothing any more.
    Opaque,
}

impl Frames {
    /// Those of a WebSocket that begins now.
    pub(crate) fn of(sender: Sender) -> Self {
        Self {
            left: 0,
            messages: 0,
            header: [0; MAX_HEADER],
            have: 0,
            kind: Kind::Probe,
            sender,
            closed: false,
            code: 0,
        }
    }

    /// A stream of another protocol.
    pub(crate) fn opaque(sender: Sender) -> Self {
        Self { kind: Kind::Opaque, ..Self::of(sender) }
    }

    /// As numbers, for whoever goes on with it. The highest 16 bits of the last are zero.
    pub(super) fn to_words(self) -> [u64; 4] {
        let [a, b, c, d, e, f, g, h, i, j] = self.header;
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Probe => 1,
            Kind::Close => 2,
            Kind::Opaque => 3,
        };
        let [low, high] = self.code.to_le_bytes();
        // Of a header there are fewer than 16 bytes, and of the kinds four.
        let packed = self.have | kind << 4 | u8::from(self.closed) << 6;
        let rest = u64::from_le_bytes([i, j, packed, low, high, 0, 0, 0]);
        [self.left, self.messages, u64::from_le_bytes([a, b, c, d, e, f, g, h]), rest]
    }

    /// What [`to_words`](Self::to_words) made numbers of. Of any others, a stream of which nothing is known.
    pub(super) fn of_words([left, messages, header, rest]: [u64; 4], sender: Sender) -> Self {
        let [a, b, c, d, e, f, g, h] = header.to_le_bytes();
        let [i, j, packed, low, high, ..] = rest.to_le_bytes();
        let (have, closed) = (packed & 15, packed & 64);
        let kind = match packed >> 4 & 3 {
            0 => Kind::Data,
            1 => Kind::Probe,
            2 => Kind::Close,
            _ => Kind::Opaque,
        };
        if usize::from(have) >= MAX_HEADER {
            return Self::opaque(sender);
        }
        let header = [a, b, c, d, e, f, g, h, i, j];
        let code = u16::from_le_bytes([low, high]);
        Self { left, messages, header, have, kind, sender, closed: closed != 0, code }
    }

    /// Is it known where frames begin?
    pub(crate) fn are_known(&self) -> bool {
        self.kind != Kind::Opaque
    }

    /// May a frame be put in here? Not in an opaque stream.
    pub(crate) fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0 && self.are_known()
    }

    /// Has a whole Close frame passed?
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// The code of the Close that has passed, if that says one.
    pub(super) fn code(&self) -> Option<u16> {
        Some(self.code).filter(|code| *code > 0)
    }

    /// Who sends these.
    pub(super) fn sender(&self) -> Sender {
        self.sender
    }

    /// Messages that have begun.
    pub(crate) fn messages(&self) -> u64 {
        self.messages & ((1 << UNITS) - 1)
    }

    /// Goes on by `bytes`. Was there anything of a message among them, other than pings and pongs? All of an opaque
    /// stream is taken for that.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        self.scan(bytes, |_| {}, &mut Counts::default())
    }

    /// The same, and adds the frames that began to `counts`.
    pub(super) fn count(&mut self, bytes: &[u8], counts: &mut Counts) -> bool {
        self.scan(bytes, |_| {}, counts)
    }

    /// How many of `bytes`, which come next, go up to the last boundary among them. `Some(0)` if the stream stands at
    /// one and they hold no other, `None` if there is none.
    pub(crate) fn last_boundary(mut self, bytes: &[u8]) -> Option<usize> {
        let mut last = self.at_boundary().then_some(0);
        self.scan(bytes, |position| last = Some(position), &mut Counts::default());
        last
    }

    /// What begins with `bytes`, which come next.
    pub(super) fn ahead(mut self, bytes: &[u8]) -> Ahead {
        if !self.at_boundary() {
            return Ahead::Unknown;
        }
        let Some(header) = header_length(bytes).filter(|length| *length <= bytes.len()) else {
            return Ahead::Part;
        };
        self.begin(&bytes[..header], &mut Counts::default());
        if !self.are_known() {
            return Ahead::Unknown;
        }
        Ahead::Frame { opcode: bytes[0] & 0x0f, payload: self.left - self.key() }
    }

    /// Goes on by what `bytes` hold of the current frame, and says how much that is.
    pub(super) fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.are_known() && !self.at_boundary() {
            let rest = &bytes[taken..];
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).clamp(1, rest.len());
            self.feed(&rest[..length]);
            taken += length;
        }
        taken
    }

    /// As [`feed`](Self::feed); also says how many bytes were behind it at each boundary.
    fn scan(&mut self, bytes: &[u8], mut boundary: impl FnMut(usize), counts: &mut Counts) -> bool {
        let mut rest = bytes;
        let mut data = false;
        while !rest.is_empty() {
            if !self.are_known() {
                return true;
            }
            if self.left == 0 {
                rest = self.take_header(rest, counts);
                if self.have > 0 {
                    // The header goes on in the next buffer.
                    return data;
                }
            }
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            if self.kind == Kind::Close {
                self.note_close(&rest[..length]);
            }
            rest = &rest[length..];
            self.left -= length as u64;
            data |= self.kind == Kind::Data;
            if self.at_boundary() {
                self.closed |= self.kind == Kind::Close;
                boundary(bytes.len() - rest.len());
            }
        }
        data
    }

    /// Takes what there is of a header, and gives back what is behind it.
    fn take_header<'a>(&mut self, bytes: &'a [u8], counts: &mut Counts) -> &'a [u8] {
        if self.have == 0
            && let Some(length) = header_length(bytes).filter(|length| *length <= bytes.len())
        {
            let (header, rest) = bytes.split_at(length);
            self.begin(header, counts);
            return rest;
        }
        for (index, byte) in bytes.iter().enumerate() {
            let mut header = self.header;
            header[usize::from(self.have)] = *byte;
            self.header = header;
            self.have += 1;
            let there = usize::from(self.have);
            if header_length(&header[..there]) == Some(there) {
                self.have = 0;
                self.begin(&header[..there], counts);
                return &bytes[index + 1..];
            }
        }
        &[]
    }

    /// The header is whole: its frame begins.
    fn begin(&mut self, header: &[u8], counts: &mut Counts) {
        match self.read(header) {
            Some((kind, left)) => {
                (self.kind, self.left) = (kind, left);
                let opcode = usize::from(header[0] & 0x0f);
                counts.frames[if opcode < 3 { opcode } else { opcode - 5 }] += 1;
                if kind == Kind::Data {
                    self.measure((opcode > 0, header[0] & 0x80 != 0), left - self.key(), counts);
                }
                // The header is not needed any more. Behind the place of the key and the code: how long all of it is.
                self.header[CLOSE] = left.min(u64::from(u8::MAX)) as u8;
            }
            None => self.kind = Kind::Opaque,
        }
    }

    /// So much of a message comes: the first of it, or the last, or both.
    fn measure(&mut self, (first, last): (bool, bool), payload: u64, counts: &mut Counts) {
        let (left, before) =
            if first { (0, 0) } else { (self.messages >> LEFT, self.messages >> UNITS & MOST_UNITS) };
        let (more, left) = units(left, payload);
        let all = before.saturating_add(more).min(MOST_UNITS);
        self.messages = self.messages() | all << UNITS | left << LEFT;
        counts.bytes += payload;
        counts.units += more;
        if last {
            counts.sizes[SIZES.bucket(all * UNIT - left)] += 1;
        }
    }

    /// How many bytes of the masking key are counted with a payload.
    fn key(&self) -> u64 {
        if self.sender == Sender::Client { KEY } else { 0 }
    }

    /// Takes the code out of the bytes of a Close, which are masked if a client sent them.
    fn note_close(&mut self, bytes: &[u8]) {
        let length = u64::from(self.header[CLOSE]);
        let from = usize::try_from(length.saturating_sub(self.left)).unwrap_or(usize::MAX);
        for (place, byte) in self.header[..CLOSE].iter_mut().skip(from).zip(bytes) {
            *place = *byte;
        }
        if self.closed || self.left > bytes.len() as u64 {
            return;
        }
        self.code = match (self.sender, self.header) {
            (Sender::Function, [a, b, ..]) if length >= 2 => u16::from_be_bytes([a, b]),
            (Sender::Client, [j, k, _, _, a, b, ..]) if length >= CLOSE as u64 => {
                u16::from_be_bytes([a ^ j, b ^ k])
            }
            _ => 0,
        };
    }

    /// What a whole header says: the kind of its frame, and how much comes behind it. `None` if there is no such frame.
    ///
    /// The reserved bits are the business of extensions, which both sides have agreed upon.
    fn read(&mut self, header: &[u8]) -> Option<(Kind, u64)> {
        let (last, opcode) = (header[0] & 0x80 != 0, header[0] & 0x0f);
        let masked = header[1] & 0x80 != 0;
        let payload = match header[2..] {
            [] => u64::from(header[1] & 0x7f),
            [a, b] => u64::from(u16::from_be_bytes([a, b])),
            _ => u64::from_be_bytes(header[2..].try_into().ok()?),
        };
        let kind = match opcode {
            0..=2 => Kind::Data,
            8 => Kind::Close,
            9 | 10 => Kind::Probe,
            _ => return None,
        };
        let fits = kind == Kind::Data || (last && payload <= 125);
        if !fits || masked != (self.sender == Sender::Client) || payload > i64::MAX as u64 {
            return None;
        }
        self.messages += u64::from(matches!(opcode, 1 | 2));
        Some((kind, payload + if masked { KEY } else { 0 }))
    }
}

/// What comes next in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// A frame, with so long a payload.
    Frame { opcode: u8, payload: u64 },
    /// The beginning of a header.
    Part,
    /// No frame begins here.
    Unknown,
}

/// How long a header is that begins so, without its masking key. `None` if that cannot be said yet.
fn header_length(header: &[u8]) -> Option<usize> {
    Some(match header.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with its header, and the length of its payload.
    fn frame(sender: Sender, first: u8, length: usize) -> Vec<u8> {
        let mask = if sender == Sender::Client { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // What looks like headers of Close frames is what must not be looked at.
        bytes.resize(bytes.len() + length + if mask == 0 { 0 } else { 4 }, 0x88);
        bytes
    }

    fn any_frame() -> impl Strategy<Value = (u8, usize)> {
        let bits = prop_oneof![Just(0x80_u8), Just(0), Just(0xc0), Just(0x40)];
        let lengths = prop_oneof![0_usize..300, Just(125), Just(126), Just(65_535), Just(65_536)];
        prop_oneof![
            4 => (bits, 0_u8..3, lengths).prop_map(|(bits, opcode, length)| (bits | opcode, length)),
            1 => (8_u8..11, 0_usize..126).prop_map(|(opcode, length)| (0x80 | opcode, length)),
        ]
    }

    /// The bytes of messages, their units, each message taken as a whole, and how long those are that have ended. A last
    /// frame without a first is counted as of a message, too.
    fn carried(frames: &[(u8, usize)]) -> (u64, u64, [u32; STEPS + 1]) {
        let (mut messages, mut sizes) = (vec![0_u64], [0; STEPS + 1]);
        for (first, length) in frames.iter().filter(|(first, _)| first & 0x0f < 3) {
            if first & 0x0f > 0 {
                messages.push(0);
            }
            *messages.last_mut().unwrap() += *length as u64;
            sizes[SIZES.bucket(messages[messages.len() - 1])] += u32::from(first & 0x80 > 0);
        }
        (messages.iter().sum(), messages.iter().map(|message| message.div_ceil(UNIT)).sum(), sizes)
    }

    fn any_sender() -> impl Strategy<Value = Sender> {
        prop_oneof![Just(Sender::Client), Just(Sender::Function)]
    }

    proptest! {
        #[test]
        fn boundaries_are_where_frames_meet_however_the_bytes_are_cut(
            sender in any_sender(),
            frames in prop::collection::vec(any_frame(), 0..12),
            cuts in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..40_000], 1..30),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![(0, 0, false)]);
            let carried = carried(&frames);
            for (first, length) in frames {
                bytes.extend(frame(sender, first, length));
                ends.push((bytes.len(), first & 0x0f, true));
            }
            let closes = |at| ends.iter().any(|(end, opcode, _)| *end <= at && *opcode == 8);
            let mut tracked = Frames::of(sender);
            let mut counts = Counts::default();
            let mut at = 0;
            for cut in cuts.into_iter().cycle() {
                let piece = &bytes[at..bytes.len().min(at + cut)];
                let (from, to) = (at, at + piece.len());
                let last = ends.iter().map(|(end, ..)| *end).filter(|end| (from..=to).contains(end)).max();
                prop_assert_eq!(tracked.last_boundary(piece), last.map(|end| end - from));
                tracked.count(piece, &mut counts);
                at = to;
                prop_assert_eq!(tracked.at_boundary(), ends.iter().any(|(end, ..)| *end == at));
                prop_assert_eq!(tracked.closed(), closes(at));
                if at == bytes.len() {
                    break;
                }
            }
            let messages = ends.iter().filter(|(_, opcode, frame)| *frame && matches!(opcode, 1 | 2)).count();
            prop_assert_eq!(tracked.messages(), messages as u64);
            let of = |opcode| ends.iter().filter(|(_, of, frame)| *frame && *of == opcode).count() as u64;
            prop_assert_eq!(counts.frames, [0, 1, 2, 8, 9, 10].map(of));
            prop_assert_eq!((counts.bytes, counts.units), (carried.0, carried.1));
            prop_assert_eq!(counts.sizes, carried.2);
            // All of the filling is the same byte, the masking key included.
            let first = ends.iter().position(|(_, opcode, _)| *opcode == 8);
            let long = first.is_some_and(|first| ends[first].0 - ends[first - 1].0 >= if sender == Sender::Client { 8 } else { 4 });
            let code = if sender == Sender::Client { 0 } else { 0x8888 };
            prop_assert_eq!(tracked.code(), long.then_some(code).filter(|code| *code > 0));
        }

        #[test]
        fn any_bytes_are_taken_and_cutting_them_makes_no_difference(
            sender in any_sender(),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            let (mut whole, mut parts) = (Frames::of(sender), Frames::of(sender));
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            whole.feed(&bytes);
            parts.feed(first);
            let known = parts.are_known();
            parts.feed(second);
            prop_assert!(known || !parts.are_known(), "what was lost is never found again");
            let again = Frames::of_words(parts.to_words(), sender);
            prop_assert_eq!(again, parts);
            prop_assert_eq!(parts.to_words()[3] >> 48, 0);
            // The scratch of a header is no part of what is known.
            let says = |frames: &Frames| {
                (frames.kind, frames.left, frames.have, frames.closed, frames.code, frames.messages)
            };
            prop_assert_eq!(says(&whole), says(&parts));
        }
    }

    #[test]
    fn what_is_no_frame_makes_the_stream_opaque() {
        use Sender::{Client, Function};
        for (sender, bytes) in [
            (Function, &[0x83, 0][..]),
            (Function, &[0x8b, 0]),
            // A ping in two parts, and one that is too long.
            (Function, &[0x09, 0]),
            (Function, &[0x89, 126, 0, 126]),
            // Masked by the wrong side, and not by the right one.
            (Function, &[0x81, 0x81]),
            (Client, &[0x81, 1]),
            (Function, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut frames = Frames::of(sender);
            frames.feed(bytes);
            assert!(!frames.are_known() && !frames.at_boundary(), "{bytes:?}");
            assert_eq!(frames.last_boundary(&[0x81, 0]), None);
            assert!(frames.feed(&[0x89, 0]), "all of it counts");
        }
    }

    #[test]
    fn pings_and_closes_are_nothing_of_a_message_and_each_part_of_one_is() {
        let mut frames = Frames::of(Sender::Function);
        assert!(!frames.feed(&[0x89, 3, 1, 2]));
        assert!(!frames.feed(&[3, 0x8a, 0, 0x01]));
        assert!(frames.feed(&[2, 7]));
        assert!(!frames.feed(&[]));
        assert!(frames.feed(&[7]));
        assert!(!frames.feed(&[0x89, 1]));
        assert!(!frames.feed(&[9]));
        assert!(frames.feed(&[0x80, 0]), "the empty end of a message");
        assert!(!frames.feed(&[0x88, 0]));
        assert!(frames.closed());
    }

    #[test]
    fn a_close_tells_its_code_however_it_is_cut_and_only_the_first_one_counts() {
        let masked = [0x88, 0x84, 1, 2, 3, 4, 0x0f ^ 1, 0xa1 ^ 2, b'x' ^ 3, b'y' ^ 4];
        let plain = [0x88, 0x04, 0x0f, 0xa1, b'x', b'y'];
        for (sender, bytes) in [(Sender::Client, &masked[..]), (Sender::Function, &plain[..])] {
            for cut in 0..bytes.len() {
                let mut frames = Frames::of(sender);
                frames.feed(&bytes[..cut]);
                assert_eq!(frames.code(), None, "{cut}");
                frames.feed(&bytes[cut..]);
                assert_eq!(frames.code(), Some(4001), "{cut}");
            }
            let mut frames = Frames::of(sender);
            for byte in bytes {
                frames.feed(&[*byte]);
            }
            let mut other = bytes.to_vec();
            *other.last_mut().unwrap() ^= 1;
            other[if sender == Sender::Client { 6 } else { 2 }] ^= 3;
            frames.feed(&other);
            assert_eq!(frames.code(), Some(4001));
        }
        let mut empty = Frames::of(Sender::Client);
        empty.feed(&[0x88, 0x80, 1, 2, 3, 4]);
        assert!(empty.closed() && empty.code().is_none());
    }

    #[test]
    fn what_is_known_of_a_direction_takes_32_bytes() {
        assert!(size_of::<Frames>() <= 32, "{}", size_of::<Frames>());
    }

    #[test]
    fn the_next_frame_is_known_once_its_header_is_whole() {
        let frame = frame(Sender::Client, 0x82, 300);
        let mut frames = Frames::of(Sender::Client);
        assert_eq!(frames.ahead(&frame[..1]), Ahead::Part);
        assert_eq!(frames.ahead(&frame[..3]), Ahead::Part);
        assert_eq!(frames.ahead(&frame[..4]), Ahead::Frame { opcode: 2, payload: 300 });
        assert_eq!(frames.ahead(&[0x82, 0]), Ahead::Unknown, "not masked");
        frames.feed(&frame[..3]);
        assert_eq!(frames.ahead(&frame), Ahead::Unknown);
        assert_eq!(frames.finish(&[&frame[3..], &frame[..9]].concat()), frame.len() - 3);
        assert!(frames.at_boundary());
    }
}
