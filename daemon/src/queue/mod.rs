//! Calls that nobody waits for: taken over with 202 once they are on the disk, made later, until their function has
//! dealt with them or they are dead letters; their answers sent to a callback if one is wanted.
//!
//! Owns the calls between the 202 and their end, over restarts and power cuts. Everything outside of this directory knows
//! [`Queue`] and no more. A call is made at least once: one that was at its function when the daemon was killed is made
//! again by the next.
//!
//! ```text
//!  /async-function ─► intake ─► keeper ─► lines ─► delivery ─► Caller (the proxy) ─► function
//!                       │ 202    one       one a     a turn:      │
//!                       ▼        writer    function  attempt      ├─► callback, again if need be
//!                     client     │         │ ▲                    └─► result ─► GET /async-function/ID
//!                                ▼         ▼ │ again, later
//!                              store       dead letters
//! ```

mod callback;
mod delivery;
mod intake;
mod invocation;
#[cfg(feature = "nats")]
mod jetstream;
mod keeper;
mod lines;
mod own;
mod policy;
mod spool;
mod store;
mod wishes;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderName;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Caller, Error};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::callback::Callbacks;
use self::invocation::Accepted;
use self::keeper::{Board, Deliverers, Keeper, Order};
use self::lines::Turn;
use self::spool::{Kept, Spool};
use self::store::{Loaded, StoreError};
use crate::api::ApiCall;
use crate::deadletters::DeadLetters;
use crate::metrics::Timings;
use crate::nodes;
use crate::secrets::Secrets;

pub use self::intake::Refusal;
pub use self::invocation::{Failure, Invocation};
pub use self::lines::QueueLoad;
pub use self::policy::Policy;

/// The name of the directory in the state directory.
pub const NAME: &str = "queue";

/// How many orders wait for the keeper at most; who gives one more waits.
const ORDERS: usize = 4096;

/// How many dead letters are written at once: the bodies of so many are in memory.
const BURIALS: usize = 4;

/// What one function may have of all.
const SHARE: u64 = 4;

/// What a call may take besides its body and always be taken over when nothing else is there, in bytes.
const BESIDES_BODY: u64 = 64 << 10;

/// What a call is known by.
pub(crate) const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

/// Where calls are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On this host.
    #[default]
    Local,
    /// In JetStream, shared with other hosts.
    Nats,
}

/// How calls are kept and made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where they are kept.
    pub engine: Place,
    /// How many calls each replica of a function is given at once.
    pub concurrency: usize,
    /// How many calls are made at once.
    pub max_concurrency: usize,
    /// The largest body of a call, and of an answer that is kept, in bytes.
    pub max_body: u64,
    /// How many bytes the calls may take on the disk. Those of one function may take a quarter of it, or as much as one with
    /// the largest body.
    pub max_size: u64,
    /// How many calls there may be.
    pub max_calls: usize,
    /// How many bytes of the disk are left free: no call is taken over when there are fewer.
    pub reserve: u64,
    /// For how long after it came a call is attempted again that its function could not take.
    pub retry_for: Duration,
    /// How long a callback may take.
    pub callback_timeout: Duration,
    /// How often a callback is sent that is not taken.
    pub callback_attempts: u32,
    /// For how long an idempotency key is known.
    pub idempotency: Duration,
}

impl Settings {
    /// How many bytes the calls of one function may take.
    fn share(&self) -> u64 {
        (self.max_size / SHARE).max(self.max_body.saturating_add(BESIDES_BODY))
    }
}

