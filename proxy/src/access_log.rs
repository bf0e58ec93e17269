//! One event for each request to a function, and its place in the counters.
//!
//! Owns the record of a request from its admission to its last byte. The event goes to the target `access` at debug
//! level; when nobody listens there, nothing is collected. Never holds headers or bodies, so no secret gets in.
//!
//! A request is counted when it ends; one that becomes a tunnel, at its 101: tunnels live for hours, and how long they do
//! says nothing of how fast a function answers.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Method};
use tokio::time::Instant;
use tracing::{Level, debug, enabled};

use crate::function::ReplicaId;
use crate::upstream::Upstream;

/// The record of one request. Dropping it ends it: it is counted and, if wanted, logged.
#[derive(Debug)]
pub(crate) struct Record {
    upstream: Arc<Upstream>,
    began: Instant,
    /// 0 until there is an answer.
    pub(crate) status: u16,
    /// Body bytes to the client.
    pub(crate) sent: u64,
    /// What broke after the head of the answer, if anything did.
    pub(crate) broken: Option<&'static str>,
    /// It is a tunnel now, and was counted.
    tunnel: bool,
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Details {
    method: Method,
    path: String,
    /// `None` for a call of ours.
    peer: Option<SocketAddr>,
    call_id: HeaderValue,
    replica: Option<ReplicaId>,
    /// Of a WebSocket, from the client and to it.
    messages: Option<[u64; 2]>,
}

impl Record {
    pub(crate) fn begin(
        upstream: &Arc<Upstream>,
        method: &Method,
        path: &str,
        peer: Option<SocketAddr>,
        call_id: &HeaderValue,
    ) -> Self {
        upstream.counters().started();
        let details = enabled!(target: "access", Level::DEBUG).then(|| {
            Box::new(Details {
                method: method.clone(),
                path: path.to_owned(),
                peer,
                call_id: call_id.clone(),
                replica: None,
                messages: None,
            })
        });
        Self {
            upstream: Arc::clone(upstream),
            began: Instant::now(),
            status: 0,
            sent: 0,
            broken: None,
            tunnel: false,
            details,
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
            broken: None,
            tunnel: true,
            details: None,
        }
    }

    /// Both sides have agreed to go on as a tunnel.
    pub(crate) fn upgraded(&mut self) {
        let counters = self.upstream.counters();
        counters.tunnel_opened();
        counters.finished(self.status, self.began.elapsed());
        self.tunnel = true;
    }

    /// A WebSocket brought so many messages from the client, and so many to it.
    pub(crate) fn messages(&mut self, in_out: [u64; 2]) {
        if let Some(details) = &mut self.details {
            details.messages = Some(in_out);
        }
    }

    pub(crate) fn answered_by(&mut self, replica: &ReplicaId) {
        if let Some(details) = &mut self.details {
            details.replica = Some(replica.clone());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let counters = self.upstream.counters();
        let duration = self.began.elapsed();
        if self.tunnel {
            counters.tunnel_closed();
        } else {
            counters.finished(self.status, duration);
        }
        counters.sent(self.sent);
        let Some(details) = &self.details else { return };
        debug!(
            target: "access",
            function = %self.upstream.key(),
            method = %details.method,
            path = details.path,
            status = self.status,
            bytes = self.sent,
            seconds = duration.as_secs_f64(),
            peer = details.peer.map(tracing::field::display),
            call_id = details.call_id.to_str().unwrap_or_default(),
            replica = details.replica.as_ref().map(ReplicaId::as_str),
            broken = self.broken,
            messages_in = details.messages.map(|[of_client, _]| of_client),
            messages_out = details.messages.map(|[_, to_client]| to_client),
        );
    }
}
