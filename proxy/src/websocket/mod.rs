//! Event mode: this host holds the WebSocket, and what happens on it becomes plain HTTP requests to a function.
//!
//! Owns the connections whose function never sees a WebSocket: it may be at zero replicas while thousands of them are
//! open. One neutral engine; what an event looks like as a request, and an answer as actions, is a [codec]'s.
//!
//! ```text
//!  GET, Upgrade ──► accept ──(connect event, if the function asks for it)──► 101 ──► connection: a task
//!                                                                                        │
//!   frames ──► message ──► mailbox (bounded; full: the socket is not read) ──► one event in flight ──► codec ──► function
//!                                                                                        │
//!   frames ◄── outbound queue (bounded; full: a slow consumer) ◄── actions ◄── codec ◄── answer
//!                    ▲
//!                    └── hub: connections by id, groups, users ◄── management API, broadcasts of functions
//! ```
//!
//! * Events of one connection are made one behind the other, in the order in which its frames came.
//! * A connection that waits holds its socket, a few hundred bytes, and no buffer.
//! * What ends a replica does not end a connection: the next event goes to the next replica.

mod accept;
mod client_groups;
pub mod codec;
mod connection;
mod counters;
mod deflate;
mod ending;
pub mod event;
mod fanout;
pub(crate) mod frame;
mod handover;
pub(crate) mod handshake;
mod history;
mod hub;
mod invoke;
mod keeper;
mod lease;
mod member;
mod outbound;
mod passed;
mod peers;
mod presence;
mod redrive;
mod returns;
mod settings;
mod socket;
mod spoken;
mod streams;
mod sweep;
mod validation;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use accept::{Arrival, Refusal};
pub(crate) use counters::EventCounters;
pub use counters::{DROPS, EVENTS, End, EventTotals, OUTCOMES, RETURNS};
pub use ending::{Category, Ending};
use handover::Left;
pub use handover::{Bequest, LETTER_NAME, MAX_LEFT};
pub use history::{CannotWatch, History, HistoryFigures, InvalidPlace, Kept, Past, Place, Watch, Watching};
pub use hub::{CannotJoin, Figures, Filter, Hub, MAX_GROUP_NAME, Reach, is_group_name};
pub use keeper::{DeadEvent, Failing, Forgetful, Keeper, Reason};
pub use member::{Carried, Member};
pub use outbound::Said;
pub use peers::{Many, Saying};
pub use redrive::Redrive;
pub use returns::LONGEST_RETURN;
pub use settings::{Batching, Delivery, EventMode, GroupNames, OnError, Subscriptions};
pub(crate) use streams::{Asking, group_of, may_be_group};
use sweep::Sweep;
pub use validation::Validation;

use crate::access::Guard;
use crate::caller::Caller;
use crate::lanes;
use crate::limits::Users;
use crate::tunnel::keep::DescriptorStore;

/// Where connections are, and who keeps what has to outlive this process.
#[derive(Clone)]
pub struct Held {
    /// All of them.
    pub hub: Arc<Hub>,
    /// Whoever writes to a disk.
    pub keeper: Arc<dyn Keeper>,
}

impl Default for Held {
    fn default() -> Self {
        Self { hub: Arc::default(), keeper: Arc::new(Forgetful) }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("connections", &self.hub.len()).finish_non_exhaustive()
    }
}

/// What all connections share.
pub(crate) struct Shared {
    hub: Arc<Hub>,
    caller: Caller,
    /// Verifies the tokens by which clients stay.
    guard: Arc<dyn Guard>,
    users: Arc<Users>,
    keeper: Arc<dyn Keeper>,
    tracker: TaskTracker,
    /// Who came to groups and left them, to be told.
    lines: presence::Lines,
    /// No more are let in.
    closing: AtomicBool,
    /// Those that cannot be left to the next process end.
    handing_over: AtomicBool,
    /// Those that can are to be left to the next process.
    leaving: AtomicBool,
    left: Mutex<Vec<Left>>,
    /// Connections of earlier processes: those that went on, and those that did not.
    resumed: [AtomicU64; 2],
    store: OnceLock<Arc<dyn DescriptorStore>>,
    /// Of each lane.
    sweeps: Mutex<Vec<(usize, Arc<Sweep>)>>,
    /// End now.
    cut: CancellationToken,
}

impl Shared {
    pub(crate) fn new(held: &Held, caller: Caller, guard: Arc<dyn Guard>, users: Arc<Users>) -> Arc<Self> {
        let shared = Arc::new(Self {
            hub: Arc::clone(&held.hub),
            caller,
            guard,
            users,
            keeper: Arc::clone(&held.keeper),
            tracker: TaskTracker::new(),
            lines: presence::Lines::default(),
            closing: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            left: Mutex::default(),
            resumed: Default::default(),
            store: OnceLock::new(),
            sweeps: Mutex::default(),
            cut: CancellationToken::new(),
        });
        shared.listen();
        shared
    }

    /// The sweep of the lane on which this is called.
    fn sweep(&self) -> Arc<Sweep> {
        let lane = lanes::current();
        let mut sweeps = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sweep)) = sweeps.iter().find(|(of, _)| *of == lane) {
            return Arc::clone(sweep);
        }
        let sweep = Sweep::here();
        sweeps.push((lane, Arc::clone(&sweep)));
        sweep
    }

    /// Lets no more in.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.tracker.close();
        // Those who watch have no end of their own: they come back to the next process.
        self.hub.topics.end(None);
    }

    /// Ends all of them without another word.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when all have ended, after [`close`](Self::close).
    pub(crate) async fn ended(&self) {
        self.tracker.wait().await;
    }

    /// How many connections there are, those included that are gone and of which the function is still to hear.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Ends all of them, spread over `over`, and resolves when the functions know. After [`close`](Self::close).
    pub(crate) async fn end(&self, over: Duration) {
        self.hub.end_all(Ending::shutdown(), over).await;
        self.tracker.wait().await;
    }
}
