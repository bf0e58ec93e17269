//! What is asked of the connections that a node holds, and what it answers: the same words here and between nodes.
//!
//! Owns plain data. What becomes of several answers is [`merge`](super::merge)'s.

use bytes::Bytes;
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::event::{ConnectionId, Message};
use roost_proxy::websocket::{CannotJoin, Category, Ending, Filter};
use roost_proxy::{By, CloseFrame};
use serde::{Deserialize, Serialize};

use super::view::ConnectionView;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub(super) enum Question {
    /// One connection, of this namespace or of any.
    One { namespace: Option<Namespace>, id: Id, act: Act },
    /// Those that fit.
    List { of: Those, after: Option<Id>, limit: usize },
    /// Names of groups, and how many are in each.
    Groups { namespace: Namespace, after: Option<String>, limit: usize },
    /// Users in a group, and with how many connections.
    Users { namespace: Namespace, group: String, after: Option<String>, limit: usize },
    /// Those that fit are to end, and with `passed` those that go through to the function as well.
    End { of: Those, close: Close, passed: bool },
    /// All of a user's are to be in a group, or no more.
    Move { namespace: Namespace, user: String, group: String, join: bool },
}

/// What is to be done with one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub(crate) enum Act {
    /// It is shown.
    Show,
    /// It is told something. What, goes beside the question.
    Say {
        text: bool,
        #[serde(skip)]
        data: Bytes,
    },
    /// It ends.
    End { close: Close },
    /// It is put into a group.
    Join { group: String },
    /// It is taken out of one.
    Part { group: String },
}

/// Which connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Those {
    pub(super) namespace: Namespace,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    function: Option<FunctionKey>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<String>,
}

/// With what a connection ends that somebody asks to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Close {
    code: Option<u16>,
    reason: String,
}

/// The id of a connection, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Id(pub(super) ConnectionId);

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The connection is not there, or no more.
    Nobody,
    /// It is done.
    Done,
    /// The client does not read what it is told.
    TooSlow,
    /// This is why a connection could not join.
    Refused { why: CannotJoin },
    /// The one that was asked for.
    Shown { connection: Box<ConnectionView> },
    /// In the order of their ids.
    Connections { connections: Vec<ConnectionView> },
    /// In the order of the names.
    Named { counts: Vec<(String, usize)> },
    /// With so many it was done; and why not with others, if there were any.
    Counted { count: usize, refused: Option<CannotJoin> },
}

impl Act {
    /// This is said.
    pub(crate) fn say(Message { text, data }: Message) -> Self {
        Self::Say { text, data }
    }
}

impl Those {
    pub(super) fn new(namespace: &Namespace, filter: &Filter) -> Self {
        let Filter { function, group, user } = filter.clone();
        Self { namespace: namespace.clone(), function, group, user }
    }

    pub(super) fn filter(&self) -> Filter {
        Filter { function: self.function.clone(), group: self.group.clone(), user: self.user.clone() }
    }

    pub(super) fn function(&self) -> Option<&FunctionKey> {
        self.function.as_ref()
    }
}

impl Close {
    /// With this code and reason.
    pub(crate) fn new(code: u16, reason: &str) -> Self {
        Self { code: Some(code), reason: reason.to_owned() }
    }

    /// The frame that the client gets.
    pub(crate) fn frame(&self) -> CloseFrame {
        CloseFrame::new(self.code.unwrap_or_default(), &self.reason)
    }

    pub(super) fn ending(&self) -> Ending {
        Ending::new(self.frame(), By::Host, Category::Api)
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ConnectionId::parse(&text).map(Self).ok_or("expected the id of a connection")
    }
}

impl From<Id> for String {
    fn from(Id(id): Id) -> Self {
        id.to_string()
    }
}
