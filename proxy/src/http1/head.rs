//! The heads of messages, read.
//!
//! Owns what a head means for its connection: where it ends, how long the body is, whether another message may follow.
//! Pure. Names and values are slices of the bytes that came.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::{DEFAULT_HEADERS, Decoder, Malformed};

/// The longest URL: what its type can hold.
const MAX_URL: usize = u16::MAX as usize - 1;

/// Headers that are added to each message on its way.
const ADDED: usize = 8;

/// How much of a head a peer may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// In bytes.
    pub(super) size: usize,
    /// How many headers.
    pub(super) headers: usize,
}

/// The head of a client's request.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) request: Request<()>,
    pub(super) body: Decoder,
    /// May another request follow?
    pub(super) keep_alive: bool,
    /// The client waits for a word before it sends the body.
    pub(super) expects_continue: bool,
}

/// The head of a function's answer.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
}

/// Where the head in front of `input` ends, of which `seen` bytes have been looked at before.
pub(super) fn end(input: &[u8], seen: usize) -> Option<usize> {
    // A line feed that came last is looked at again, with what is behind it.
    let from = seen.saturating_sub(2);
    memchr::memchr_iter(b'\n', &input[from..]).map(|at| from + at + 1).find_map(|next| match input[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

/// Takes a whole head out of `input`, once it is there. `seen` is how much of it was there the last time.
fn take(input: &mut BytesMut, seen: &mut usize, size: usize) -> Result<Option<Bytes>, Malformed> {
    // Empty lines in front of a head mean nothing.
    while let [b'\n', ..] | [b'\r', b'\n', ..] = **input {
        input.advance(if input[0] == b'\n' { 1 } else { 2 });
    }
    match end(input, *seen) {
        Some(length) if length > size => Err(Malformed::HeadTooLarge),
        Some(length) => {
            *seen = 0;
            Ok(Some(input.split_to(length).freeze()))
        }
        None if input.len() > size => Err(Malformed::HeadTooLarge),
        None => {
            *seen = input.len();
            Ok(None)
        }
    }
}

/// Room for the headers of a message: on the stack, where they are as few as they mostly are.
macro_rules! with_room {
    ($count:expr, |$headers:ident| $parse:expr) => {
        if $count <= DEFAULT_HEADERS {
            let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; DEFAULT_HEADERS];
            let $headers = &mut room[..$count];
            $parse
        } else {
            let mut room = vec![MaybeUninit::<Header<'_>>::uninit(); $count];
            let $headers = &mut room[..];
            $parse
        }
    };
}

/// Takes the head of a request out of `input`, once it is all there.
pub(super) fn take_request(
    input: &mut BytesMut,
    seen: &mut usize,
    bounds: Bounds,
) -> Result<Option<Bytes>, Malformed> {
    let first = *seen == 0;
    let head = take(input, seen, bounds.size)?;
    if head.is_none() && first {
        // What does not begin as a request will never be one.
        with_room!(bounds.headers, |room| {
            let mut request = httparse::Request::new(&mut []);
            ParserConfig::default()
                .parse_request_with_uninit_headers(&mut request, input, room)
                .map_err(malformed)
        })?;
    }
    Ok(head)
}

/// Reads the head of a request.
pub(super) fn read_request(head: &Bytes, bounds: Bounds) -> Result<RequestHead, Malformed> {
    with_room!(bounds.headers, |room| request(head, room))
}

fn request<'a>(head: &'a Bytes, room: &mut [MaybeUninit<Header<'a>>]) -> Result<RequestHead, Malformed> {
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, room) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Malformed::Head),
        Err(error) => return Err(malformed(error)),
    }
    let (Some(method), Some(url), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed::Head);
    };
    if url.len() > MAX_URL {
        return Err(Malformed::UrlTooLong);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Head)?;
    *request.uri_mut() =
        Uri::from_maybe_shared(head.slice_ref(url.as_bytes())).map_err(|_| Malformed::Head)?;
    *request.version_mut() = version(minor);
    *request.headers_mut() = fields(head, parsed.headers)?;
    let mut keep_alive = keeps_alive(minor, request.headers());
    let body = match length(request.headers_mut())? {
        Length::None => Decoder::Done,
        Length::Bytes(length) => Decoder::of_length(length),
        Length::Chunked { beside_length } => {
            if minor == 0 {
                return Err(Malformed::Length);
            }
            // Whoever sent both may have meant the other one.
            keep_alive &= !beside_length;
            Decoder::CHUNKED
        }
    };
    let headers = request.headers_mut();
    if matches!(body, Decoder::Chunked(_)) {
        headers.remove(CONTENT_LENGTH);
    }
    let expects =
        headers.get(EXPECT).is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let expects_continue = expects && minor == 1 && !body.is_done();
    Ok(RequestHead { request, body, keep_alive, expects_continue })
}

