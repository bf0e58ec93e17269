//! Compression of answers, for functions that ask for it.
//!
//! Owns which answers are compressed, what their headers say then, and how many are at a time. An answer that streams
//! stays one: what has come is sent on, compressed and flushed, before more is waited for. Each takes about 300 KiB while
//! it lasts; when [`MAX_AT_ONCE`] are being compressed, others go out as they are.
//!
//! ```text
//!   the function's body ──► deflate ──┬─ enough has come, or nothing more for now ──► one frame to the client
//!                              ▲      └─ else: the next piece
//!                              └───────────────┘
//! ```

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, VARY,
};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::{BoxError, FunctionBody, ResponseBody};

/// How many answers are compressed at once.
const MAX_AT_ONCE: usize = 64;

/// What is shorter is not worth it, in bytes.
const MIN_LENGTH: u64 = 1024;

/// So much goes out at once, compressed, in bytes; and so much is taken in before others have their turn.
const FRAME: usize = 16 << 10;
const TURN: usize = 64 << 10;

/// Headers that say what the very bytes of a body are.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Texts, beside all below `text/` and all that end in `+json` or `+xml`.
const TEXTS: [&str; 5] = [
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-javascript",
    "application/graphql",
];

/// What the names of types say that are sent event by event.
const STREAMS: [&str; 4] = ["event-stream", "ndjson", "jsonl", "stream+json"];

/// What a request says of how its answer may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Nothing is to be compressed.
    None,
    /// The client takes no gzip, or would rather not.
    Plain,
    /// The client takes gzip.
    Gzip,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is as it is, for everybody.
    Same,
    /// It is as it is, for this client.
    Plain,
    Gzip,
}

/// Compresses.
#[derive(Debug)]
pub(crate) struct Compressor {
    places: Arc<Semaphore>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_AT_ONCE)) }
    }
}

impl Offer {
    /// Of a request to a function whose answers may be compressed.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if *method == Method::HEAD || says(headers, &CACHE_CONTROL, "no-transform") {
            return Self::None;
        }
        let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        if takes_gzip(accepted.flat_map(|value| value.split(','))) { Self::Gzip } else { Self::Plain }
    }
}

impl Compressor {
    /// Makes an answer of a function the one for the client.
    pub(crate) fn apply(&self, offer: Offer, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let body = response.body();
        if offer == Offer::None || !body.is_of_function() || body.is_end_stream() {
            return response;
        }
        let length = response.body().size_hint().exact();
        let verdict = judge(offer, response.status(), response.headers(), length);
        if verdict == Verdict::Same {
            return response;
        }
        if !["accept-encoding", "*"].iter().any(|what| says(response.headers(), &VARY, what)) {
            response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
        }
        if verdict == Verdict::Plain {
            return response;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return response };
        rewrite(response.headers_mut());
        response.map(|body| body.compressed(place))
    }
}

/// What becomes of an answer, whose body is `length` long if that is known.
fn judge(offer: Offer, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Verdict {
    let whole = !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        && !headers.contains_key(CONTENT_RANGE);
    let may_change = !headers.contains_key(CONTENT_ENCODING)
        && !says(headers, &CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|digest| headers.contains_key(digest));
    let worth_it = length.is_none_or(|length| length >= MIN_LENGTH)
        && headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_text);
    match offer {
        _ if !(whole && may_change && worth_it) => Verdict::Same,
        Offer::None => Verdict::Same,
        Offer::Plain => Verdict::Plain,
        Offer::Gzip => Verdict::Gzip,
    }
}

/// Makes headers those of the compressed body.
fn rewrite(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    // Of other bytes than these.
    headers.remove(ACCEPT_RANGES);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    if let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) {
        // The same in meaning, no longer in its bytes.
        match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
            Ok(weak) => headers.insert(ETAG, weak),
            Err(_) => headers.remove(ETAG),
        };
    }
}

