//! Which headers go through, which end here, and which are ours.
//!
//! Owns both rewrites, in place. Pure: header maps and facts in, header maps out.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, Entry, HeaderMap, HeaderName,
    HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::{StatusCode, Version};

use crate::PRODUCT;
use crate::call::Call;
use crate::tls::Secure;

pub(crate) const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const X_START_TIME: HeaderName = HeaderName::from_static("x-start-time");
const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers that speak of one connection, not of the message. `Trailer` is not among them: without it the trailers that
/// it announces would be dropped on the next connection.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Does the client ask to change the protocol of this connection?
///
/// An offer of `h2c` alone is not passed on: it speaks of the next hop, and is as good as none.
pub(crate) fn offers_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && headers.get_all(UPGRADE).iter().any(|value| tokens(value).any(is_passed_on))
        && headers
            .get_all(CONNECTION)
            .iter()
            .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade")))
}

/// Is a protocol that a client offers for the function? HTTP/2 is not: behind it whole requests would pass that nobody
/// here has looked at.
fn is_passed_on(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or(protocol).trim_ascii();
    ![b"h2c".as_slice(), b"h2", b"http", b"tls"].iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// Does a client want to have trailers?
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let wants = |value| tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    headers.get_all(TE).iter().any(wants)
}

/// Is WebSocket what both sides agreed upon, by the headers of a 101?
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Makes the headers of a client those for a function. `Host` is left to whoever knows the address.
pub(crate) fn to_function(parts: &mut Parts, call: &Call, peer: SocketAddr, upgrade: bool) {
    from_client(parts, peer, upgrade);
    of_call(&mut parts.headers, call);
}

/// What a function is told of a call that no client is waiting for.
pub(crate) fn of_own(headers: &mut HeaderMap, call: &Call) {
    drop_hop_by_hop(headers);
    of_call(headers, call);
}

/// What a function is told of each call.
fn of_call(headers: &mut HeaderMap, call: &Call) {
    headers.insert(X_CALL_ID, call.id.clone());
    headers.append(X_START_TIME, HeaderValue::from(call.start));
    if let Entry::Vacant(entry) = headers.entry(USER_AGENT) {
        entry.insert(HeaderValue::from_static(PRODUCT));
    }
}

/// Keeps of a client's headers what is for the function, and adds what is known of the client.
pub(crate) fn from_client(parts: &mut Parts, peer: SocketAddr, upgrade: bool) {
    let host = host(parts);
    let trailers = takes_trailers(&parts.headers);
    let headers = &mut parts.headers;
    let protocol = drop_hop_by_hop(headers);
    // The server has already answered it: the body is being sent.
    headers.remove(EXPECT);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in protocol {
            offer(headers, value);
        }
    } else if trailers {
        // Ours to say for our connection: we pass trailers on.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    append_peer(headers, peer.ip().to_canonical());
    if let (Some(host), Entry::Vacant(entry)) = (host, headers.entry(X_FORWARDED_HOST)) {
        entry.insert(host);
    }
    if let Entry::Vacant(entry) = headers.entry(X_FORWARDED_PROTO) {
        let secure = parts.extensions.get::<Secure>().is_some();
        entry.insert(HeaderValue::from_static(if secure { "https" } else { "http" }));
    }
}

/// Offers the function what of `protocols` is for it.
fn offer(headers: &mut HeaderMap, protocols: HeaderValue) {
    if tokens(&protocols).all(is_passed_on) {
        headers.append(UPGRADE, protocols);
        return;
    }
    for protocol in tokens(&protocols).filter(|protocol| is_passed_on(protocol)) {
        // A part of a valid value is valid.
        if let Ok(protocol) = HeaderValue::from_bytes(protocol) {
            headers.append(UPGRADE, protocol);
        }
    }
}

/// Makes the headers of a function those for the client.
///
/// `asked_with` is the content type of the request: it stands in for one that the function does not name.
pub(crate) fn to_client(
    status: StatusCode,
    headers: &mut HeaderMap,
    call: &Call,
    asked_with: Option<HeaderValue>,
    has_body: bool,
) {
    let protocol = drop_hop_by_hop(headers);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in protocol {
            headers.append(UPGRADE, value);
        }
    }
    headers.insert(X_CALL_ID, call.id.clone());
    headers.insert(X_START_TIME, HeaderValue::from(call.start));
    headers.append(X_SERVED_BY, HeaderValue::from_static(PRODUCT));
    if has_body && let Entry::Vacant(entry) = headers.entry(CONTENT_TYPE) {
        entry.insert(asked_with.unwrap_or(HeaderValue::from_static("text/plain")));
    }
}

