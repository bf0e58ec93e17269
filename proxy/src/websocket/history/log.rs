//! What was last said in a group, each message by its number.
//!
//! Owns the ring: numbers go up by one, the oldest goes first, and whoever tells the last number that it has seen gets what
//! came behind it, or hears that some of that is gone. Pure: it is told what time it is.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::sse;
use crate::websocket::event::Message;

/// What a message costs beside its bytes.
const ENTRY: usize = 96;

/// How much of what was said in a group is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// So many messages at most.
    pub count: usize,
    /// None that is older.
    pub age: Duration,
    /// So many bytes at most, with 96 for each message beside what it says.
    pub bytes: usize,
}

impl History {
    /// The larger of both, in each respect.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            count: self.count.max(other.count),
            age: self.age.max(other.age),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// Where somebody stands in what was said: behind the message of this number. Numbers begin again with each epoch, and an
/// epoch ends where the past is lost. As text `3f2a…-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which counting.
    pub epoch: u64,
    /// 0 is before the first one.
    pub number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.number)
    }
}

/// What was read is no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an id such as 0123456789abcdef-17")]
pub struct InvalidPlace;

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (epoch, number) = text.split_once('-').ok_or(InvalidPlace)?;
        let is_hex = epoch.len() == 16 && epoch.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let epoch = u64::from_str_radix(epoch, 16).ok().filter(|_| is_hex);
        let number = number.parse().ok().filter(|_| is_number);
        epoch.zip(number).map(|(epoch, number)| Self { epoch, number }).ok_or(InvalidPlace)
    }
}

/// A message that is kept.
#[derive(Debug, Clone)]
pub(in crate::websocket) struct Entry {
    pub(in crate::websocket) message: Message,
    /// When it was said.
    pub(in crate::websocket) at: SystemTime,
    /// The same by a clock that nobody sets.
    since: Instant,
    /// As those who watch are sent it, once one was.
    event: Option<Bytes>,
}

impl Entry {
    /// One that was said then, whichever buffer it was a part of.
    pub(in crate::websocket) fn new(message: &Message, at: SystemTime, since: Instant) -> Self {
        let data = Bytes::copy_from_slice(&message.data);
        Self { message: Message { text: message.text, data }, at, since, event: None }
    }

    /// How long ago it was said.
    pub(in crate::websocket) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn weight(&self) -> usize {
        self.message.data.len() + self.event.as_ref().map_or(0, Bytes::len) + ENTRY
    }
}

