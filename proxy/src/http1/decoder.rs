//! Where a body ends.
//!
//! Owns the three ways in which HTTP/1 says it: a length, chunks, or the end of the connection. Pure: bytes that came in,
//! pieces of the body out, without a copy. Never reads.
//!
//! ```text
//!   Length ──n bytes──► Done
//!   Chunked: Size ──► Data ──► DataEnd ──► Size … ──size 0──► Trailers ──► Done
//!   Close  ──end of the connection──► Done
//! ```

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{Malformed, head};

/// Bytes of chunk extensions in a body, and of its trailers: nobody needs them, so nobody may send many.
const MAX_EXTENSIONS: usize = 16 << 10;
const MAX_TRAILERS: usize = 16 << 10;

/// The longest line with the size of a chunk: its digits, of which only zeros can be many, and all extensions.
const MAX_SIZE_LINE: usize = MAX_EXTENSIONS + 256;

/// Where in a body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunked),
    /// It goes on until the connection ends.
    Close,
    /// It is over.
    Done,
}

/// Where in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of extensions that came.
    extensions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In front of the line that says how long a chunk is.
    Size,
    /// So many bytes of the chunk are left.
    Data(u64),
    /// Behind its bytes, in front of the line break.
    DataEnd,
    Trailers,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing, before more has come.
    More,
}

impl Decoder {
    pub(crate) const CHUNKED: Self = Self::Chunked(Chunked { state: State::Size, extensions: 0 });

    /// A body of known length.
    pub(crate) fn of_length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// Was the body taken to its end?
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes are still to be taken, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::Close => None,
        }
    }

    /// Takes the next piece out of `input`. Data is never empty.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(data)
            }
            Self::Close => {
                let mut endless = u64::MAX;
                Ok(take(input, &mut endless))
            }
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(input)?;
                if matches!(decoded, Decoded::Trailers(_) | Decoded::End) {
                    *self = Self::Done;
                }
                Ok(decoded)
            }
        }
    }

    /// The connection has ended: is that the end of the body?
    pub(crate) fn finish(&mut self) -> bool {
        if *self == Self::Close {
            *self = Self::Done;
        }
        self.is_done()
    }
}

impl Chunked {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                        return if input.len() > MAX_SIZE_LINE {
                            Err(Malformed::Chunk)
                        } else {
                            Ok(Decoded::More)
                        };
                    };
                    let (size, extension) = read_size(&input[..end]).ok_or(Malformed::Chunk)?;
                    self.extensions += extension;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Malformed::Chunk);
                    }
                    input.advance(end + 1);
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(data);
                }
                State::DataEnd => match input.as_ref() {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More),
                    _ => return Err(Malformed::Chunk),
                },
                State::Trailers => return read_trailers(input),
            }
        }
    }
}

