//! What clients do with groups by themselves: they join, leave, and say something there, where the function lets them, and
//! their roles do.
//!
//! Owns the words, which are those of Azure Web PubSub's JSON protocol, and who may do what. The function does not get such
//! a message. What is said to a group comes to its members as any other message. Pure: the connection does what is asked.
//!
//! ```text
//!   {"type":"joinGroup","group":"g","ackId":1}       {"type":"leaveGroup","group":"g","ackId":2}
//!   {"type":"sendToGroup","group":"g","dataType":"text","data":"hi","noEcho":true,"ackId":3}
//!   ──► {"type":"ack","ackId":3,"success":false,"error":{"name":"Forbidden","message":"…"}}
//! ```

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::Message;
use crate::roles::{self, GROUPS};
use crate::token::Claims;

/// What a client may do by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rights {
    /// What its token says, as long as that counts.
    token: Vec<String>,
    /// What the function said when it was asked if the client may connect.
    function: Vec<String>,
    /// In which groups it was from the start, by either.
    groups: Vec<String>,
}

/// One thing that a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) group: String,
    pub(super) verb: Verb,
    /// It wants to be told what came of it, by this number.
    pub(super) ack: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verb {
    Join,
    Leave,
    Send { message: Message, no_echo: bool },
}

/// What a connection holds of this, where its function wants it.
#[derive(Debug, Default)]
pub(super) struct ClientGroups {
    pub(super) rights: Rights,
    /// What is to be done. As much as is read at once, at most.
    pub(super) wishes: Vec<Wish>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    r#type: String,
    group: String,
    ack_id: Option<u64>,
    data_type: Option<String>,
    data: Option<Value>,
    #[serde(default)]
    no_echo: bool,
}

impl Rights {
    /// Those of a client whose token says this, which the function gives these roles, and which is in these groups.
    pub(super) fn new(claims: &Claims, roles: &[String], groups: &[String]) -> Self {
        let groups = claims.all(GROUPS).iter().chain(groups).cloned().collect();
        Self { token: roles::of(claims).cloned().collect(), function: roles.to_vec(), groups }
    }

    /// Its token is another one now. What the function said stays.
    pub(super) fn renew(&mut self, claims: &Claims) {
        self.token = roles::of(claims).cloned().collect();
    }

    /// May it do this?
    pub(super) fn allow(&self, wish: &Wish) -> bool {
        let all = || self.token.iter().chain(&self.function);
        match wish.verb {
            Verb::Join | Verb::Leave => {
                self.groups.contains(&wish.group) || roles::let_join(all(), &wish.group)
            }
            Verb::Send { .. } => roles::let_send(all(), &wish.group),
        }
    }
}

/// What a message asks for, if it is one of these.
pub(super) fn wish_in(message: &Message) -> Option<Wish> {
    let data = &message.data;
    let may_be = message.text
        && data.trim_ascii_start().first() == Some(&b'{')
        && memmem::find(data, b"Group\"").is_some();
    if !may_be {
        return None;
    }
    let said: Said = serde_json::from_slice(data).ok()?;
    let verb = match &*said.r#type {
        "joinGroup" => Verb::Join,
        "leaveGroup" => Verb::Leave,
        "sendToGroup" => {
            let message = content(said.data_type.as_deref(), said.data?)?;
            Verb::Send { message, no_echo: said.no_echo }
        }
        _ => return None,
    };
    Some(Wish { group: said.group, verb, ack: said.ack_id })
}

/// What is said to a group; JSON where nothing is said of its type.
fn content(data_type: Option<&str>, data: Value) -> Option<Message> {
    let text = |data: String| Message { text: true, data: data.into() };
    match (data_type, data) {
        (Some("text"), Value::String(data)) => Some(text(data)),
        (Some("binary"), Value::String(data)) => {
            BASE64_STANDARD.decode(data).ok().map(|data| Message { text: false, data: data.into() })
        }
        (Some("json") | None, data) => Some(text(data.to_string())),
        _ => None,
    }
}

