//! What of a client's frames may go on to the function.
//!
//! Owns two looks ahead, for functions that ask for them: a message that is too long is stopped before the frame that
//! makes it so, and the pong that answers a ping of ours is taken out. Both need whole headers, so the beginning of one
//! is held back until the rest of it comes. Never holds more than a pong.

use super::frames::{Ahead, Frames};

/// The payload of our pings.
pub(super) type Cookie = [u8; 8];

/// A pong of a client that answers one of our pings: header, masking key, payload.
const PONG: usize = 2 + 4 + 8;

/// Looks at what a client sends.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// How long a message may be; `None`: as long as it likes.
    max_message: Option<u64>,
    /// What our pings said, once there was one.
    cookie: Option<Cookie>,
    /// So long is the message of which the last frame of data was a part.
    message: u64,
    /// So many of the bytes that come next were looked at and may pass.
    cleared: usize,
}

/// What is to become of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// So many go on.
    Pass(usize),
    /// So many were for us.
    Swallow(usize),
    /// That is not to be said before more have come.
    Wait,
    /// The frame that begins here is not to go on: its message is too long with it.
    TooLong,
}

impl Screen {
    pub(super) fn new(max_message: Option<u64>) -> Self {
        Self { max_message, ..Self::default() }
    }

    /// Pings with this were sent from now on.
    pub(super) fn expect(&mut self, cookie: Cookie) {
        self.cookie = Some(cookie);
    }

    /// So many of the bytes that may pass have passed.
    pub(super) fn passed(&mut self, length: usize) {
        self.cleared = self.cleared.saturating_sub(length);
    }

    /// Says what is to become of `bytes`, which are not empty and come next behind `frames`. None is looked at twice,
    /// however slowly they [pass](Self::passed).
    pub(super) fn look(&mut self, frames: Frames, bytes: &[u8]) -> Verdict {
        if self.cleared > 0 {
            return Verdict::Pass(self.cleared.min(bytes.len()));
        }
        let verdict = self.look_at_new(frames, bytes);
        if let Verdict::Pass(length) = verdict {
            self.cleared = length;
        }
        verdict
    }

    fn look_at_new(&mut self, mut frames: Frames, bytes: &[u8]) -> Verdict {
        if self.max_message.is_none() && self.cookie.is_none() {
            return Verdict::Pass(bytes.len());
        }
        let mut passed = 0;
        while passed < bytes.len() && frames.are_known() {
            let rest = &bytes[passed..];
            let verdict = match frames.ahead(rest) {
                Ahead::Frame { opcode: 0..=2, payload } if self.grows_too_long(rest[0], payload) => {
                    Verdict::TooLong
                }
                Ahead::Frame { opcode: 10, payload: 8 } => self.pong(rest),
                Ahead::Part => Verdict::Wait,
                Ahead::Frame { .. } | Ahead::Unknown => Verdict::Pass(0),
            };
            match verdict {
                Verdict::Pass(_) => {
                    // Its first byte, that it may be finished.
                    let first = usize::from(frames.at_boundary());
                    frames.feed(&rest[..first]);
                    passed += first + frames.finish(&rest[first..]);
                }
                _ if passed > 0 => return Verdict::Pass(passed),
                verdict => return verdict,
            }
        }
        // Nothing is known of what is no frame.
        Verdict::Pass(bytes.len())
    }

    /// Is the message too long with a frame that begins with `first`? If not, the frame is a part of it from now on.
    fn grows_too_long(&mut self, first: u8, payload: u64) -> bool {
        let before = if first & 0x0f == 0 { self.message } else { 0 };
        let message = before.saturating_add(payload);
        let too_long = self.max_message.is_some_and(|max| message > max);
        if !too_long {
            self.message = message;
        }
        too_long
    }

