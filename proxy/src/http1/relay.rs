//! Heads that go on as they came, but for a few lines.
//!
//! Owns the short way of a head: read once, and written line by line into what goes out, without a map of headers in
//! between. What it writes is what `headers` and [`encode`](super::encode) would; where a head has anything in it that
//! takes more than leaving a line out or adding one, nothing is written, and it goes that way. Pure.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, StatusCode};
use httparse::{Header, ParserConfig, Status};

use super::encode::{self, Encoder};
use super::replica::Connection;
use super::{DEFAULT_HEADERS, Decoder, head};
use crate::PRODUCT;
use crate::strict::is_host_byte;

/// A request that asks for nothing but to be passed on.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: &'a str,
    /// Of the body, in bytes.
    pub(crate) length: u64,
    /// May another request follow?
    pub(crate) keep_alive: bool,
    /// What the client calls this call.
    pub(crate) call_id: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a [u8]>,
    host: &'a [u8],
    /// Who came before the client, by the header for that.
    forwarded_for: Option<&'a [u8]>,
    has_forwarded_host: bool,
    has_forwarded_proto: bool,
    has_user_agent: bool,
    headers: &'a [Header<'a>],
    /// Those of the headers that do not go on, by their bits.
    dropped: u128,
}

/// What is added to a request.
#[derive(Debug)]
pub(crate) struct Added<'a> {
    /// Path and query as the function sees them.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The address of the replica.
    pub(crate) host: &'a [u8],
    /// That of the client.
    pub(crate) peer: &'a str,
    pub(crate) secure: bool,
    pub(crate) call_id: &'a [u8],
    /// Nanoseconds of Unix time.
    pub(crate) start: u64,
}

/// What is said in an answer beside what the function says.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    pub(crate) method: &'a Method,
    pub(crate) call_id: &'a [u8],
    pub(crate) start: u64,
    /// The content type of the request.
    pub(crate) asked_with: Option<&'a [u8]>,
    pub(crate) keep_alive: bool,
}

/// An answer whose head was written.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) status: StatusCode,
    /// How its body comes.
    pub(super) body: Decoder,
    /// May another request follow on the connection to the function?
    pub(super) keep_alive: bool,
    /// How its body goes out.
    pub(super) encoder: Encoder,
}

impl Relayed {
    /// Tells the connection to the function what is behind the head.
    pub(crate) fn follow(&self, connection: &mut Connection) {
        connection.body_follows(self.body, self.keep_alive);
    }
}

/// The headers that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    CallId,
    Connection,
    ContentLength,
    ContentType,
    Date,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Host,
    KeepAlive,
    StartTime,
    TransferEncoding,
    UserAgent,
    /// What takes more than a line.
    Difficult,
    Other,
}

/// What a name is. Names with `_` are difficult: some of them are refused.
fn known(name: &str) -> Known {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 if is("te") => Known::Difficult,
        4 if is("host") => Known::Host,
        4 if is("date") => Known::Date,
        6 if is("expect") => Known::Difficult,
        7 if is("upgrade") || is("trailer") => Known::Difficult,
        9 if is("x-call-id") => Known::CallId,
        10 if is("connection") => Known::Connection,
        10 if is("user-agent") => Known::UserAgent,
        10 if is("keep-alive") => Known::KeepAlive,
        10 if is("tracestate") => Known::Difficult,
        11 if is("traceparent") => Known::Difficult,
        12 if is("content-type") => Known::ContentType,
        12 if is("x-start-time") => Known::StartTime,
        14 if is("content-length") => Known::ContentLength,
        15 if is("x-forwarded-for") => Known::ForwardedFor,
        16 if is("x-forwarded-host") => Known::ForwardedHost,
        16 if is("proxy-connection") => Known::Difficult,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        17 if is("x-forwarded-proto") => Known::ForwardedProto,
        18 if is("proxy-authenticate") => Known::Difficult,
        19 if is("proxy-authorization") => Known::Difficult,
        _ if name.as_bytes().contains(&b'_') => Known::Difficult,
        _ => Known::Other,
    }
}

/// Puts a value where none may be yet.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.is_none().then(|| *place = Some(value))
}

/// Reads a head of at most `most` headers, and has `then` do with it what it likes, if it is a plain one.
pub(crate) fn plain<T>(head: &Bytes, most: usize, then: impl FnOnce(&Plain<'_>) -> Option<T>) -> Option<T> {
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; DEFAULT_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let read = ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, &mut room);
    let (Ok(Status::Complete(_)), Some(1)) = (read, parsed.version) else { return None };
    if parsed.headers.len() > most {
        return None;
    }
    then(&Plain::of(method(parsed.method?)?, parsed.path?, parsed.headers)?)
}

