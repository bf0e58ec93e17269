//! The way to other nodes and from them.
//!
//! Owns the connection to NATS and the two tasks at its ends: one says what is in the outbox, the other hears what others
//! say and does it here. While NATS is away this node goes on by itself: nothing here is waited for but answers, and these
//! for no longer than [`PATIENCE`].
//!
//! Only these subjects are used: `NAME.hub.all` for what all are to hear, and `NAME.hub.to.NODE` for answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use roost_proxy::websocket::{Hub, Saying};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::asked::Asked;
use super::outbox::{Losses, Outbox, Parcel};
use super::peers::{self, Peers, Way};
use super::question::{Answer, Question};
use super::wire::{self, Heard, Say, What};
use super::{Figures, Found, Settings, here};
use crate::function::registry::Registry;
use crate::nats;
use crate::pauses::Pauses;
use crate::secrets::Secrets;

/// For how long the answers of other nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pauses between tries to connect for the first time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The way to other nodes.
pub(super) struct Link {
    settings: Settings,
    /// That of this node.
    name: String,
    outbox: Outbox,
    /// The other end of that, until it is started.
    parcels: Mutex<Option<mpsc::Receiver<Parcel>>>,
    asked: Arc<Asked>,
    peers: Mutex<Peers>,
    connected: AtomicBool,
    /// The last words are said.
    ended: Notify,
    /// What was said to many: passed on, and heard.
    told: [AtomicU64; 2],
    missed: Losses,
}