    /// Is the pong that begins here the answer to a ping of ours?
    fn pong(&self, bytes: &[u8]) -> Verdict {
        let Some(cookie) = &self.cookie else { return Verdict::Pass(0) };
        let bytes = &bytes[..PONG.min(bytes.len())];
        let key = &bytes[2..bytes.len().min(6)];
        let mut said = bytes[2 + key.len()..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        match (cookie.iter().zip(&mut said).all(|(ours, said)| *ours == said), bytes.len()) {
            (false, _) => Verdict::Pass(0),
            (true, PONG) => Verdict::Swallow(PONG),
            (true, _) => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frames::Sender;
    use super::*;

    const COOKIE: Cookie = *b"01234567";

    /// A masked frame of a client.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [7, 0, 9, 250];
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// What is let through of pieces that come one after the other, and whether it ended with a message too long.
    fn passed<'a>(screen: &mut Screen, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
        let (mut frames, mut through, mut held) = (Frames::of(Sender::Client), Vec::new(), Vec::new());
        for piece in pieces {
            held.extend(piece);
            while !held.is_empty() {
                match screen.look(frames, &held) {
                    Verdict::Pass(length) => {
                        assert!(length > 0);
                        // Not all of it is taken at once.
                        let length = length.div_ceil(2);
                        screen.passed(length);
                        frames.feed(&held[..length]);
                        through.extend(held.drain(..length));
                    }
                    Verdict::Swallow(length) => drop(held.drain(..length)),
                    Verdict::Wait => {
                        assert!(held.len() < PONG, "{} bytes are held back", held.len());
                        break;
                    }
                    Verdict::TooLong => {
                        assert!(frames.at_boundary());
                        return (through, true);
                    }
                }
            }
        }
        (through, false)
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_our_pongs_are_taken_out_and_nothing_else(
            frames in prop::collection::vec(prop_oneof![
                Just((0x8a_u8, COOKIE.to_vec())),
                Just((0x8a, b"01234568".to_vec())),
                Just((0x8a, b"0123".to_vec())),
                Just((0x8a, b"012345678".to_vec())),
                Just((0x82, COOKIE.to_vec())),
                Just((0x89, COOKIE.to_vec())),
                (Just(0x01), prop::collection::vec(any::<u8>(), 0..200)),
            ], 0..12),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (first, payload) in frames {
                let frame = frame(first, &payload);
                bytes.extend(&frame);
                if first != 0x8a || payload != COOKIE {
                    expected.extend(&frame);
                }
            }
            let mut screen = Screen::new(None);
            screen.expect(COOKIE);
            let (mut rest, mut pieces) = (&bytes[..], Vec::new());
            for cut in cuts.into_iter().cycle().take_while(|_| !bytes.is_empty()) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(passed(&mut screen, pieces.into_iter()), (expected, false));
        }

        #[test]
        fn a_message_is_stopped_before_the_frame_that_makes_it_too_long(
            parts in prop::collection::vec((any::<bool>(), 0_usize..200), 1..12),
            max in 0_u64..500,
            cut in 1_usize..30,
        ) {
            let (mut bytes, mut fits, mut message, mut open, mut too_long) = (Vec::new(), 0, 0, false, false);
            for (last, length) in parts {
                message = if open { message } else { 0 } + length as u64;
                bytes.extend(frame(if last { 0x80 } else { 0 } | if open { 0 } else { 2 }, &vec![1; length]));
                open = !last;
                too_long |= message > max;
                if !too_long {
                    bytes.extend(frame(0x89, b"a ping between two parts"));
                    fits = bytes.len();
                }
            }
            let result = passed(&mut Screen::new(Some(max)), bytes.chunks(cut));
            prop_assert_eq!(result, (bytes[..fits].to_vec(), too_long));
        }
    }

    #[test]
    fn what_is_no_frame_passes_whatever_is_looked_for() {
        let mut screen = Screen::new(Some(1));
        screen.expect(COOKIE);
        let bytes = [&frame(0x81, b"x")[..], &[0x83; 40]].concat();
        assert_eq!(passed(&mut screen, bytes.chunks(7)), (bytes.clone(), false));
    }

    #[test]
    fn a_header_that_had_begun_to_pass_when_a_ping_was_sent_passes_on() {
        let mut screen = Screen::new(None);
        screen.expect(COOKIE);
        let mut frames = Frames::of(Sender::Client);
        frames.feed(&[0x82]);
        let rest = &frame(0x82, b"x")[1..];
        assert_eq!(screen.look(frames, &[rest, &frame(0x8a, &COOKIE)].concat()), Verdict::Pass(rest.len()));
    }
}