/// Is this a media type of text? Not of one that is sent event by event: whoever reads those wants each at once, and
/// some proxies and clients hold back what is compressed.
fn is_text(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if STREAMS.iter().any(|stream| essence.contains(stream)) {
        return false;
    }
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || TEXTS.contains(&essence.as_str())
}

/// Is `word` a member of one of the lists in these headers?
fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|member| member.trim().eq_ignore_ascii_case(word))
}

/// Does a client that accepts these codings take gzip, and not rather have none?
fn takes_gzip<'a>(accepted: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for member in accepted {
        let mut parts = member.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = weight(parts);
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = gzip.max(Some(weight)),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// The `q` among parameters, in thousandths: 1000 without it, 0 if it is none.
fn weight<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("q") {
            let weight = value.trim().parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight));
            return (weight.unwrap_or(0.0) * 1000.0).round() as u16;
        }
    }
    1000
}

/// A function's body, compressed on its way.
pub(crate) struct Compressed {
    inner: FunctionBody,
    /// Gone once all is compressed.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Something was put in since the last flush.
    unflushed: bool,
    /// What comes behind the last byte.
    trailers: Option<Frame<Bytes>>,
    /// Bytes that went out.
    sent: u64,
    /// Held as long as there is an encoder.
    place: Option<OwnedSemaphorePermit>,
}