/// What the queue works with.
pub struct Around {
    /// Makes the calls.
    pub caller: Caller,
    /// Where this daemon listens.
    pub here: SocketAddr,
    /// Where calls go that come to nothing.
    pub letters: DeadLetters,
    /// Where answers to clients are counted.
    pub answered: Timings<ApiCall>,
    /// What it is shared over, where the settings ask for that.
    pub shared: Option<(nodes::Settings, Secrets)>,
}

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files cannot be read or made.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who keeps the calls, before it runs.
enum Engine {
    Local(Keeper),
    #[cfg(feature = "nats")]
    Nats(jetstream::Keeper),
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
    letters: DeadLetters,
    /// Where this daemon listens.
    here: SocketAddr,
    board: Arc<Board>,
    spool: Spool,
    orders: mpsc::Sender<Order>,
    /// Until it runs.
    keeper: Mutex<Option<Engine>>,
    /// Functions that are here.
    served: watch::Sender<HashSet<FunctionKey>>,
    /// How the calls of functions are made that have said something of it.
    policies: Mutex<HashMap<FunctionKey, Arc<Policy>>>,
    /// One for each call that may be made at once.
    places: Arc<Semaphore>,
    burials: Semaphore,
    /// How long the answers to those took who handed calls over.
    answered: Timings<ApiCall>,
    /// Calls are not taken over any more.
    closed: CancellationToken,
}

impl Queue {
    /// The queue in the directory `state`. No callback is sent to an address that `is_replica`.
    /// Nothing happens until it is [started](Self::start).
    ///
    /// # Errors
    /// When what is in the directory cannot be read.
    ///
    /// # Panics
    /// Outside of a runtime. It is there that the calls are made.
    pub fn open(
        state: &Path,
        settings: Settings,
        around: Around,
        is_replica: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let Around { caller, here, letters, answered, shared } = around;
        let (orders, receiver) = mpsc::channel(ORDERS);
        let served = watch::Sender::new(HashSet::new());
        let (directory, own) = (state.join(NAME), settings.clone());
        let (keeper, board, spool) = match shared.filter(|_| settings.engine == Place::Nats) {
            #[cfg(feature = "nats")]
            Some(shared) => {
                let opened = jetstream::Keeper::open(&directory, own, shared, receiver, served.subscribe());
                opened.map(|(keeper, board, spool)| (Engine::Nats(keeper), board, spool))?
            }
            _ => Keeper::open(&directory, own, receiver)
                .map(|(keeper, board, spool)| (Engine::Local(keeper), board, spool))?,
        };
        Ok(Self(Arc::new(Shared {
            runtime: Handle::current(),
            callbacks: Callbacks::new(settings.callback_timeout, Arc::new(is_replica)),
            board,
            spool,
            orders,
            keeper: Mutex::new(Some(keeper)),
            served,
            policies: Mutex::default(),
            places: Arc::new(Semaphore::new(settings.max_concurrency)),
            burials: Semaphore::new(BURIALS),
            answered,
            closed: CancellationToken::new(),
            settings,
            caller,
            letters,
            here,
        })))
    }

