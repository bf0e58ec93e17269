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
        // A line feed alone is an end to us, and may be none to whoever has looked at it before.
        Some(_) => Err(Malformed::Trailers),
        None if input.len() <= MAX_TRAILERS => Ok(Decoded::More),
        None => Err(Malformed::Trailers),
    }
}

fn has_bare_feed(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}