impl Link {
    pub(super) fn new(settings: Settings) -> Arc<Self> {
        let (outbox, parcels) = Outbox::new();
        let own = Uuid::new_v4().simple().to_string();
        Arc::new(Self {
            settings,
            name: wire::name_on(&host(), &own[..8]),
            outbox,
            parcels: Mutex::new(Some(parcels)),
            asked: Arc::default(),
            peers: Mutex::default(),
            connected: AtomicBool::new(false),
            ended: Notify::new(),
            told: Default::default(),
            missed: Losses::new(
                "not all that was said on other nodes has come here: NATS or this host is too slow",
            ),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            connected: self.connected.load(Relaxed),
            known: self.peers().len(),
            told: self.told.each_ref().map(|count| count.load(Relaxed)),
            lost: [self.outbox.lost().count(), self.missed.count()],
        }
    }

    /// Connects, and stays connected from now on. For once.
    pub(super) fn start(self: &Arc<Self>, hub: &Arc<Hub>, registry: &Arc<Registry>, secrets: &Secrets) {
        let parcels = self.parcels.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(parcels) = parcels else { return };
        let link = Arc::clone(self);
        if !hub.set_peers(move |saying| link.pass_on(saying)) {
            warn!("somebody else passes on already what is said to many");
        }
        let (link, secrets) = (Arc::clone(self), secrets.clone());
        let (hub, registry) = (Arc::clone(hub), Arc::clone(registry));
        tokio::spawn(async move {
            let client = link.connect(&secrets).await;
            match link.listen(&client).await {
                Ok(subscribers) => {
                    // Only now: who hears of this node is heard by it.
                    link.greet();
                    info!("this node is {} of {}", link.name, link.settings.name);
                    let talking = Arc::clone(&link).talk(client, parcels);
                    tokio::join!(talking, link.hear_all(&hub, &registry, subscribers));
                }
                Err(why) => warn!("nats: other nodes are not heard: {why}"),
            }
        });
    }

    async fn connect(self: &Arc<Self>, secrets: &Secrets) -> Client {
        let (mut pauses, mut told) = (Pauses::new(PAUSES), String::new());
        loop {
            let link = Arc::downgrade(self);
            let connected = move |is| {
                if let Some(link) = link.upgrade() {
                    link.connected(is);
                }
            };
            match nats::connect(&self.settings.server, secrets, connected).await {
                Ok(client) => {
                    self.connected.store(client.connection_state() == State::Connected, Relaxed);
                    return client;
                }
                Err(why) => {
                    if told != why {
                        warn!("nats: not connected, this node goes on by itself: {why}");
                        told = why;
                    }
                    pauses.wait().await;
                }
            }
        }
    }

    fn connected(&self, is: bool) {
        self.connected.store(is, Relaxed);
        if is {
            self.greet();
        }
    }

    /// Says that this node is here, and asks who else is.
    fn greet(&self) {
        self.here(true);
    }

    fn here(&self, new: bool) {
        if !self.outbox.put(Parcel::to_all(What::Here { new }, Bytes::new())) {
            debug!("nodes: there is no room to say that this one is here");
        }
    }

    async fn listen(&self, client: &Client) -> Result<[Subscriber; 2], async_nats::SubscribeError> {
        Ok([
            client.subscribe(self.subject(None)).await?,
            client.subscribe(self.subject(Some(&self.name))).await?,
        ])
    }

    fn subject(&self, node: Option<&str>) -> String {
        let name = &self.settings.name;
        node.map_or_else(|| format!("{name}.hub.all"), |node| format!("{name}.hub.to.{node}"))
    }

    /// Notes what was said to many here. Called under locks.
    fn pass_on(&self, saying: &Saying<'_>) {
        let is_noted = self.connected.load(Relaxed) && {
            let what = What::Say(Say::new(saying));
            self.outbox.put(Parcel::to_all(what, saying.message.data.clone()))
        };
        if !is_noted {
            self.outbox.lost().add(1);
        }
    }

    /// Says what is in the outbox, one behind the other.
    async fn talk(self: Arc<Self>, client: Client, mut parcels: mpsc::Receiver<Parcel>) {
        let mut numbers = [0; 2];
        while let Some(parcel) = parcels.recv().await {
            self.outbox.taken(&parcel);
            let number = &mut numbers[usize::from(parcel.to.is_some())];
            let (is_said, is_last) = (matches!(parcel.what, What::Say(_)), parcel.what == What::Bye);
            let published = self.publish(&client, *number, parcel).await;
            // Also if it failed: a part of it may have been heard.
            *number += 1;
            match published {
                Ok(()) if is_said => drop(self.told[0].fetch_add(1, Relaxed)),
                Ok(()) => {}
                Err(why) => {
                    debug!("nodes: not said: {why}");
                    self.outbox.lost().add(u64::from(is_said));
                }
            }
            if is_last {
                if let Err(error) = client.flush().await {
                    debug!("nodes: the last words may not be heard: {error}");
                }
                self.ended.notify_one();
                return;
            }
        }
    }

    async fn publish(&self, client: &Client, number: u64, parcel: Parcel) -> Result<(), String> {
        let Parcel { to, what, data } = parcel;
        let frames = wire::frames(&self.name, number, what, &data, client.max_payload());
        let subject = self.subject(to.as_deref());
        for frame in frames.ok_or("it is too long")? {
            client.publish(subject.clone(), frame).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Does what others say, and tells them that this node is here.
    async fn hear_all(&self, hub: &Hub, registry: &Registry, [mut all, mut own]: [Subscriber; 2]) -> ! {
        let mut ticks = interval(peers::EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(came) = all.next() => self.hear(hub, registry, Way::All, came.payload),
                Some(came) = own.next() => self.hear(hub, registry, Way::One, came.payload),
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn tick(&self) {
        self.outbox.lost().tick();
        self.missed.tick();
        for name in self.peers().forget(Instant::now()) {
            warn!("node {name} is not heard of any more");
        }
        if self.connected.load(Relaxed) {
            self.here(false);
        }
    }

    fn hear(&self, hub: &Hub, registry: &Registry, way: Way, frame: Bytes) {
        let Some((head, data)) = wire::read(frame) else {
            return debug!("nodes: something came that this version does not understand");
        };
        if *head.from == *self.name {
            return;
        }
        let from = head.from.clone();
        let Some((is_new, heard)) = self.peers().hear(way, head, data, Instant::now()) else {
            return debug!("node {from} is not heard: {} are known", peers::MOST);
        };
        if is_new {
            info!("node {from} is there");
        }
        let Heard { whole, lost } = heard;
        self.missed.add(lost);
        match whole {
            Some((What::Say(say), data)) => {
                self.told[1].fetch_add(1, Relaxed);
                if say.said(data, |saying| hub.say_here(saying)).is_none() {
                    debug!("node {from} says a text that is none");
                }
            }
            Some((What::Ask { id, ask }, data)) => {
                if let Some(question) = ask.with(data) {
                    self.answer(from, id, &here::answer(hub, registry, Some(&self.name), &question));
                }
            }
            Some((What::Answer { id }, data)) => self.answered(id, from, &data),
            Some((What::Here { new: true }, _)) => self.here(false),
            Some((What::Bye, _)) => {
                info!("node {from} has ended");
                self.peers().leave(&from);
            }
            Some((What::Here { new: false } | What::Unknown, _)) | None => {}
        }
    }

    fn answered(&self, id: u64, from: Box<str>, data: &[u8]) {
        match serde_json::from_slice(data) {
            Ok(answer) => {
                if !self.asked.answered(id, from, answer) {
                    debug!("nodes: an answer came that nobody waits for");
                }
            }
            Err(error) => debug!("nodes: an answer of {from} cannot be read: {error}"),
        }
    }

    fn answer(&self, to: Box<str>, id: u64, answer: &Answer) {
        let data = serde_json::to_vec(answer).unwrap_or_default();
        if !self.outbox.put(Parcel { to: Some(to), what: What::Answer { id }, data: data.into() }) {
            debug!("nodes: there is no room for an answer");
        }
    }

    /// Asks the others what this node has answered already.
    pub(super) async fn ask(&self, question: Question, here: Answer) -> Found<Answer> {
        let mut found = Found { found: here, silent: Vec::new() };
        if !self.connected.load(Relaxed) {
            return found;
        }
        let mut silent = self.peers().names();
        if silent.is_empty() {
            return found;
        }
        let (is_one, limit, data) =
            (matches!(question, Question::One { .. }), question.limit(), question.data());
        if let Some(mut waiting) = self.asked.wait(silent.len())
            && self.outbox.put(Parcel::to_all(What::Ask { id: waiting.id, ask: question }, data))
        {
            let deadline = Instant::now() + PATIENCE;
            while let Ok(Some((from, answer))) = timeout_at(deadline, waiting.answers.recv()).await {
                silent.retain(|name| *name != from);
                found.found = found.found.and(answer, limit);
                if silent.is_empty() || is_one && found.found.is_somebody() {
                    return found;
                }
            }
        }
        debug!("nodes: no answer of {}", silent.join(", "));
        found.silent = silent.into_iter().map(String::from).collect();
        found
    }

    /// Tells the others that this node ends, behind everything else that is to be said to them.
    pub(super) async fn end(&self) {
        let is_in = self.connected.load(Relaxed) && self.outbox.put(Parcel::to_all(What::Bye, Bytes::new()));
        if is_in && timeout(LAST_WORDS, self.ended.notified()).await.is_err() {
            debug!("nodes: no last words: NATS is too slow");
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        // Nothing happens under the lock that could leave it half done.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of this host, or nothing.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}