/// The methods of functions.
fn method(name: &str) -> Option<Method> {
    Some(match name {
        "GET" => Method::GET,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        "OPTIONS" => Method::OPTIONS,
        "HEAD" => Method::HEAD,
        _ => return None,
    })
}

impl<'a> Plain<'a> {
    fn of(method: Method, target: &'a str, headers: &'a [Header<'a>]) -> Option<Self> {
        if !target.starts_with('/') || !target.bytes().all(is_url_byte) {
            return None;
        }
        let (mut host, mut length, mut dropped) = (None, None, 0_u128);
        let mut plain = Plain {
            method,
            target,
            length: 0,
            keep_alive: true,
            call_id: None,
            content_type: None,
            host: b"",
            forwarded_for: None,
            has_forwarded_host: false,
            has_forwarded_proto: false,
            has_user_agent: false,
            headers,
            dropped: 0,
        };
        for (index, Header { name, value }) in headers.iter().enumerate() {
            let value = *value;
            let drops = match known(name) {
                Known::Other | Known::StartTime | Known::Date => continue,
                Known::Difficult | Known::TransferEncoding | Known::KeepAlive => return None,
                Known::Host => {
                    once(&mut host, value)?;
                    true
                }
                Known::Connection => {
                    plain.keep_alive &= stays(value)?;
                    true
                }
                Known::ContentLength => {
                    once(&mut length, strict_length(value)?)?;
                    // One of nothing goes on, as there is no body to say it of.
                    length != Some(0)
                }
                Known::ContentType => {
                    plain.content_type.get_or_insert(value);
                    false
                }
                Known::CallId => {
                    once(&mut plain.call_id, value)?;
                    true
                }
                Known::ForwardedFor => {
                    once(&mut plain.forwarded_for, value)?;
                    true
                }
                Known::ForwardedHost => {
                    plain.has_forwarded_host = true;
                    false
                }
                Known::ForwardedProto => {
                    plain.has_forwarded_proto = true;
                    false
                }
                Known::UserAgent => {
                    plain.has_user_agent = true;
                    false
                }
            };
            if drops {
                dropped |= 1 << index;
            }
        }
        plain.host = host.filter(|host| host.iter().all(|byte| is_host_byte(*byte)))?;
        plain.length = length.unwrap_or(0);
        plain.call_id = plain.call_id.filter(|id| !id.is_empty());
        plain.dropped = dropped;
        Some(plain)
    }

    /// Writes the head for the function.
    pub(crate) fn write(&self, front: &mut Vec<u8>, added: &Added<'_>) {
        front.reserve(512);
        put(front, &[self.method.as_str().as_bytes(), b" ", added.path.as_bytes()]);
        if let Some(query) = added.query {
            put(front, &[b"?", query.as_bytes()]);
        }
        put(front, &[b" HTTP/1.1\r\nhost: ", added.host, b"\r\n"]);
        lines(front, self.headers, self.dropped);
        match self.forwarded_for {
            None => put(front, &[b"x-forwarded-for: ", added.peer.as_bytes(), b"\r\n"]),
            Some(before) => {
                put(front, &[b"x-forwarded-for: ", before, b", ", added.peer.as_bytes(), b"\r\n"]);
            }
        }
        if !self.has_forwarded_host {
            put(front, &[b"x-forwarded-host: ", self.host, b"\r\n"]);
        }
        if !self.has_forwarded_proto {
            let proto: &[u8] = if added.secure { b"https" } else { b"http" };
            put(front, &[b"x-forwarded-proto: ", proto, b"\r\n"]);
        }
        if !self.has_user_agent {
            put(front, &[b"user-agent: ", PRODUCT.as_bytes(), b"\r\n"]);
        }
        let mut start = itoa::Buffer::new();
        let start = start.format(added.start).as_bytes();
        put(front, &[b"x-call-id: ", added.call_id, b"\r\nx-start-time: ", start, b"\r\n"]);
        if self.length > 0 {
            encode::content_length(front, self.length);
        }
        put(front, &[b"\r\n"]);
    }
}

/// Writes the head of a function's answer for a client of HTTP/1.1.
pub(crate) fn response(head: &Bytes, front: &mut Vec<u8>, said: &Said<'_>) -> Option<Relayed> {
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; DEFAULT_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let read = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut room);
    let (Ok(Status::Complete(_)), Some(1)) = (read, parsed.version) else { return None };
    let status = StatusCode::from_u16(parsed.code?).ok().filter(|status| !status.is_informational())?;
    let (mut length, mut chunked, mut keep_alive, mut dropped) = (None, None, true, 0_u128);
    let (mut has_type, mut has_date) = (false, false);
    for (index, Header { name, value }) in parsed.headers.iter().enumerate() {
        match known(name) {
            Known::Difficult => return None,
            Known::Connection => keep_alive &= stays(value)?,
            Known::ContentLength => once(&mut length, (head::number(value)?, *value))?,
            Known::TransferEncoding => {
                once(&mut chunked, value.eq_ignore_ascii_case(b"chunked").then_some(())?)?;
            }
            Known::KeepAlive | Known::CallId | Known::StartTime => {}
            kind => {
                has_type |= kind == Known::ContentType;
                has_date |= kind == Known::Date;
                continue;
            }
        }
        dropped |= 1 << index;
    }
    let can_have_body = encode::can_have_body(status);
    let of_head = *said.method == Method::HEAD;
    let body = match (&length, chunked) {
        (Some(_), Some(())) => return None,
        _ if !can_have_body || of_head => Decoder::Done,
        (Some((length, _)), None) => Decoder::of_length(*length),
        (None, Some(())) => Decoder::CHUNKED,
        (None, None) => Decoder::Close,
    };
    front.reserve(512);
    let mut code = itoa::Buffer::new();
    let code = code.format(status.as_u16()).as_bytes();
    put(front, &[b"HTTP/1.1 ", code, b" ", parsed.reason?.as_bytes(), b"\r\n"]);
    lines(front, parsed.headers, dropped);
    let mut start = itoa::Buffer::new();
    let start = start.format(said.start).as_bytes();
    put(front, &[b"x-call-id: ", said.call_id, b"\r\nx-start-time: ", start]);
    put(front, &[b"\r\nx-served-by: ", PRODUCT.as_bytes(), b"\r\n"]);
    if !has_type && !body.is_done() {
        put(front, &[b"content-type: ", said.asked_with.unwrap_or(b"text/plain"), b"\r\n"]);
    }
    match (body.left(), &length) {
        // What it would be, of an answer that is not sent.
        (_, Some((_, length))) if of_head && can_have_body => {
            put(front, &[b"content-length: ", length, b"\r\n"]);
        }
        _ if of_head || !can_have_body => {}
        (Some(length), _) => encode::content_length(front, length),
        (None, _) => put(front, &[b"transfer-encoding: chunked\r\n"]),
    }
    if !said.keep_alive {
        put(front, &[b"connection: close\r\n"]);
    }
    if !has_date {
        put(front, &[b"date: ", &encode::date(), b"\r\n"]);
    }
    put(front, &[b"\r\n"]);
    // A body that ends with its connection is the last.
    let keep_alive = keep_alive && body != Decoder::Close;
    Some(Relayed { status, keep_alive, encoder: Encoder::of_answer(body.left(), !said.keep_alive), body })
}

