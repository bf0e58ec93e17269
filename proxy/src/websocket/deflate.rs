//! Compressed messages: permessage-deflate (RFC 7692), each message for itself.
//!
//! Owns what is agreed upon, and both directions. Neither side ever looks back at an earlier message, so a connection
//! keeps nothing for this: what it takes to compress is the thread's, and so is what it takes to read.

use std::cell::RefCell;
use std::num::NonZeroU8;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

use super::frame::Violation;

/// What is shorter is not compressed: it would gain next to nothing. In bytes.
const SHORTEST: usize = 256;

/// The window that a client has if nothing was said of it, as the power of two that it has bytes.
const WINDOW: u8 = 15;

/// What each compressed message ends with, and which is therefore not sent.
const END: [u8; 4] = [0, 0, 0xff, 0xff];

/// What is put behind a message to read it: its end, and an empty block that is the last one. Whoever has read that has
/// read all of the message.
const LAST: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

thread_local! {
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// What was agreed upon with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// How far back it can look, as a power of two.
    window: NonZeroU8,
}

impl Deflate {
    /// Agrees upon the first of the offers in `headers` that can be met, and says how that is answered.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Option<(Self, HeaderValue)> {
        let values = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let offers = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let window = offers.filter_map(read_offer).next()?;
        let mut answer =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if let Some(window) = window {
            answer += &format!("; server_max_window_bits={window}");
        }
        Some((Self::of_window(window.unwrap_or(WINDOW))?, HeaderValue::try_from(answer).ok()?))
    }

    /// With a client that looks back so far, as a power of two from 8 to 15.
    pub(crate) fn of_window(bits: u8) -> Option<Self> {
        let window = NonZeroU8::new(bits).filter(|_| (8..=WINDOW).contains(&bits))?;
        Some(Self { window })
    }

    /// How far it looks back.
    pub(crate) fn window(self) -> u8 {
        self.window.get()
    }

    /// A message as it is sent. `None` if it is better sent as it is.
    pub(crate) fn compress(self, message: &[u8]) -> Option<Bytes> {
        // Within a message that is no longer than a small window nothing looks back further. A longer one might.
        let fits = self.window() == WINDOW || message.len() <= 1 << self.window();
        if message.len() < SHORTEST || !fits {
            return None;
        }
        // What needs more room than this is not made smaller.
        let mut compressed = Vec::with_capacity(message.len());
        let read = COMPRESS.with_borrow_mut(|compress| {
            compress.reset();
            let status = compress.compress_vec(message, &mut compressed, FlushCompress::Sync);
            status.is_ok().then(|| compress.total_in())
        })?;
        // With room left all has been written.
        if read != message.len() as u64 || compressed.len() == compressed.capacity() {
            return None;
        }
        let length = compressed.strip_suffix(&END)?.len();
        compressed.truncate(length);
        compressed.shrink_to_fit();
        Some(compressed.into())
    }
}

/// How long a message of up to `length` bytes may be when it is compressed: what makes it longer is at most five bytes
/// for each block, of which none need be shorter than some hundred bytes.
pub(super) fn longest(length: usize) -> usize {
    length.saturating_add(length / 64).saturating_add(64)
}

/// What a compressed message was, if that is not longer than `most` bytes. Never takes more memory than twice of it.
pub(super) fn inflate(message: &[u8], most: usize) -> Result<Vec<u8>, Violation> {
    INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(false);
        let mut plain = Vec::new();
        let whole = match run(inflate, message, &mut plain, most)? {
            // Of a sender which ends its messages with a last block there is nothing more but the beginning of an empty
            // one.
            Some(rest) => matches!(rest, [] | [0]),
            // Else it has to end here, or where its end would have been.
            None => matches!(run(inflate, &LAST, &mut plain, most)?, Some([] | [_, _])),
        };
        if whole { Ok(plain) } else { Err(CORRUPT) }
    })
}

const CORRUPT: Violation = Violation::data("a compressed message cannot be read");

