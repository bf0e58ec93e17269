//! The one writer of the queue.
//!
//! Owns the database and the order of calls. A thread takes what is ordered, all that waits together, and has it on the disk
//! with one commit; only then are the lines changed, and those told who wait. Which calls have begun is noted with the
//! next commit, if they are not over by then: it is what the next daemon tells an attempt from the first one by, and nothing
//! waits for it. While the disk takes nothing, calls are refused, none begins, and the ends of those that are at work are
//! held until it does.
//!
//! ```text
//!   orders ──► one commit ──► lines ──► whose turn it is ──► delivery
//!                 ▲                            │
//!                 └── noted as begun, later ───┘
//! ```

mod write;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, info, warn};

use self::write::{Room, write};
pub(super) use self::write::{check, end_of};
use super::Settings;
use super::intake::Refusal;
use super::invocation::{Accepted, Answer, Failure, Invocation};
use super::lines::{End, Entry, Lines, QueueLoad, Task, Turn};
use super::spool::{Kept, Named, Spool};
use super::store::{Found, Loaded, State, Store, StoreError, Where, is_full};

/// The names of the database and of the directory of bodies.
pub(super) const DATABASE: &str = "queue.redb";
pub(super) const BODIES: &str = "bodies";

/// How many orders are carried out together.
const BATCH: usize = 1024;

/// How many calls begin together.
const BEGUN_AT_ONCE: usize = 256;

/// How long it is waited until what the disk did not take is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long it may take until it is noted that a call has begun.
const MARK: Duration = Duration::from_millis(20);

/// How often it is told that the disk takes nothing.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What is to be done.
pub(super) enum Order {
    /// A call is to be taken over.
    Append { call: Box<Invocation>, body: Kept, reply: oneshot::Sender<Result<Accepted, Refusal>> },
    /// A turn has ended.
    End { function: FunctionKey, number: u64, ended: Ended },
    /// Calls are to be ended: how many there were.
    Cancel { id: String, functions: Vec<FunctionKey>, reply: oneshot::Sender<usize> },
    /// A function is no more.
    Forget(FunctionKey),
    /// Which functions know a call or a result of this id?
    Known { id: String, reply: oneshot::Sender<Vec<FunctionKey>> },
    /// A result is wanted.
    Result { id: String, functions: Vec<FunctionKey>, reply: oneshot::Sender<Option<Ready>> },
    /// There may be room for more calls of a function, which takes some now.
    Look(FunctionKey),
    /// Nothing is to begin any more.
    Stop,
}

impl Order {
    /// The number of a call that is over, if that is what it tells.
    fn over(&self) -> Option<u64> {
        let Self::End { number, ended, .. } = self else { return None };
        ended.is_over().then_some(*number)
    }

    /// Does it need the database?
    fn is_of_the_disk(&self) -> bool {
        !matches!(self, Self::Look(_) | Self::Stop)
    }
}

/// A result, or `None` for a call that is not over.
pub(super) type Ready = Option<(Answer, Option<Kept>)>;

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The call is over. Its result is kept for so many milliseconds, if at all.
    Done { result: Option<Resulted> },
    /// The call is over, and a dead letter.
    Dead { result: Option<Resulted> },
    /// It is to be made again, not before a moment.
    Again { due: i64 },
    /// The callback is to be tried again, not before a moment, for the so manieth time.
    Answered { answer: Answer, body: Option<Kept>, due: i64, times: u32, dead: bool },
    /// Nobody took it.
    NotTaken { failure: Failure },
    /// Nobody wants it any more.
    Cancelled,
}

impl Ended {
    /// Is the call over with that?
    fn is_over(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Dead { .. } | Self::Cancelled)
    }

    /// A file that is there for longer than the call.
    fn kept_file(&self) -> Option<&Named> {
        let (Self::Done { result } | Self::Dead { result }) = self else { return None };
        result.as_ref()?.body.as_ref()?.file()
    }
}

/// A result that is to be kept.
#[derive(Debug)]
pub(super) struct Resulted {
    pub(super) answer: Answer,
    /// `None`: it was too large.
    pub(super) body: Option<Kept>,
    /// Milliseconds.
    pub(super) keep: u64,
}

/// What the keeper asks of those who make calls.
pub(super) trait Deliverers: Send + Sync {
    /// How many calls of this function may be made at once.
    fn limit_of(&self, function: &FunctionKey) -> usize;