/// The ring of one group.
#[derive(Debug)]
pub(in crate::websocket) struct Log {
    epoch: u64,
    /// The number of the last message that was said.
    last: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Log {
    /// One in which nothing was said, or nothing is left of what was said before number `last`.
    pub(in crate::websocket) fn new(epoch: u64, last: u64) -> Self {
        Self { epoch, last, entries: VecDeque::new(), bytes: 0 }
    }

    /// What this one has kept, with the place before it: for another process.
    pub(in crate::websocket) fn parts(&self) -> (Place, impl Iterator<Item = &Entry>) {
        (self.place(self.first() - 1), self.entries.iter())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Behind the message of this number.
    pub(super) fn place(&self, number: u64) -> Place {
        Place { epoch: self.epoch, number }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The number of the oldest message that is kept; where none is, of the next one.
    pub(super) fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One more was said.
    pub(in crate::websocket) fn push(&mut self, entry: Entry) {
        self.last += 1;
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    /// Keeps no more than that, but at least the `least` last ones.
    pub(super) fn trim(&mut self, keep: &History, least: usize, now: Instant) {
        while self.entries.len() > least
            && (self.entries.len() > keep.count
                || self.bytes > keep.bytes
                || self.entries.front().is_some_and(|oldest| oldest.since + keep.age <= now))
        {
            self.drop_oldest();
        }
    }

    /// `false` if there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else { return false };
        self.bytes -= oldest.weight();
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        true
    }

    /// Is all there that was said behind this number?
    pub(super) fn has_all_behind(&self, number: u64) -> bool {
        number <= self.last && number + 1 >= self.first()
    }

    /// The message of this number as those who watch are sent it. Made once.
    pub(super) fn event(&mut self, number: u64) -> Option<Bytes> {
        let at = usize::try_from(number.checked_sub(self.first())?).ok()?;
        let place = self.place(number);
        let entry = self.entries.get_mut(at)?;
        if entry.event.is_none() {
            let event = sse::message(place, &entry.message);
            self.bytes += event.len();
            entry.event = Some(event);
        }
        entry.event.clone()
    }

    /// Those of a number above `after`, with their numbers, as far as `keep` has them shown.
    pub(super) fn shown(
        &self,
        after: u64,
        keep: History,
        now: Instant,
    ) -> impl Iterator<Item = (u64, &Entry)> {
        let (from, oldest) = (self.shown_from(keep).max(after), keep.age);
        let numbered = (self.first()..).zip(&self.entries);
        numbered.filter(move |(number, entry)| *number > from && entry.since + oldest > now)
    }

    /// The number behind which `keep` has messages shown, by their count.
    fn shown_from(&self, keep: History) -> u64 {
        self.last.saturating_sub(keep.count as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_text_that_is_read_back() {
        let place = Place { epoch: 0xab, number: 17 };
        assert_eq!(place.to_string(), "00000000000000ab-17");
        assert_eq!(place.to_string().parse(), Ok(place));
        for text in ["", "-", "17", "ab-17", "00000000000000ab-", "00000000000000ab-+1", "+0000000000000ab-1"]
        {
            assert_eq!(text.parse::<Place>(), Err(InvalidPlace), "{text}");
        }
        assert!("00000000000000ab-18446744073709551616".parse::<Place>().is_err());
    }

    /// What happens to a ring.
    #[derive(Debug, Clone)]
    enum Step {
        Say(usize),
        Pass(u64),
        /// A reader takes so many.
        Read(usize),
        /// A reader begins again where it was, as a client does that comes back.
        Return,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_usize..300).prop_map(Step::Say),
            1 => (0_u64..20).prop_map(Step::Pass),
            2 => (0_usize..6).prop_map(Step::Read),
            1 => Just(Step::Return),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn a_reader_gets_each_message_once_in_order_or_hears_that_some_are_gone(
            steps in steps(), count in 1_usize..20, age in 1_u64..60, bytes in 100_usize..4000
        ) {
            let keep = History { count, age: Duration::from_secs(age), bytes };
            let (mut now, mut log) = (Instant::now(), Log::new(7, 0));
            let (mut said, mut seen) = (0_u64, 0_u64);
            for step in steps {
                match step {
                    Step::Say(length) => {
                        said += 1;
                        let mut data = said.to_string().into_bytes();
                        data.resize(data.len().max(length), b' ');
                        let message = Message { text: true, data: data.into() };
                        log.push(Entry::new(&message, SystemTime::UNIX_EPOCH, now));
                        log.trim(&keep, 0, now);
                    }
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        log.trim(&keep, 0, now);
                    }
                    Step::Return if !log.has_all_behind(seen) => {
                        prop_assert!(seen + 1 < log.first());
                        seen = log.first() - 1;
                    }
                    Step::Return => {}
                    Step::Read(most) => {
                        for _ in 0..most {
                            if seen == log.last() || !log.has_all_behind(seen) {
                                break;
                            }
                            let event = log.event(seen + 1).expect("it is kept");
                            seen += 1;
                            let text = String::from_utf8(event.to_vec()).unwrap();
                            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
                            prop_assert_eq!(data.trim_end(), seen.to_string());
                        }
                    }
                }
                prop_assert_eq!(log.last(), said);
                prop_assert!(log.len() <= count);
                let counted: usize = log.entries.iter().map(Entry::weight).sum();
                prop_assert_eq!(log.bytes(), counted);
                prop_assert!(log.entries.iter().all(|entry| entry.since + keep.age > now));
                let shown: Vec<u64> = log.shown(seen, keep, now).map(|(number, _)| number).collect();
                prop_assert!(shown.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                if log.has_all_behind(seen) {
                    prop_assert_eq!(shown.len() as u64, said - seen);
                }
            }
            // What readers were sent counts as well, from the next message on.
            log.trim(&keep, 0, now);
            prop_assert!(log.bytes() <= bytes);
        }
    }
}
