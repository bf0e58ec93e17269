//! Connections that go on when this process ends, and those of an earlier one.
//!
//! Owns the way between two processes: each connection leaves its socket and what is known of it when it has nothing under
//! way, all of that is put where the next process finds it, and that one goes on from there. It is for a process that ends
//! in good order: of one that is killed the connections are gone, and whoever wants to hear of their end does.
//!
//! ```text
//!   leave ──► each: event over? ──► written down ──► its socket, and one letter for all, into the store ──► the process ends
//!                     │ in time?
//!                     └── no ──► 1012
//!   resume ──► read ──► out of the store ──► its function holds connections? ──► on
//!                                                 │ in time?
//!                                                 └── no ──► 1012
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::Shared;
use super::connection::{self, Connection, Ties};
use super::ending::{Category, Ending};
use super::event::{ConnectionId, Identity, Message};
use super::frame::{Decoder, Limits, State};
use super::history::{Bequeathed, Entry};
use super::lease::PassedLease;
use super::member::Member;
use super::passed::{self, All, Letter, Passed, PassedGroup, PassedMessage, PassedReturn, Raw};
use super::returns::{Owner, Remembered, Return, Token};
use super::settings::EventMode;
use super::socket::Socket;
use crate::access_log::Record;
use crate::function::FunctionKey;
use crate::lanes::Seat;
use crate::placement::ReplicaKey;
use crate::route::Routes;
use crate::tunnel::keep::{DescriptorStore, Named};
use crate::upstream::Upstream;

/// The most connections that are left to the next process.
pub const MAX_LEFT: usize = 20_480;

/// The name of the letter in the store.
pub const LETTER_NAME: &str = "connections";

/// How long a function may take to be known again, and how long connections that were left may take to be closed.
const ADOPTION: Duration = Duration::from_secs(30);

/// How long an event that is under way may hold up the end of the process.
const LAST_EVENTS: Duration = Duration::from_secs(10);

/// For how long a client may come back at least, after a restart.
const LEAST_WAIT: Duration = Duration::from_secs(10);

/// How many functions are told at once of connections that are lost.
const AT_ONCE: usize = 32;

/// Where it is counted that a connection went on, or did not.
const RESUMED: usize = 0;
const LOST: usize = 1;

/// What one connection leaves.
#[derive(Debug)]
pub(super) struct Left {
    /// `None`: it is lost, and its client may come back.
    pub(super) socket: Option<OwnedFd>,
    pub(super) passed: Passed,
}

/// What an earlier process has left.
#[derive(Debug)]
pub struct Bequest {
    /// What was written, and how long ago.
    letter: io::Result<(All, Duration)>,
    sockets: HashMap<String, OwnedFd>,
}

impl Bequest {
    /// Is this the name of something that is kept for connections?
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        name == LETTER_NAME || number(name).is_some()
    }

    /// What was found under names of [ours](Self::is_name); nothing if there is no letter. Sockets of which no letter tells
    /// are closed.
    #[must_use]
    pub fn new(found: Vec<Named>) -> Option<Self> {
        let (mut letters, sockets): (Vec<Named>, Vec<Named>) =
            found.into_iter().partition(|(name, _)| name == LETTER_NAME);
        let (_, letter) = letters.pop()?;
        Some(Self { letter: passed::read(letter), sockets: sockets.into_iter().collect() })
    }
}

fn name(number: usize) -> String {
    format!("w{number:x}")
}

fn number(text: &str) -> Option<usize> {
    let number = usize::from_str_radix(text.strip_prefix('w')?, 16).ok()?;
    (name(number) == text).then_some(number)
}

impl Shared {
    /// Keeps connections beyond the end of this process from now on.
    pub(crate) fn keep(&self, store: Arc<dyn DescriptorStore>) {
        if self.store.set(store).is_err() {
            warn!("there is one that keeps connections already");
        }
    }

    /// Can connections outlive this process?
    pub(crate) fn keeps(&self) -> bool {
        self.store.get().is_some()
    }

    /// Another process is going to have connections: those that it cannot have end now.
    pub(crate) fn hand_over(&self) {
        self.handing_over.store(true, Ordering::Release);
        self.hub.wake_all();
    }

