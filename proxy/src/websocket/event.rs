//! What happens on a connection, and what a function may want done about it, in words that no dialect has.
//!
//! Owns plain data. Never encodes a request and never touches a socket.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::function::FunctionKey;
use crate::tunnel::{By, CloseFrame};

/// How many bytes of chance are in an id: who knows it may speak to the connection.
const ID_BYTES: usize = 16;

/// The length of an id as text.
const ID_TEXT: usize = 22;

/// What a connection is known by: 22 characters that need no escape in a URL, and that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId([u8; ID_BYTES]);

impl ConnectionId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        loop {
            // Of these bytes six bits are fixed, and the others come from the system.
            let id = Self(uuid::Uuid::new_v4().into_bytes());
            // Its text would begin with `-`, and be an option to whatever program it is given to.
            if id.0[0] >> 2 != 62 {
                return id;
            }
        }
    }

    /// The one that is spelt so. `None` for anything that is no id of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != ID_TEXT {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// A number that differs among connections that came together.
    pub(super) fn spread(self) -> u8 {
        self.0[0]
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is known of a connection since its handshake, and does not change. Small: it is kept as long as the connection.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its id.
    pub id: ConnectionId,
    /// The function whose address the client asked.
    pub function: FunctionKey,
    /// The path as the function sees it, from its `/` on, and the query behind `?` if there is one.
    pub path: Box<str>,
    /// Who the client is, once a token or the function has said so.
    pub user: OnceLock<Box<str>>,
    /// What both sides agreed to speak, once they did.
    pub subprotocol: OnceLock<Box<str>>,
    /// The other end of the connection, as far as is known.
    pub peer: IpAddr,
    /// What the client asked for as `Host`.
    pub host: Option<Box<str>>,
    /// Its `User-Agent`.
    pub user_agent: Option<Box<str>>,
    /// When the handshake came.
    pub since: SystemTime,
}

impl Identity {
    /// Who the client is, as far as is known.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user)
    }

    /// What both sides agreed to speak, if it is something.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.get().map(|protocol| &**protocol)
    }
}

/// A message, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Text, which is valid UTF-8; or else binary.
    pub text: bool,
    /// What it says.
    pub data: Bytes,
}

/// What a client said when it came, for the function that decides if it may stay.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    /// Its headers, without those of the connection and of the handshake itself.
    pub headers: HeaderMap,
    /// The subprotocols that it offers, in its order.
    pub subprotocols: Vec<String>,
    /// What its token says, by name; empty where it has none.
    pub claims: Vec<(String, String)>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The code: 1005 if the Close had none, 1006 if there was no Close.
    pub code: u16,
    /// What was said with it.
    pub reason: Box<str>,
    /// Who closed it.
    pub by: By,
    /// How long it was open.
    pub lasted: Duration,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum What<'a> {
    /// A client wants to connect. The answer is a [`Decision`].
    Connect(&'a Handshake),
    /// It is connected. The answer counts as one to a message.
    Connected,
    /// It says something: one message, or several that were put together because the function asked for that.
    Messages(&'a [Message]),
    /// It is gone. The answer has no meaning but that it came.
    Disconnected(&'a Departure),
    /// Its user has a first connection in this group: this one.
    Joined(&'a str),
    /// Its user has none in this group any more; the last one was this.
    Left(&'a str),
}

/// Something that happens on a connection.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// On which.
    pub of: &'a Identity,
    /// The number of this event on its connection: 0 for `Connect`, 1 for `Connected`, and on from there. Those of groups are
    /// counted by themselves, for all connections together. It stays over attempts; with the connection's id it is the
    /// event's. `None` of the end of a connection that nobody saw: how many came before it is not known.
    pub sequence: Option<u64>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it happened.
    pub at: SystemTime,
    /// What the function has asked to be told again.
    pub state: Option<&'a str>,
    /// What it is.
    pub what: What<'a>,
}

impl Event<'_> {
    /// What it is called among the events of its connection: its number, where it is known. There is one end.
    pub(super) fn place(&self) -> String {
        self.sequence.map_or_else(|| "end".to_owned(), |number| number.to_string())
    }
}

/// One thing that a function wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To say this to the client.
    Send(Message),
    /// To say this to all of a group.
    Publish {
        /// The group.
        group: String,
        /// What.
        message: Message,
        /// But not to this connection.
        exclude_self: bool,
    },
    /// To be told of a group what is said there.
    Join(String),
    /// No longer.
    Leave(String),
    /// To be told this again with each event from now on; `None` is nothing.
    SetState(Option<String>),
    /// To end the connection, behind everything that was said before.
    Close(CloseFrame),
}

/// What the function says to a client that wants to connect.
#[derive(Debug)]
pub enum Decision {
    /// It may.
    Accept(Acceptance),
    /// It may not, and is told this.
    Refuse(Response<Bytes>),
}

/// On which terms a client connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Who it is; where nothing is said, whoever its token says.
    pub user: Option<String>,
    /// Groups that it is in from the start.
    pub groups: Vec<String>,
    /// Which of its subprotocols it is to speak.
    pub subprotocol: Option<String>,
    /// What the function wants to be told again.
    pub state: Option<String>,
    /// What it may do by itself, in the words of the dialect.
    pub roles: Vec<String>,
}

/// What an answer to an event amounts to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function has dealt with it, and wants this done, in this order.
    Done(Vec<Action>),
    /// It has not, and says so with this status; where the dialect has words for the client, they are sent to it.
    Failed {
        /// The status of its answer.
        status: u16,
        /// What the client is told, if it is told something.
        tell: Option<Message>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_text_that_a_url_can_hold_and_is_read_back() {
        let ids: Vec<ConnectionId> = (0..1000).map(|_| ConnectionId::random()).collect();
        for id in &ids {
            let text = id.to_string();
            assert_eq!(text.len(), ID_TEXT);
            assert!(!text.starts_with('-'), "{text}");
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
            assert_eq!(ConnectionId::parse(&text), Some(*id));
        }
        for text in ["", "a", "0123456789012345678901234", "!!!!!!!!!!!!!!!!!!!!!!", "äääääääääää"]
        {
            assert_eq!(ConnectionId::parse(text), None, "{text}");
        }
    }
}
