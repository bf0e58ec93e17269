//! The queue that nodes share: calls lie in a stream of JetStream until they are over, and each node takes of the functions
//! that it has.
//!
//! Owns the calls that this node holds. A call is held from the moment that it was pulled until it is over or given back;
//! meanwhile the server is told that somebody is at it. When nobody tells it so, because the node is gone or cut off, the call
//! goes to another one. The order among the calls that are held, their turns and their ends are those of
//! [`lines`](super::lines), as everywhere.
//!
//! ```text
//!   append ─► NAME-calls ─► pull (one a lane) ─► lines ─► delivery ─► settle ─┬─► acknowledged
//!                 ▲                                                           └─► noted, and given back, for a while
//!                 └──────────────────────────────────────────────────────────────┘
//! ```

mod ask;
mod bring;
mod depth;
mod names;
mod post;
mod pull;
mod server;
mod settle;

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Message, Subscriber};
use futures_util::{StreamExt, TryStreamExt};
use roost_proxy::function::FunctionKey;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use self::ask::Cancelled;
use self::names::{Lane, of_consumer};
use self::pull::{MOST, Pulled, Puller, nak};
use self::server::{ACK_WAIT, Failed, PATIENCE, Server, TRANSFER, failed, within};
use self::settle::{NOT_TAKEN, Settled, give_back, settle};
use super::Settings;
use super::intake::Refusal;
use super::keeper::{Board, Deliverers, Depth, Ended, Order, end_of, entry, now, tell};
use super::lines::End;
use super::spool::{Kept, Spool};
use crate::nodes;
use crate::pauses::Pauses;
use crate::secrets::Secrets;

/// How many calls begin together.
const BEGUN_AT_ONCE: usize = 256;

/// How many calls may have been pulled and not looked at.
const NEWS: usize = 256;

/// How often the server is told of the calls that are held.
const PROGRESS: Duration = Duration::from_secs(10);

/// How often it is looked which lanes there are, besides what nodes tell each other.
const LOOK_FOR_LANES: Duration = Duration::from_secs(30);

/// The pauses between tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How long orders wait for the first connection.
const WAITS: Duration = Duration::from_secs(5);

/// How long it may take at the end until the server has heard that calls were given back.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The keeper, before it runs.
pub(super) struct Keeper {
    directory: PathBuf,
    spool: Spool,
    board: Arc<Board>,
    settings: Settings,
    nodes: nodes::Settings,
    secrets: Secrets,
    orders: mpsc::Receiver<Order>,
    /// Functions that are here.
    served: watch::Receiver<HashSet<FunctionKey>>,
}

/// What tasks have to say.
enum News {
    Pulled(Box<Pulled>),
    Settled(FunctionKey, u64, Settled, End),
    Depths(HashMap<FunctionKey, Depth>),
    /// The server has heard of all calls that were held at this moment.
    Heard(Instant),
    Lanes(Vec<(FunctionKey, Lane)>),
}

/// A lane that is pulled from. Dropping it ends that.
struct Open {
    room: Arc<Semaphore>,
    /// How many calls of it may be held.
    size: usize,
    _end: DropGuard,
}

/// The keeper, connected.
struct Running {
    server: Arc<Server>,
    spool: Spool,
    board: Arc<Board>,
    settings: Settings,
    deliverers: Arc<dyn Deliverers>,
    news: mpsc::Sender<News>,
    /// Calls that are held.
    held: HashMap<u64, Arc<Pulled>>,
    /// Lanes that there are, of all functions.
    lanes: HashSet<(FunctionKey, Lane)>,
    open: HashMap<(FunctionKey, Lane), Open>,
    served: HashSet<FunctionKey>,
    tasks: TaskTracker,
    /// When the server last heard of the calls that are held.
    heard: Instant,
    /// Tells the server of the calls that are held.
    telling: Option<JoinHandle<()>>,
    stopped: bool,
}

