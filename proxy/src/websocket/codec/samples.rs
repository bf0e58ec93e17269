//! Events for the tests of dialects.

use std::time::{Duration, SystemTime};

use crate::function::FunctionKey;
use crate::websocket::event::{ConnectionId, Event, Identity, Message, What};

pub(super) const CONNECTION: &str = "AAECAwQFBgcICQoLDA0ODw";

/// 2026-11-20T20:38:28.941Z
pub(super) fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_207_108_941)
}

pub(super) fn identity() -> Identity {
    Identity {
        id: ConnectionId::parse(CONNECTION).unwrap(),
        function: FunctionKey::from_route("chat.staging").unwrap(),
        path: "/room/1?name=J%C3%BCrgen+B&a=1&a=2".into(),
        user: Box::<str>::from("ada").into(),
        subprotocol: Box::<str>::from("v1.chat").into(),
        peer: [192, 0, 2, 1].into(),
        host: Some("edge.example".into()),
        user_agent: Some("ws/8".into()),
        since: at() - Duration::from_secs(60),
    }
}

pub(super) fn event<'a>(of: &'a Identity, what: What<'a>) -> Event<'a> {
    Event { of, sequence: Some(7), attempt: 2, at: at(), state: None, what }
}

pub(super) fn text(text: &str) -> Message {
    Message { text: true, data: text.to_owned().into() }
}

pub(super) fn binary(data: &[u8]) -> Message {
    Message { text: false, data: data.to_vec().into() }
}