    /// Is there such a function?
    fn knows(&self, function: &FunctionKey) -> bool;

    /// A call has begun.
    fn begin(&self, turn: Turn, loaded: Loaded);
}

/// What others may look at.
#[derive(Debug, Default)]
pub(super) struct Board {
    lines: Mutex<Lines>,
    /// What waits on all nodes together, of functions of which that is known.
    #[cfg(feature = "nats")]
    depths: Mutex<HashMap<FunctionKey, Depth>>,
    /// Woken when no call is at work.
    pub(super) idle: Notify,
}

impl Board {
    /// The lines. Held for a look or a change, never for longer.
    pub(super) fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls of a function are not over.
    pub(super) fn waiting(&self, function: &FunctionKey) -> u64 {
        #[cfg(feature = "nats")]
        if let Some(depth) = self.depths().get(function) {
            return depth.calls;
        }
        self.lines().waiting(function)
    }

    /// What is going on, by function.
    pub(super) fn loads(&self) -> Vec<(FunctionKey, QueueLoad)> {
        let loads = self.lines().loads();
        #[cfg(feature = "nats")]
        return self.with_depths(loads);
        #[cfg(not(feature = "nats"))]
        loads
    }
}

/// What waits of a function on all nodes together.
#[cfg(feature = "nats")]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Depth {
    pub(super) calls: u64,
    /// When the oldest of them was taken over, in milliseconds of Unix time.
    pub(super) oldest: Option<i64>,
}

#[cfg(feature = "nats")]
impl Board {
    fn depths(&self) -> MutexGuard<'_, HashMap<FunctionKey, Depth>> {
        self.depths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_depths(&self, depths: HashMap<FunctionKey, Depth>) {
        *self.depths() = depths;
    }

    /// A call was taken over.
    pub(super) fn submitted(&self, function: &FunctionKey) {
        self.lines().count_submitted(function);
        let mut depths = self.depths();
        let depth = depths.entry(function.clone()).or_default();
        depth.calls += 1;
        depth.oldest.get_or_insert_with(now);
    }

    /// A call is over.
    pub(super) fn ended(&self, function: &FunctionKey) {
        if let Some(depth) = self.depths().get_mut(function) {
            depth.calls = depth.calls.saturating_sub(1);
            depth.oldest = depth.oldest.filter(|_| depth.calls > 0);
        }
    }

    fn with_depths(&self, loads: Vec<(FunctionKey, QueueLoad)>) -> Vec<(FunctionKey, QueueLoad)> {
        let mut loads: HashMap<_, _> = loads.into_iter().collect();
        for (function, depth) in self.depths().iter() {
            let load = loads.entry(function.clone()).or_default();
            load.pending = usize::try_from(depth.calls).unwrap_or(usize::MAX).saturating_sub(load.in_flight);
            load.oldest = depth.oldest;
        }
        loads.into_iter().collect()
    }
}

/// The keeper, before it runs.
pub(super) struct Keeper {
    store: Store,
    spool: Spool,
    board: Arc<Board>,
    settings: Settings,
    orders: mpsc::Receiver<Order>,
    directory: Arc<Path>,
    next: u64,
    /// Ends that the disk did not take.
    owed: Vec<Order>,
    /// Orders that are carried out alone, behind those before them: they look at what these have done.
    alone: VecDeque<Order>,
    /// Calls that are to be noted as begun.
    marks: Vec<Mark>,
    /// Calls that were taken over with the last commit: they need not be read to be made.
    fresh: HashMap<u64, Loaded>,
    /// When the next result or key has had its time.
    next_end: Option<i64>,
    failing: bool,
    /// When that was last told.
    told: Option<Instant>,
    stopped: bool,
}

/// A call that has begun.
struct Mark {
    function: FunctionKey,
    number: u64,
    attempts: u32,
}

/// What an order came to, once it is on the disk.
enum Outcome {
    Appended(u64, Accepted),
    Refused(Refusal),
    Nothing,
    Known(Vec<FunctionKey>),
    Result(Option<Ready>),
    /// Files that are not needed any more.
    Ended(Vec<Named>),
}

