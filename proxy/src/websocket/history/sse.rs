//! What those who watch a group are sent: events of a stream, as browsers read them.
//!
//! Owns the words. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::log::Place;
use crate::websocket::event::Message;

/// How long a client that lost the stream waits before it comes back, in milliseconds.
const RETRY: u32 = 1000;

/// Nothing, said so that nobody on the way takes the stream for dead.
pub(super) const BEAT: Bytes = Bytes::from_static(b":\n\n");

/// A message. A text is as many lines of `data` as it has lines; what is binary is in base64, and an event of that name.
pub(super) fn message(place: Place, message: &Message) -> Bytes {
    let mut event = format!("id: {place}\n");
    match str::from_utf8(&message.data) {
        Ok(text) if message.text => data(&mut event, text),
        _ => {
            event.push_str("event: binary\n");
            data(&mut event, &BASE64_STANDARD.encode(&message.data));
        }
    }
    event.into()
}

/// The first words: where the client is, so that it can come back there even if it hears nothing else.
pub(super) fn opening(place: Place) -> String {
    format!("retry: {RETRY}\nid: {place}\n\n")
}

/// What the client has missed is not all there: it goes on from this place.
pub(super) fn lost(place: Place, reason: &str) -> String {
    let mut event = format!("event: lost\nid: {place}\n");
    data(&mut event, &json!({ "reason": reason }).to_string());
    event
}

/// Who is there, when a client begins to watch.
pub(super) fn here(users: &[(Box<str>, usize)], more: bool) -> String {
    let users: Vec<_> =
        users.iter().map(|(user, connections)| json!({ "id": user, "connections": connections })).collect();
    let mut event = "event: presence\n".to_owned();
    data(&mut event, &json!({ "event": "here", "users": users, "more": more }).to_string());
    event
}

/// A user came, or went.
pub(super) fn presence(user: &str, joined: bool) -> Bytes {
    let mut event = "event: presence\n".to_owned();
    let what = if joined { "joined" } else { "left" };
    data(&mut event, &json!({ "event": what, "user": user }).to_string());
    event.into()
}

/// The lines of a text, and the end of the event. Each of CR LF, CR and LF ends a line, and is LF to whoever reads it.
fn data(event: &mut String, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.find(['\r', '\n']);
        let line = &rest[..end.unwrap_or(rest.len())];
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
        let Some(end) = end else { break };
        rest = &rest[end..];
        rest = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
    }
    event.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_an_event_whatever_is_in_it() {
        let place = Place { epoch: 1, number: 2 };
        for (text, data, expected) in [
            (true, &b"hi"[..], "data: hi\n\n"),
            (true, b"", "data: \n\n"),
            (true, b"a\nb\r\nc\rd\n", "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
            (true, b"\n\nid: 7", "data: \ndata: \ndata: id: 7\n\n"),
            (false, b"hi", "event: binary\ndata: aGk=\n\n"),
            (false, b"\xff\n", "event: binary\ndata: /wo=\n\n"),
        ] {
            let event = message(place, &Message { text, data: data.into() });
            assert_eq!(event, format!("id: 0000000000000001-2\n{expected}"), "{data:?}");
        }
    }

    #[test]
    fn a_user_whose_name_has_lines_is_still_one_line() {
        let event = presence("a\n\"b\"", true);
        assert_eq!(event, "event: presence\ndata: {\"event\":\"joined\",\"user\":\"a\\n\\\"b\\\"\"}\n\n");
    }
}
