//! What a function asks of its connections in event mode.
//!
//! Owns plain data with defaults. Whoever embeds the proxy reads it from where functions say it.

use std::time::Duration;

use bytes::Bytes;

use super::codec::Codec;
use super::history::History;

/// How many tries an event has behind the first one.
pub(super) const RETRIES: u32 = 3;

/// The longest message, in bytes, where nothing is said of that.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// How many bytes may wait for one client, where nothing is said of that.
pub(super) const OUTBOUND: usize = 1 << 20;

/// In how many groups a connection may be.
pub(super) const GROUPS: usize = 256;

/// Of which events a function is told, beside messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// It decides who may connect. Otherwise everybody may who passes what the function asks of its callers.
    pub connect: bool,
    /// Somebody is connected.
    pub connected: bool,
    /// Somebody is gone.
    pub disconnected: bool,
    /// What is said is not for it: clients only listen, or speak to groups.
    pub no_messages: bool,
    /// A user's first connection joins a group.
    pub joined: bool,
    /// A user's last connection leaves a group.
    pub left: bool,
}

/// What becomes of a connection when the function failed with one of its messages for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// What the dialect does: CloudEvents closes, AWS tells the client and goes on.
    #[default]
    Dialect,
    /// It is closed with 1011.
    Close,
    /// The client is told in the words of the dialect, if that has any, and goes on.
    Reply,
    /// It goes on as if nothing had been said.
    Ignore,
}

/// How often an event may reach the function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Once, or not at all if the function fails with it: it is tried again only if it was provably not sent.
    #[default]
    AtMostOnce,
    /// Until the function has dealt with it, or the tries are over.
    AtLeastOnce,
}

/// How messages are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// So many at most.
    pub count: usize,
    /// So long after the first of them at the latest.
    pub window: Duration,
}

/// What a function asks of its connections.
#[derive(Debug, Clone)]
pub struct EventMode {
    /// Its dialect.
    pub codec: Codec,
    /// What it is told of.
    pub events: Subscriptions,
    /// When it fails.
    pub on_error: OnError,
    /// How often an event may reach it.
    pub delivery: Delivery,
    /// How many tries there are behind the first one.
    pub retries: u32,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// How many messages of one client wait for the function before no more of it is read.
    pub mailbox: usize,
    /// How many bytes may wait for one client to read them.
    pub outbound: usize,
    /// In how many groups a connection may be.
    pub max_groups: usize,
    /// A client that was silent for so long is sent a ping. `None`: none is.
    pub ping_interval: Option<Duration>,
    /// How long it has to answer one.
    pub ping_timeout: Duration,
    /// Binary messages close the connection with 1003.
    pub text_only: bool,
    /// Compression is agreed upon with clients that offer it.
    pub compression: bool,
    /// Messages that are answered here: the function is not told of them, and the connection does not count as in use.
    pub auto_response: Vec<(Bytes, Bytes)>,
    /// Messages are put together.
    pub batching: Option<Batching>,
    /// Clients may give a new token in a message.
    pub renewal: bool,
    /// Clients may join groups and say something to them by themselves, as far as their roles go.
    pub client_groups: bool,
    /// Whence a page may connect: values of `Origin`. Empty: from anywhere.
    pub origins: Vec<String>,
    /// What is kept of what is said in groups of its namespace.
    pub history: Option<History>,
    /// Which groups may be watched without a WebSocket, at the function's own address.
    pub group_events: GroupNames,
    /// How long a connection whose socket is lost waits for its client to come back. `None`: it does not. Where it does,
    /// nothing is compressed.
    pub resume: Option<Duration>,
}

/// Names of groups: whole, or as they begin, with a `*` behind that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupNames(Vec<Box<str>>);

impl GroupNames {
    /// Is a group of this name meant?
    #[must_use]
    pub fn contains(&self, group: &str) -> bool {
        self.0.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => group.starts_with(beginning),
            None => group == &**name,
        })
    }

    /// Is none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Into<Box<str>>> FromIterator<S> for GroupNames {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

impl EventMode {
    /// The defaults, in this dialect.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            events: Subscriptions::default(),
            on_error: OnError::default(),
            delivery: Delivery::default(),
            retries: RETRIES,
            max_message: MAX_MESSAGE,
            mailbox: 64,
            outbound: OUTBOUND,
            max_groups: GROUPS,
            ping_interval: Some(Duration::from_secs(25)),
            ping_timeout: Duration::from_secs(20),
            text_only: false,
            compression: false,
            auto_response: Vec::new(),
            batching: None,
            renewal: true,
            client_groups: false,
            origins: Vec::new(),
            history: None,
            group_events: GroupNames::default(),
            resume: None,
        }
    }
}