impl Keeper {
    /// The queue in this directory, and what is in it.
    pub(super) fn open(
        directory: &Path,
        settings: Settings,
        orders: mpsc::Receiver<Order>,
    ) -> Result<(Self, Arc<Board>, Spool), super::OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let spool = Spool::open(&directory.join(BODIES))?;
        let mut store = Store::open(&directory.join(DATABASE))?;
        let board = Arc::<Board>::default();
        store.found(|found| restore(&mut board.lines(), found))?;
        let results = store.result_files()?;
        let lines = board.lines();
        let names: HashSet<String> = lines
            .files()
            .map(str::to_owned)
            .chain(results.iter().map(|file| file.name().to_owned()))
            .collect();
        drop(lines);
        let stray = spool.retain(&names)?;
        if stray > 0 {
            info!("{stray} bodies of calls that were not taken over are removed");
        }
        let next = store.next_number()?;
        let next_end = store.batch(|tables| tables.next_end())?;
        let keeper = Self {
            store,
            spool: spool.clone(),
            board: Arc::clone(&board),
            settings,
            orders,
            directory: directory.into(),
            next,
            owed: Vec::new(),
            alone: VecDeque::new(),
            marks: Vec::new(),
            fresh: HashMap::new(),
            next_end,
            failing: false,
            told: None,
            stopped: false,
        };
        Ok((keeper, board, spool))
    }

    /// Carries out orders until nobody gives any.
    pub(super) fn run(mut self, runtime: &Handle, deliverers: &dyn Deliverers) {
        self.forget_unknown(deliverers);
        loop {
            if !self.stopped && !self.failing && self.alone.is_empty() {
                self.begin(deliverers);
            }
            let Some(mut orders) = self.wait(runtime) else { return };
            orders.splice(0..0, std::mem::take(&mut self.owed));
            self.carry_out(orders, deliverers);
            if self.board.lines().in_flight() == 0 {
                self.board.idle.notify_waiters();
            }
        }
    }

    /// Has calls begin whose turn it is.
    fn begin(&mut self, deliverers: &dyn Deliverers) {
        let turns = self.board.lines().begin(now(), BEGUN_AT_ONCE, |key| deliverers.limit_of(key));
        for turn in turns {
            let loaded = match self.fresh.remove(&turn.number) {
                Some(fresh) => Ok(Some(fresh)),
                None => self.store.load(turn.number),
            };
            match loaded {
                Ok(Some(loaded)) => {
                    if turn.task == Task::Make {
                        let Turn { number, attempts, .. } = turn;
                        self.marks.push(Mark { function: turn.function.clone(), number, attempts });
                    }
                    deliverers.begin(turn, loaded);
                }
                Err(why @ StoreError::Database(_)) => {
                    self.board.lines().end(&turn.function, turn.number, &End::PutBack);
                    self.fail(&why);
                }
                unreadable => {
                    let why = unreadable.err().map_or_else(|| "it is gone".to_owned(), |why| why.to_string());
                    error!(function = %turn.function, "{}: a queued call is lost: {why}", turn.function);
                    let Turn { function, number, .. } = turn;
                    self.owed.push(Order::End { function, number, ended: Ended::Dead { result: None } });
                }
            }
        }
        self.fresh.clear();
    }

    /// The disk takes nothing.
    fn fail(&mut self, why: &StoreError) {
        self.failing = true;
        if self.told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
            error!("{why}: calls are refused until it can be");
            self.told = Some(Instant::now());
        }
    }

    /// Calls of functions that are no more are dropped with them.
    fn forget_unknown(&mut self, deliverers: &dyn Deliverers) {
        let loads = self.board.lines().loads();
        for (function, load) in loads.into_iter().filter(|(function, _)| !deliverers.knows(function)) {
            warn!(%function, "{function}: it is gone, and {} queued calls are dropped", load.pending);
            self.alone.push_back(Order::Forget(function));
        }
    }

    /// What is to be done next; nothing, if only time has passed. `None` when there will be no more.
    fn wait(&mut self, runtime: &Handle) -> Option<Vec<Order>> {
        if !self.alone.is_empty() {
            if self.failing {
                runtime.block_on(tokio::time::sleep(PAUSE));
            }
            let its_turn = self.owed.is_empty();
            return Some(if its_turn { self.alone.pop_front().into_iter().collect() } else { Vec::new() });
        }
        let first = if !self.owed.is_empty() && !self.failing {
            self.orders.try_recv().ok()
        } else {
            let limit = self.until_next();
            match runtime.block_on(next_within(&mut self.orders, limit)) {
                Some(None) => return None,
                Some(order) => order,
                None => None,
            }
        };
        let (mut orders, mut next) = (Vec::new(), first);
        while let Some(order) = next {
            if matches!(order, Order::Cancel { .. } | Order::Forget(_)) {
                self.alone.push_back(order);
                break;
            }
            orders.push(order);
            next = if orders.len() < BATCH { self.orders.try_recv().ok() } else { None };
        }
        Some(orders)
    }

    /// How long there is nothing to do if nothing is ordered.
    fn until_next(&self) -> Option<Duration> {
        if self.failing {
            return Some(PAUSE);
        }
        let lines = if self.stopped { None } else { self.board.lines().next_due() };
        let next = [lines, self.next_end].into_iter().flatten().min();
        let next = next.map(|next| Duration::from_millis(u64::try_from(next - now()).unwrap_or(0)));
        let mark = (!self.marks.is_empty()).then_some(MARK);
        [next, mark].into_iter().flatten().min()
    }

    fn carry_out(&mut self, orders: Vec<Order>, deliverers: &dyn Deliverers) {
        let expires = self.next_end.is_some_and(|at| at <= now());
        if !orders.iter().any(Order::is_of_the_disk) && self.marks.is_empty() && !expires && !self.failing {
            for order in orders {
                self.apply(order, Outcome::Nothing, deliverers);
            }
            return;
        }
        match self.commit(&orders) {
            Ok(Done { outcomes, expired }) => {
                self.failing = false;
                for file in &expired {
                    self.spool.remove(file);
                }
                for (order, outcome) in orders.into_iter().zip(outcomes) {
                    self.apply(order, outcome, deliverers);
                }
            }
            Err(why) => {
                self.fail(&why);
                let full = why.is_full();
                for order in orders {
                    match order {
                        Order::Append { body, reply, .. } => {
                            self.refuse(&body, reply, if full { Refusal::DiskFull } else { Refusal::Disk });
                        }
                        Order::Cancel { .. } | Order::Forget(_) => self.alone.push_front(order),
                        order => self.owed.push(order),
                    }
                }
            }
        }
    }

    /// Has the orders on the disk, and which calls have begun.
    fn commit(&mut self, orders: &[Order]) -> Result<Done, StoreError> {
        let now = now();
        let Self { store, board, settings, directory, next, next_end, marks, .. } = self;
        let mut room = Room::new(board, settings, directory);
        let alone = matches!(orders, [Order::Cancel { .. } | Order::Forget(_)]);
        let over: HashSet<u64> = orders.iter().filter_map(Order::over).collect();
        let marked = if alone { 0 } else { marks.len() };
        let done = store.batch(|tables| {
            let mut number = *next;
            let mut outcomes = Vec::with_capacity(orders.len());
            let at_work = |mark: &&Mark| {
                !over.contains(&mark.number) && board.lines().is_over(&mark.function, mark.number).is_some()
            };
            // Before what tells of their ends.
            for mark in marks[..marked].iter().filter(at_work) {
                let state = State { begun: true, attempts: mark.attempts, due: 0, answer: None };
                tables.put_state(mark.number, &state)?;
            }
            for order in orders {
                outcomes.push(write(tables, order, board, settings, &mut room, &mut number, now)?);
            }
            let (expired, more) = tables.expire(now)?;
            let end = if more { Some(0) } else { tables.next_end()? };
            Ok((Done { outcomes, expired }, number, end))
        });
        let (done, number, end) = done?;
        (*next, *next_end) = (number, end);
        marks.drain(..marked);
        Ok(done)
    }

    /// Changes the lines, and tells who waits.
    fn apply(&mut self, order: Order, outcome: Outcome, deliverers: &dyn Deliverers) {
        match (order, outcome) {
            (Order::Append { call, body, reply }, Outcome::Appended(number, Accepted::New)) => {
                // A function that is deleted has no route first, and is forgotten then: without one now, it may have been
                // forgotten before this call came.
                if !deliverers.knows(&call.function) {
                    self.alone.push_back(Order::Forget(call.function.clone()));
                }
                self.board.lines().push(&call.function, number, entry(&call, &body));
                if self.fresh.len() < BEGUN_AT_ONCE {
                    self.fresh.insert(number, Loaded { call: *call, body, answer: None });
                }
                tell(reply, Ok(Accepted::New));
            }
            (Order::Append { body, reply, .. }, Outcome::Appended(_, again)) => {
                self.remove(body.file());
                tell(reply, Ok(again));
            }
            (Order::Append { body, reply, .. }, Outcome::Refused(why)) => self.refuse(&body, reply, why),
            (Order::End { function, number, ended }, Outcome::Ended(files)) => {
                for file in &files {
                    self.spool.remove(file);
                }
                let mut over = self.board.lines().end(&function, number, &end_of(&ended, &self.settings));
                if let (Some(entry), Some(kept)) = (&mut over, ended.kept_file()) {
                    entry.files.retain(|name| **name != *kept.name());
                }
                self.remove_files(over.as_slice());
            }
            (Order::Cancel { id, functions, reply }, _) => {
                let (found, gone) = self.board.lines().cancel(&id, &functions);
                self.remove_files(gone.iter().map(|(_, entry)| entry));
                tell(reply, found);
            }
            (Order::Forget(function), _) => {
                let gone = self.board.lines().forget(&function);
                if !gone.is_empty() {
                    info!(%function, "{function}: {} queued calls were dropped with it", gone.len());
                }
                self.remove_files(&gone);
            }
            (Order::Known { reply, .. }, Outcome::Known(functions)) => tell(reply, functions),
            (Order::Result { reply, .. }, Outcome::Result(result)) => tell(reply, result),
            (Order::Look(function), _) => self.board.lines().reopen(&function),
            (Order::Stop, _) => self.stopped = true,
            _ => {}
        }
    }

    fn refuse(&self, body: &Kept, reply: oneshot::Sender<Result<Accepted, Refusal>>, why: Refusal) {
        self.remove(body.file());
        tell(reply, Err(why));
    }

    fn remove(&self, file: Option<&Named>) {
        if let Some(file) = file {
            self.spool.remove(file);
        }
    }

    fn remove_files<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        for name in entries.into_iter().flat_map(|entry| &entry.files) {
            self.spool.remove_named(name);
        }
    }
}

