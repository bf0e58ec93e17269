//! A request's place in the counters, and its line in the access log.
//!
//! Owns the record of a request to a function from its admission to its last byte. What is told of it is in files of
//! their own: [`entry`] is a line, [`note`] one that is still being written. When nobody wants a log, nothing is
//! collected.
//!
//! A request is counted when it ends; one that becomes a tunnel, at its 101: tunnels live for hours, and how long they do
//! says nothing of how fast a function answers. It has two lines: one for the request, and one for the tunnel at its end.

mod entry;
mod note;

use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderMap;
use tokio::time::Instant;

use crate::function::ReplicaId;
use crate::limits::TunnelPlace;
use crate::upstream::Upstream;
pub use entry::{AccessEntry, AccessLog, AccessLogOptions, AccessSink, EntryKind, TunnelClose, TunnelEntry};
pub(crate) use note::Note;

/// The record of one request. Dropping it ends it: it is counted and, if wanted, logged.
#[derive(Debug)]
pub(crate) struct Record {
    upstream: Arc<Upstream>,
    began: Instant,
    /// 0 until there is an answer.
    pub(crate) status: u16,
    /// Body bytes to the client.
    pub(crate) sent: u64,
    /// Body bytes from the client, once there is an answer.
    pub(crate) received: u64,
    /// What broke after the head of the answer, if anything did.
    pub(crate) broken: Option<&'static str>,
    /// It is a tunnel now, and was counted.
    tunnel: bool,
    /// Of the connection that it became, this host holds the other end, and no replica.
    held: bool,
    /// A function has answered it.
    answered: bool,
    /// Its place among the tunnels of the function, if it asked to be one.
    pub(crate) place: Option<TunnelPlace>,
    note: Note,
}

impl Record {
    pub(crate) fn begin(upstream: &Arc<Upstream>, mut note: Note) -> Self {
        upstream.counters().started();
        note.function(upstream.key());
        Self {
            upstream: Arc::clone(upstream),
            began: Instant::now(),
            status: 0,
            sent: 0,
            received: 0,
            broken: None,
            tunnel: false,
            held: false,
            answered: false,
            place: None,
            note,
        }
    }

    /// When it began to wait for a replica, if anybody wants to know for how long.
    pub(crate) fn waits(&self) -> Option<Instant> {
        self.note.is_kept().then(Instant::now)
    }

    /// It waits no longer, whatever came of it.
    pub(crate) fn waited(&mut self, since: Option<Instant>) {
        if let Some(since) = since {
            self.note.waited(since.elapsed());
        }
    }

    /// That of a tunnel which an earlier process has opened, and counted as a request.
    pub(crate) fn resumed(upstream: &Arc<Upstream>) -> Self {
        upstream.counters().tunnel_opened();
        Self {
            upstream: Arc::clone(upstream),
            began: Instant::now(),
            status: 101,
            sent: 0,
            received: 0,
            broken: None,
            tunnel: true,
            held: false,
            answered: true,
            place: Some(TunnelPlace::again(upstream)),
            note: Note::default(),
        }
    }

    /// Both sides have agreed to go on as a tunnel, by these headers.
    pub(crate) fn upgraded(&mut self, headers: &HeaderMap) {
        let counters = self.upstream.counters();
        counters.tunnel_opened();
        counters.finished(self.status, self.began.elapsed());
        self.tunnel = true;
        self.note.upgraded(headers);
    }

    /// This host has agreed to hold the connection, by these headers.
    pub(crate) fn held(&mut self, headers: &HeaderMap) {
        self.upstream.counters().finished(self.status, self.began.elapsed());
        (self.held, self.answered) = (true, true);
        self.note.upgraded(headers);
    }

    /// This host answers with a stream of its own, which lasts: what is counted of it is counted now.
    pub(crate) fn streams(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.upstream.counters().finished(self.status, self.began.elapsed());
        (self.held, self.answered) = (true, true);
    }

    /// That of a connection which an earlier process held, and counted as a request.
    pub(crate) fn held_again(upstream: &Arc<Upstream>) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            began: Instant::now(),
            status: 101,
            sent: 0,
            received: 0,
            broken: None,
            tunnel: false,
            held: true,
            answered: true,
            place: Some(TunnelPlace::again(upstream)),
            note: Note::default(),
        }
    }

    /// The tunnel was closed, by [`broken`](Self::broken). `messages` of a WebSocket are those from the client, and those
    /// to it; `closed` are the code of its Close and who sent it.
    pub(crate) fn closed(&mut self, messages: Option<[u64; 2]>, closed: Option<(u16, &'static str)>) {
        self.note.closed(messages, TunnelClose::of(self.broken, closed));
    }

    /// It was sent to this replica.
    pub(crate) fn sent_to(&mut self, replica: &ReplicaId) {
        self.note.replica(replica);
    }

    /// The head of this replica's answer is there.
    pub(crate) fn answered_by(&mut self, replica: &ReplicaId) {
        self.answered = true;
        self.note.replica(replica);
        self.note.first_byte();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let counters = self.upstream.counters();
        if self.tunnel {
            counters.tunnel_closed();
        } else if !self.held {
            counters.finished(self.status, self.began.elapsed());
        }
        counters.sent(self.sent);
        let known = |bytes| self.answered.then_some(bytes);
        self.note.ended(self.status, known(self.received), known(self.sent), self.broken);
    }
}