    /// Leaves connections to the next process, and resolves when all that can be is in the store. What cannot be left is
    /// closed. Behind [`close`](Self::close).
    pub(crate) async fn leave(&self) {
        let Some(store) = self.store.get() else { return };
        self.leaving.store(true, Ordering::Release);
        self.hub.wake_all();
        if timeout(LAST_EVENTS, self.tracker.wait()).await.is_err() {
            warn!("{} connections whose functions do not answer end with this process", self.tracker.len());
            self.hub.end_all(Ending::shutdown(), Duration::ZERO).await;
            self.leaving.store(false, Ordering::Release);
            if timeout(LAST_EVENTS, self.tracker.wait()).await.is_err() {
                self.cut();
            }
        }
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let groups = self.hub.topics.bequeath().into_iter().map(of_group).collect();
        if let Err(error) = put(&**store, left, groups).await {
            warn!("connections end with this process: {error}");
        }
    }

    /// Goes on with what is kept of groups. Before anybody is served: what is said from then on comes behind that.
    pub(crate) fn resume_groups(&self, bequest: &mut Bequest) {
        if let Ok((all, ago)) = &mut bequest.letter {
            let groups = std::mem::take(&mut all.groups);
            self.hub.topics.inherit(groups.into_iter().filter_map(|one| group(one, *ago)).collect());
        }
    }

