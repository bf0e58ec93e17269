//! Letters that nodes share: a log in JetStream, which each of them follows into the files of its own.
//!
//! Owns what is in the log, and how far it was followed. A letter is kept once it is in the log; what is looked at is always
//! here. Whoever was away reads on from where it was. A letter of an event that cannot be brought into the log is kept here
//! alone.
//!
//! ```text
//!   keep, tried, gone ─► NAME-letters ─► follow (each node) ─► Store
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::object_store::ObjectStore;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType, Stream};
use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::letter::{Draft, Head, Last, LetterId};
use super::{DeadLetters, Lost, Settings};
use crate::nodes;
use crate::pauses::Pauses;
use crate::secrets::Secrets;

/// Which header of a message has the entry.
const ENTRY: &str = "Roost-Letter";

/// The largest body that is in its message, in bytes.
const INLINE: usize = 256 << 10;

/// The pauses between tries to connect, and to follow.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long the server may take for an answer, and this node until it has followed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a body may take on its way.
const TRANSFER: Duration = Duration::from_secs(25);

/// What a message has besides its body at most, in bytes.
const HEAD: usize = 128 << 10;

/// How often it is tried to read the body of a letter.
const TRIES: u32 = 5;

const NO_ANSWER: &str = "the server does not answer";

/// The file that says how far the log was followed.
const FOLLOWED: &str = "followed";

/// The log, once it is there.
#[derive(Default)]
pub(super) struct Handle {
    /// Letters are to be shared.
    wanted: AtomicBool,
    log: OnceLock<Log>,
    /// The number of the last entry that was followed.
    followed: watch::Sender<u64>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

struct Log {
    context: Context,
    stream: Stream,
    bodies: ObjectStore,
    /// The largest body that is in its message, in bytes.
    inline: usize,
    name: String,
}

/// An entry of the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    /// A letter; its body is the payload, or this object.
    Keep { head: Box<Head>, object: Option<String> },
    /// One was sent again.
    Tried { id: LetterId, attempts: u32, last: Last },
    /// These are gone.
    Gone(Vec<LetterId>),
}

/// What a node has done of the log: of which one, and how far.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Followed {
    created: i64,
    number: u64,
}

impl Handle {
    /// The log, if letters are to be shared.
    ///
    /// # Errors
    /// When it is not there.
    fn log(&self) -> Option<Result<&Log, String>> {
        let wanted = self.wanted.load(Relaxed);
        wanted.then(|| self.log.get().ok_or_else(|| "the server of the nodes was not reached yet".to_owned()))
    }

    /// Keeps a letter in the log: the number of its entry. `None` where letters are not shared.
    pub(super) async fn keep(&self, function: &FunctionKey, draft: &Draft) -> Option<Result<u64, String>> {
        let log = match self.log()? {
            Ok(log) => log,
            Err(why) => return Some(Err(why)),
        };
        Some(log.keep(function, draft).await)
    }

    /// Waits until this node has followed the log so far; not for ever, as it is kept anyway.
    pub(super) async fn here(&self, number: u64) {
        let mut followed = self.followed.subscribe();
        let here = timeout(PATIENCE, followed.wait_for(|followed| *followed >= number));
        if here.await.is_err() {
            debug!("what was noted of a dead letter is not here yet");
        }
    }

    /// Has something noted in the log, and waits until it is followed here. `false` where letters are not shared.
    async fn note(&self, function: &FunctionKey, entry: &Entry) -> io::Result<bool> {
        let Some(log) = self.log() else { return Ok(false) };
        let number = match log {
            Ok(log) => log.publish(function, entry, Bytes::new()).await,
            Err(why) => Err(why),
        };
        self.here(number.map_err(io::Error::other)?).await;
        Ok(true)
    }

    pub(super) async fn gone(&self, function: &FunctionKey, ids: Vec<LetterId>) -> io::Result<bool> {
        self.note(function, &Entry::Gone(ids)).await
    }

    pub(super) async fn tried(
        &self,
        function: &FunctionKey,
        (id, attempts, last): (LetterId, u32, Last),
    ) -> io::Result<bool> {
        self.note(function, &Entry::Tried { id, attempts, last }).await
    }
}

