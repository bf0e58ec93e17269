//! One who watches a group: a stream of events without an end of its own.
//!
//! Owns where the client is. It is asked for the next event when its socket takes one, and for nothing else: a client that
//! reads slowly falls behind, and its stream ends when what it should be sent next is gone. It comes back, tells where it
//! was, and gets what there is.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use super::topic::Next;
use super::{Cursor, Place, Topic, Topics, Watcher, sse, trim};
use crate::access_log::Record;
use crate::function::{FunctionKey, Namespace};
use crate::websocket::hub::is_group_name;

/// After how much silence something is said, and by how much more it may be: clients that came together are not all spoken to
/// together.
const BEAT: Duration = Duration::from_secs(15);
const BEAT_SPREAD: u64 = 10;

/// What somebody wants to watch, and from where on.
#[derive(Debug, Clone, Default)]
pub struct Watching {
    /// The id of the last event that it has seen, as it says it.
    pub last_seen: Option<String>,
    /// Where it tells of none: so many of the last messages.
    pub history: usize,
    /// Who comes and goes, too.
    pub presence: bool,
    /// Through which function it came, if through one: it ends with that.
    pub function: Option<FunctionKey>,
    /// For how long at most.
    pub lifetime: Option<Duration>,
}

/// Why somebody cannot watch a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotWatch {
    /// The name is none.
    #[error("expected the name of a group: 1 to 128 bytes of text without control characters, ',' or ';'")]
    Name,
    /// There are too many groups of which something is kept.
    #[error("too many groups are watched at once")]
    TooMany,
    /// This host is about to end.
    #[error("this host is about to end")]
    Ending,
}

/// The stream, as a body.
pub struct Watch {
    topics: Arc<Topics>,
    topic: Arc<Topic>,
    group: (Namespace, Arc<str>),
    id: u64,
    cursor: Cursor,
    opening: Option<Bytes>,
    beat: Pin<Box<Sleep>>,
    end: Option<Instant>,
    record: Option<Record>,
}

impl Topics {
    /// Begins to watch a group.
    pub(in crate::websocket) fn watch(
        self: &Arc<Self>,
        namespace: &Namespace,
        group: &str,
        asked: &Watching,
    ) -> Result<Watch, CannotWatch> {
        if !is_group_name(group) {
            return Err(CannotWatch::Name);
        }
        let id = self.counter.fetch_add(1, Relaxed);
        let (topic, cursor, opening) = loop {
            let topic = self.find_or_make(namespace, group).ok_or(CannotWatch::TooMany)?;
            // A look behind the last chance to be ended: whoever ends all does so either before or after this.
            let watcher = Watcher {
                waker: None,
                presence: asked.presence,
                function: asked.function.clone(),
                ended: false,
            };
            topic.enter(id, watcher);
            if self.closing.load(Relaxed) {
                topic.leave(id);
                return Err(CannotWatch::Ending);
            }
            match self.begin(namespace, &topic, asked) {
                Some((cursor, opening)) => break (topic, cursor, opening),
                None => {
                    topic.leave(id);
                    self.forget(namespace, group, &topic);
                }
            }
        };
        self.sweep_from_now_on();
        self.counts.watching.fetch_add(1, Relaxed);
        let now = Instant::now();
        let mut watch = Watch {
            topics: Arc::clone(self),
            topic,
            group: (namespace.clone(), group.into()),
            id,
            cursor,
            opening: Some(opening.into()),
            beat: Box::pin(sleep_until(now)),
            end: asked.lifetime.map(|lifetime| now + lifetime),
            record: None,
        };
        let next = watch.next_beat();
        watch.beat.as_mut().reset(next);
        Ok(watch)
    }

