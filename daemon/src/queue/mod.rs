//! Calls that nobody waits for: taken over with 202, made later, their answers sent to a callback if one is wanted.
//!
//! Owns the calls between the 202 and their end. They are in memory only: what has not ended when the daemon does is
//! lost, and counted. Everything outside of this directory knows [`Queue`] and no more, so that calls can be kept
//! elsewhere one day.
//!
//! ```text
//!  /async-function ─► intake ─► lines ─► delivery ─► Caller (the proxy) ─► function
//!                       │ 202     one a     attempts,       │
//!                       ▼         function  pauses          └─► callback
//!                     client
//! ```

mod callback;
mod delivery;
mod intake;
mod lines;
mod memory;
mod own;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request};
use reqwest::Url;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Caller, Error};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::callback::Callbacks;
use self::intake::Refusal;
use self::lines::{Identified, Lines, Turn};
use self::memory::{Held, Memory};
use crate::api::ApiCall;
use crate::metrics::Timings;

pub use self::lines::QueueLoad;

/// How calls are kept and made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many calls of one function are made at once.
    pub concurrency: usize,
    /// How many calls are made at once.
    pub max_concurrency: usize,
    /// The largest body of a call, in bytes.
    pub max_body: u64,
    /// How much memory the calls may take, in bytes. Those of one function may take a quarter of it, or as much as one
    /// with the largest body.
    pub max_memory: u64,
    /// For how long after it came a call is attempted again that its function could not take.
    pub retry_for: Duration,
    /// How long a callback may take.
    pub callback_timeout: Duration,
}

/// A call that was taken over.
struct Invocation {
    function: FunctionKey,
    /// The function as the client named it.
    name: String,
    id: HeaderValue,
    request: Request<Bytes>,
    callback: Option<Url>,
    accepted: Instant,
    /// The memory that it takes, of that which is there for calls.
    _memory: Held,
}

impl Invocation {
    /// The request, to be sent.
    fn request(&self) -> Request<Bytes> {
        self.request.clone()
    }
}

impl Identified for Invocation {
    fn function(&self) -> &FunctionKey {
        &self.function
    }

    fn id(&self) -> &[u8] {
        self.id.as_bytes()
    }
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    settings: Settings,
    /// Where calls are made: not on the lane of the client that handed one over, which may end before the call does.
    runtime: Handle,
    caller: Caller,
    callbacks: Callbacks,
    /// Where this daemon listens.
    here: SocketAddr,
    lines: Mutex<Lines<Invocation>>,
    /// One for each call that may be made at once.
    places: Arc<Semaphore>,
    memory: Memory,
    /// How long the answers to those took who handed calls over.
    answered: Timings<ApiCall>,
    /// Woken each time there is nothing left to do.
    idle: Notify,
    /// Calls are not taken over any more.
    closed: CancellationToken,
}

impl Queue {
    /// A queue whose calls `caller` makes, in a daemon that listens at `here`. No callback is sent to an address that
    /// `is_replica`. Answers to clients are counted in `answered`.
    ///
    /// # Panics
    /// Outside of a runtime. It is there that the calls are made.
    #[must_use]
    pub fn new(
        settings: Settings,
        caller: Caller,
        here: SocketAddr,
        is_replica: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
        answered: Timings<ApiCall>,
    ) -> Self {
        Self(Arc::new(Shared {
            runtime: Handle::current(),
            callbacks: Callbacks::new(settings.callback_timeout, Arc::new(is_replica)),
            lines: Mutex::new(Lines::new(settings.concurrency)),
            places: Arc::new(Semaphore::new(settings.max_concurrency)),
            memory: Memory::new(settings.max_memory, settings.max_body),
            answered,
            idle: Notify::new(),
            closed: CancellationToken::new(),
            settings,
            caller,
            here,
        }))
    }

    /// Drops the calls of a function that was deleted. Those that are at it end with it.
    pub fn forget(&self, function: &FunctionKey) {
        let dropped = self.0.lines().forget(function);
        if dropped > 0 {
            info!(%function, "{function}: {dropped} queued calls were dropped with it");
        }
        self.0.notice_idle();
    }

    /// How many calls of a function are not over.
    #[must_use]
    pub fn waiting(&self, function: &FunctionKey) -> u64 {
        self.0.lines().waiting(function)
    }

    /// What is going on, by function, in no order. A function is among them from its first call on.
    #[must_use]
    pub fn loads(&self) -> Vec<(FunctionKey, QueueLoad)> {
        self.0.lines().loads()
    }

    /// Takes no more calls, and waits until those that are there have ended, up to `limit`. How many had not.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.0.closed.cancel();
        let idle = async {
            loop {
                let mut woken = std::pin::pin!(self.0.idle.notified());
                // Registered before the look, so that an end in between is not missed.
                woken.as_mut().enable();
                if self.0.lines().is_idle() {
                    return;
                }
                woken.await;
            }
        };
        match tokio::time::timeout(limit, idle).await {
            Ok(()) => 0,
            Err(_) => self.0.lines().clear(),
        }
    }

    /// Puts a call at the end of its line, unless the queue is closed or the function is gone.
    fn submit(&self, call: Invocation) -> Result<(), Refusal> {
        let function = call.function.clone();
        {
            let mut lines = self.0.lines();
            // Under the lock: what is in line when `drain` looks is waited for.
            if self.0.closed.is_cancelled() {
                return Err(Refusal::Closed);
            }
            // A deleted function has no route first and is forgotten then: with a route now, this call is forgotten too.
            if !self.0.caller.knows(&function) {
                return Err(Refusal::Gone(Error::UnknownFunction { name: function.to_string() }));
            }
            lines.push(call);
        }
        self.begin(&function);
        Ok(())
    }

    /// Begins as many calls of a function as may be.
    fn begin(&self, function: &FunctionKey) {
        loop {
            let Some(turn) = self.0.lines().begin(function) else { return };
            self.0.runtime.spawn(Begun { queue: self.clone(), turn }.deliver());
        }
    }
}

impl Shared {
    /// One of the places for calls at work, when there is one.
    async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places).acquire_owned().await.expect("places are never closed")
    }

    /// The lines. Held for a change, never across an await.
    fn lines(&self) -> MutexGuard<'_, Lines<Invocation>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice_idle(&self) {
        if self.lines().is_idle() {
            self.idle.notify_waiters();
        }
    }
}

/// A call that has begun. Dropping it makes room for the next, however it ended.
struct Begun {
    queue: Queue,
    turn: Turn<Invocation>,
}

impl Begun {
    async fn deliver(self) {
        delivery::deliver(&self.queue.0, &self.turn).await;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let function = &self.turn.call.function;
        self.queue.0.lines().end(function, self.turn.number);
        // Outside of a runtime nothing is begun: then the daemon has ended.
        if Handle::try_current().is_ok() {
            self.queue.begin(function);
        }
        self.queue.0.notice_idle();
    }
}
