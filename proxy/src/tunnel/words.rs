//! What a Close says: its code and its reason.
//!
//! Owns which codes may go on the wire, and how long a reason may be. Pure.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use super::frames::Sender;

/// The longest reason, in bytes: with the code before it, it fills the payload of a control frame.
const MAX_REASON: usize = 123;

/// The code and the reason of a Close, both such as may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// `None` for a Close without a code, which then has no reason either.
    code: Option<u16>,
    reason: Cow<'static, str>,
}

impl CloseFrame {
    /// Of a code that may not be sent (0 to 999, 1004 to 1006, 1015 to 2999, and from 5000 on) becomes a Close without one.
    /// A longer reason is cut to 123 bytes, between two characters.
    #[must_use]
    pub fn new(code: u16, reason: &str) -> Self {
        if !may_be_sent(code) {
            return Self { code: None, reason: "".into() };
        }
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
        Self { code: Some(code), reason: reason[..end.unwrap_or(0)].to_owned().into() }
    }

    /// One of ours.
    pub(super) const fn of_ours(code: u16, reason: &'static str) -> Self {
        assert!(reason.len() <= MAX_REASON && may_be_sent(code), "no valid Close");
        Self { code: Some(code), reason: Cow::Borrowed(reason) }
    }

    /// Its code, if it has one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// Its reason, empty if it has none.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The frame, as it is sent to a client.
    pub(crate) fn to_client(&self) -> Vec<u8> {
        self.encode(Sender::Function)
    }

    /// The frame, as `sender` sends it.
    pub(super) fn encode(&self, sender: Sender) -> Vec<u8> {
        let code = self.code.map(u16::to_be_bytes);
        let payload: Vec<u8> = code.into_iter().flatten().chain(self.reason.bytes()).collect();
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        match sender {
            Sender::Function => [vec![0x88, length], payload].concat(),
            Sender::Client => {
                // There must be a key. It need not be secret: these bytes are nobody's choice.
                let key = RandomState::new().hash_one(length).to_be_bytes();
                let masked = payload.iter().zip(key[..4].iter().cycle()).map(|(byte, key)| byte ^ key);
                [0x88, 0x80 | length].into_iter().chain(key[..4].iter().copied()).chain(masked).collect()
            }
        }
    }
}

/// RFC 6455, section 7.4, and the codes that were registered since.
pub(crate) const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::super::frames::Frames;
    use super::*;

    #[test]
    fn codes_that_may_not_be_sent_make_a_close_without_a_code() {
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            let frame = CloseFrame::new(code, "reason");
            assert_eq!((frame.code(), frame.reason()), (None, ""), "{code}");
            assert_eq!(frame.encode(Sender::Function), [0x88, 0]);
            assert_eq!(frame.encode(Sender::Client)[..2], [0x88, 0x80]);
        }
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            let frame = CloseFrame::new(code, "reason");
            assert_eq!((frame.code(), frame.reason()), (Some(code), "reason"));
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters_to_what_a_control_frame_holds() {
        for (reason, kept) in [
            ("x".repeat(123), 123),
            ("x".repeat(124), 123),
            (format!("{}ä", "x".repeat(121)), 123),
            (format!("{}ä", "x".repeat(122)), 122),
            (format!("{}\u{1f600}", "x".repeat(120)), 120),
            (String::new(), 0),
        ] {
            let frame = CloseFrame::new(4000, &reason);
            assert_eq!(frame.reason(), &reason[..kept]);
            assert_eq!(frame.encode(Sender::Function).len(), 4 + kept);
        }
    }

    #[test]
    fn a_close_is_masked_only_to_the_function() {
        for (sender, header) in [(Sender::Function, 2), (Sender::Client, 6)] {
            let bytes = CloseFrame::new(1001, "going away").encode(sender);
            let mut frames = Frames::of(sender);
            frames.feed(&bytes);
            assert!(frames.closed() && frames.at_boundary());
            assert_eq!(frames.code(), Some(1001));
            let key = if sender == Sender::Client { &bytes[2..6] } else { &[0][..] };
            let plain: Vec<u8> =
                bytes[header..].iter().zip(key.iter().cycle()).map(|(b, key)| b ^ key).collect();
            assert_eq!(plain, [&1001_u16.to_be_bytes()[..], b"going away"].concat());
        }
    }
}