/// The answer to a wish, by its number: nothing, or by which name and why it was not done.
pub(super) fn answer(ack: u64, refused: Option<(&str, &str)>) -> Message {
    let mut told = json!({ "type": "ack", "ackId": ack, "success": refused.is_none() });
    if let Some((name, message)) = refused {
        told["error"] = json!({ "name": name, "message": message });
    }
    Message { text: true, data: Bytes::from(told.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &str) -> Message {
        Message { text: true, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    fn wish(verb: Verb, ack: Option<u64>) -> Wish {
        Wish { group: "g".to_owned(), verb, ack }
    }

    #[test]
    fn a_wish_is_said_in_these_words_and_no_others() {
        let send = |message, no_echo| Verb::Send { message, no_echo };
        let binary = Message { text: false, data: vec![255, 0].into() };
        for (message, expected) in [
            (r#"{"type":"joinGroup","group":"g"}"#, Some(wish(Verb::Join, None))),
            (r#" {"group":"g","ackId":7,"type":"leaveGroup","more":1}"#, Some(wish(Verb::Leave, Some(7)))),
            (
                r#"{"type":"sendToGroup","group":"g","dataType":"text","data":"hi"}"#,
                Some(wish(send(text("hi"), false), None)),
            ),
            (
                r#"{"type":"sendToGroup","group":"g","data":{"a":[1]},"noEcho":true}"#,
                Some(wish(send(text(r#"{"a":[1]}"#), true), None)),
            ),
            (
                r#"{"type":"sendToGroup","group":"g","dataType":"binary","data":"/wA="}"#,
                Some(wish(send(binary, false), None)),
            ),
            (r#"{"type":"sendToGroup","group":"g","dataType":"binary","data":"?"}"#, None),
            (r#"{"type":"sendToGroup","group":"g","dataType":"text","data":1}"#, None),
            (r#"{"type":"sendToGroup","group":"g","dataType":"protobuf","data":"x"}"#, None),
            (r#"{"type":"sendToGroup","group":"g"}"#, None),
            (r#"{"type":"joinGroup"}"#, None),
            (r#"{"type":"joinGroup","group":1}"#, None),
            (r#"{"type":"event","group":"joinGroup"}"#, None),
            (r#"{"type":"joinGroup","group":"g""#, None),
            ("joinGroup", None),
        ] {
            assert_eq!(wish_in(&text(message)), expected, "{message}");
        }
        let binary = Message { text: false, ..text(r#"{"type":"joinGroup","group":"g"}"#) };
        assert_eq!(wish_in(&binary), None);
        assert_eq!(answer(7, None), text(r#"{"ackId":7,"success":true,"type":"ack"}"#));
    }

    #[test]
    fn roles_of_the_token_and_of_the_function_count_alike_and_a_new_token_brings_its_own() {
        let claims = |role: &str| -> Claims {
            [("role", role), (GROUPS, "hall")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into_iter()
                .collect()
        };
        let roles = ["webpubsub.sendToGroup.g".to_owned(), "roost.join.a-*".to_owned()];
        let mut rights = Rights::new(&claims("webpubsub.joinLeaveGroup.g"), &roles, &["den".to_owned()]);
        let allows = |rights: &Rights, group: &str| {
            let send = Verb::Send { message: text(""), no_echo: false };
            [Verb::Join, Verb::Leave, send]
                .map(|verb| rights.allow(&Wish { group: group.to_owned(), verb, ack: None }))
        };
        for (group, expected) in [
            ("g", [true, true, true]),
            ("a-7", [true, true, false]),
            ("hall", [true, true, false]),
            ("den", [true, true, false]),
            ("other", [false; 3]),
        ] {
            assert_eq!(allows(&rights, group), expected, "{group}");
        }
        rights.renew(&claims("roost.send"));
        assert_eq!(allows(&rights, "g"), [false, false, true]);
        assert_eq!(allows(&rights, "other"), [false, false, true]);
        assert_eq!(allows(&Rights::default(), "g"), [false; 3]);
    }
}