/// The next order; `None` when it did not come in time, if there is one.
async fn next_within(orders: &mut mpsc::Receiver<Order>, limit: Option<Duration>) -> Option<Option<Order>> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, orders.recv()).await.ok(),
        None => Some(orders.recv().await),
    }
}

/// What a commit came to.
struct Done {
    outcomes: Vec<Outcome>,
    /// Files of results that have had their time.
    expired: Vec<Named>,
}

fn restore(lines: &mut Lines, found: Result<Found, (u64, StoreError)>) {
    let Found { number, call, body, state } = match found {
        Ok(found) => found,
        Err((number, why)) => return error!("queued call {number} is left as it is: {why}"),
    };
    let file = |place: &Where| place.file().map(|file| file.name().into());
    let answer = state.answer.as_ref().and_then(|(_, place, _)| file(place));
    let restored = Entry {
        due: state.due,
        attempts: state.attempts,
        answered: state.answer.is_some(),
        files: file(&body).into_iter().chain(answer).collect(),
        weight: call.weight() + body.length(),
        ..entry(&call, &Kept::Inline(bytes::Bytes::new()))
    };
    lines.restore(&call.function, number, restored, state.begun);
}

/// What the lines know of a new call.
pub(super) fn entry(call: &Invocation, body: &Kept) -> Entry {
    let wishes = &call.wishes;
    let behind = |millis: u64| call.accepted.saturating_add_unsigned(millis);
    Entry {
        id: call.id.as_str().into(),
        priority: wishes.priority,
        order_key: wishes.order_key.as_deref().map(Into::into),
        accepted: call.accepted,
        due: wishes.delay.map_or(0, behind),
        expires: wishes.expires.map(behind),
        weight: call.weight() + body.length(),
        attempts: 0,
        answered: false,
        dead: false,
        files: body.file().map(|file| file.name().into()).into_iter().collect(),
    }
}

pub(super) fn tell<T>(to: oneshot::Sender<T>, what: T) {
    if to.send(what).is_err() {
        tracing::debug!("nobody waits for what came of an order any more");
    }
}

/// Now, in milliseconds of Unix time.
pub(super) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Why a body could not be put by.
pub(super) fn disk_refusal(error: &std::io::Error) -> Refusal {
    if is_full(error) { Refusal::DiskFull } else { Refusal::Disk }
}

#[cfg(test)]
mod tests;
