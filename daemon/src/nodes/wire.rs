//! What nodes say to each other, in bytes.
//!
//! Owns the form of a frame, how something long becomes several, and how these become one again. Pure.
//!
//! ```text
//!   version: 1 byte │ length of the head: 4 bytes, the highest first │ head: JSON │ data, as it is
//! ```
//!
//! What does not fit into one message of NATS follows in more frames of the same number, whose heads say no more than that. A
//! node counts what it says from 0; so whoever hears it knows what it has missed.

use bytes::{BufMut, Bytes, BytesMut};
use roost_proxy::function::{FunctionKey, Namespace};
use roost_proxy::websocket::event::{ConnectionId, Message};
use roost_proxy::websocket::{Many, Saying};
use serde::{Deserialize, Serialize};

use super::question::{Id, Question};

/// The version of this form: nodes ignore what is of another one.
const VERSION: u8 = 1;

/// What stands before the head.
const BEGINNING: usize = 1 + 4;

/// The longest head, in bytes.
const MAX_HEAD: usize = 128 << 10;

/// The most that goes along with one head, in bytes, all its frames together.
pub(super) const MAX_DATA: usize = 16 << 20;

/// The longest name of a node.
const MAX_NAME: usize = 64;

/// What stands before the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The node that says it.
    pub(super) from: Box<str>,
    /// What it says with the same number belongs together.
    pub(super) number: u64,
    /// Which of the frames of that number this is.
    #[serde(skip_serializing_if = "is_first", default)]
    part: u32,
    /// It is not the last of them.
    #[serde(skip_serializing_if = "is_false", default)]
    more: bool,
    /// In the first one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    what: Option<What>,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum What {
    /// This node is here. A new one wants to know who else is.
    Here { new: bool },
    /// This node ends.
    Bye,
    /// This is said to those of all nodes. The message goes beside it.
    Say(Say),
    /// Something is asked; the answer is to have this number.
    Ask { id: u64, ask: Question },
    /// The answer to what was asked by this number goes beside it.
    Answer { id: u64 },
    /// Something that later versions say.
    #[serde(other)]
    Unknown,
}

/// Something that is said to many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Say {
    namespace: Namespace,
    to: To,
    /// Text, or binary.
    text: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    except: Vec<Id>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    Group(String),
    User(String),
    Function(FunctionKey),
    All,
}

impl Say {
    pub(super) fn new(saying: &Saying<'_>) -> Self {
        let to = match saying.to {
            Many::Group(name) => To::Group(name.to_owned()),
            Many::User(user) => To::User(user.to_owned()),
            Many::Function(function) => To::Function(function.clone()),
            Many::All => To::All,
        };
        let except = saying.except.iter().copied().map(Id).collect();
        Self { namespace: saying.namespace.clone(), to, text: saying.message.text, except }
    }

    /// Has it said with the message that went beside it. A text that is none is not said.
    pub(super) fn said<T>(&self, data: Bytes, say: impl FnOnce(&Saying<'_>) -> T) -> Option<T> {
        if self.text && str::from_utf8(&data).is_err() {
            return None;
        }
        let to = match &self.to {
            To::Group(name) => Many::Group(name),
            To::User(user) => Many::User(user),
            To::Function(function) => Many::Function(function),
            To::All => Many::All,
        };
        let message = Message { text: self.text, data };
        let except: Vec<ConnectionId> = self.except.iter().map(|id| id.0).collect();
        Some(say(&Saying { namespace: &self.namespace, to, message: &message, except: &except }))
    }
}

/// The frames of something that a node says, none longer than `most` bytes. None if it is too long for that.
pub(super) fn frames(from: &str, number: u64, what: What, data: &Bytes, most: usize) -> Option<Vec<Bytes>> {
    if data.len() > MAX_DATA {
        return None;
    }
    let mut head = Head { from: from.into(), number, part: 0, more: false, what: Some(what) };
    let (mut frames, mut left) = (Vec::new(), data.clone());
    loop {
        head.more = true;
        let length = serde_json::to_vec(&head).ok()?.len();
        let room = most.checked_sub(BEGINNING + length).filter(|room| *room > 0 && length <= MAX_HEAD)?;
        head.more = left.len() > room;
        frames.push(frame(&head, &left.split_to(room.min(left.len())))?);
        if !head.more {
            return Some(frames);
        }
        head.part = head.part.checked_add(1)?;
        head.what = None;
    }
}

fn frame(head: &Head, data: &[u8]) -> Option<Bytes> {
    let head = serde_json::to_vec(head).ok()?;
    let mut frame = BytesMut::with_capacity(BEGINNING + head.len() + data.len());
    frame.put_u8(VERSION);
    frame.put_u32(u32::try_from(head.len()).ok()?);
    frame.put_slice(&head);
    frame.put_slice(data);
    Some(frame.freeze())
}

/// What a frame says. `None` if it is none that this version understands.
pub(super) fn read(mut frame: Bytes) -> Option<(Head, Bytes)> {
    let (&[VERSION, a, b, c, d], rest) = frame.split_first_chunk()? else { return None };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let head: Head = serde_json::from_slice(rest.get(..length).filter(|_| length <= MAX_HEAD)?).ok()?;
    is_name(&head.from).then(|| (head, frame.split_off(BEGINNING + length)))
}

/// Can a node have this name? It is a part of a subject.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

/// The name of a node on a host of this name, with something that no other has.
pub(super) fn name_on(host: &str, own: &str) -> String {
    let fits = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' };
    let host: String = host.trim().chars().map(fits).take(MAX_NAME / 2).collect();
    let host = if host.is_empty() { "roost" } else { &host };
    format!("{host}-{own}")
}

/// What one node says in one place, put together again.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// The number of what was heard last.
    last: Option<u64>,
    /// What has not come to its end.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    number: u64,
    parts: u32,
    what: What,
    data: BytesMut,
}

/// What came of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Something that is whole with it.
    pub(super) whole: Option<(What, Bytes)>,
    /// So many things were missed before it.
    pub(super) lost: u64,
}

impl Joining {
    /// Takes the next frame.
    pub(super) fn take(&mut self, head: Head, data: Bytes) -> Heard {
        let Head { number, part, more, what, .. } = head;
        let goes_on = |begun: &Begun| begun.number == number && begun.parts == part;
        if let Some(mut begun) = self.begun.take_if(|begun| goes_on(begun)) {
            if begun.data.len() + data.len() > MAX_DATA {
                return Heard { whole: None, lost: 1 };
            }
            begun.data.extend_from_slice(&data);
            begun.parts += 1;
            if more {
                self.begun = Some(begun);
                return Heard::default();
            }
            return Heard { whole: Some((begun.what, begun.data.freeze())), lost: 0 };
        }
        if self.last.is_some_and(|last| number < last || number == last && self.begun.is_none()) {
            // The rest of something that is counted as lost already.
            return Heard::default();
        }
        let mut lost = u64::from(self.begun.take().is_some());
        let last = self.last.replace(number);
        lost += last.map_or(0, |last| number.saturating_sub(last).saturating_sub(1));
        match what.filter(|_| part == 0) {
            Some(what) if more => {
                self.begun = Some(Begun { number, parts: 1, what, data: data.into() });
                Heard { whole: None, lost }
            }
            Some(what) => Heard { whole: Some((what, data)), lost },
            // Its beginning is lost, unless that was before anything was heard, or is counted above.
            None => Heard { whole: None, lost: lost + u64::from(last.is_some_and(|last| last != number)) },
        }
    }
}

fn is_first(part: &u32) -> bool {
    *part == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
