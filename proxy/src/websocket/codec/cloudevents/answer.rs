//! What a function's answer to an event wants done.
//!
//! Owns the order of it: what is to be known again, then groups, then what is said to groups and to the client, and last a
//! Close. So an answer can put its connection into a group and say the first word there.

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};

use super::verbs::{self, Reply, Verbs};
use crate::tunnel::CloseFrame;
use crate::websocket::codec::frames::{self, Frame};
use crate::websocket::codec::multipart::{self, Part};
use crate::websocket::codec::{Decoded, body};
use crate::websocket::event::{Action, Message, Outcome};

/// The most that one answer says to groups: its messages, times the groups that each is for.
pub(super) const MAX_PUBLISHED: usize = 1024;

/// Reads the answer to any event but the first.
pub(in crate::websocket::codec) fn outcome(answer: Response<Bytes>) -> Decoded<Outcome> {
    let (head, body) = answer.into_parts();
    let mut complaints = Vec::new();
    if !head.status.is_success() {
        let meant = Outcome::Failed { status: head.status.as_u16(), tell: None };
        return Decoded { meant, complaints };
    }
    let mut verbs = verbs::read(&head.headers, &mut complaints);
    let (messages, said) = match messages(&head.headers, body, verbs.reply, &mut complaints) {
        Ok(messages) => messages,
        Err(why) => {
            complaints
                .push(format!("its answer counts as a failure: {} of which {why}", multipart::MEDIA_TYPE));
            let meant = Outcome::Failed { status: StatusCode::BAD_GATEWAY.as_u16(), tell: None };
            return Decoded { meant, complaints };
        }
    };
    if let Some(broadcasts) =
        verbs.broadcast.as_mut().filter(|all| all.len() * messages.len() > MAX_PUBLISHED)
    {
        complaints
            .push(format!("x-ws-broadcast is left out: expected at most {MAX_PUBLISHED} messages to groups"));
        broadcasts.clear();
    }
    Decoded { meant: Outcome::Done(actions(verbs, messages, said)), complaints }
}

/// All that is to be done, in its order. `said` is a Close among the frames of the body.
fn actions(verbs: Verbs, messages: Vec<Message>, said: Option<CloseFrame>) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(verbs.state.map(Action::SetState));
    actions.extend(verbs.join.into_iter().map(Action::Join));
    actions.extend(verbs.leave.into_iter().map(Action::Leave));
    let to_client = match verbs.reply {
        Some(Reply::None) => false,
        Some(Reply::Text | Reply::Binary) => true,
        None => verbs.broadcast.is_none(),
    };
    for message in messages {
        for broadcast in verbs.broadcast.iter().flatten() {
            actions.push(Action::Publish {
                group: broadcast.group.clone(),
                message: message.clone(),
                exclude_self: broadcast.exclude_self,
            });
        }
        if to_client {
            actions.push(Action::Send(message));
        }
    }
    actions.extend(verbs.close.or(said).map(Action::Close));
    actions
}

/// What the body says, and the Close among its frames if it has frames. Parts that cannot be told apart are none: whoever
/// writes some means all of them.
fn messages(
    headers: &HeaderMap,
    data: Bytes,
    reply: Option<Reply>,
    complaints: &mut Vec<String>,
) -> Result<(Vec<Message>, Option<CloseFrame>), multipart::Malformed> {
    if data.is_empty() {
        return Ok((Vec::new(), None));
    }
    match body::media_type(headers).as_deref() {
        Some(frames::MEDIA_TYPE) => Ok(match frames::parse(data) {
            Ok(frames) => unpack(frames),
            Err(why) => {
                complaints.push(format!("the body is left out: {} of which {why}", frames::MEDIA_TYPE));
                (Vec::new(), None)
            }
        }),
        Some(multipart::MEDIA_TYPE) => {
            let parts = multipart::parse(headers, &data)?.into_iter();
            let messages =
                parts.map(|Part { headers, content }| message(&headers, content, reply, complaints));
            Ok((messages.collect(), None))
        }
        _ => Ok((vec![message(headers, data, reply, complaints)], None)),
    }
}

/// What a body says, or a part of one: as `reply` says, or else as its type does.
fn message(headers: &HeaderMap, data: Bytes, reply: Option<Reply>, complaints: &mut Vec<String>) -> Message {
    let mut message = body::message(headers, data);
    match reply {
        Some(Reply::Text) if !body::is_text(&message.data) => {
            complaints
                .push("x-ws-reply: the body is no text, as it is not UTF-8, and is sent as binary".into());
            message.text = false;
        }
        Some(Reply::Text) => message.text = true,
        Some(Reply::Binary) => message.text = false,
        Some(Reply::None) | None => {}
    }
    message
}

/// The messages up to the first Close, and that. Other frames are this host's own business.
fn unpack(frames: Vec<Frame>) -> (Vec<Message>, Option<CloseFrame>) {
    let mut messages = Vec::new();
    for frame in frames {
        match frame {
            Frame::Text(data) => messages.push(Message { text: true, data }),
            Frame::Binary(data) => messages.push(Message { text: false, data }),
            Frame::Close(close) => return (messages, Some(close)),
            Frame::Open | Frame::Ping | Frame::Pong | Frame::Disconnect => {}
        }
    }
    (messages, None)
}