fn put(front: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        front.extend_from_slice(piece);
    }
}

/// Writes the headers that are not `dropped`.
fn lines(front: &mut Vec<u8>, headers: &[Header<'_>], dropped: u128) {
    for (index, Header { name, value }) in headers.iter().enumerate() {
        if dropped & (1 << index) == 0 {
            put(front, &[name.as_bytes(), b": ", value, b"\r\n"]);
        }
    }
}

/// Does a connection stay open, by the one word that its header has? Names of headers there are difficult.
fn stays(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        Some(true)
    } else {
        value.eq_ignore_ascii_case(b"close").then_some(false)
    }
}

/// A number that nobody reads in another way.
fn strict_length(value: &[u8]) -> Option<u64> {
    if let [b'0', _, ..] = value { None } else { head::number(value) }
}

/// The bytes of paths and queries that nobody has to look at twice.
fn is_url_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ways;
    use super::*;

    /// The first line, and the others sorted, names in lower case and in their own order where a name comes twice. Without
    /// the time.
    fn lines(head: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(head).unwrap();
        let (first, rest) = text.strip_suffix("\r\n\r\n").unwrap().split_once("\r\n").unwrap();
        let mut lines: Vec<String> = rest
            .split("\r\n")
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                format!("{}: {}", name.to_ascii_lowercase(), value.trim())
            })
            .filter(|line| !line.starts_with("date: "))
            .collect();
        lines.sort_by(|one, other| one.split(": ").next().cmp(&other.split(": ").next()));
        lines.insert(0, first.to_owned());
        lines
    }

    /// The same, with what goes with it.
    fn read((head, body, keep_alive): ways::Written) -> (Vec<String>, Decoder, bool) {
        (lines(&head), body, keep_alive)
    }

    /// Headers that mean something here, rarely right beside each other.
    fn header() -> impl Strategy<Value = String> {
        let names = [
            "host",
            "Connection",
            "content-length",
            "Content-Type",
            "transfer-encoding",
            "te",
            "expect",
            "upgrade",
            "trailer",
            "x-call-id",
            "X-Start-Time",
            "x-forwarded-for",
            "x-forwarded-host",
            "X-Forwarded-Proto",
            "user-agent",
            "keep-alive",
            "proxy-connection",
            "traceparent",
            "tracestate",
            "x_forwarded_for",
            "x_own",
            "date",
            "cookie",
            "set-cookie",
            "x-a",
            "server",
            "x-served-by",
        ];
        let values = [
            "",
            "h",
            "keep-alive",
            "close",
            "x-a",
            "3",
            "03",
            "0",
            "chunked",
            "gzip",
            "a/b",
            "10.0.0.9",
            "websocket",
        ];
        let usual = [
            "Connection: keep-alive",
            "connection: close",
            "content-length: 3",
            "content-length: 0",
            "Content-Type: a/b",
            "transfer-encoding: chunked",
            "x-call-id: mine",
            "x-forwarded-for: 10.0.0.9",
            "Keep-Alive: timeout=5",
            "user-agent: me",
            "set-cookie: a",
            "Date: Sun",
            "x-a:  1 ",
        ];
        let any = (prop::sample::select(names.to_vec()), prop::sample::select(values.to_vec()));
        prop_oneof![
            3 => prop::sample::select(usual.to_vec()).prop_map(|line| format!("{line}\r\n")),
            1 => any.prop_map(|(name, value)| format!("{name}: {value}\r\n")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_goes_the_short_way_to_a_function_is_what_the_long_way_makes_of_it(
            method in prop::sample::select(vec!["GET", "POST", "HEAD", "DELETE", "TRACE", "G@T"]),
            target in prop::sample::select(vec!["/a/b", "/", "/a?b=c&d", "/a?b?c", "*", "/a#b", "/\u{e4}", "http://h/a", "/a%20//../b"]),
            version in prop::sample::select(vec!["1.1", "1.1", "1.1", "1.0"]),
            more in prop::collection::vec(header(), 0..6),
        ) {
            let head = Bytes::from(format!("{method} {target} HTTP/{version}\r\nhost: h\r\n{}\r\n", more.concat()));
            if let Some(short) = ways::short_request(&head) {
                prop_assert_eq!(Some(read(short)), ways::long_request(&head).map(read));
            }
        }

        #[test]
        fn what_goes_the_short_way_to_a_client_is_what_the_long_way_makes_of_it(
            status in prop::sample::select(vec!["200 OK", "200 Fine", "204 No Content", "304 Not Modified", "404 ", "100 Continue", "101 Switching Protocols", "999 X"]),
            method in prop::sample::select(vec![Method::GET, Method::HEAD]),
            asked_with in prop::sample::select(vec![None, Some("c/d")]),
            more in prop::collection::vec(header(), 0..6),
        ) {
            let head = Bytes::from(format!("HTTP/1.1 {status}\r\n{}\r\n", more.concat()));
            if let Some(short) = ways::short_response(&head, &method, asked_with) {
                prop_assert_eq!(Some(read(short)), ways::long_response(&head, &method, asked_with).map(read));
            }
        }
    }

    #[test]
    fn what_clients_and_functions_mostly_say_goes_the_short_way() {
        for head in [
            "GET /function/f HTTP/1.1\r\nHost: h:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
            "POST /a?b HTTP/1.1\r\nhost: h\r\ncontent-type: a/b\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 10.0.0.9\r\nx-call-id: mine\r\ncookie: a=1\r\n\r\n",
        ] {
            assert!(ways::short_request(&Bytes::from(head)).is_some(), "{head}");
        }
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: Sun\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nServer: x\r\nConnection: close\r\n\r\n",
        ] {
            assert!(ways::short_response(&Bytes::from(head), &Method::GET, None).is_some(), "{head}");
        }
    }
}
