//! A client wants to connect: what the function is told of it, and what it says.
//!
//! Owns both. An answer that cannot be read lets nobody in.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::verbs::{
    self, MAX_GROUP_NAME, MAX_GROUPS, X_WS_BROADCAST, X_WS_CLOSE, X_WS_JOIN, X_WS_LEAVE, X_WS_REPLY,
};
use crate::websocket::codec::{Decoded, body, offered, query};
use crate::websocket::event::{Acceptance, Decision, Event, Handshake};

/// The longest name of a user, in bytes.
const MAX_USER: usize = 1024;

/// The most roles of a client. Each is as long as a group's name at most.
const MAX_ROLES: usize = 256;

const UNREADABLE: &str = "The function's answer to the connect event cannot be read.\n";
const NOT_OFFERED: &str = "The function chose a subprotocol that the client does not offer.\n";
const FAILED: &str = "The function failed at the connect event.\n";

/// Each name with all its values, in the order in which they came.
type Lists = BTreeMap<String, Vec<String>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    claims: Lists,
    query: Lists,
    headers: Lists,
    subprotocols: &'a [String],
    /// This host asks clients for none.
    client_certificates: [(); 0],
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    user_id: Option<String>,
    groups: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    subprotocol: Option<String>,
}

/// The body of the request.
pub(super) fn question(handshake: &Handshake, path: &str) -> Bytes {
    let headers = handshake.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let question = Question {
        claims: lists(handshake.claims.iter().cloned()),
        query: lists(query(path)),
        headers: lists(headers),
        subprotocols: &handshake.subprotocols,
        client_certificates: [],
    };
    serde_json::to_vec(&question).expect("text and lists of it").into()
}

fn lists(pairs: impl Iterator<Item = (String, String)>) -> Lists {
    let mut lists = Lists::new();
    for (name, value) in pairs {
        lists.entry(name).or_default().push(value);
    }
    lists
}

/// Reads the answer to `event`.
pub(in crate::websocket::codec) fn decision(event: &Event<'_>, answer: Response<Bytes>) -> Decoded<Decision> {
    let (head, data) = answer.into_parts();
    let mut complaints = Vec::new();
    if head.status.is_client_error() {
        return Decoded { meant: body::relayed(head.status, head.headers, data), complaints };
    }
    let refused = |why: &'static str, complaint: String| Decoded {
        meant: body::unusable(why),
        complaints: vec![complaint],
    };
    if !head.status.is_success() {
        return refused(FAILED, format!("status {}: expected 2xx or 4xx", head.status.as_u16()));
    }
    let said = match terms(head.status, &data) {
        Ok(said) => said,
        Err(why) => return refused(UNREADABLE, why),
    };
    if let Some(subprotocol) = said.subprotocol.as_deref()
        && !offered(event, subprotocol)
    {
        return refused(
            NOT_OFFERED,
            format!("subprotocol {subprotocol:?}: expected one that the client offers"),
        );
    }
    let mut groups = said.groups.unwrap_or_default();
    groups.extend(verbs::groups(&head.headers, &X_WS_JOIN, &mut complaints));
    let state = verbs::state(&head.headers, &mut complaints).flatten();
    for name in [X_WS_LEAVE, X_WS_BROADCAST, X_WS_REPLY, X_WS_CLOSE] {
        if head.headers.contains_key(&name) {
            complaints.push(format!("{name} means nothing in an answer to connect"));
        }
    }
    let (user, subprotocol) = (said.user_id, said.subprotocol);
    let roles = said.roles.unwrap_or_default();
    let meant = Decision::Accept(Acceptance { user, groups, subprotocol, state, roles });
    Decoded { meant, complaints }
}

/// What the body of an answer says; an empty text is nothing.
fn terms(status: StatusCode, data: &[u8]) -> Result<Answer, String> {
    if status == StatusCode::NO_CONTENT || data.trim_ascii().is_empty() {
        return Ok(Answer::default());
    }
    let expected = "the body: expected nothing, or JSON {userId, groups, roles, subprotocol}";
    // A list would do too, otherwise, as the fields in their order.
    if !data.trim_ascii_start().starts_with(b"{") {
        return Err(expected.into());
    }
    let mut answer: Answer = serde_json::from_slice(data).map_err(|why| format!("{expected}: {why}"))?;
    answer.user_id = answer.user_id.filter(|user| !user.is_empty());
    answer.subprotocol = answer.subprotocol.filter(|subprotocol| !subprotocol.is_empty());
    if answer.user_id.as_ref().is_some_and(|user| user.len() > MAX_USER) {
        return Err(format!("userId: expected at most {MAX_USER} bytes"));
    }
    for (name, list, most) in [("groups", &answer.groups, MAX_GROUPS), ("roles", &answer.roles, MAX_ROLES)] {
        let list = list.as_deref().unwrap_or_default();
        if list.len() > most || list.iter().any(|one| one.is_empty() || one.len() > MAX_GROUP_NAME) {
            return Err(format!("{name}: expected at most {most}, each of 1 to {MAX_GROUP_NAME} bytes"));
        }
    }
    Ok(answer)
}