/// Removes what belongs to the connection it came over, and gives back the values of `Upgrade`.
fn drop_hop_by_hop(headers: &mut HeaderMap) -> Vec<HeaderValue> {
    // None of these is the usual case over HTTP/2 and from most clients.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !HOP_BY_HOP.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let upgrade = headers.get_all(UPGRADE).iter().cloned().collect();
    for name in &HOP_BY_HOP {
        let was = headers.remove(name);
        if was.is_some() && *name == TRANSFER_ENCODING {
            // Of two lengths this one does not count, and would be taken for the body's on the next connection.
            headers.remove(CONTENT_LENGTH);
        }
    }
    upgrade
}

/// The host that a client asked.
pub(crate) fn host_of<B>(request: &http::Request<B>) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    }
}

/// The host the client asked: of the URL if it names one (as HTTP/2 does), else of the header.
fn host(parts: &Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    }
}

/// HTTP/2 may send each cookie in a header of its own, HTTP/1 may not.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    join(headers, &COOKIE, b"; ", None);
}

fn append_peer(headers: &mut HeaderMap, peer: IpAddr) {
    join(headers, &X_FORWARDED_FOR, b", ", Some(peer.to_string()));
}

/// Makes one header of all those of one name, and `last` if there is one.
fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &[u8], last: Option<String>) {
    let mut values = headers.get_all(name).iter();
    let joined = match (values.next(), last) {
        (None, None) => return,
        (None, Some(last)) => last.into_bytes(),
        (Some(first), last) => {
            let mut joined = first.as_bytes().to_vec();
            for value in values.map(HeaderValue::as_bytes).chain(last.as_ref().map(String::as_bytes)) {
                joined.extend_from_slice(separator);
                joined.extend_from_slice(value);
            }
            joined
        }
    };
    // Parts that are each valid are valid together.
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, value);
    }
}