impl Keeper {
    /// The queue of the nodes; bodies that are at work lie in this directory.
    pub(super) fn open(
        directory: &Path,
        settings: Settings,
        (nodes, secrets): (nodes::Settings, Secrets),
        orders: mpsc::Receiver<Order>,
        served: watch::Receiver<HashSet<FunctionKey>>,
    ) -> Result<(Self, Arc<Board>, Spool), super::OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let spool = Spool::open(&directory.join("held"))?;
        spool.retain(&HashSet::new())?;
        let board = Arc::<Board>::default();
        let keeper = Self {
            directory: directory.to_owned(),
            spool: spool.clone(),
            board: Arc::clone(&board),
            settings,
            nodes,
            secrets,
            orders,
            served,
        };
        Ok((keeper, board, spool))
    }

    /// Carries out orders until nobody gives any.
    pub(super) async fn run(mut self, deliverers: Arc<dyn Deliverers>) {
        let Some((server, lanes, cancelled)) = self.connect().await else { return };
        let (news, heard) = mpsc::channel(NEWS);
        let running = Running {
            server: Arc::new(server),
            spool: self.spool,
            board: self.board,
            settings: self.settings,
            deliverers,
            news,
            held: HashMap::new(),
            lanes: HashSet::new(),
            open: HashMap::new(),
            served: HashSet::new(),
            tasks: TaskTracker::new(),
            heard: Instant::now(),
            telling: None,
            stopped: false,
        };
        running.tasks.spawn(bring::bring_over(Arc::clone(&running.server), self.directory));
        running.run(self.orders, heard, self.served, lanes, cancelled).await;
    }

    /// Connects, and listens to other nodes: to what they tell of lanes, and of calls that were cancelled. Until then calls
    /// are refused. `None` when nobody wants anything any more.
    async fn connect(&mut self) -> Option<(Server, Subscriber, Subscriber)> {
        let mut pauses = Pauses::new(PAUSES);
        let mut told = String::new();
        let (nodes, settings, secrets) = (self.nodes.clone(), self.settings.clone(), self.secrets.clone());
        let mut connecting = std::pin::pin!(async {
            loop {
                let opened = async {
                    let client = crate::nats::connect(&nodes.server, &secrets, |_| {}).await?;
                    let server =
                        Server::open(client, &nodes, &settings).await.map_err(|why| why.to_string())?;
                    let listen = async |to: &str| {
                        server.client.subscribe(server.names.told(to)).await.map_err(|why| why.to_string())
                    };
                    let (lanes, cancelled) = (listen("lane").await?, listen("cancelled").await?);
                    Ok::<_, String>((server, lanes, cancelled))
                };
                match opened.await {
                    Ok(connected) => return connected,
                    Err(why) if why != told => {
                        warn!(
                            "{}: the queue is not there: {why}: calls are refused until it is",
                            nodes.server.url
                        );
                        told = why;
                    }
                    Err(_) => {}
                }
                pauses.wait().await;
            }
        });
        // Most come a moment after the daemon, and are worth the wait.
        let patience = Instant::now() + WAITS;
        loop {
            tokio::select! {
                connected = &mut connecting => {
                    info!("{}: the queue is that of the nodes {:?}", nodes.server.url, nodes.name);
                    return Some(connected);
                }
                order = async {
                    sleep_until(patience).await;
                    self.orders.recv().await
                } => match order? {
                    Order::Append { reply, .. } => tell(reply, Err(Refusal::Disk)),
                    Order::Stop => return None,
                    _ => {}
                },
                // Who waits for another answer hears that there is none.
            }
        }
    }
}

