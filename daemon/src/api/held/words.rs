//! What is to be said to connections: a body, and what the query says of it.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use roost_proxy::websocket::event::{ConnectionId, Message};

use crate::api::ApiError;
use crate::api::extract::Body;

/// The longest message, in bytes.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// A message, and who is not to hear it.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) message: Message,
    pub(super) except: Vec<ConnectionId>,
}

impl<S: Sync> FromRequest<S> for Words {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let pairs = pairs.map_err(|_| ApiError::bad_request("the query cannot be read"))?.0;
        let Body(data) = Body::<MAX_MESSAGE>::from_request(request, state).await?;
        read(&pairs, data)
    }
}

/// It is text if it is UTF-8, unless `type` says what it is. `exclude` may be given several times, and name several ids.
fn read(query: &[(String, String)], data: Bytes) -> Result<Words, ApiError> {
    let of = |wanted: &'static str| query.iter().filter(move |(name, _)| name == wanted);
    let is_text = str::from_utf8(&data).is_ok();
    let text = match of("type").next_back().map(|(_, kind)| kind.as_str()) {
        None => is_text,
        Some("text") if is_text => true,
        Some("text") => return Err(ApiError::bad_request("the body is no text: expected UTF-8")),
        Some("binary") => false,
        Some(_) => return Err(ApiError::bad_request("type: expected text or binary")),
    };
    let ids = of("exclude").flat_map(|(_, ids)| ids.split(',')).filter(|id| !id.is_empty());
    let except = ids.map(ConnectionId::parse).collect::<Option<_>>();
    let except = except.ok_or_else(|| ApiError::bad_request("exclude: expected ids of connections"))?;
    Ok(Words { message: Message { text, data }, except })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(query: &[(&str, &str)], data: &'static [u8]) -> Result<(bool, usize), String> {
        let query: Vec<_> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let read = read(&query, Bytes::from_static(data));
        read.map(|words| (words.message.text, words.except.len())).map_err(|error| error.text)
    }

    #[test]
    fn a_body_is_text_if_it_can_be_and_nobody_says_otherwise() {
        for (query, data, expected) in [
            (&[][..], &b"hi"[..], Ok(true)),
            (&[], b"", Ok(true)),
            (&[], b"\xff", Ok(false)),
            (&[("type", "text"), ("type", "binary")], b"hi", Ok(false)),
            (&[("type", "text")], b"hi", Ok(true)),
            (&[("type", "text")], b"\xff", Err("the body is no text: expected UTF-8".to_owned())),
            (&[("type", "json")], b"hi", Err("type: expected text or binary".to_owned())),
        ] {
            assert_eq!(words(query, data).map(|(text, _)| text), expected, "{query:?} {data:?}");
        }
    }

    #[test]
    fn whoever_is_not_to_hear_it_is_named_by_id_one_by_one_or_together() {
        const A: &str = "AAECAwQFBgcICQoLDA0ODw";
        let both = format!("{A},{A}");
        assert_eq!(words(&[("exclude", A), ("exclude", &both), ("exclude", "")], b"").unwrap().1, 3);
        assert_eq!(words(&[("exclude", "me")], b"").unwrap_err(), "exclude: expected ids of connections");
    }
}