impl Compressed {
    pub(crate) fn new(inner: FunctionBody, place: OwnedSemaphorePermit) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let (encoder, place) = (Some(encoder), Some(place));
        Self { inner, encoder, unflushed: false, trailers: None, sent: 0, place }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }

    /// Nothing is known before it is compressed.
    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut taken = 0;
        while let Some(encoder) = &mut self.encoder {
            match self.inner.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(error) = encoder.write_all(&data) {
                            return Poll::Ready(Some(Err(error.into())));
                        }
                        self.unflushed = true;
                        taken += data.len();
                        let ready = if taken >= TURN { self.flush() } else { Ok(self.take_if(FRAME)) };
                        if let Some(frame) = ready.transpose() {
                            return Poll::Ready(Some(frame.map_err(Into::into)));
                        }
                    }
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        return Poll::Ready(self.finish().transpose());
                    }
                },
                Poll::Ready(Some(Err(broken))) => {
                    // Without the last block: what is cut must not look whole.
                    (self.encoder, self.place) = (None, None);
                    return Poll::Ready(Some(Err(broken.into())));
                }
                Poll::Ready(None) => return Poll::Ready(self.finish().transpose()),
                Poll::Pending if self.unflushed => {
                    return Poll::Ready(self.flush().map_err(Into::into).transpose());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(self.trailers.take().map(Ok))
    }

    /// All that was put in so far, so that the client can read it.
    fn flush(&mut self) -> io::Result<Option<Frame<Bytes>>> {
        if let Some(encoder) = &mut self.encoder {
            encoder.flush()?;
        }
        self.unflushed = false;
        Ok(self.take_if(1))
    }

    /// What is compressed, if it is at least so much.
    fn take_if(&mut self, least: usize) -> Option<Frame<Bytes>> {
        let out = self.encoder.as_mut().map(GzEncoder::get_mut).filter(|out| out.len() >= least)?;
        let out = mem::take(out);
        Some(self.frame(out))
    }

    /// The rest. The compressor's memory is given back here, not when the client has taken it.
    fn finish(&mut self) -> Result<Option<Frame<Bytes>>, BoxError> {
        let Some(encoder) = self.encoder.take() else { return Ok(None) };
        let rest = encoder.finish()?;
        self.place = None;
        Ok(Some(self.frame(rest)))
    }

    fn frame(&mut self, bytes: Vec<u8>) -> Frame<Bytes> {
        self.sent += bytes.len() as u64;
        Frame::data(bytes.into())
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        self.inner.sent_as(self.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_client_takes_gzip_if_it_says_so_and_would_not_rather_have_none() {
        for (accepted, takes) in [
            (&[][..], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZIP"], true),
            (&["x-gzip"], true),
            (&["br", "deflate, gzip"], true),
            (&["br, zstd"], false),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.000"], false),
            (&["gzip;q=0.001"], true),
            (&["gzip;Q=0.5"], true),
            (&["gzip;q=2"], false),
            (&["gzip;q=x"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip, *;q=0"], true),
            (&["gzip;q=0.5, identity"], false),
            (&["gzip;q=0.5, identity;q=0.5"], true),
            (&["identity;q=0, gzip;q=0.1"], true),
            (&["identity"], false),
        ] {
            let given: Vec<_> = accepted.iter().map(|value| ("accept-encoding", *value)).collect();
            let expected = if takes { Offer::Gzip } else { Offer::Plain };
            assert_eq!(Offer::of(&Method::GET, &headers(&given)), expected, "{accepted:?}");
        }
        assert_eq!(Offer::of(&Method::HEAD, &headers(&[("accept-encoding", "gzip")])), Offer::None);
        let untouched = [("accept-encoding", "gzip"), ("cache-control", "no-cache, No-Transform")];
        assert_eq!(Offer::of(&Method::GET, &headers(&untouched)), Offer::None);
    }

    #[test]
    fn text_is_what_people_or_their_programs_read() {
        for text in [
            "text/plain",
            "text/HTML; charset=utf-8",
            "application/json",
            "application/ld+json",
            "image/svg+xml",
            "application/xml;charset=x",
            "application/javascript",
        ] {
            assert!(is_text(text), "{text}");
        }
        for other in [
            "",
            "image/png",
            "application/octet-stream",
            "application/grpc",
            "video/mp4",
            "text/event-stream",
            "text/event-stream; charset=utf-8",
            "application/x-ndjson",
            "application/ndjson",
            "text/x-ndjson",
            "application/jsonl",
            "application/stream+json",
            "application/json-seq",
        ] {
            assert!(!is_text(other), "{other}");
        }
    }

    #[test]
    fn only_a_whole_text_that_may_change_is_compressed() {
        const TEXT: (&str, &str) = ("content-type", "text/plain");
        for (status, lines, length, compressed) in [
            (200, &[TEXT][..], Some(1024), true),
            (200, &[TEXT], None, true),
            (404, &[TEXT], None, true),
            (200, &[TEXT], Some(1023), false),
            (200, &[], None, false),
            (200, &[("content-type", "image/png")], None, false),
            (200, &[("content-type", "text/event-stream")], None, false),
            (206, &[TEXT], None, false),
            (200, &[TEXT, ("content-range", "bytes 0-1/2")], None, false),
            (204, &[TEXT], None, false),
            (304, &[TEXT], None, false),
            (200, &[TEXT, ("content-encoding", "br")], None, false),
            (200, &[TEXT, ("content-encoding", "identity")], None, false),
            (200, &[TEXT, ("cache-control", "public, no-transform")], None, false),
            (200, &[TEXT, ("cache-control", "public")], None, true),
            (200, &[TEXT, ("content-digest", "sha-256=:x:")], None, false),
            (200, &[TEXT, ("content-md5", "x")], None, false),
        ] {
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
            for (offer, expected) in [
                (Offer::Gzip, if compressed { Verdict::Gzip } else { Verdict::Same }),
                (Offer::Plain, if compressed { Verdict::Plain } else { Verdict::Same }),
                (Offer::None, Verdict::Same),
            ] {
                assert_eq!(judge(offer, status, &headers, length), expected, "{status} {lines:?} {length:?}");
            }
        }
    }

    #[test]
    fn headers_no_longer_speak_of_the_bytes_as_they_were() {
        for (tag, expected) in [("\"a\"", "W/\"a\""), ("W/\"a\"", "W/\"a\"")] {
            let mut given =
                headers(&[("content-length", "9"), ("accept-ranges", "bytes"), ("etag", tag), ("x", "y")]);
            rewrite(&mut given);
            assert_eq!(given, headers(&[("content-encoding", "gzip"), ("etag", expected), ("x", "y")]));
        }
    }
}
