//! A line of the access log that is still being written.
//!
//! Owns the entry of one request from its arrival to its end. When there is no log, it is nothing and costs nothing: each
//! call is one look at a null pointer.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderValue, REFERER, SEC_WEBSOCKET_PROTOCOL, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::entry::{AccessEntry, AccessLog, EntryKind, Open, TunnelClose, TunnelEntry, method, text};
use crate::bearer::without_parameter;
use crate::function::{FunctionKey, ReplicaId};
use crate::metrics::CLIENT_LEFT;
use crate::tls::Secure;
use crate::trace::Trace;

/// What is noted of one request. Dropping it ends the line.
#[derive(Debug, Default)]
pub(crate) struct Note(Option<Box<Pending>>);

struct Pending {
    log: Arc<Open>,
    began: Instant,
    /// It is told of also if all goes well.
    sampled: bool,
    failed: bool,
    entry: AccessEntry,
}

impl AccessLog {
    /// A request of `peer` came; without one, a call of ours begins.
    pub(crate) fn begin<B>(&self, request: &Request<B>, peer: Option<SocketAddr>) -> Note {
        Note(self.open().map(|log| Box::new(Pending::new(log, request, peer))))
    }
}

impl Pending {
    fn new<B>(log: &Arc<Open>, request: &Request<B>, peer: Option<SocketAddr>) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let header = |name| headers.get(name).map(|value: &HeaderValue| text(value.as_bytes()));
        let entry = AccessEntry {
            kind: if peer.is_some() { EntryKind::Request } else { EntryKind::Call },
            time: SystemTime::now(),
            duration: Duration::ZERO,
            function: None,
            method: method(request.method()),
            path: text(uri.path().as_bytes()),
            query: uri.query().filter(|_| log.options.query).map(|query| text(query.as_bytes())),
            version: request.version(),
            secure: request.extensions().get::<Secure>().is_some(),
            status: 0,
            received: None,
            sent: None,
            first_byte: None,
            waited: None,
            peer,
            user: None,
            call_id: None,
            replica: None,
            user_agent: header(USER_AGENT),
            referer: log.options.referer.then(|| header(REFERER)).flatten(),
            trace: None,
            broken: None,
            tunnel: None,
        };
        Self { log: Arc::clone(log), began: Instant::now(), sampled: log.samples(), failed: false, entry }
    }
}

impl Note {
    fn entry(&mut self) -> Option<&mut AccessEntry> {
        self.0.as_mut().map(|pending| &mut pending.entry)
    }

    /// Is it worth finding things out?
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// The line, for whoever ends the request.
    pub(crate) fn take(&mut self) -> Self {
        mem::take(self)
    }

    /// What the call is known by.
    pub(crate) fn call(&mut self, id: &HeaderValue, trace: Option<Trace>) {
        if let Some(entry) = self.entry() {
            entry.call_id = Some(text(id.as_bytes()));
            entry.trace = trace;
        }
    }

    /// Who the client has proven to be.
    pub(crate) fn user(&mut self, name: impl FnOnce() -> Option<String>) {
        if let Some(entry) = self.entry() {
            entry.user = name().map(|name| text(name.as_bytes()));
        }
    }

    /// Nobody is to read this parameter of the query.
    pub(crate) fn hide_parameter(&mut self, name: &str) {
        if let Some(query) = self.entry().and_then(|entry| entry.query.as_mut())
            && let Some(rest) = without_parameter(query, name)
        {
            *query = rest.into();
        }
    }

    /// The function it is for.
    pub(crate) fn function(&mut self, key: &FunctionKey) {
        if let Some(entry) = self.entry() {
            entry.function = Some(key.clone());
        }
    }

    /// It was sent to this replica, at last.
    pub(crate) fn replica(&mut self, replica: &ReplicaId) {
        if let Some(entry) = self.entry() {
            entry.replica = Some(replica.clone());
        }
    }

    /// How long it took to get a replica.
    pub(crate) fn waited(&mut self, waited: Duration) {
        if let Some(entry) = self.entry() {
            entry.waited = Some(waited);
        }
    }

    /// The head of the function's answer is there.
    pub(crate) fn first_byte(&mut self) {
        if let Some(pending) = &mut self.0 {
            pending.entry.first_byte = Some(pending.began.elapsed());
        }
    }

    /// An answer that is not a function's goes out; its body is not watched.
    pub(crate) fn answered<B: Body>(&mut self, response: &Response<B>) {
        if let Some(pending) = &mut self.0 {
            pending.entry.status = response.status().as_u16();
            pending.entry.sent = response.body().size_hint().exact();
        }
    }

    /// So it ended.
    pub(crate) fn ended(
        &mut self,
        status: u16,
        received: Option<u64>,
        sent: Option<u64>,
        broken: Option<&'static str>,
    ) {
        if let Some(entry) = self.entry() {
            (entry.status, entry.received, entry.sent, entry.broken) = (status, received, sent, broken);
        }
    }

    /// The request ends here, and a tunnel begins: one line each.
    pub(crate) fn upgraded(&mut self, headers: &HeaderMap) {
        let Some(pending) = &mut self.0 else { return };
        pending.entry.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        let opening = pending.began.elapsed();
        if pending.sampled {
            pending.entry.duration = opening;
            pending.log.give_line(&pending.entry);
        }
        let subprotocol = headers.get(SEC_WEBSOCKET_PROTOCOL).map(|value| text(value.as_bytes()));
        pending.entry.kind = EntryKind::Tunnel;
        pending.entry.time = SystemTime::now();
        (pending.entry.first_byte, pending.entry.waited) = (None, None);
        pending.entry.tunnel = Some(Box::new(TunnelEntry { opening, subprotocol, ..TunnelEntry::default() }));
        pending.began = Instant::now();
    }

    /// So the tunnel ended. `messages` are those from the client and to it.
    pub(crate) fn closed(&mut self, messages: Option<[u64; 2]>, close: TunnelClose) {
        let Some(pending) = &mut self.0 else { return };
        pending.failed = close.failed;
        if let Some(tunnel) = &mut pending.entry.tunnel {
            (tunnel.messages, tunnel.close) = (messages, close);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let Some(mut pending) = self.0.take() else { return };
        let entry = &mut pending.entry;
        entry.duration = pending.began.elapsed();
        if entry.status == 0 {
            entry.status = CLIENT_LEFT;
        }
        let failed = match entry.kind {
            EntryKind::Tunnel => pending.failed,
            EntryKind::Request | EntryKind::Call => is_failure(entry.status, entry.broken),
        };
        let Pending { log, sampled, entry, .. } = *pending;
        log.give(Box::new(entry), sampled || failed);
    }
}

/// Is a request that ended so told of in any case?
fn is_failure(status: u16, broken: Option<&str>) -> bool {
    status >= 500 || status == CLIENT_LEFT || broken.is_some()
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.entry.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_on_our_side_or_broke_off_is_told_of_in_any_case() {
        for (status, broken, told) in [
            (200, None, false),
            (404, None, false),
            (429, None, false),
            (499, None, true),
            (500, None, true),
            (503, None, true),
            (200, Some("function"), true),
        ] {
            assert_eq!(is_failure(status, broken), told, "{status} {broken:?}");
        }
    }
}