/// Reads `input`, and says what is left of it behind a last block. `None` if there was no such block.
fn run<'a>(
    inflate: &mut Decompress,
    mut input: &'a [u8],
    plain: &mut Vec<u8>,
    most: usize,
) -> Result<Option<&'a [u8]>, Violation> {
    loop {
        if plain.len() == plain.capacity() {
            // One more than there may be, to see that there is not.
            let room =
                plain.len().max(input.len()).max(SHORTEST).saturating_mul(2).min(most.saturating_add(1));
            plain.reserve_exact(room.saturating_sub(plain.len()));
        }
        let before = (inflate.total_in(), plain.len());
        let status = inflate.decompress_vec(input, plain, FlushDecompress::None).map_err(|_| CORRUPT)?;
        let read = inflate.total_in() - before.0;
        input = usize::try_from(read).ok().and_then(|read| input.get(read..)).unwrap_or_default();
        if plain.len() > most {
            return Err(Violation::too_big("a compressed message is too long"));
        }
        match status {
            Status::StreamEnd => return Ok(Some(input)),
            Status::Ok | Status::BufError if plain.len() == plain.capacity() => {}
            Status::Ok | Status::BufError if input.is_empty() => return Ok(None),
            Status::Ok | Status::BufError if read == 0 && plain.len() == before.1 => return Err(CORRUPT),
            Status::Ok | Status::BufError => {}
        }
    }
}