    /// Begins to make calls, once it is known which functions there are. Should the keeper break, `broken` is cancelled.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(&self, broken: CancellationToken) -> io::Result<()> {
        let Some(keeper) = self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let (delivery, runtime) = (Delivery(Arc::clone(&self.0)), self.0.runtime.clone());
        let guard = broken.drop_guard();
        match keeper {
            Engine::Local(keeper) => {
                std::thread::Builder::new().name("queue".to_owned()).spawn(move || {
                    keeper.run(&runtime, &delivery);
                    guard.disarm();
                })?;
            }
            #[cfg(feature = "nats")]
            Engine::Nats(keeper) => {
                runtime.spawn(async move {
                    keeper.run(Arc::new(delivery)).await;
                    guard.disarm();
                });
            }
        }
        Ok(())
    }

    /// Drops the calls of a function that was deleted. Those that are at it end with it.
    pub async fn forget(&self, function: &FunctionKey) {
        self.0.policies().remove(function);
        self.0.served.send_if_modified(|served| served.remove(function));
        self.0.order(Order::Forget(function.clone())).await;
    }

    /// The function is here, and from now on its calls are made so.
    pub fn set_policy(&self, function: &FunctionKey, policy: Policy) {
        self.0.served.send_if_modified(|served| served.insert(function.clone()));
        let mut policies = self.0.policies();
        if policy == Policy::default() {
            policies.remove(function);
        } else {
            policies.insert(function.clone(), Arc::new(policy));
        }
    }

    /// There may be room for more calls of a function.
    pub fn look(&self, function: &FunctionKey) {
        // Where there are so many orders that this one has no place, it is looked anyway.
        if self.waiting(function) > 0 && self.0.orders.try_send(Order::Look(function.clone())).is_err() {
            tracing::trace!("the queue is busy");
        }
    }

    /// How many calls of a function are not over.
    #[must_use]
    pub fn waiting(&self, function: &FunctionKey) -> u64 {
        self.0.board.waiting(function)
    }

    /// What is going on, by function, in no order. A function is among them from its first call on.
    #[must_use]
    pub fn loads(&self) -> Vec<(FunctionKey, QueueLoad)> {
        self.0.board.loads()
    }

    /// How many callbacks were sent as often as may be, in vain.
    #[must_use]
    pub fn callbacks_failed(&self) -> u64 {
        self.0.callbacks.failed()
    }

    /// Puts a call at the end of its line. It is on the disk when this returns.
    async fn append(&self, call: Invocation, body: Kept) -> Result<Accepted, Refusal> {
        if self.0.closed.is_cancelled() {
            return Err(Refusal::Closed);
        }
        if !self.0.caller.knows(&call.function) {
            return Err(Refusal::Gone(Error::UnknownFunction { name: call.function.to_string() }));
        }
        let (reply, answer) = oneshot::channel();
        self.0.order(Order::Append { call: Box::new(call), body, reply }).await;
        answer.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Takes no more calls, begins none, and waits until those that are at work have ended, up to `limit`. How many had not:
    /// they are made again by the next daemon.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.0.closed.cancel();
        self.0.order(Order::Stop).await;
        let idle = async {
            loop {
                let mut woken = std::pin::pin!(self.0.board.idle.notified());
                // Registered before the look, so that an end in between is not missed.
                woken.as_mut().enable();
                if self.0.board.lines().in_flight() == 0 {
                    return;
                }
                woken.await;
            }
        };
        match tokio::time::timeout(limit, idle).await {
            Ok(()) => 0,
            Err(_) => self.0.board.lines().in_flight(),
        }
    }
}

impl Shared {
    /// One of the places for calls at work, when there is one.
    async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places).acquire_owned().await.expect("places are never closed")
    }

    /// Has the keeper do something.
    async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::error!("the queue is kept no more");
        }
    }

    fn policy(&self, function: &FunctionKey) -> Arc<Policy> {
        self.policies().get(function).cloned().unwrap_or_default()
    }

    /// Held for a look or a change.
    fn policies(&self) -> MutexGuard<'_, HashMap<FunctionKey, Arc<Policy>>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes calls for the keeper.
struct Delivery(Arc<Shared>);

impl Deliverers for Delivery {
    fn limit_of(&self, function: &FunctionKey) -> usize {
        let shared = &self.0;
        let own = shared.policies().get(function).and_then(|policy| policy.concurrency);
        let limit = match own {
            Some(own) => own.get(),
            None => {
                let (ready, cap) = shared.caller.capacity(function).unwrap_or_default();
                let each =
                    cap.map_or(shared.settings.concurrency, |cap| cap.get().min(shared.settings.concurrency));
                // At none, there is somebody to be woken.
                each.saturating_mul(ready.max(1))
            }
        };
        limit.min(shared.settings.max_concurrency)
    }

    fn knows(&self, function: &FunctionKey) -> bool {
        self.0.caller.knows(function)
    }

    fn begin(&self, turn: Turn, loaded: Loaded) {
        self.0.runtime.spawn(delivery::deliver(Arc::clone(&self.0), turn, loaded));
    }
}