impl Log {
    async fn open(nodes: &nodes::Settings, secrets: &Secrets, settings: &Settings) -> Result<Self, String> {
        let client = crate::nats::connect(&nodes.server, secrets, |_| {}).await?;
        let mut context = async_nats::jetstream::new(client);
        context.set_timeout(PATIENCE);
        let name = format!("{}-letters", nodes.name);
        let config = Config {
            name: name.clone(),
            subjects: vec![format!("{}.letters.>", nodes.name)],
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_age: settings.max_age,
            max_bytes: i64::try_from(settings.max_total).unwrap_or(i64::MAX),
            num_replicas: nodes.replicas,
            ..Config::default()
        };
        context.create_or_update_stream(config).await.map_err(|why| why.to_string())?;
        let stream = context.get_stream(&name).await.map_err(|why| why.to_string())?;
        let bodies = Config {
            name: format!("OBJ_{name}"),
            subjects: vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
            storage: StorageType::File,
            // As in the log, the oldest go first; whoever has followed it has them anyway.
            discard: DiscardPolicy::Old,
            allow_rollup: true,
            allow_direct: true,
            max_age: settings.max_age,
            max_bytes: i64::try_from(settings.max_total).unwrap_or(i64::MAX),
            num_replicas: nodes.replicas,
            ..Config::default()
        };
        context.create_or_update_stream(bodies).await.map_err(|why| why.to_string())?;
        let bodies = context.get_object_store(&name).await.map_err(|why| why.to_string())?;
        let largest = context.client().server_info().max_payload.saturating_sub(HEAD);
        Ok(Self { context, stream, bodies, inline: INLINE.min(largest), name: nodes.name.clone() })
    }

    async fn keep(&self, function: &FunctionKey, draft: &Draft) -> Result<u64, String> {
        let (payload, object) = if draft.body.len() <= self.inline {
            (draft.body.clone(), None)
        } else {
            let name = uuid::Uuid::new_v4().to_string();
            let mut data = &draft.body[..];
            let put = timeout(TRANSFER, self.bodies.put(name.as_str(), &mut data)).await;
            put.map_err(|_| NO_ANSWER.to_owned())?.map_err(|why| why.to_string())?;
            (Bytes::new(), Some(name))
        };
        self.publish(function, &Entry::Keep { head: Box::new(draft.head.clone()), object }, payload).await
    }

    /// Writes an entry: its number.
    async fn publish(&self, function: &FunctionKey, entry: &Entry, payload: Bytes) -> Result<u64, String> {
        let text = serde_json::to_string(entry).map_err(|why| why.to_string())?;
        let subject = format!("{}.letters.{}.{}", self.name, function.namespace, function.name);
        let message = PublishMessage::build().header(ENTRY, text.as_str()).payload(payload);
        if self.context.client().connection_state() != State::Connected {
            return Err("there is no connection to the server".to_owned());
        }
        let sent = self.context.send_publish(subject, message).await.map_err(|why| why.to_string())?;
        Ok(sent.await.map_err(|why| why.to_string())?.sequence)
    }

    /// An entry, and whose it is.
    fn entry(message: &Message) -> Result<(FunctionKey, Entry), String> {
        let mut words = message.subject.rsplit('.');
        let (function, namespace) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let key = namespace.parse().ok().zip(function.parse().ok());
        let (namespace, function) = key.ok_or_else(|| format!("{} is of no function", message.subject))?;
        let text = message.headers.as_ref().and_then(|headers| headers.get(ENTRY)).ok_or("it is no entry")?;
        let entry: Entry = serde_json::from_str(text.as_str()).map_err(|why| why.to_string())?;
        Ok((FunctionKey::new(namespace, function), entry))
    }

    /// The body of the letter that an entry has.
    async fn body(&self, message: &Message, entry: &Entry) -> Result<Bytes, String> {
        let Entry::Keep { object: Some(name), .. } = entry else { return Ok(message.payload.clone()) };
        let read = timeout(TRANSFER, async {
            let mut object = self.bodies.get(name).await.map_err(|why| why.to_string())?;
            let mut bytes = Vec::new();
            object.read_to_end(&mut bytes).await.map_err(|why| why.to_string())?;
            Ok(bytes.into())
        });
        read.await.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()))
    }
}

impl DeadLetters {
    /// From now on letters are shared with other nodes.
    pub fn share(&self, nodes: nodes::Settings, secrets: Secrets, settings: Settings) {
        self.0.shared.wanted.store(true, Relaxed);
        tokio::spawn(follow(self.clone(), nodes, secrets, settings));
    }

    /// Removes letters of a function; `false` where letters are not shared.
    pub(super) async fn drop_shared(&self, function: &FunctionKey, ids: Vec<LetterId>) -> io::Result<bool> {
        self.0.shared.gone(function, ids).await
    }