/// Takes the head of an answer out of `input`, once it is all there.
pub(super) fn take_response(
    input: &mut BytesMut,
    seen: &mut usize,
    bounds: Bounds,
) -> Result<Option<Bytes>, Malformed> {
    let first = *seen == 0;
    let head = take(input, seen, bounds.size)?;
    if head.is_none() && first {
        with_room!(bounds.headers, |room| {
            let mut response = httparse::Response::new(&mut []);
            ParserConfig::default()
                .parse_response_with_uninit_headers(&mut response, input, room)
                .map_err(malformed)
        })?;
    }
    Ok(head)
}

/// Reads the head of an answer to a request of `method`.
pub(super) fn read_response(
    head: &Bytes,
    bounds: Bounds,
    method: &Method,
) -> Result<ResponseHead, Malformed> {
    with_room!(bounds.headers, |room| response(head, room, method))
}

fn response<'a>(
    head: &'a Bytes,
    room: &mut [MaybeUninit<Header<'a>>],
    method: &Method,
) -> Result<ResponseHead, Malformed> {
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, room) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Malformed::Head),
        Err(error) => return Err(malformed(error)),
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else { return Err(Malformed::Head) };
    let mut response = Response::new(());
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Head)?;
    *response.status_mut() = status;
    *response.version_mut() = version(minor);
    *response.headers_mut() = fields(head, parsed.headers)?;
    if let Some(reason) = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason()) {
        let reason =
            ReasonPhrase::try_from(head.slice_ref(reason.as_bytes())).map_err(|_| Malformed::Head)?;
        response.extensions_mut().insert(reason);
    }
    let mut keep_alive = keeps_alive(minor, response.headers());
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    let body = match length(response.headers_mut())? {
        _ if bodiless => Decoder::Done,
        Length::Bytes(length) => Decoder::of_length(length),
        Length::Chunked { .. } if minor == 0 => return Err(Malformed::Length),
        Length::Chunked { beside_length } => {
            keep_alive &= !beside_length;
            Decoder::CHUNKED
        }
        Length::None => {
            keep_alive = false;
            Decoder::Close
        }
    };
    Ok(ResponseHead { response, body, keep_alive })
}

/// Reads trailers, of which all are there.
pub(super) fn read_trailers(bytes: &Bytes) -> Result<HeaderMap, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; DEFAULT_HEADERS];
    match httparse::parse_headers(bytes, &mut headers) {
        Ok(Status::Complete((length, headers))) if length == bytes.len() => {
            fields(bytes, headers).map_err(|_| Malformed::Trailers)
        }
        Ok(_) | Err(_) => Err(Malformed::Trailers),
    }
}

fn fields(head: &Bytes, parsed: &[Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED);
    for Header { name, value } in parsed {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Malformed::Head)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| Malformed::Head)?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn malformed(error: httparse::Error) -> Malformed {
    if error == httparse::Error::TooManyHeaders { Malformed::HeadTooLarge } else { Malformed::Head }
}

/// What the headers say of the body.
#[derive(Debug, PartialEq, Eq)]
enum Length {
    None,
    Bytes(u64),
    Chunked {
        /// There is also a number, which does not count.
        beside_length: bool,
    },
}