    /// Goes on with connections of the functions in `routes`. `seat` says where each is to live.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        bequest: Bequest,
        routes: &Routes,
        seat: impl Fn() -> Option<(tokio::runtime::Handle, Seat)>,
    ) {
        let Bequest { letter, mut sockets } = bequest;
        let names: Vec<String> =
            std::iter::once(LETTER_NAME.to_owned()).chain(sockets.keys().cloned()).collect();
        match letter {
            Ok((all, ago)) => {
                info!("{} connections of an earlier process go on", all.connections.len());
                for (number, passed) in all.connections.into_iter().enumerate() {
                    let socket = sockets.remove(&name(number));
                    if socket.is_none() && passed.away.is_none() {
                        self.count(LOST, 1);
                        warn!("a connection of an earlier process is lost: its socket is not there");
                        continue;
                    }
                    self.resume_one(socket, passed, ago, routes, seat());
                }
            }
            Err(error) => warn!("connections of an earlier process are lost: {error}"),
        }
        // From here on they are ours: whoever comes next is not to find what they once were.
        let Some(store) = self.store.get() else { return };
        for name in names {
            if let Err(error) = store.remove(&name).await {
                warn!("what an earlier process has left of a connection stays: {error}");
            }
        }
    }

    fn resume_one(
        self: &Arc<Self>,
        socket: Option<OwnedFd>,
        passed: Passed,
        ago: Duration,
        routes: &Routes,
        seat: Option<(tokio::runtime::Handle, Seat)>,
    ) {
        let Some((identity, key)) = identify(&passed) else {
            self.count(LOST, 1);
            warn!("a connection of an earlier process ends: it is not known what it was");
            return;
        };
        let Some(upstream) = routes.get(&identity.function) else {
            info!(function = %identity.function, "a connection of an earlier process ends: its function is gone");
            self.count(LOST, 1);
            self.keeper.ended(identity.id);
            return;
        };
        let (lane, seat) =
            seat.map_or_else(|| (tokio::runtime::Handle::current(), None), |(lane, seat)| (lane, Some(seat)));
        let member = Member::resumed(
            identity,
            Arc::clone(&upstream),
            Duration::from_millis(passed.age) + ago,
            Duration::from_millis(passed.idle) + ago,
            passed.carried,
        );
        // At once: what others say to it from now on is for it.
        if let Some(returns) = passed.resume.as_ref().and_then(|resume| returns_of(resume, key.clone())) {
            self.hub.returns.enter(&member, returns);
        }
        self.hub.enter(&member);
        self.hub.is_of(&member);
        for group in &passed.groups {
            if let Err(error) = self.hub.join_again(&member, group) {
                debug!(%error, "a group is lost");
            }
        }
        member.opened();
        member.counters().opened();
        member.outbound.say_again(passed.unsent.iter().map(|frame| frame.0.clone()));
        if let (None, Some(returns)) = (&socket, member.returns.get()) {
            returns.goes_away(&member.outbound);
        }
        let (shared, cut) = (Arc::clone(self), self.cut.clone());
        let opening = Box::pin(async move {
            let Some(settings) = settings(&upstream).await else {
                shared.give_up(&member, "its function holds none");
                return None;
            };
            let ties = Ties { shared: Arc::clone(&shared), member, settings, key };
            shared.count(RESUMED, 1);
            go_on(ties, socket, passed, seat).map(Box::new)
        });
        let life = connection::live(opening);
        self.tracker.spawn_on(async move { cut.run_until_cancelled_owned(life).await }, &lane);
    }

    fn give_up(&self, member: &Arc<Member>, why: &str) {
        info!(function = %member.identity().function, "a connection of an earlier process ends: {why}");
        self.count(LOST, 1);
        self.hub.leave(member);
        member.counters().never_began();
        self.keeper.ended(member.identity().id);
    }

    fn count(&self, outcome: usize, count: usize) {
        self.resumed[outcome].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Connections of earlier processes that went on here, and those that did not.
    pub(crate) fn resumed(&self) -> [u64; 2] {
        self.resumed.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// Tells functions of the end of connections that ended with an earlier process.
    pub(crate) fn lost(self: &Arc<Self>, identities: Vec<Identity>, routes: &Routes) {
        self.count(LOST, identities.len());
        let places = Arc::new(Semaphore::new(AT_ONCE));
        for identity in identities {
            let Some(upstream) = routes.get(&identity.function) else {
                self.keeper.ended(identity.id);
                continue;
            };
            let (shared, cut, places) = (Arc::clone(self), self.cut.clone(), Arc::clone(&places));
            let telling = async move {
                let _place = places.acquire_owned().await;
                let Some(settings) = settings(&upstream).await else { return };
                let member = Member::new(identity, upstream, 0);
                let ties = Ties { shared, member, settings, key: None };
                connection::tell_loss(ties, "host restarted").await;
            };
            self.tracker.spawn(async move { cut.run_until_cancelled_owned(telling).await });
        }
    }
}

/// Puts all of them into the store, the letter last: without it none counts.
async fn put(store: &dyn DescriptorStore, left: Vec<Left>, groups: Vec<PassedGroup>) -> io::Result<()> {
    if left.is_empty() && groups.is_empty() {
        return Ok(());
    }
    let mut passed = Vec::with_capacity(left.len());
    if left.len() > MAX_LEFT {
        warn!("{} connections are more than the next process gets, and end", left.len() - MAX_LEFT);
    }
    for Left { socket, passed: one } in left.into_iter().take(MAX_LEFT) {
        let Some(socket) = socket else {
            passed.push(one);
            continue;
        };
        match store.put(&name(passed.len()), &[socket.as_fd()]).await {
            Ok(()) => passed.push(one),
            Err(error) => warn!("a connection ends with this process: {error}"),
        }
    }
    let count = passed.len();
    let letter = Letter::write(passed, groups)?;
    store.put(LETTER_NAME, &[letter.as_fd()]).await?;
    info!("{count} connections are left to the next process");
    Ok(())
}

/// What is kept of a group, as it is written down.
fn of_group(Bequeathed { namespace, group, place, entries }: Bequeathed) -> PassedGroup {
    let now = Instant::now();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let message = |entry: Entry| PassedMessage {
        text: entry.message.text,
        at: milliseconds(entry.at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        age: milliseconds(entry.age(now)),
        data: Raw(entry.message.data),
    };
    PassedGroup {
        namespace: namespace.to_string(),
        name: group.to_string(),
        place: place.to_string(),
        messages: entries.into_iter().map(message).collect(),
    }
}

/// The same read, so long after it was written.
fn group(passed: PassedGroup, ago: Duration) -> Option<Bequeathed> {
    let now = Instant::now();
    let entry = |PassedMessage { text, data: Raw(data), at, age }: PassedMessage| {
        let since = now.checked_sub(Duration::from_millis(age) + ago).unwrap_or(now);
        Entry::new(&Message { text, data }, UNIX_EPOCH + Duration::from_millis(at), since)
    };
    Some(Bequeathed {
        namespace: passed.namespace.parse().ok()?,
        group: passed.name.into(),
        place: passed.place.parse().ok()?,
        entries: passed.messages.into_iter().map(entry).collect(),
    })
}

/// What is kept for a client that may come back.
fn returns_of(passed: &PassedReturn, key: Option<ReplicaKey>) -> Option<Return> {
    let kept = passed.kept.iter().map(|frame| frame.0.clone()).collect();
    let owner = Owner { subject: passed.subject.as_deref().map(Box::from), key };
    Some(Return::of(Remembered { owner, token: Token::parse(&passed.token)?, said: passed.said, kept }))
}

/// What the function asks of its connections, once it is known.
async fn settings(upstream: &Upstream) -> Option<Arc<EventMode>> {
    timeout(ADOPTION, upstream.held()).await.ok()
}

fn go_on(ties: Ties, socket: Option<OwnedFd>, passed: Passed, seat: Option<Seat>) -> Option<Connection> {
    let (shared, member) = (Arc::clone(&ties.shared), Arc::clone(&ties.member));
    let away = passed.away.filter(|_| socket.is_none());
    let socket = match socket.map(open) {
        Some(Ok(socket)) => Socket::Resumed(socket, seat),
        None => Socket::Lost,
        Some(Err(error)) => {
            shared.give_up(&member, &error.to_string());
            return None;
        }
    };
    member.outbound.set_limit(ties.settings.outbound);
    let deflate = passed.window.and_then(super::deflate::Deflate::of_window);
    if let Some(deflate) = deflate {
        member.deflate.get_or_init(|| deflate);
    }
    let limits =
        Limits { max_message: ties.settings.max_message, deflate: deflate.is_some(), ..Limits::default() };
    let state = State { words: passed.place, bytes: passed.unfinished.0.to_vec() };
    let decoder = Decoder::from_state(limits, state);
    let known = decoder.is_some();
    let decoder = decoder.unwrap_or_else(|| Decoder::new(limits));
    let lease = passed.lease.map(PassedLease::take);
    let mut record = Record::held_again(member.upstream());
    if let (Some(place), Some(subject)) =
        (&mut record.place, lease.as_ref().and_then(|lease| lease.subject()))
    {
        place.set_user(shared.users.enter_again(subject));
    }
    let state = passed.state.map(String::into_boxed_str);
    let mut connection = Connection::new(ties, socket, passed.rest.0, decoder, state, record);
    let messages = passed.messages.into_iter().map(|(text, Raw(data))| Message { text, data });
    connection.goes_on(passed.sequence, messages.collect());
    connection.lets_go_with(lease);
    connection.allows(passed.rights);
    if let Some(left) = away {
        connection.waits(Instant::now() + Duration::from_millis(left).max(LEAST_WAIT));
    } else if !known {
        // Its limits are others now.
        member.end(Ending::of_host(1012, "service restart", Category::Deploy));
    }
    Some(connection)
}

fn open(socket: OwnedFd) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

fn identify(passed: &Passed) -> Option<(Identity, Option<ReplicaKey>)> {
    let boxed = |text: &Option<String>| text.as_deref().map(Box::<str>::from);
    let once = |text: &Option<String>| boxed(text).map_or_else(OnceLock::new, OnceLock::from);
    let key = match &passed.key {
        Some(key) => Some(key.parse().ok()?),
        None => None,
    };
    let function = FunctionKey::new(passed.namespace.parse().ok()?, passed.function.parse().ok()?);
    let identity = Identity {
        id: ConnectionId::parse(&passed.id)?,
        function,
        path: passed.path.as_str().into(),
        user: once(&passed.user),
        subprotocol: once(&passed.subprotocol),
        peer: passed.peer,
        host: boxed(&passed.host),
        user_agent: boxed(&passed.user_agent),
        since: UNIX_EPOCH + Duration::from_millis(passed.since),
    };
    Some((identity, key))
}

/// What is known of a connection, but for its wire.
pub(super) fn write_down(
    ties: &Ties,
    state: Option<&str>,
    sequence: u64,
    decoder: &Decoder,
    rest: &Bytes,
) -> Passed {
    let (member, identity) = (&ties.member, ties.member.identity());
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let State { words, bytes } = decoder.state();
    let carried = member.has_carried();
    Passed {
        id: identity.id.to_string(),
        function: identity.function.name.to_string(),
        namespace: identity.function.namespace.to_string(),
        path: identity.path.to_string(),
        user: identity.user().map(str::to_owned),
        subprotocol: identity.subprotocol().map(str::to_owned),
        peer: identity.peer,
        host: text(&identity.host),
        user_agent: text(&identity.user_agent),
        since: milliseconds(identity.since.duration_since(UNIX_EPOCH).unwrap_or_default()),
        age: milliseconds(member.age()),
        idle: milliseconds(Instant::now().saturating_duration_since(member.idle_since())),
        groups: member.groups().iter().map(ToString::to_string).collect(),
        state: state.map(str::to_owned),
        sequence,
        key: ties.key.as_ref().map(ToString::to_string),
        lease: None,
        rights: None,
        window: member.deflate.get().map(|deflate| deflate.window()),
        place: words,
        unfinished: Raw(bytes.into()),
        rest: Raw(rest.clone()),
        messages: Vec::new(),
        unsent: Vec::new(),
        carried: [carried.messages, carried.bytes],
        resume: member.returns.get().map(|returns| {
            let Remembered { owner, token, said, kept } = returns.remembered();
            let (token, subject) = (token.to_string(), owner.subject.map(Into::into));
            PassedReturn { token, subject, said, kept: kept.into_iter().map(Raw).collect() }
        }),
        away: None,
    }
}