    async fn apply(&self, id: LetterId, function: FunctionKey, entry: Entry, body: Bytes) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        self.with(move |store| {
            match entry {
                Entry::Keep { head, .. } => {
                    let gone = store.add_as(id, &function, Draft { head: *head, body })?;
                    shared.lose(Lost::Size, gone);
                }
                Entry::Tried { id, attempts, last } => store.tried(&function, id, attempts, last)?,
                Entry::Gone(ids) => store.drop_of(&function, ids)?,
            }
            store.sync()
        })
        .await
    }
}

/// Follows the log for ever.
async fn follow(letters: DeadLetters, nodes: nodes::Settings, secrets: Secrets, settings: Settings) {
    let mut pauses = Pauses::new(PAUSES);
    let mut told = String::new();
    loop {
        match Log::open(&nodes, &secrets, &settings).await {
            Ok(log) => {
                if letters.0.shared.log.set(log).is_err() {
                    debug!("the log of dead letters was there already");
                }
                break;
            }
            Err(why) if why != told => {
                warn!("{}: dead letters are not shared: {why}", nodes.server.url);
                told = why;
            }
            Err(_) => {}
        }
        pauses.wait().await;
    }
    let Some(log) = letters.0.shared.log.get() else { return };
    let (mut pauses, mut stuck) = (Pauses::new(PAUSES), Stuck::default());
    loop {
        let before = *letters.0.shared.followed.borrow();
        if let Err(why) = read_on(&letters, log, &mut stuck).await {
            debug!("dead letters of other nodes come later: {why}");
        }
        if *letters.0.shared.followed.borrow() > before {
            pauses = Pauses::new(PAUSES);
        }
        pauses.wait().await;
    }
}

/// An entry whose letter has a body that cannot be had, and how often it was tried.
#[derive(Default)]
struct Stuck {
    number: u64,
    times: u32,
}

impl Stuck {
    /// Is it to be tried again?
    fn again(&mut self, number: u64) -> bool {
        if self.number != number {
            *self = Self { number, times: 0 };
        }
        self.times += 1;
        self.times < TRIES
    }
}

/// Reads on from where this node was, as long as that works.
async fn read_on(letters: &DeadLetters, log: &Log, stuck: &mut Stuck) -> Result<(), String> {
    let info = log.stream.get_info().await.map_err(|why| why.to_string())?;
    let path = letters.0.shared_path();
    let mut followed = followed(&path, &info).await;
    letters.0.shared.followed.send_replace(followed.number);
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: followed.number + 1 };
    let config = OrderedConfig { deliver_policy, ..OrderedConfig::default() };
    let consumer = log.stream.create_consumer(config).await.map_err(|why| why.to_string())?;
    let mut messages = consumer.messages().await.map_err(|why| why.to_string())?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|why| why.to_string())?;
        let (number, id) = {
            let info = message.info().map_err(|why| why.to_string())?;
            let millis = info.published.unix_timestamp_nanos() / 1_000_000;
            let at = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
            (info.stream_sequence, LetterId::numbered(at.unwrap_or_default(), info.stream_sequence))
        };
        match Log::entry(&message) {
            Ok((function, entry)) => {
                let body = match log.body(&message, &entry).await {
                    Ok(body) => body,
                    Err(why) if stuck.again(number) => return Err(why),
                    Err(why) => {
                        warn!(%function, "{function}: the body of a dead letter is lost: {why}");
                        Bytes::new()
                    }
                };
                letters.apply(id, function, entry, body).await.map_err(|why| why.to_string())?;
            }
            Err(why) => warn!("an entry of the log of dead letters is left out: {why}"),
        }
        followed.number = number;
        note(&path, &followed).await.map_err(|why| why.to_string())?;
        letters.0.shared.followed.send_replace(number);
    }
    Err("the log has ended".to_owned())
}

/// How far the log was followed. One that was made anew begins anew.
async fn followed(path: &std::path::Path, info: &Info) -> Followed {
    let created = info.created.unix_timestamp();
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                info!("{}: {error}: all dead letters of other nodes are read", path.display());
            }
            Vec::new()
        }
    };
    let known: Followed = serde_json::from_slice(&text).unwrap_or_default();
    if known.created == created && known.number <= info.state.last_sequence {
        known
    } else {
        Followed { created, number: 0 }
    }
}

async fn note(path: &std::path::Path, followed: &Followed) -> io::Result<()> {
    let (path, text) = (PathBuf::from(path), serde_json::to_vec(followed)?);
    // Behind the letters, which are on the disk: at worst some are read once more, and are known.
    let written = spawn_blocking(move || {
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &path)
    });
    written.await.map_err(io::Error::other)?
}

impl super::Shared {
    fn shared_path(&self) -> PathBuf {
        self.store().directory().join(FOLLOWED)
    }
}