/// The members of a comma-separated list.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri("/function/f");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    fn sent(version: Version, headers: &[(&str, &str)]) -> Vec<String> {
        let mut parts = parts(version, headers);
        let upgrade = offers_upgrade(parts.version, &parts.headers);
        let call = Call { id: HeaderValue::from_static("id"), start: 7 };
        to_function(&mut parts, &call, "192.0.2.1:5".parse().unwrap(), upgrade);
        // What is the same in each row is left out.
        let agent = format!("user-agent: {PRODUCT}");
        shown(&parts.headers)
            .into_iter()
            .filter(|line| {
                !["x-call-id: id", "x-start-time: 7", "x-forwarded-proto: http", &agent].contains(&&**line)
            })
            .collect()
    }

    const PEER: &str = "x-forwarded-for: 192.0.2.1";

    #[test]
    fn the_function_sees_the_clients_headers_but_not_those_of_its_connection() {
        for (given, expected) in [
            (&[][..], &[PEER][..]),
            (
                &[("authorization", "Basic x"), ("cookie", "a=1")],
                &["authorization: Basic x", "cookie: a=1", PEER],
            ),
            (
                &[
                    ("connection", "keep-alive, X-Mine"),
                    ("connection", "close"),
                    ("keep-alive", "5"),
                    ("x-mine", "1"),
                    ("x-other", "2"),
                    ("proxy-connection", "x"),
                    ("proxy-authenticate", "x"),
                    ("proxy-authorization", "x"),
                    ("te", "gzip"),
                    ("transfer-encoding", "chunked"),
                    ("upgrade", "websocket"),
                    ("expect", "100-continue"),
                ],
                &[PEER, "x-other: 2"],
            ),
            (&[("te", "gzip, trailers"), ("trailer", "x-sum")], &["te: trailers", "trailer: x-sum", PEER]),
            (
                &[("x-forwarded-for", "a"), ("x-forwarded-for", "b, c")],
                &["x-forwarded-for: a, b, c, 192.0.2.1"],
            ),
            (
                &[("host", "h.example"), ("x-forwarded-proto", "https")],
                &["host: h.example", PEER, "x-forwarded-host: h.example", "x-forwarded-proto: https"],
            ),
            (&[("host", "h"), ("x-forwarded-host", "first")], &["host: h", PEER, "x-forwarded-host: first"]),
            (
                &[("user-agent", "curl"), ("x-start-time", "1")],
                &["user-agent: curl", PEER, "x-start-time: 1"],
            ),
            (
                &[("connection", "Upgrade, X-Mine"), ("x-mine", "1"), ("upgrade", "websocket")],
                &["connection: Upgrade", "upgrade: websocket", PEER],
            ),
            (
                &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
                &[PEER],
            ),
            (&[("connection", "x-forwarded-for"), ("x-forwarded-for", "spoof")], &[PEER]),
            (
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "h2c, websocket"),
                    ("upgrade", "HTTP/2.0 , TLS/1.0,x"),
                ],
                &["connection: Upgrade", "upgrade: websocket", "upgrade: x", PEER],
            ),
            (&[("transfer-encoding", "chunked"), ("content-length", "3")], &[PEER]),
        ] {
            assert_eq!(sent(Version::HTTP_11, given), expected, "{given:?}");
        }
    }

    #[test]
    fn cookies_of_http2_become_one_header_and_an_upgrade_there_is_none() {
        let given =
            [("cookie", "a=1"), ("cookie", "b=2"), ("connection", "upgrade"), ("upgrade", "websocket")];
        assert_eq!(sent(Version::HTTP_2, &given), ["cookie: a=1; b=2", PEER]);
    }

    #[test]
    fn an_upgrade_needs_both_headers_and_http_1_1() {
        for (version, given, wanted) in [
            (Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", "websocket")][..], true),
            (Version::HTTP_11, &[("connection", "keep-alive, UPGRADE"), ("upgrade", "x/1, h2c")], true),
            (Version::HTTP_11, &[("connection", "keep-alive"), ("upgrade", "websocket")], false),
            (Version::HTTP_11, &[("connection", "upgrade")], false),
            (Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "H2C, h2, HTTP/2.0")], false),
            (Version::HTTP_10, &[("connection", "upgrade"), ("upgrade", "websocket")], false),
        ] {
            assert_eq!(offers_upgrade(version, &parts(version, given).headers), wanted, "{given:?}");
        }
    }

    #[test]
    fn the_client_sees_the_functions_headers_and_ours() {
        let ours = |more: &[&str]| {
            let mut lines: Vec<_> = more.iter().map(ToString::to_string).collect();
            lines.extend([
                "x-call-id: id".into(),
                "x-start-time: 7".into(),
                format!("x-served-by: {PRODUCT}"),
            ]);
            lines.sort();
            lines
        };
        for (status, given, asked_with, has_body, expected) in [
            (200, &[("content-type", "a/b")][..], Some("c/d"), true, ours(&["content-type: a/b"])),
            (200, &[], Some("c/d"), true, ours(&["content-type: c/d"])),
            (200, &[], None, true, ours(&["content-type: text/plain"])),
            (204, &[], Some("c/d"), false, ours(&[])),
            (200, &[("connection", "x-a"), ("x-a", "1"), ("keep-alive", "5")], None, false, ours(&[])),
            (200, &[("x-call-id", "its own"), ("trailer", "t")], None, false, ours(&["trailer: t"])),
            (200, &[("upgrade", "x")], None, false, ours(&[])),
            (
                101,
                &[("connection", "upgrade"), ("upgrade", "x"), ("sec-websocket-accept", "k")],
                None,
                false,
                ours(&["connection: Upgrade", "upgrade: x", "sec-websocket-accept: k"]),
            ),
        ] {
            let mut headers = parts(Version::HTTP_11, given).headers;
            let call = Call { id: HeaderValue::from_static("id"), start: 7 };
            let status = StatusCode::from_u16(status).unwrap();
            to_client(status, &mut headers, &call, asked_with.map(HeaderValue::from_static), has_body);
            assert_eq!(shown(&headers), expected, "{given:?}");
        }
    }
}
