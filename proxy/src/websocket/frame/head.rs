//! The header of one frame of a client.
//!
//! Owns what can be said of a frame by its header alone, whatever came before it.

use super::Violation;

/// How long a header can be: two bytes, a length of eight, and the masking key.
pub(super) const LONGEST: usize = 14;

/// The longest payload of a control frame.
pub(super) const MAX_CONTROL: u8 = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A further part of a message.
    Continuation = 0,
    /// A message of text, or its first part.
    Text = 1,
    /// One of bytes.
    Binary = 2,
    /// The last word of a side.
    Close = 8,
    /// To be answered with a pong of the same payload.
    Ping = 9,
    /// The answer, or a sign of life.
    Pong = 10,
}

impl Opcode {
    /// That of a message, or of its first part.
    pub(crate) const fn of_message(text: bool) -> Self {
        if text { Self::Text } else { Self::Binary }
    }

    /// Its place among [the types of frames](crate::FRAME_TYPES).
    pub(crate) const fn place(self) -> usize {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 3,
            Self::Ping => 4,
            Self::Pong => 5,
        }
    }

    /// `None` for those that are reserved.
    pub(super) const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Is it no part of a message?
    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    /// Nothing of its message comes behind this frame.
    pub(super) last: bool,
    /// The first reserved bit: what permessage-deflate makes of it.
    pub(super) compressed: bool,
    /// Of the payload, in bytes; less than 2^63.
    pub(super) length: u64,
    pub(super) key: [u8; 4],
}

/// The header that `bytes` begin with, and how many of them it takes. `None` if they end before it does, and nothing is
/// wrong with it so far.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Head, usize)>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (last, short) = (first & 0x80 != 0, second & 0x7f);
    if first & 0x30 != 0 {
        return Err(Violation::protocol("a reserved bit is set"));
    }
    let opcode = Opcode::of(first & 0x0f).ok_or(Violation::protocol("a reserved opcode"))?;
    if second & 0x80 == 0 {
        return Err(Violation::protocol("a frame is not masked"));
    }
    if opcode.is_control() && !last {
        return Err(Violation::protocol("a control frame is fragmented"));
    }
    if opcode.is_control() && short > MAX_CONTROL {
        return Err(Violation::protocol("a control frame is too long"));
    }
    let Some((length, rest)) = read_length(short, rest)? else { return Ok(None) };
    let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let head = Head { opcode, last, compressed: first & 0x40 != 0, length, key: *key };
    Ok(Some((head, bytes.len() - rest.len())))
}

/// The length that the seven bits `short` and the bytes behind them say, and what is behind those.
fn read_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (length, rest, least) = match short {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u16::from_be_bytes(*length).into(), rest, 126)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*length), rest, 0x1_0000)
        }
        short => (short.into(), rest, 0),
    };
    if length < least {
        return Err(Violation::protocol("a length takes more bytes than it needs"));
    }
    if length > i64::MAX as u64 {
        return Err(Violation::protocol("a length has its highest bit set"));
    }
    Ok(Some((length, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_comes_wherever_it_ends() {
        let key = [1, 2, 3, 4];
        for (begin, opcode, last, compressed, length) in [
            (&[0x81, 0x80][..], Opcode::Text, true, false, 0),
            (&[0x02, 0xfd], Opcode::Binary, false, false, 125),
            (&[0x00, 0xfe, 0, 126], Opcode::Continuation, false, false, 126),
            (&[0xc1, 0xfe, 0xff, 0xff], Opcode::Text, true, true, 0xffff),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], Opcode::Binary, true, false, 0x1_0000),
            (
                &[0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255],
                Opcode::Binary,
                true,
                false,
                u64::MAX >> 1,
            ),
            (&[0x88, 0x82], Opcode::Close, true, false, 2),
            (&[0x89, 0xfd], Opcode::Ping, true, false, 125),
            (&[0x8a, 0x80], Opcode::Pong, true, false, 0),
        ] {
            let mut bytes = [begin, &key].concat();
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(None), "{begin:x?} up to {end}");
            }
            let whole = bytes.len();
            bytes.extend([9; 20]);
            let head = Head { opcode, last, compressed, length, key };
            assert_eq!(read(&bytes), Ok(Some((head, whole))));
            assert!(whole <= LONGEST);
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused_as_soon_as_it_shows() {
        for (bytes, reason) in [
            (&[0xa1, 0x80][..], "a reserved bit is set"),
            (&[0x91, 0x80], "a reserved bit is set"),
            (&[0x83, 0x80], "a reserved opcode"),
            (&[0x87, 0x80], "a reserved opcode"),
            (&[0x8b, 0x80], "a reserved opcode"),
            (&[0x8f, 0x80], "a reserved opcode"),
            (&[0x81, 0x00], "a frame is not masked"),
            (&[0x09, 0x80], "a control frame is fragmented"),
            (&[0x88, 0xfe], "a control frame is too long"),
            (&[0x8a, 0xff], "a control frame is too long"),
            (&[0x81, 0xfe, 0, 125], "a length takes more bytes than it needs"),
            (&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], "a length takes more bytes than it needs"),
            (&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], "a length has its highest bit set"),
        ] {
            assert_eq!(read(bytes), Err(Violation::protocol(reason)), "{bytes:x?}");
            assert_eq!(read(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:x?}");
        }
    }
}