/// An offer that can be met, with the window that it asks for, if it does.
fn read_offer(offer: &str) -> Option<Option<u8>> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut window = None;
    let mut seen = [false; 4];
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquote(value.trim()))),
            None => (part, None),
        };
        let index = match (name.to_ascii_lowercase().as_str(), value) {
            ("server_no_context_takeover", None) => 0,
            ("client_no_context_takeover", None) => 1,
            // What it is able to: here all windows can be read.
            ("client_max_window_bits", value) => {
                value.map_or(Some(WINDOW), read_window)?;
                2
            }
            ("server_max_window_bits", Some(value)) => {
                window = Some(read_window(value)?);
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[index], true) {
            return None;
        }
    }
    Some(window)
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// From 8 to 15, without zeros before it.
fn read_window(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=WINDOW).contains(bits))?;
    (bits.to_string() == value).then_some(bits)
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression};
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 1 << 20;

    fn negotiate(offers: &[&'static str]) -> Option<(u8, String)> {
        let headers: HeaderMap =
            offers.iter().map(|offer| (SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(offer))).collect();
        let (deflate, answer) = Deflate::negotiate(&headers)?;
        Some((deflate.window(), answer.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_first_offer_that_can_be_met_is_agreed_upon() {
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for offers in [
            &["permessage-deflate"][..],
            &["permessage-deflate; client_max_window_bits"],
            &["permessage-deflate;client_max_window_bits=9;server_no_context_takeover"],
            &["Permessage-Deflate; client_no_context_takeover"],
            &["x-webkit-deflate-frame, permessage-deflate"],
            &["foo; bar=1", "permessage-deflate"],
            &["permessage-deflate; server_max_window_bits=16, permessage-deflate"],
            &[
                "permessage-deflate; unknown",
                "permessage-deflate, permessage-deflate; server_max_window_bits=9",
            ],
        ] {
            assert_eq!(negotiate(offers), Some((15, plain.to_owned())), "{offers:?}");
        }
        for (offers, window) in [
            (&["permessage-deflate; server_max_window_bits=8"][..], 8),
            (&["permessage-deflate; server_max_window_bits=\"10\"; client_max_window_bits"], 10),
            (&["permessage-deflate ; server_max_window_bits = 15, permessage-deflate"], 15),
            (
                &[
                    "permessage-deflate; server_max_window_bits",
                    "permessage-deflate; server_max_window_bits=12",
                ],
                12,
            ),
        ] {
            let answer = format!("{plain}; server_max_window_bits={window}");
            assert_eq!(negotiate(offers), Some((window, answer)), "{offers:?}");
        }
    }

    #[test]
    fn an_offer_that_is_not_understood_is_declined() {
        for offer in [
            "",
            "deflate",
            "permessage-deflat",
            "permessage-deflate; x",
            "permessage-deflate; ",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=9a",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        ] {
            assert_eq!(negotiate(&[offer]), None, "{offer}");
        }
        assert_eq!(negotiate(&[]), None);
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        for message in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // Looks back within itself only.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
            // A block that is not compressed.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // One that is the last, with and without the beginning of what should follow.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(message, 5), Ok(b"Hello".to_vec()), "{message:x?}");
            let too_long = inflate(message, 4).unwrap_err();
            assert_eq!(too_long.code, 1009, "{message:x?}");
        }
        assert_eq!(inflate(&[0], 0), Ok(Vec::new()), "an empty message");
    }

    #[test]
    fn what_is_no_whole_message_is_not_taken_for_one() {
        for message in [
            &[][..],
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9],
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x01],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0x00, 0x07, 0x00, 0xf8, 0xff, 0x48],
            &[0xff],
            &[0x06],
        ] {
            assert_eq!(inflate(message, MOST), Err(CORRUPT), "{message:x?}");
        }
        // And the next one is read as if nothing had been.
        assert_eq!(inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], MOST), Ok(b"Hello".to_vec()));
    }

    #[test]
    fn a_bomb_is_too_big_before_it_takes_room() {
        let bomb = Deflate::of_window(15).unwrap().compress(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(&bomb, MOST).map_err(|violation| violation.code), Err(1009));
        let mut plain = Vec::new();
        assert!(run(&mut Decompress::new(false), &bomb, &mut plain, MOST).is_err());
        assert!(plain.capacity() <= MOST + 1, "{}", plain.capacity());
        let exact = Deflate::of_window(15).unwrap().compress(&vec![0; MOST]).unwrap();
        assert_eq!(inflate(&exact, MOST).map(|plain| plain.len()), Ok(MOST));
    }

    #[test]
    fn what_does_not_become_smaller_or_looks_back_too_far_is_sent_as_it_is() {
        let noise: Vec<u8> = (0..40_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let plain = vec![b'a'; 40_000];
        for (window, message, compressed) in [
            (15, &plain[..255], false),
            (15, &plain[..256], true),
            (15, &plain[..], true),
            (8, &plain[..256], true),
            (8, &plain[..257], false),
            (14, &plain[..16_384], true),
            (14, &plain[..16_385], false),
            (15, &noise[..300], false),
        ] {
            let deflate = Deflate::of_window(window).unwrap();
            assert_eq!(deflate.compress(message).is_some(), compressed, "{window} {}", message.len());
        }
        for window in [0, 7, 16] {
            assert_eq!(Deflate::of_window(window), None);
        }
    }

    #[test]
    fn what_cannot_be_made_smaller_is_still_no_longer_than_what_may_come() {
        let noise: Vec<u8> = (0..MOST as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).wrapping_mul(0x2545_f491_4f6c_dd1d) as u8)
            .collect();
        for size in [0, 1, 100, 5000, MOST] {
            for level in [0, 1, 6, 9] {
                let message = as_others_do(&noise[..size], level);
                assert!(message.len() <= longest(size), "{size} {level} {}", message.len());
                assert_eq!(inflate(&message, size).as_deref(), Ok(&noise[..size]));
            }
        }
    }

    /// A message as any other implementation makes it.
    fn as_others_do(message: &[u8], level: u32) -> Vec<u8> {
        let mut compressed = Vec::with_capacity(2 * message.len() + 100);
        let mut compress = Compress::new(Compression::new(level), false);
        compress.compress_vec(message, &mut compressed, FlushCompress::Sync).unwrap();
        compressed.strip_suffix(&END).unwrap_or(&[0]).to_vec()
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..2000);
        let words =
            prop::collection::vec(prop_oneof!["hello ", "[a-z]{1,9} ", "\\{\"id\":[0-9]{3}\\}"], 0..400);
        prop_oneof![bytes, words.prop_map(|words| words.concat().into_bytes())]
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_read_back_by_us_and_by_others(message in any_message(), window in 8_u8..=15) {
            if let Some(compressed) = Deflate::of_window(window).unwrap().compress(&message) {
                prop_assert!(compressed.len() < message.len());
                prop_assert_eq!(inflate(&compressed, message.len()), Ok(message.clone()));
                prop_assert_eq!(inflate(&compressed, message.len() - 1).unwrap_err().code, 1009);
                let mut plain = Vec::with_capacity(message.len() + 1);
                let with_end = [&compressed[..], &END].concat();
                Decompress::new(false).decompress_vec(&with_end, &mut plain, FlushDecompress::Sync).unwrap();
                prop_assert_eq!(&plain, &message);
            }
        }

        #[test]
        fn what_others_compress_is_read(message in any_message(), level in 0_u32..10) {
            let compressed = as_others_do(&message, level);
            prop_assert_eq!(inflate(&compressed, message.len()), Ok(message));
        }

        #[test]
        fn any_bytes_are_taken_and_never_become_more_than_they_may(
            message in prop::collection::vec(any::<u8>(), 0..300),
            most in 0_usize..2000,
        ) {
            if let Ok(plain) = inflate(&message, most) {
                prop_assert!(plain.len() <= most);
            }
        }
    }
}