/// Reads them. A length that is said more than once is said once from here on.
fn length(headers: &mut HeaderMap) -> Result<Length, Malformed> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        let beside_length = headers.contains_key(CONTENT_LENGTH);
        return if chunked { Ok(Length::Chunked { beside_length }) } else { Err(Malformed::Length) };
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().map(|length| number(length.as_bytes()));
    let Some(length) = lengths.next() else { return Ok(Length::None) };
    let bytes = length.ok_or(Malformed::Length)?;
    let (mut again, mut same) = (false, true);
    for other in lengths {
        (again, same) = (true, same && other == length);
    }
    if !same {
        return Err(Malformed::Length);
    }
    if again {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Ok(Length::Bytes(bytes))
}

/// Digits and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// May another message follow this one on its connection?
fn keeps_alive(minor: u8, headers: &HeaderMap) -> bool {
    let says = |what: &[u8]| {
        let mut values = headers.get_all(CONNECTION).iter();
        values.any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(what))
        })
    };
    if minor == 0 { says(b"keep-alive") && !says(b"close") } else { !says(b"close") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { size: 1000, headers: 10 };

    fn request_of(text: &str) -> Result<Option<RequestHead>, Malformed> {
        let (mut input, mut seen) = (BytesMut::from(text), 0);
        take_request(&mut input, &mut seen, BOUNDS)?.map(|head| read_request(&head, BOUNDS)).transpose()
    }

    fn response_of(text: &str, method: &Method) -> Result<(Decoder, bool), Malformed> {
        let (mut input, mut seen) = (BytesMut::from(text), 0);
        let head = take_response(&mut input, &mut seen, BOUNDS)?.expect("a whole head");
        read_response(&head, BOUNDS, method).map(|head| (head.body, head.keep_alive))
    }

    #[test]
    fn a_head_ends_with_the_first_empty_line_however_it_comes() {
        for (text, end) in [
            ("GET / HTTP/1.1\r\nhost: h\r\n\r\nbody\r\n\r\n", 27),
            ("GET / HTTP/1.1\nhost: h\n\nbody", 24),
            ("GET / HTTP/1.1\nhost: h\n\r\nbody", 25),
            ("\r\n\nGET / HTTP/1.1\r\n\r\nbody", 18),
        ] {
            for step in 1..=text.len() {
                let (mut input, mut seen) = (BytesMut::new(), 0);
                let mut pieces = text.as_bytes().chunks(step);
                let head = loop {
                    input.extend_from_slice(pieces.next().expect("a head before the end"));
                    if let Some(head) = take_request(&mut input, &mut seen, BOUNDS).unwrap() {
                        break head;
                    }
                };
                assert_eq!((head.len(), seen), (end, 0), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn what_does_not_begin_as_a_message_is_refused_before_it_ends_and_what_is_too_long_also() {
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(1000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(11));
        let url = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_URL));
        for (text, expected) in [
            ("\x16\x03\x01\x02\0", Malformed::Head),
            ("GET / HTTP/2.0\r\n", Malformed::Head),
            ("GET  / HTTP/1.1\r\n\r\n", Malformed::Head),
            ("GET / HTTP/1.1\r\nx : y\r\n\r\n", Malformed::Head),
            ("GET / HTTP/1.1\r\nx: y\r\n z\r\n\r\n", Malformed::Head),
            (&long, Malformed::HeadTooLarge),
            (&many, Malformed::HeadTooLarge),
        ] {
            assert_eq!(request_of(text).map(|_| ()), Err(expected), "{text:?}");
        }
        let large = Bounds { size: 1 << 20, ..BOUNDS };
        assert_eq!(read_request(&Bytes::from(url), large).map(|_| ()), Err(Malformed::UrlTooLong));
        assert!(request_of("GET / HTTP/1.1\r\nx: ").unwrap().is_none());
    }

    #[test]
    fn the_body_of_a_request_is_as_long_as_one_header_says() {
        let chunked = Decoder::CHUNKED;
        for (headers, expected) in [
            ("", Ok((Decoder::Done, true, false))),
            ("content-length: 5\r\n", Ok((Decoder::Length(5), true, false))),
            ("content-length: 5\r\nContent-Length: 5\r\n", Ok((Decoder::Length(5), true, false))),
            ("content-length: 0\r\nexpect: 100-continue\r\n", Ok((Decoder::Done, true, false))),
            ("content-length: 5\r\nexpect: 100-Continue\r\n", Ok((Decoder::Length(5), true, true))),
            ("content-length: 5\r\nexpect: other\r\n", Ok((Decoder::Length(5), true, false))),
            ("transfer-encoding: Chunked\r\n", Ok((chunked, true, false))),
            ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Ok((chunked, false, false))),
            ("connection: x, Close\r\n", Ok((Decoder::Done, false, false))),
            ("connection: keep-alive\r\nconnection: close\r\n", Ok((Decoder::Done, false, false))),
            ("content-length: 5\r\ncontent-length: 6\r\n", Err(Malformed::Length)),
            ("content-length: 5, 5\r\n", Err(Malformed::Length)),
            ("content-length: +5\r\n", Err(Malformed::Length)),
            ("content-length:\r\n", Err(Malformed::Length)),
            ("content-length: 18446744073709551616\r\n", Err(Malformed::Length)),
            ("transfer-encoding: gzip, chunked\r\n", Err(Malformed::Length)),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Err(Malformed::Length)),
        ] {
            let read = request_of(&format!("POST /x HTTP/1.1\r\n{headers}\r\n")).map(Option::unwrap);
            let read = read.map(|head| (head.body, head.keep_alive, head.expects_continue));
            assert_eq!(read, expected, "{headers:?}");
        }
        let old =
            |headers: &str| request_of(&format!("POST /x HTTP/1.0\r\n{headers}\r\n")).map(Option::unwrap);
        assert!(!old("").unwrap().keep_alive);
        assert!(old("connection: Keep-Alive\r\n").unwrap().keep_alive);
        assert!(!old("content-length: 5\r\nexpect: 100-continue\r\n").unwrap().expects_continue);
        assert_eq!(old("transfer-encoding: chunked\r\n").map(|_| ()), Err(Malformed::Length));
    }

    #[test]
    fn a_length_that_is_said_twice_goes_on_once() {
        let request = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nx: y\r\nContent-Length: 5\r\n\r\n";
        let request = request_of(request).unwrap().unwrap().request;
        let lengths: Vec<_> = request.headers().get_all(CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["5"]);
    }

    #[test]
    fn the_body_of_an_answer_depends_on_its_status_and_on_the_request_too() {
        let (get, head) = (Method::GET, Method::HEAD);
        for (method, text, expected) in [
            (&get, "200 OK\r\ncontent-length: 5\r\n", Ok((Decoder::Length(5), true))),
            (&head, "200 OK\r\ncontent-length: 5\r\n", Ok((Decoder::Done, true))),
            (&get, "204 No Content\r\ncontent-length: 5\r\n", Ok((Decoder::Done, true))),
            (&get, "304 Not Modified\r\ntransfer-encoding: chunked\r\n", Ok((Decoder::Done, true))),
            (&get, "100 Continue\r\n", Ok((Decoder::Done, true))),
            (&get, "200 OK\r\ntransfer-encoding: chunked\r\n", Ok((Decoder::CHUNKED, true))),
            (&get, "200 OK\r\n", Ok((Decoder::Close, false))),
            (&get, "200 OK\r\nconnection: close\r\ncontent-length: 5\r\n", Ok((Decoder::Length(5), false))),
            (&get, "200 OK\r\ntransfer-encoding: gzip\r\n", Err(Malformed::Length)),
            (&get, "200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n", Err(Malformed::Length)),
        ] {
            assert_eq!(response_of(&format!("HTTP/1.1 {text}\r\n"), method), expected, "{method} {text:?}");
        }
        assert_eq!(
            response_of("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", &get),
            Ok((Decoder::Length(5), false))
        );
    }
}
