//! What a function asks for in the headers of its answer.
//!
//! ```text
//!   ce-connectionState: TEXT                         to be told this again with each event; empty: nothing any more
//!   X-Ws-Join: g1, g2                                to put the connection into groups
//!   X-Ws-Leave: g1                                   to take it out of them
//!   X-Ws-Broadcast: group=g1; exclude-self, group=g2 to say the body to groups, and not to the client
//!   X-Ws-Reply: none | text | binary                 whether the body is said to the client, and as what
//!   X-Ws-Close: 4001 why                             to end the connection
//! ```
//!
//! Owns this grammar and its bounds. A header may be repeated; its lines are then one list. Pure: headers in, wishes out,
//! and a complaint for each that cannot be read.

use http::header::{HeaderMap, HeaderName};

use super::CE_CONNECTION_STATE;
use crate::tunnel::CloseFrame;

pub(super) const X_WS_JOIN: HeaderName = HeaderName::from_static("x-ws-join");
pub(super) const X_WS_LEAVE: HeaderName = HeaderName::from_static("x-ws-leave");
pub(super) const X_WS_BROADCAST: HeaderName = HeaderName::from_static("x-ws-broadcast");
pub(super) const X_WS_REPLY: HeaderName = HeaderName::from_static("x-ws-reply");
pub(super) const X_WS_CLOSE: HeaderName = HeaderName::from_static("x-ws-close");

/// The longest name of a group, in bytes.
pub(super) const MAX_GROUP_NAME: usize = 1024;

/// The most groups that one header of an answer names.
pub(super) const MAX_GROUPS: usize = 256;

/// The most that a function may want to be told again with each event, in bytes.
pub(super) const MAX_STATE: usize = 8 * 1024;

/// The most bytes of a function's own words in a complaint.
const MAX_QUOTED: usize = 80;

/// To whom a body is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broadcast {
    pub(super) group: String,
    pub(super) exclude_self: bool,
}

/// What becomes of a body toward the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    None,
    Text,
    Binary,
}

/// What an answer asks for beside its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verbs {
    /// `Some(None)`: nothing any more.
    pub(super) state: Option<Option<String>>,
    pub(super) join: Vec<String>,
    pub(super) leave: Vec<String>,
    /// `Some` if the header is there at all: the body is then not for the client alone.
    pub(super) broadcast: Option<Vec<Broadcast>>,
    pub(super) reply: Option<Reply>,
    pub(super) close: Option<CloseFrame>,
}

/// Reads what `headers` ask for.
pub(super) fn read(headers: &HeaderMap, complaints: &mut Vec<String>) -> Verbs {
    Verbs {
        state: state(headers, complaints),
        join: groups(headers, &X_WS_JOIN, complaints),
        leave: groups(headers, &X_WS_LEAVE, complaints),
        broadcast: headers.contains_key(&X_WS_BROADCAST).then(|| broadcasts(headers, complaints)),
        reply: one(headers, &X_WS_REPLY, complaints, reply),
        close: one(headers, &X_WS_CLOSE, complaints, close),
    }
}

/// The state that the function wants to be told again.
pub(super) fn state(headers: &HeaderMap, complaints: &mut Vec<String>) -> Option<Option<String>> {
    one(headers, &CE_CONNECTION_STATE, complaints, |text| {
        if text.len() > MAX_STATE {
            return Err(format!("at most {MAX_STATE} bytes"));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    })
}

/// The groups that the header `name` lists.
pub(super) fn groups(headers: &HeaderMap, name: &HeaderName, complaints: &mut Vec<String>) -> Vec<String> {
    let mut groups = list(headers, name, complaints);
    groups.retain(|group| {
        let fits = group.len() <= MAX_GROUP_NAME;
        if !fits {
            complaints.push(complaint(name, group, &format!("a name of at most {MAX_GROUP_NAME} bytes")));
        }
        fits
    });
    groups
}

fn broadcasts(headers: &HeaderMap, complaints: &mut Vec<String>) -> Vec<Broadcast> {
    let mut read = Vec::new();
    for element in list(headers, &X_WS_BROADCAST, complaints) {
        match broadcast(&element) {
            Some(broadcast) => read.push(broadcast),
            None => {
                complaints.push(complaint(
                    &X_WS_BROADCAST,
                    &element,
                    "group=NAME, and perhaps ;exclude-self",
                ));
            }
        }
    }
    read
}

fn broadcast(element: &str) -> Option<Broadcast> {
    let (mut group, mut exclude_self) = (None, false);
    for part in element.split(';').map(str::trim) {
        match part.split_once('=') {
            Some((name, value)) if name.trim_end().eq_ignore_ascii_case("group") && group.is_none() => {
                let value = value.trim_start();
                group = (!value.is_empty() && value.len() <= MAX_GROUP_NAME).then(|| value.to_owned());
                group.as_ref()?;
            }
            None if part.eq_ignore_ascii_case("exclude-self") => exclude_self = true,
            _ => return None,
        }
    }
    Some(Broadcast { group: group?, exclude_self })
}

fn reply(text: &str) -> Result<Reply, String> {
    [("none", Reply::None), ("text", Reply::Text), ("binary", Reply::Binary)]
        .into_iter()
        .find_map(|(name, reply)| text.eq_ignore_ascii_case(name).then_some(reply))
        .ok_or_else(|| "none, text or binary".to_owned())
}

fn close(text: &str) -> Result<CloseFrame, String> {
    let (code, reason) = text.split_once(' ').unwrap_or((text, ""));
    let frame = code.parse().ok().map(|code| CloseFrame::new(code, reason.trim()));
    // A code that may not be sent has become none.
    frame.filter(|frame| frame.code().is_some()).ok_or_else(|| {
        "a code of 1000 to 1003, 1007 to 1014 or 3000 to 4999, and perhaps a reason behind a space".to_owned()
    })
}

/// What `read` makes of the header `name`: of its first line, if there are several.
fn one<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    complaints: &mut Vec<String>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let value = headers.get(name)?;
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
        complaints.push(complaint(name, "", "UTF-8"));
        return None;
    };
    match read(text.trim()) {
        Ok(read) => Some(read),
        Err(expected) => {
            complaints.push(complaint(name, text, &expected));
            None
        }
    }
}

/// The members of the list that all headers `name` are together.
fn list(headers: &HeaderMap, name: &HeaderName, complaints: &mut Vec<String>) -> Vec<String> {
    let mut members = Vec::new();
    for value in headers.get_all(name) {
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
            complaints.push(complaint(name, "", "UTF-8"));
            continue;
        };
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            if members.len() == MAX_GROUPS {
                complaints.push(complaint(name, member, &format!("at most {MAX_GROUPS} groups")));
                return members;
            }
            members.push(member.to_owned());
        }
    }
    members
}

fn complaint(name: &HeaderName, text: &str, expected: &str) -> String {
    let end = (0..=MAX_QUOTED.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{name}: {:?} is left out: expected {expected}", &text[..end])
}
