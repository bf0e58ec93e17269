//! Requests that two readers could take for different ones: they are refused before anybody acts on them.
//!
//! Owns the rules that reading a head leaves open. What is no head at all, and what is read in one way only and we
//! write anew, is no business of this file. Pure; a request that is in order costs no allocation. Never repairs one.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderValue, Request, Uri, Version};
use http_body::Body;

use crate::headers;

/// Names that decide where a message ends or that we vouch for. CGI, WSGI and watchdogs read `_` and `-` in a name as
/// the same: spelt with `_`, such a header passes beside ours and may be read instead of it.
const VOUCHED_FOR: [&str; 7] = [
    "content-length",
    "transfer-encoding",
    "x-call-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-start-time",
];

/// What all names begin with that are ours.
const OURS: &str = "x-roost-";

/// What is wrong with a request, to continue "the request …".
///
/// # Errors
/// When it is not clear what it means.
pub(crate) fn check<B: Body>(request: &Request<B>) -> Result<(), &'static str> {
    let (headers, version) = (request.headers(), request.version());
    check_host(request.uri(), headers, version)?;
    check_length(headers)?;
    if headers.keys().any(|name| is_look_alike(name.as_str())) {
        return Err("has a header whose name is one of the proxy's with '_' for '-'");
    }
    // The bytes behind the head would be the body's to one reader, and the new protocol's to another.
    if !request.body().is_end_stream() && headers::offers_upgrade(version, headers) {
        return Err("has both a body and an Upgrade");
    }
    Ok(())
}

/// One host, and the same wherever it stands.
fn check_host(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("has more than one Host");
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err("has no Host");
    }
    if host.is_some_and(|host| !host.as_bytes().iter().all(|byte| is_host_byte(*byte))) {
        return Err("has a Host that is none");
    }
    let Some(authority) = uri.authority() else { return Ok(()) };
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err("has a URL of another scheme than http and https");
    }
    if !authority.as_str().bytes().all(is_host_byte) {
        return Err("has a URL with more than a host and a port in front of its path");
    }
    match host {
        Some(host) if !is_same_host(uri, authority.as_str(), host) => {
            Err("has a URL of another host than its Host")
        }
        _ => Ok(()),
    }
}

fn is_same_host(uri: &Uri, authority: &str, host: &HeaderValue) -> bool {
    let usual: &[u8] = if uri.scheme() == Some(&Scheme::HTTPS) { b":443" } else { b":80" };
    let [one, other] =
        [authority.as_bytes(), host.as_bytes()].map(|text| text.strip_suffix(usual).unwrap_or(text));
    one.eq_ignore_ascii_case(other)
}

/// The bytes of a host and a port: neither spaces, nor commas, nor what ends a host in a URL or stands in front of one.
pub(crate) fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
}

/// One length, spelt in one way. Whoever has read the head has seen to it that `Transfer-Encoding` ends in `chunked`, that
/// there is no `Content-Length` beside it, and else that there is one number.
fn check_length(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err("has a Transfer-Encoding that is not chunked alone");
    }
    // Some read a number that begins with a zero as an octal one.
    match headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
        Some([b'0', _, ..]) => Err("has a Content-Length that begins with 0"),
        _ => Ok(()),
    }
}

