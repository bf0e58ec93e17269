//! One event for each request to a function, and its place in the counters.
//!
//! Owns the record of a request from its admission to its last byte. The event goes to the target `access` at debug
//! level; when nobody listens there, nothing is collected. Never holds headers or bodies, so no secret gets in.

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
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Details {
    method: Method,
    path: String,
    peer: SocketAddr,
    call_id: HeaderValue,
    replica: Option<ReplicaId>,
}

impl Record {
    pub(crate) fn begin(
        upstream: &Arc<Upstream>,
        method: &Method,
        path: &str,
        peer: SocketAddr,
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
            })
        });
        Self {
            upstream: Arc::clone(upstream),
            began: Instant::now(),
            status: 0,
            sent: 0,
            broken: None,
            details,
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
        self.upstream.counters().finished(self.status);
        let Some(details) = &self.details else { return };
        debug!(
            target: "access",
            function = %self.upstream.key(),
            method = %details.method,
            path = details.path,
            status = self.status,
            bytes = self.sent,
            seconds = self.began.elapsed().as_secs_f64(),
            peer = %details.peer,
            call_id = details.call_id.to_str().unwrap_or_default(),
            replica = details.replica.as_ref().map(ReplicaId::as_str),
            broken = self.broken,
        );
    }
}