    /// Where it begins, and its first words. `None` if the topic is gone by now.
    fn begin(&self, namespace: &Namespace, topic: &Topic, asked: &Watching) -> Option<(Cursor, String)> {
        let (keep, now) = (self.keep(namespace), Instant::now());
        let mut said = topic.said();
        if said.dropped {
            return None;
        }
        trim(&mut said, keep, true, now);
        said.touched = now;
        let log = &said.log;
        let shown = log.shown(0, keep.unwrap_or_default(), now);
        let mut lost = None;
        let seen = match asked.last_seen.as_deref().filter(|text| !text.is_empty()) {
            None => log.last() - shown.count().min(asked.history) as u64,
            Some(text) => match text.parse() {
                Ok(Place { epoch, number }) if epoch == log.epoch() && log.has_all_behind(number) => number,
                Ok(Place { epoch, number }) if epoch == log.epoch() && number < log.first() => {
                    lost = Some("some of what you missed is no longer kept");
                    log.first() - 1
                }
                _ => {
                    lost = Some("nothing is known of that id: what was kept then is gone");
                    log.first() - 1
                }
            },
        };
        let place = log.place(seen);
        let mut opening = sse::opening(place);
        if let Some(reason) = lost {
            opening.push_str(&sse::lost(place, reason));
            self.counts.lost.fetch_add(1, Relaxed);
        } else if asked.last_seen.is_some() {
            self.counts.resumed.fetch_add(1, Relaxed);
        }
        let changes = asked.presence.then(|| topic.changes());
        Some((Cursor { seen, changes }, opening))
    }
}

impl Watch {
    /// Tells at first who is there: `more` if that are not all.
    pub(in crate::websocket) fn among(mut self, users: &[(Box<str>, usize)], more: bool) -> Self {
        let opening = self.opening.take().unwrap_or_default();
        self.opening = Some([&opening[..], sse::here(users, more).as_bytes()].concat().into());
        self
    }

    /// It is the answer to this request, which ends with it.
    pub(in crate::websocket) fn of(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }

    fn sent(&mut self, event: &Bytes) {
        self.topics.counts.events.fetch_add(1, Relaxed);
        self.said(event);
    }

    fn said(&mut self, bytes: &Bytes) {
        if let Some(record) = &mut self.record {
            record.sent += bytes.len() as u64;
        }
    }

    fn next_beat(&self) -> Instant {
        let next = Instant::now() + BEAT + Duration::from_secs(self.id % BEAT_SPREAD);
        self.end.map_or(next, |end| end.min(next))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            self.said(&opening);
            return Poll::Ready(Some(opening));
        }
        if self.end.is_some_and(|end| end <= Instant::now()) {
            return Poll::Ready(None);
        }
        match self.topic.poll_next(self.id, &mut self.cursor, cx) {
            Poll::Ready(Next::Event(event)) => {
                self.sent(&event);
                let next = self.next_beat();
                self.beat.as_mut().reset(next);
                return Poll::Ready(Some(event));
            }
            Poll::Ready(Next::Behind) => {
                self.topics.counts.behind.fetch_add(1, Relaxed);
                if let Some(record) = &mut self.record {
                    record.broken = Some("slow_consumer");
                }
                return Poll::Ready(None);
            }
            Poll::Ready(Next::Ended) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if self.beat.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.end.is_some_and(|end| end <= Instant::now()) {
            return Poll::Ready(None);
        }
        let next = self.next_beat();
        self.beat.as_mut().reset(next);
        self.said(&sse::BEAT);
        Poll::Ready(Some(sse::BEAT))
    }
}

impl Body for Watch {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.topics.counts.watching.fetch_sub(1, Relaxed);
        let (namespace, group) = &self.group;
        if self.topic.leave(self.id) > 0 || self.topics.keep(namespace).is_some() {
            return;
        }
        let mut said = self.topic.said();
        // Somebody may have come meanwhile.
        if self.topic.watchers() == 0 {
            said.dropped = true;
            drop(said);
            self.topics.forget(namespace, group, &self.topic);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("group", &self.group)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}
