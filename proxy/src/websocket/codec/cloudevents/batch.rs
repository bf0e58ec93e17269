//! Several messages in one request: the JSON batch format of `CloudEvents`.
//!
//! Owns that format. The attributes are those of a message alone, under their names without `ce-`; the id of each tells it
//! from the others.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{CE_ID, CloudEvents, media_type};
use crate::websocket::event::{Event, Message};

pub(super) const MEDIA_TYPE: &str = "application/cloudevents-batch+json; charset=utf-8";

/// All of `messages`, in their order.
pub(super) fn encode(settings: &CloudEvents, event: &Event<'_>, messages: &[Message]) -> Bytes {
    let mut common = Map::new();
    let mut id = String::new();
    for (name, value) in settings.attributes(event) {
        if name == CE_ID {
            id = value.into_owned();
        } else {
            let name = name.as_str().trim_start_matches("ce-");
            common.insert(name.to_owned(), Value::String(value.into_owned()));
        }
    }
    let batch: Vec<Value> = messages
        .iter()
        .enumerate()
        .map(|(at, message)| {
            let mut one = common.clone();
            one.insert("id".into(), format!("{id}.{at}").into());
            one.insert("datacontenttype".into(), media_type(message.text).into());
            let (name, data) = match std::str::from_utf8(&message.data) {
                Ok(text) if message.text => ("data", text.to_owned()),
                _ => ("data_base64", BASE64_STANDARD.encode(&message.data)),
            };
            one.insert(name.into(), data.into());
            Value::Object(one)
        })
        .collect();
    Value::Array(batch).to_string().into()
}
