//! HTTP/1 on the wire, in both directions: what goes on is one message for each that came, ends where that ends, and says
//! nothing that was not said.
//!
//! The input is a byte that says what comes, one that says in how large pieces, and a stream as a peer sends it. What is
//! written on is held against a reader of its own, which is stricter than any there is, and against `httparse`.

#![no_main]

use http::Method;
use libfuzzer_sys::{Corpus, fuzz_target};
use roost_proxy::fuzzing::{CALL_ID, Message, REPLICA, answers, requests};

/// What is of one connection and never goes on; what of it is written is ours.
const OF_THE_HOP: [&str; 5] =
    ["proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "expect"];

/// What may be in a head that was not in the one that came, or says something else.
const OURS: [&str; 15] = [
    "host", "connection", "upgrade", "te", "content-length", "transfer-encoding", "x-call-id", "x-start-time",
    "x-served-by", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "user-agent", "content-type", "date",
];

fuzz_target!(|input: &[u8]| -> Corpus {
    let [kind, piece, stream @ ..] = input else { return Corpus::Reject };
    let read = |piece| match kind {
        b'r' => Some(requests(stream, piece)),
        b'g' => Some(answers(stream, piece, &Method::GET)),
        b'h' => Some(answers(stream, piece, &Method::HEAD)),
        _ => None,
    };
    let Some(messages) = read(stream.len()) else { return Corpus::Reject };
    // What is written of a head has the time in it.
    let came = |messages: &[Message]| -> Vec<_> {
        let of = |message: &Message| (message.head.clone(), message.body.clone(), message.length, message.keep_alive);
        messages.iter().map(of).collect()
    };
    let in_pieces = read(usize::from(*piece)).unwrap_or_default();
    assert_eq!(came(&messages), came(&in_pieces), "it matters how it comes");
    let mut at = 0;
    for message in &messages {
        at = took(message, stream, at, *kind);
        for written in message.short.iter().chain([&message.long]) {
            goes_on(message, written, *kind);
        }
        if let Some(short) = &message.short {
            assert_eq!(sorted(short), sorted(&message.long), "two ways, two heads");
        }
    }
    // A stream of nothing that can be read says nothing.
    if messages.is_empty() { Corpus::Reject } else { Corpus::Keep }
});

/// Where a message ends is read by the book, and as the proxy has read it.
fn took(message: &Message, stream: &[u8], mut at: usize, kind: u8) -> usize {
    while let [b'\n', ..] | [b'\r', b'\n', ..] = stream[at..] {
        at += if stream[at] == b'\n' { 1 } else { 2 };
    }
    assert!(stream[at..].starts_with(&message.head), "another head than came");
    at += message.head.len();
    let lines = lines(&message.head);
    assert!(lines[..lines.len() - 1].iter().all(|line| !line.is_empty()) && lines[lines.len() - 1].is_empty());
    let Some(body) = &message.body else { return at };
    let headers: Vec<(&[u8], &[u8])> = lines[1..]
        .iter()
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
        .collect();
    let values = |name: &str| -> Vec<&[u8]> {
        let of = headers.iter().filter(|(is, _)| is.eq_ignore_ascii_case(name.as_bytes()));
        of.map(|(_, value)| *value).collect()
    };
    let bodiless = kind != b'r' && is_bodiless(lines[0], kind);
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let (length, chunks) = match (&lengths[..], &codings[..]) {
        _ if bodiless => (Some(0), false),
        (lengths, [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked") && !lines[0].ends_with(b"1.0") && !lines[0].starts_with(b"HTTP/1.0"));
            assert!(lengths.is_empty() || !message.keep_alive, "both are said, and another message follows");
            (None, true)
        }
        ([], []) => ((kind == b'r').then_some(0), false),
        ([length, others @ ..], []) => {
            assert!(others.iter().all(|other| number(other) == number(length)), "two lengths");
            (Some(number(length).expect("a length that is none")), false)
        }
        (_, codings) => panic!("{} codings, and it was let in", codings.len()),
    };
    assert_eq!(message.length, length);
    if chunks {
        let (data, end) = chunked(&stream[at..]).expect("chunks that are none");
        assert_eq!(&data, body);
        return at + end;
    }
    assert!(length.is_none_or(|length| length == body.len() as u64) && stream[at..].starts_with(body));
    at + body.len()
}

/// The data of a chunked body, and where it ends.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    let line = |at: usize| -> Option<&[u8]> {
        let end = at + bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        (!bytes[at..end].contains(&b'\n') && !bytes[at..end].contains(&b'\r')).then(|| &bytes[at..end])
    };
    loop {
        let size = line(at)?;
        at += size.len() + 2;
        let digits = size.split(|byte| b"; \t".contains(byte)).next()?;
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?, 16).ok()?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        data.extend_from_slice(bytes.get(at..end)?);
        (bytes.get(end..end + 2)? == b"\r\n").then_some(())?;
        at = end + 2;
    }
    loop {
        let trailer = line(at)?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Some((data, at));
        }
    }
}

