//! Headers on their way through, in both directions: whatever comes, nothing of the connection goes on, and what is ours
//! says what we say.
//!
//! The input is a first line that begins with the kind of message and lines of headers, as on the wire.

#![no_main]

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use libfuzzer_sys::{Corpus, fuzz_target};
use roost_proxy::fuzzing::{CALL_ID, is_refused, to_client, to_function};

const GONE: [&str; 5] =
    ["proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "transfer-encoding"];

fuzz_target!(|input: &[u8]| -> Corpus {
    let mut lines = input.split(|byte| *byte == b'\n');
    let kind = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Corpus::Reject };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // What is no header never gets so far.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            return Corpus::Reject;
        };
        headers.append(name, value);
    }
    match kind {
        b"1.0" => request(headers, Version::HTTP_10),
        b"1.1" => request(headers, Version::HTTP_11),
        b"2" => request(headers, Version::HTTP_2),
        b"101" => answer(&headers, StatusCode::SWITCHING_PROTOCOLS),
        b"200" => answer(&headers, StatusCode::OK),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

fn request(headers: HeaderMap, version: Version) {
    let mut request = Request::new(());
    *request.version_mut() = version;
    *request.headers_mut() = headers.clone();
    if is_refused(&request) {
        return;
    }
    assert!(headers.get_all(HOST).iter().count() <= 1);
    let (sent, upgrade) = to_function(request, "192.0.2.1:5".parse().unwrap());
    connection_stays_here(&headers, &sent, upgrade);
    assert!(sent.get(TE).is_none_or(|te| te == "trailers") && sent.get("expect").is_none());
    assert_eq!(sent.get_all("x-call-id").iter().collect::<Vec<_>>(), [CALL_ID]);
    let forwarded: Vec<_> = sent.get_all("x-forwarded-for").iter().collect();
    assert!(forwarded.len() == 1 && forwarded[0].as_bytes().ends_with(b"192.0.2.1"), "{forwarded:?}");
    assert_eq!(sent.get_all("x-start-time").iter().next_back().unwrap(), "7");
    if upgrade {
        assert!(version == Version::HTTP_11);
        for offered in sent.get_all(UPGRADE) {
            let text = String::from_utf8_lossy(offered.as_bytes()).to_ascii_lowercase();
            assert!(text.split(',').all(|offer| offer.trim() != "h2c"), "{text}");
        }
    }
}

fn answer(headers: &HeaderMap, status: StatusCode) {
    let sent = to_client(status, headers.clone());
    connection_stays_here(headers, &sent, status == StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(sent.get_all("x-call-id").iter().collect::<Vec<_>>(), [CALL_ID]);
    if headers.contains_key(TRANSFER_ENCODING) {
        assert!(sent.get(CONTENT_LENGTH).is_none(), "a length that does not count");
    }
}

fn connection_stays_here(came: &HeaderMap, sent: &HeaderMap, upgrade: bool) {
    for name in GONE {
        assert!(!sent.contains_key(name), "{name}");
    }
    assert_eq!(sent.get(CONNECTION).is_some(), upgrade);
    assert!(upgrade || !sent.contains_key(UPGRADE));
    let ours = ["x-call-id", "x-start-time", "x-served-by", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
        "user-agent", "content-type", "connection", "upgrade", "te"];
    for named in came.get_all(CONNECTION) {
        for name in named.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if let Ok(name) = HeaderName::from_bytes(name) {
                assert!(!sent.contains_key(&name) || ours.contains(&name.as_str()), "{name}");
            }
        }
    }
}
