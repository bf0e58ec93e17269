//! A call that was taken over: what is kept of it, and in which form.
//!
//! Owns that form. A header's value is written with a character for each byte, as the values of headers need not be text.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request};
use jiff::Timestamp;
use roost_proxy::ProvenKey;
use roost_proxy::function::FunctionKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wishes::Wishes;

/// All of a call but its body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// Whose it is.
    #[serde(serialize_with = "as_route", deserialize_with = "from_route")]
    pub function: FunctionKey,
    /// The function as the client named it.
    pub name: String,
    /// What the client knows it by.
    pub id: String,
    /// When it was taken over, in milliseconds of Unix time.
    pub accepted: i64,
    pub(super) method: String,
    /// A path, and the query behind it.
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    /// Where its answer is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// The claim and the key that its token had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proven: Option<(String, String)>,
    /// What else its client wishes.
    #[serde(flatten)]
    pub wishes: Wishes,
}

/// Whether a call was taken over, or had been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It was.
    New,
    /// One with this idempotency key had been, which is known by this id.
    Again(String),
}

/// The head of a function's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Its status, or the one that stands for none.
    pub status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// From the beginning of the last attempt to the head of the answer, in seconds.
    pub seconds: f64,
    /// Attempts in all.
    pub attempts: u32,
}

/// What came of an attempt that is not the last word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The status of the answer, or the one that stands for none.
    pub status: u16,
    /// In words.
    pub cause: String,
}

impl Invocation {
    /// A call as it came, `parts` being what its function is to see.
    #[must_use]
    pub fn new(
        function: FunctionKey,
        name: String,
        id: &HeaderValue,
        parts: &request::Parts,
        callback: Option<String>,
        wishes: Wishes,
    ) -> Self {
        let proven = parts.extensions.get::<ProvenKey>();
        Self {
            function,
            name,
            id: text_of(id),
            accepted: Timestamp::now().as_millisecond(),
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            headers: texts_of(&parts.headers),
            callback,
            proven: proven.map(|proven| (proven.claim.to_string(), proven.key.as_str().to_owned())),
            wishes,
        }
    }

    /// One that comes from elsewhere, taken over now.
    #[must_use]
    pub fn of_parts(
        function: FunctionKey,
        id: String,
        method: &str,
        path: &str,
        headers: Vec<(String, String)>,
    ) -> Self {
        Self {
            name: function.to_string(),
            function,
            id,
            accepted: Timestamp::now().as_millisecond(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            callback: None,
            proven: None,
            wishes: Wishes::default(),
        }
    }

    /// Its method, its path and its headers.
    #[must_use]
    pub fn asked(&self) -> (&str, &str, &[(String, String)]) {
        (&self.method, &self.path, &self.headers)
    }

    /// Its request, without the body. `None` where what was kept makes none.
    pub(super) fn request(&self) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).ok()?;
        *request.uri_mut() = self.path.parse::<Uri>().ok()?;
        *request.headers_mut() = headers_of(&self.headers)?;
        if let Some((claim, key)) = &self.proven {
            let key = key.parse().ok()?;
            request.extensions_mut().insert(ProvenKey { claim: claim.as_str().into(), key });
        }
        Some(request)
    }

    /// Its id, as a header has it.
    pub(super) fn id_value(&self) -> HeaderValue {
        value_of(&self.id).unwrap_or_else(|| HeaderValue::from_static(""))
    }

    /// About the bytes of memory and disk that it takes besides its body.
    pub(super) fn weight(&self) -> u64 {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 16);
        (256 + self.name.len() + self.id.len() + self.path.len() + headers.sum::<usize>()) as u64
    }
}

impl Answer {
    /// That of a function.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, seconds: f64, attempts: u32) -> Self {
        Self { status: status.as_u16(), headers: texts_of(headers), seconds, attempts }
    }

    pub(super) fn headers(&self) -> HeaderMap {
        headers_of(&self.headers).unwrap_or_default()
    }
}

fn texts_of(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text_of(value))).collect()
}

fn headers_of(texts: &[(String, String)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(texts.len());
    for (name, value) in texts {
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, value_of(value)?);
    }
    Some(headers)
}

/// A character for each byte.
pub(super) fn text_of(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

fn value_of(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = text.chars().map(|char| u8::try_from(char).ok()).collect();
    HeaderValue::from_maybe_shared(Bytes::from(bytes?)).ok()
}

fn as_route<S: Serializer>(function: &FunctionKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(function)
}

fn from_route<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FunctionKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    FunctionKey::from_route(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_comes_back_as_it_was_byte_for_byte() {
        let mut request = Request::builder().method("PURGE").uri("/a%20b?c=d&e").body(()).unwrap();
        let headers = request.headers_mut();
        headers.append("x-own", HeaderValue::from_static("1"));
        headers.append("x-own", HeaderValue::from_bytes(b"\xff\xe4").unwrap());
        headers.append("x-empty", HeaderValue::from_static(""));
        request
            .extensions_mut()
            .insert(ProvenKey { claim: "sub".into(), key: "customer 7".parse().unwrap() });
        let (parts, ()) = request.into_parts();
        let function = FunctionKey::from_route("f.n").unwrap();
        let id = HeaderValue::from_bytes(b"mine \xfc").unwrap();
        let call =
            Invocation::new(function, "f.n".into(), &id, &parts, Some("http://h/".into()), Wishes::default());
        let kept: Invocation = serde_json::from_slice(&serde_json::to_vec(&call).unwrap()).unwrap();
        assert_eq!(kept, call);
        assert_eq!(kept.id_value(), id);
        let again = kept.request().unwrap();
        assert_eq!((again.method(), again.uri()), (&parts.method, &parts.uri));
        assert_eq!(again.headers(), &parts.headers);
        assert_eq!(again.extensions().get(), parts.extensions.get::<ProvenKey>());
    }
}