/// Names come in lower case.
fn is_look_alike(name: &str) -> bool {
    if !name.as_bytes().contains(&b'_') {
        return false;
    }
    let reads_as = |of: &str, name: &str| {
        of.len() == name.len()
            && of.bytes().zip(name.bytes()).all(|(of, is)| of == is || (of == b'-' && is == b'_'))
    };
    VOUCHED_FOR.iter().any(|of| reads_as(of, name))
        || name.get(..OURS.len()).is_some_and(|begin| reads_as(OURS, begin))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    fn said(
        uri: &str,
        version: Version,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Option<&'static str> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(Full::new(Bytes::from(body))).unwrap()).err()
    }

    #[test]
    fn a_request_has_one_host_wherever_it_stands() {
        const ONE_ONE: Version = Version::HTTP_11;
        for (uri, version, hosts, wrong) in [
            ("/", ONE_ONE, &["h"][..], None),
            ("/", ONE_ONE, &[""], None),
            ("/", ONE_ONE, &["[::1]:8080"], None),
            ("/", ONE_ONE, &[], Some("has no Host")),
            ("/", Version::HTTP_10, &[], None),
            ("/", Version::HTTP_2, &[], None),
            ("/", ONE_ONE, &["h", "h"], Some("has more than one Host")),
            ("/", Version::HTTP_10, &["h", "g"], Some("has more than one Host")),
            ("/", ONE_ONE, &["h, g"], Some("has a Host that is none")),
            ("/", ONE_ONE, &["h/x"], Some("has a Host that is none")),
            ("/", ONE_ONE, &["u@h"], Some("has a Host that is none")),
            ("/", ONE_ONE, &["h#x"], Some("has a Host that is none")),
            ("http://h/x", ONE_ONE, &["h"], None),
            ("http://h:80/x", ONE_ONE, &["H"], None),
            ("https://h/x", Version::HTTP_2, &["h:443"], None),
            ("http://h/x", Version::HTTP_2, &[], None),
            ("http://h/x", ONE_ONE, &[], Some("has no Host")),
            ("http://h/x", ONE_ONE, &["g"], Some("has a URL of another host than its Host")),
            ("http://h:443/x", ONE_ONE, &["h"], Some("has a URL of another host than its Host")),
            ("http://h/x", Version::HTTP_2, &["g"], Some("has a URL of another host than its Host")),
            ("ftp://h/x", ONE_ONE, &["h"], Some("has a URL of another scheme than http and https")),
            (
                "http://u:p@h/x",
                ONE_ONE,
                &["h"],
                Some("has a URL with more than a host and a port in front of its path"),
            ),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(said(uri, version, &headers, ""), wrong, "{uri} {version:?} {hosts:?}");
        }
    }

    #[test]
    fn a_length_is_spelt_in_one_way() {
        let coding = Some("has a Transfer-Encoding that is not chunked alone");
        let zero = Some("has a Content-Length that begins with 0");
        for (headers, wrong) in [
            (&[("transfer-encoding", "chunked")][..], None),
            (&[("transfer-encoding", "Chunked")], None),
            (&[("transfer-encoding", "gzip, chunked")], coding),
            (&[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")], coding),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], coding),
            (&[("transfer-encoding", ", chunked")], coding),
            (&[("content-length", "0")], None),
            (&[("content-length", "10")], None),
            (&[("content-length", "010")], zero),
            (&[("content-length", "00")], zero),
        ] {
            let headers: Vec<_> = headers.iter().copied().chain([("host", "h")]).collect();
            assert_eq!(said("/", Version::HTTP_11, &headers, ""), wrong, "{headers:?}");
        }
    }

    #[test]
    fn an_upgrade_has_no_body_unless_it_is_no_upgrade_for_us() {
        let wrong = Some("has both a body and an Upgrade");
        for (version, protocol, body, expected) in [
            (Version::HTTP_11, "websocket", "", None),
            (Version::HTTP_11, "websocket", "x", wrong),
            (Version::HTTP_11, "h2c, tcp", "x", wrong),
            (Version::HTTP_11, "h2c", "x", None),
            (Version::HTTP_10, "websocket", "x", None),
        ] {
            let headers = [("host", "h"), ("connection", "upgrade"), ("upgrade", protocol)];
            assert_eq!(said("/", version, &headers, body), expected, "{version:?} {protocol} {body}");
        }
        assert_eq!(said("/", Version::HTTP_11, &[("host", "h"), ("upgrade", "x")], "x"), None);
    }

    #[test]
    fn what_can_be_read_as_a_header_of_ours_is_refused_and_other_underscores_are_not() {
        let wrong = Some("has a header whose name is one of the proxy's with '_' for '-'");
        for (name, expected) in [
            ("x_forwarded_for", wrong),
            ("x-forwarded_for", wrong),
            ("content_length", wrong),
            ("transfer_encoding", wrong),
            ("x_roost_user", wrong),
            ("x_call_id", wrong),
            ("x_api_key", None),
            ("x_forwarded_fo", None),
            ("x_roost", None),
            ("content-length_", None),
        ] {
            assert_eq!(said("/", Version::HTTP_11, &[("host", "h"), (name, "1")], ""), expected, "{name}");
        }
    }
}