/// At most `left` bytes, of which there are fewer left then.
fn take(input: &mut BytesMut, left: &mut u64) -> Decoded {
    if input.is_empty() {
        return Decoded::More;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    Decoded::Data(input.split_to(length).freeze())
}

/// The size that the line `1a;extension\r` says, and the length of the extension.
fn read_size(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r")?;
    if line.contains(&b'\r') {
        return None;
    }
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut size = 0_u64;
    for digit in &line[..digits] {
        let digit = char::from(*digit).to_digit(16)?;
        size = size.checked_mul(16)?.checked_add(digit.into())?;
    }
    let extension = &line[digits..];
    let follows = extension.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    (digits > 0 && matches!(follows, None | Some(b';'))).then_some((size, extension.len()))
}

fn read_trailers(input: &mut BytesMut) -> Result<Decoded, Malformed> {
    if input.starts_with(b"\r\n") {
        input.advance(2);
        return Ok(Decoded::End);
    }
    if input.is_empty() {
        return Ok(Decoded::More);
    }
    match head::end(input, 0) {
        Some(length) if length <= MAX_TRAILERS && !has_bare_feed(&input[..length]) => {
            head::read_trailers(&input.split_to(length).freeze()).map(Decoded::Trailers)
        }
        None if input.len() <= MAX_TRAILERS => Ok(Decoded::More),
        // Too long; or a line feed alone is an end to us, and may be none to whoever has looked at it before.
        Some(_) | None => Err(Malformed::Trailers),
    }
}

fn has_bare_feed(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that is found in `bytes` when they come in pieces of `step`: the data, whether there were trailers, and how
    /// much is left behind the end; `None` if there was no end.
    fn decode(
        mut decoder: Decoder,
        bytes: &[u8],
        step: usize,
    ) -> Result<Option<(Vec<u8>, usize, usize)>, Malformed> {
        let (mut input, mut data, mut trailers) = (BytesMut::new(), Vec::new(), 0);
        let mut pieces = bytes.chunks(step.max(1));
        loop {
            match decoder.decode(&mut input)? {
                Decoded::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Decoded::Trailers(found) => trailers = found.len(),
                Decoded::End => {
                    assert!(decoder.is_done() && decoder.left() == Some(0));
                    return Ok(Some((data, trailers, input.len() + pieces.map(<[u8]>::len).sum::<usize>())));
                }
                Decoded::More => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Ok(decoder.finish().then_some((data, trailers, 0))),
                },
            }
        }
    }

    #[test]
    fn a_body_ends_where_its_length_its_chunks_or_the_connection_say() {
        let found = |data: &str, trailers, left| Ok(Some((data.as_bytes().to_vec(), trailers, left)));
        for (decoder, bytes, expected) in [
            (Decoder::of_length(0), "next", found("", 0, 4)),
            (Decoder::of_length(5), "hellonext", found("hello", 0, 4)),
            (Decoder::of_length(5), "hell", Ok(None)),
            (Decoder::Close, "hello", found("hello", 0, 0)),
            (Decoder::CHUNKED, "5\r\nhello\r\n0\r\n\r\nnext", found("hello", 0, 4)),
            (Decoder::CHUNKED, "5;a=\"b\"\r\nhello\r\n1 \t\r\n!\r\n000\r\n\r\n", found("hello!", 0, 0)),
            (Decoder::CHUNKED, "A\r\n0123456789\r\n0\r\n\r\n", found("0123456789", 0, 0)),
            (Decoder::CHUNKED, "0\r\na: 1\r\nb: 2\r\n\r\nnext", found("", 2, 4)),
            (Decoder::CHUNKED, "5\r\nhello\r\n0\r\n", Ok(None)),
            (Decoder::CHUNKED, "5\r\nhel", Ok(None)),
            (Decoder::CHUNKED, "", Ok(None)),
            (Decoder::CHUNKED, "\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "5\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "5\r\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "5 5\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, " 5\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "+5\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "0x5\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "10000000000000005\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "3\r\nhello\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "5\r\nhello\n0\r\n\r\n", Err(Malformed::Chunk)),
            (Decoder::CHUNKED, "0\r\nno colon\r\n\r\n", Err(Malformed::Trailers)),
            (Decoder::CHUNKED, "0\r\na: 1\n\r\n", Err(Malformed::Trailers)),
            (Decoder::CHUNKED, "0\r\na: 1\r\n\n", Err(Malformed::Trailers)),
        ] {
            for step in 1..=bytes.len().max(1) {
                assert_eq!(decode(decoder, bytes.as_bytes(), step), expected, "{bytes:?} by {step}");
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_however_they_are_spread() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert_eq!(decode(Decoder::CHUNKED, chunk.repeat(20).as_bytes(), 100), Err(Malformed::Chunk));
        let line = vec![b'0'; MAX_SIZE_LINE + 1];
        assert_eq!(decode(Decoder::CHUNKED, &line, 100), Err(Malformed::Chunk));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(MAX_TRAILERS / 6 + 2));
        assert_eq!(decode(Decoder::CHUNKED, trailers.as_bytes(), 100), Err(Malformed::Trailers));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(decode(Decoder::CHUNKED, trailers.as_bytes(), 100), Err(Malformed::Trailers));
    }

    proptest! {
        #[test]
        fn chunks_of_any_sizes_that_come_in_any_pieces_are_the_bytes_they_were_made_of(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1..400_usize,
        ) {
            let mut bytes = Vec::new();
            for piece in &pieces {
                bytes.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nGET");
            prop_assert_eq!(decode(Decoder::CHUNKED, &bytes, step), Ok(Some((pieces.concat(), 0, 3))));
        }

        #[test]
        fn no_bytes_make_it_panic_and_how_they_come_does_not_matter(
            bytes in prop::collection::vec(prop::sample::select(b"0159aF;= \r\n:x".to_vec()), 0..60),
            step in 1..20_usize,
        ) {
            prop_assert_eq!(decode(Decoder::CHUNKED, &bytes, step), decode(Decoder::CHUNKED, &bytes, bytes.len()));
        }
    }
}
