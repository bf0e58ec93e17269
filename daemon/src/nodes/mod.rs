//! Other hosts that this one shares calls and connections with, over NATS.
//!
//! Owns how they are found: all that connect to the same servers with the same name are nodes of one. No node needs another
//! one; what one cannot reach is what it does not share.
//!
//! ```text
//!   API ──► Nodes ──► the hub here ──────────────────────────────► answer
//!             └─► link: to all nodes that are known ──► their hubs ──► answers, as long as it waits for them
//!
//!   said to many ──► hub ──► those here
//!                     └─► outbox (bounded; full, or not connected: lost, and counted) ──► NATS ──► hubs of others
//! ```
//!
//! Without the section `[nats]`, and in builds without NATS, this node is all there is.

mod here;
mod question;
mod view;

#[cfg(feature = "nats")]
mod asked;
#[cfg(feature = "nats")]
mod link;
#[cfg(feature = "nats")]
mod merge;
#[cfg(feature = "nats")]
mod outbox;
#[cfg(feature = "nats")]
mod peers;
#[cfg(feature = "nats")]
mod wire;

use std::sync::Arc;

use roost_proxy::function::Namespace;
use roost_proxy::websocket::event::ConnectionId;
use roost_proxy::websocket::{CannotJoin, Filter, Hub};

pub(crate) use question::{Act, Answer, Close};
use question::{Id, Question, Those};
pub use view::ConnectionView;

use crate::function::registry::Registry;
use crate::secrets::Secrets;
use crate::triggers::settings::Nats;

/// The section `[nats]`, complete and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server, or one of a cluster of them.
    pub server: Nats,
    /// What the names of streams, buckets and subjects begin with: hosts with the same one are nodes of one.
    pub name: String,
    /// How many servers keep a copy of what is kept.
    pub replicas: usize,
}

/// Connections, wherever they are held.
#[derive(Clone)]
pub struct Nodes {
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    #[cfg(feature = "nats")]
    link: Option<Arc<link::Link>>,
}

/// What is counted of other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// The servers of NATS can be reached.
    pub connected: bool,
    /// So many others are known.
    pub known: usize,
    /// What was said to many: passed on to others, and heard from them.
    pub told: [u64; 2],
    /// Of that: what others were not told, and what did not come from them.
    pub lost: [u64; 2],
}

/// What was found on all nodes.
#[derive(Debug)]
pub(crate) struct Found<T> {
    pub(crate) found: T,
    /// The names of nodes that have not answered in time.
    pub(crate) silent: Vec<String>,
}

impl<T> Found<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        Found { found: change(self.found), silent: self.silent }
    }
}

impl Nodes {
    /// Those of this name, if there may be others. Nothing is connected yet.
    #[must_use]
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "there can be no others"))]
    pub fn new(hub: Arc<Hub>, registry: Arc<Registry>, settings: Option<&Settings>) -> Self {
        Self {
            #[cfg(feature = "nats")]
            link: settings.map(|settings| link::Link::new(settings.clone())),
            hub,
            registry,
        }
    }

    /// Connects, and stays connected from now on.
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "there can be no others"))]
    pub fn start(&self, secrets: &Secrets) {
        #[cfg(feature = "nats")]
        if let Some(link) = &self.link {
            link.start(&self.hub, &self.registry, secrets);
        }
    }

    /// Tells the others that this node ends, as long as that takes not too long.
    pub async fn end(&self) {
        #[cfg(feature = "nats")]
        if let Some(link) = &self.link {
            link.end().await;
        }
    }

    /// What is counted, where there may be others.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        #[cfg(feature = "nats")]
        return self.link.as_ref().map(|link| link.figures());
        #[cfg(not(feature = "nats"))]
        None
    }

    fn name(&self) -> Option<&str> {
        #[cfg(feature = "nats")]
        return self.link.as_ref().map(|link| link.name());
        #[cfg(not(feature = "nats"))]
        None
    }

    /// Asks this node, and the others unless that is enough.
    async fn ask(&self, question: Question) -> Found<Answer> {
        let found = here::answer(&self.hub, &self.registry, self.name(), &question);
        #[cfg(feature = "nats")]
        if let Some(link) = &self.link
            && !matches!(question, Question::One { .. } if found.is_somebody())
        {
            return link.ask(question, found).await;
        }
        Found { found, silent: Vec::new() }
    }

    /// Does something with one connection, of this namespace or of any.
    pub(crate) async fn one(&self, namespace: Option<&Namespace>, id: ConnectionId, act: Act) -> Answer {
        self.ask(Question::One { namespace: namespace.cloned(), id: Id(id), act }).await.found
    }

    /// Up to `limit` connections in the order of their ids, those behind `after`.
    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filter: &Filter,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Found<Vec<ConnectionView>> {
        let of = Those::new(namespace, filter);
        let answer = self.ask(Question::List { of, after: after.map(Id), limit }).await;
        answer.map(|answer| match answer {
            Answer::Connections { connections } => connections,
            _ => Vec::new(),
        })
    }

    /// Up to `limit` groups and how many are in each, in the order of their names, those behind `after`.
    pub(crate) async fn groups(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: usize,
    ) -> Found<Vec<(String, usize)>> {
        let (namespace, after) = (namespace.clone(), after.map(str::to_owned));
        self.ask(Question::Groups { namespace, after, limit }).await.map(named)
    }

    /// Up to `limit` users of a group and how many connections each has there, in the order of their names, those behind
    /// `after`.
    pub(crate) async fn users_of(
        &self,
        namespace: &Namespace,
        group: String,
        after: Option<&str>,
        limit: usize,
    ) -> Found<Vec<(String, usize)>> {
        let (namespace, after) = (namespace.clone(), after.map(str::to_owned));
        self.ask(Question::Users { namespace, group, after, limit }).await.map(named)
    }

    /// Ends those that fit: how many. With `passed` also those that go through to the function that is meant.
    pub(crate) async fn end_those(
        &self,
        namespace: &Namespace,
        filter: &Filter,
        close: Close,
        passed: bool,
    ) -> Found<usize> {
        let of = Those::new(namespace, filter);
        self.ask(Question::End { of, close, passed }).await.map(|answer| counted(&answer).0)
    }

    /// Puts all of a user's into a group, or takes them out: how many, and why some could not join.
    pub(crate) async fn move_user(
        &self,
        namespace: &Namespace,
        user: String,
        group: String,
        join: bool,
    ) -> Found<(usize, Option<CannotJoin>)> {
        let namespace = namespace.clone();
        self.ask(Question::Move { namespace, user, group, join }).await.map(|answer| counted(&answer))
    }
}

fn named(answer: Answer) -> Vec<(String, usize)> {
    match answer {
        Answer::Named { counts } => counts,
        _ => Vec::new(),
    }
}

fn counted(answer: &Answer) -> (usize, Option<CannotJoin>) {
    match answer {
        Answer::Counted { count, refused } => (*count, *refused),
        _ => (0, None),
    }
}