impl Running {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut heard: mpsc::Receiver<News>,
        mut served: watch::Receiver<HashSet<FunctionKey>>,
        mut lanes: Subscriber,
        mut cancelled: Subscriber,
    ) {
        let every = |period| {
            let mut every = interval(period);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        };
        let (mut progress, mut look, mut depths) =
            (every(PROGRESS), every(LOOK_FOR_LANES), every(depth::EVERY));
        served.mark_changed();
        loop {
            if self.may_begin() {
                self.begin();
            }
            if self.board.lines().in_flight() == 0 {
                self.board.idle.notify_waiters();
            }
            let due = self.board.lines().next_due().filter(|_| self.may_begin());
            let due = due.map(|due| u64::try_from(due - now()).unwrap_or(0));
            let due = Instant::now() + Duration::from_millis(due.unwrap_or(u64::from(u32::MAX)));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                Some(news) = heard.recv() => self.hear(news),
                changed = served.changed() => match changed {
                    Ok(()) => {
                        let now_served = served.borrow_and_update().clone();
                        self.serve(now_served);
                    }
                    Err(_) => return,
                },
                Some(message) = lanes.next() => self.hear_of_lane(&message),
                Some(message) = cancelled.next() => self.hear_of_cancelled(&message),
                _ = progress.tick() => self.tell_progress(),
                _ = look.tick() => self.look_for_lanes(),
                _ = depths.tick() => self.look_how_deep(),
                () = sleep_until(due) => {}
            }
        }
    }

    /// What the server has not heard of for long may be another node's.
    fn may_begin(&self) -> bool {
        !self.stopped && self.heard.elapsed() <= ACK_WAIT
    }

    /// Has calls begin whose turn it is.
    fn begin(&mut self) {
        let deliverers = &self.deliverers;
        let turns = self.board.lines().begin(now(), BEGUN_AT_ONCE, |key| deliverers.limit_of(key));
        for turn in turns {
            match self.held.get(&turn.number) {
                Some(held) => deliverers.begin(turn, held.loaded.clone()),
                None => drop(self.board.lines().give_back(&turn.function, turn.number)),
            }
        }
    }

    async fn carry_out(&mut self, order: Order) {
        let server = Arc::clone(&self.server);
        match order {
            Order::Append { call, body, reply } => {
                let (spool, board) = (self.spool.clone(), Arc::clone(&self.board));
                self.tasks.spawn(async move {
                    let appended = server.append(&spool, &call, &body).await;
                    if let Ok(super::invocation::Accepted::New) = appended {
                        board.submitted(&call.function);
                    }
                    remove(&spool, &body);
                    tell(reply, appended);
                });
            }
            Order::End { function, number, ended } => self.end(function, number, ended),
            Order::Cancel { id, functions, reply } => {
                let board = Arc::clone(&self.board);
                self.tasks.spawn(async move {
                    let Some(gone) = known(&server, server.cancel(&id, &functions)).await else { return };
                    gone.iter().for_each(|function| board.ended(function));
                    tell(reply, gone.len());
                });
            }
            Order::Known { id, reply } => {
                self.tasks.spawn(async move {
                    if let Some(functions) = known(&server, server.functions_of(&id)).await {
                        tell(reply, functions);
                    }
                });
            }
            Order::Result { id, functions, reply } => {
                self.tasks.spawn(async move {
                    if let Some(result) = known(&server, server.result(&id, &functions)).await {
                        tell(reply, result);
                    }
                });
            }
            // It is not served any more, which is heard in another way.
            Order::Forget(_) => {}
            Order::Look(function) => {
                self.board.lines().reopen(&function);
                self.make_room();
            }
            Order::Stop => self.stop().await,
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Pulled(pulled) => self.pulled(*pulled),
            News::Settled(function, number, settled, end) => self.settled(&function, number, settled, &end),
            News::Heard(at) => self.heard = self.heard.max(at),
            News::Depths(depths) => {
                self.board.set_depths(depths);
                self.make_room();
            }
            News::Lanes(lanes) => {
                self.lanes.extend(lanes);
                self.open_lanes();
            }
        }
    }

    fn pulled(&mut self, pulled: Pulled) {
        let Pulled { number, function, loaded, .. } = &pulled;
        if self.stopped || !self.served.contains(function) {
            self.drop_files(&pulled);
            let server = Arc::clone(&self.server);
            self.tasks.spawn(async move { give_back(&server, &pulled.held, Duration::ZERO).await });
            return;
        }
        if self.held.contains_key(number) {
            // It took longer than the server waits; who is at it goes on.
            return self.drop_files(&pulled);
        }
        let mut entry = entry(&loaded.call, &loaded.body);
        (entry.attempts, entry.answered, entry.due) = (pulled.attempts, loaded.answer.is_some(), 0);
        // The files are those of what is held.
        entry.files.clear();
        self.board.lines().restore(function, *number, entry, false);
        self.held.insert(*number, Arc::new(pulled));
    }

    /// A turn has ended: has the server know, and then the lines.
    fn end(&mut self, function: FunctionKey, number: u64, ended: Ended) {
        let Some(held) = self.held.get(&number).cloned() else { return };
        let (attempts, cancelled) = {
            let lines = self.board.lines();
            (lines.attempts(&function, number), lines.is_over(&function, number))
        };
        let retry_for = i64::try_from(self.settings.retry_for.as_millis()).unwrap_or(i64::MAX);
        if matches!(ended, Ended::NotTaken { .. })
            && held.loaded.call.accepted <= now().saturating_sub(retry_for)
        {
            // Nobody took it for too long: it is given up here.
            let end = end_of(&ended, &self.settings);
            self.board.lines().end(&function, number, &end);
            return self.closed(&function);
        }
        let ended = if cancelled == Some(true) && !matches!(ended, Ended::Done { .. } | Ended::Dead { .. }) {
            Ended::Cancelled
        } else {
            ended
        };
        let end = end_of(&ended, &self.settings);
        let (server, spool, news) = (Arc::clone(&self.server), self.spool.clone(), self.news.clone());
        self.tasks.spawn(async move {
            let (attempts, forgotten) = (attempts.unwrap_or(0), cancelled.is_none());
            let settled =
                settle(&server, &spool, number, (&held.loaded, &held.held), ended, attempts, forgotten).await;
            if news.send(News::Settled(function, number, settled, end)).await.is_err() {
                debug!("the end of a turn is not heard any more");
            }
        });
    }

    fn settled(&mut self, function: &FunctionKey, number: u64, settled: Settled, end: &End) {
        let mut lines = self.board.lines();
        let over = lines.end(function, number, end);
        if over.is_none() {
            lines.give_back(function, number);
        }
        drop(lines);
        if settled == Settled::Over {
            self.board.ended(function);
        }
        self.release(number);
        if matches!(end, End::NotTaken { .. }) {
            self.closed(function);
        }
    }

    /// A function takes nothing here: other nodes may be able to make what is held of it.
    fn closed(&mut self, function: &FunctionKey) {
        let others = self.board.lines().idle(function);
        for number in others {
            self.board.lines().give_back(function, number);
            self.give_back(number, NOT_TAKEN);
        }
        self.make_room();
    }

    /// Gives a call back that is in no line any more.
    fn give_back(&mut self, number: u64, pause: Duration) {
        let Some(held) = self.release(number) else { return };
        let server = Arc::clone(&self.server);
        self.tasks.spawn(async move { give_back(&server, &held.held, pause).await });
    }

    /// A call is not held any more.
    fn release(&mut self, number: u64) -> Option<Arc<Pulled>> {
        let held = self.held.remove(&number)?;
        self.drop_files(&held);
        Some(held)
    }

    fn drop_files(&self, pulled: &Pulled) {
        remove(&self.spool, &pulled.loaded.body);
        if let Some((_, body, _)) = &pulled.loaded.answer {
            remove(&self.spool, body);
        }
    }

    /// From now on these are the functions that are here.
    fn serve(&mut self, served: HashSet<FunctionKey>) {
        let gone: Vec<_> = self.served.difference(&served).cloned().collect();
        let new: Vec<_> = served.difference(&self.served).cloned().collect();
        self.served = served;
        // Other nodes may have them: what was held of them is theirs.
        for function in gone {
            self.forget(&function);
        }
        // Every function has the lane that most calls are in.
        let usual = Lane::of(&super::wishes::Wishes::default());
        self.lanes.extend(new.into_iter().map(|function| (function, usual)));
        self.open_lanes();
    }

    fn forget(&mut self, function: &FunctionKey) {
        self.open.retain(|(of, _), _| of != function);
        let idle: Vec<_> =
            self.idle().into_iter().filter(|number| self.held[number].function == *function).collect();
        // Those that are at it end with it, and are given back then.
        self.board.lines().forget(function);
        for number in idle {
            self.give_back(number, Duration::ZERO);
        }
    }

    fn open_lanes(&mut self) {
        if self.stopped {
            return;
        }
        for (function, lane) in self.lanes.iter().filter(|(function, _)| self.served.contains(function)) {
            let key = (function.clone(), *lane);
            if self.open.contains_key(&key) {
                continue;
            }
            let size = room(&*self.deliverers, &self.board, function, *lane);
            let (room, stopped) = (Arc::new(Semaphore::new(size)), CancellationToken::new());
            let puller = Puller {
                server: Arc::clone(&self.server),
                spool: self.spool.clone(),
                function: function.clone(),
                lane: *lane,
                room: Arc::clone(&room),
                news: self.news.clone(),
                stopped: stopped.clone(),
            };
            self.tasks.spawn(puller.run());
            self.open.insert(key, Open { room, size, _end: stopped.drop_guard() });
        }
    }

    /// As many calls of a lane are held as may be made at once.
    fn make_room(&mut self) {
        for ((function, lane), open) in &mut self.open {
            let size = room(&*self.deliverers, &self.board, function, *lane);
            if size > open.size {
                open.room.add_permits(size - open.size);
                open.size = size;
            } else if size < open.size {
                open.size -= open.room.forget_permits(open.size - size);
            }
        }
    }

    fn hear_of_lane(&mut self, message: &Message) {
        let lane = std::str::from_utf8(&message.payload).ok().and_then(of_consumer);
        self.lanes.extend(lane);
        self.open_lanes();
    }

    fn hear_of_cancelled(&mut self, message: &Message) {
        let Ok(Cancelled { id, functions }) = serde_json::from_slice(&message.payload) else { return };
        let functions: Vec<_> =
            functions.iter().filter_map(|function| FunctionKey::from_route(function).ok()).collect();
        let (_, gone) = self.board.lines().cancel(&id, &functions);
        for (number, _) in gone {
            self.release(number);
        }
    }

    /// Somebody is at the calls that are held.
    fn tell_progress(&mut self) {
        // Where the server is away it hears nothing, and one that waits for it is enough.
        if self.telling.as_ref().is_some_and(|telling| !telling.is_finished()) {
            return;
        }
        if self.heard.elapsed() > ACK_WAIT {
            self.lapse();
        }
        let held: Vec<_> = self.held.values().cloned().collect();
        let (server, news, at) = (Arc::clone(&self.server), self.news.clone(), Instant::now());
        let telling = self.tasks.spawn(async move {
            for held in held {
                if let Err(why) = nak(&server, &held.held.acker, AckKind::Progress).await {
                    return debug!("the server does not hear that calls are at work: {why}");
                }
            }
            let heard = within(PATIENCE, async { server.calls.get_info().await.map_err(failed) }).await;
            if heard.is_ok() && news.send(News::Heard(at)).await.is_err() {
                debug!("the queue is kept no more");
            }
        });
        self.telling = Some(telling);
    }

    /// The server has not heard of this node for so long that what it holds is others': what has not begun is let go.
    fn lapse(&mut self) {
        let idle = self.idle();
        for number in idle {
            if let Some(held) = self.release(number) {
                self.board.lines().give_back(&held.function, number);
            }
        }
    }

    /// The calls that are held and have not begun.
    fn idle(&self) -> Vec<u64> {
        let lines = self.board.lines();
        self.held.keys().copied().filter(|number| !lines.has_begun(*number)).collect()
    }

    fn look_for_lanes(&self) {
        let (server, news) = (Arc::clone(&self.server), self.news.clone());
        self.tasks.spawn(async move {
            let names: Result<Vec<String>, _> = server.calls.consumer_names().try_collect().await;
            match names {
                Ok(names) => {
                    let lanes = names.iter().filter_map(|name| of_consumer(name)).collect();
                    if news.send(News::Lanes(lanes)).await.is_err() {
                        debug!("lanes are not looked for any more");
                    }
                }
                Err(why) => debug!("lanes are not known: {why}"),
            }
        });
    }

    fn look_how_deep(&self) {
        let (server, news) = (Arc::clone(&self.server), self.news.clone());
        let lanes: Vec<_> = self.open.keys().cloned().collect();
        self.tasks.spawn(async move {
            match depth::depths(server, lanes).await {
                Ok(depths) => {
                    if news.send(News::Depths(depths)).await.is_err() {
                        debug!("it is not looked how deep the queue is any more");
                    }
                }
                Err(why) => debug!("it is not known how deep the queue is: {why}"),
            }
        });
    }

    /// Begins nothing any more: what has not begun is for other nodes.
    async fn stop(&mut self) {
        self.stopped = true;
        self.open.clear();
        for number in self.idle() {
            if let Some(held) = self.release(number) {
                self.board.lines().give_back(&held.function, number);
                give_back(&self.server, &held.held, Duration::ZERO).await;
            }
        }
        if timeout(LAST_WORDS, self.server.client.flush()).await.is_err() {
            debug!("the server may not have heard that calls were given back");
        }
    }
}

/// How many calls of a lane may be held.
fn room(deliverers: &dyn Deliverers, board: &Board, function: &FunctionKey, lane: Lane) -> usize {
    if matches!(lane, Lane::Ordered(_)) || board.lines().is_closed(function) {
        return 1;
    }
    // Beside those that are made there is one for each that may follow: else one of less priority would be made before a
    // better one is here.
    (2 * deliverers.limit_of(function)).clamp(2, MOST)
}

fn remove(spool: &Spool, body: &Kept) {
    if let Some(file) = body.file() {
        spool.remove(file);
    }
}

/// What the server says, if it does. Who has asked hears that it did not.
async fn known<T>(server: &Server, asked: impl Future<Output = Result<T, Failed>>) -> Option<T> {
    let answer = match server.connected() {
        Ok(()) => within(TRANSFER, asked).await,
        Err(why) => Err(why),
    };
    answer.inspect_err(|why| warn!("the queue cannot be asked: {why}")).ok()
}