/// What is written is one head by the strictest reading, with the body that came, and nothing in it is anybody's but the
/// peer's and ours.
fn goes_on(message: &Message, written: &[u8], kind: u8) {
    let (headers, first) = strictly(written);
    let (came, _) = parsed(&message.head, kind);
    let all = |name: &str| headers.iter().filter(|(is, _)| is == name).map(|(_, value)| *value).collect::<Vec<_>>();
    // What a function expects is nothing that anybody answers.
    for name in OF_THE_HOP.into_iter().filter(|name| kind == b'r' || *name != "expect") {
        assert!(all(name).is_empty(), "{name} goes on");
    }
    for (name, value) in &headers {
        let said = came.iter().any(|(is, other)| is == name && other == value);
        assert!(said || OURS.contains(&name.as_str()), "nobody said {name}");
    }
    // What the sender called its connection's, and is not what we say ourselves.
    for (_, named) in came.iter().filter(|(name, _)| name == "connection") {
        for name in named.split(|byte| *byte == b',').map(|name| name.trim_ascii().to_ascii_lowercase()) {
            let kept = headers.iter().any(|(is, _)| is.as_bytes() == name && !OURS.contains(&is.as_str()));
            assert!(!kept, "{} goes on", name.escape_ascii());
        }
    }
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "a length that is said twice");
    assert!(codings.iter().all(|coding| *coding == b"chunked"));
    assert_eq!(all("x-call-id").len(), 1);
    let no_id = !came.iter().any(|(name, value)| name == "x-call-id" && !value.is_empty());
    assert!(!no_id || all("x-call-id")[0] == CALL_ID.as_bytes());
    if kind == b'r' {
        assert!(first.ends_with(b" HTTP/1.1"));
        assert_eq!(all("host"), [REPLICA.as_bytes()]);
        match message.length {
            None => assert_eq!(codings.len(), 1, "no end is said"),
            Some(0) => assert!(codings.is_empty() && lengths.iter().all(|length| *length == b"0")),
            Some(length) => assert_eq!(lengths, [length.to_string().as_bytes()]),
        }
    } else {
        assert!(first.starts_with(b"HTTP/1.1 "));
        if !is_bodiless(first, kind) {
            match message.length {
                None => assert_eq!(codings.len(), 1, "no end is said"),
                Some(length) => assert_eq!(lengths, [length.to_string().as_bytes()]),
            }
        }
    }
}

type Headers<'a> = Vec<(String, &'a [u8])>;

/// Reads a head by the letter: nothing that anybody might read in another way is in it, and nothing is behind it.
fn strictly(head: &[u8]) -> (Headers<'_>, &[u8]) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("a head without an end");
    assert!(text.iter().all(|byte| *byte != 0));
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\r' || *byte == b'\n') {
        assert!(rest[end..].starts_with(b"\r\n"), "half a line break");
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let first = lines.remove(0);
    let headers = lines.into_iter().map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a line that is no header");
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(colon > 0 && line[..colon].iter().all(is_token), "a name that is none");
        (String::from_utf8(line[..colon].to_ascii_lowercase()).unwrap(), line[colon + 1..].trim_ascii())
    });
    (headers.collect(), first)
}

/// What `httparse` reads.
fn parsed(head: &[u8], kind: u8) -> (Headers<'_>, usize) {
    let mut room = [httparse::EMPTY_HEADER; 128];
    let (headers, length) = if kind == b'r' {
        let mut request = httparse::Request::new(&mut room);
        let length = request.parse(head).unwrap().unwrap();
        (request.headers, length)
    } else {
        let mut answer = httparse::Response::new(&mut room);
        let length = answer.parse(head).unwrap().unwrap();
        (answer.headers, length)
    };
    assert_eq!(length, head.len(), "a head that ends elsewhere");
    (headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.trim_ascii())).collect(), length)
}

/// Is there never a body behind an answer that begins so?
fn is_bodiless(first: &[u8], kind: u8) -> bool {
    let status = &first["HTTP/1.1 ".len()..];
    kind == b'h' || status[0] == b'1' || status.starts_with(b"204") || status.starts_with(b"304")
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// The lines of a head as it came, without their ends; the empty one at its end too.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let lines = head.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect()
}

/// The first line, and the headers sorted by name, those of one name as they come. Without the time.
fn sorted(head: &[u8]) -> (Headers<'_>, &[u8]) {
    let (mut headers, first) = strictly(head);
    headers.retain(|(name, _)| name != "date");
    headers.sort_by(|one, other| one.0.cmp(&other.0));
    (headers, first)
}
