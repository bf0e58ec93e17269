//! Where in a request a bearer token is, and taking it out of the places that others may see.
//!
//! Owns the places. The header is for everybody. Browsers cannot set it on a WebSocket or an event stream: for these, and for
//! these alone, a token may stand in the query or behind a name in `Sec-WebSocket-Protocol`. From there it goes into the
//! header, so that it is in no URL that a function or a log might keep, and no subprotocol that anybody could agree upon. A
//! cookie comes by itself, from whatever page a browser shows: it counts only for pages of the host that is asked.
//!
//! Whoever bears two tokens bears none: what reads the request behind us could heed the other one. A cookie is looked at
//! where there is nothing else. Pure.

use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};

use crate::headers;
use crate::token::BadToken;

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPlaces {
    /// In `Authorization: Bearer TOKEN`.
    pub header: bool,
    /// In this parameter of the query, of a request for a WebSocket or an event stream.
    pub query: Option<Box<str>>,
    /// In `Sec-WebSocket-Protocol`, as the name behind this one.
    pub protocol: Option<Box<str>>,
    /// In the cookie of this name.
    pub cookie: Option<Box<str>>,
}

impl Default for TokenPlaces {
    fn default() -> Self {
        let (query, protocol) = (Some("access_token".into()), Some("bearer".into()));
        Self { header: true, query, protocol, cookie: None }
    }
}

/// A token that a request bears.
#[derive(Clone, PartialEq, Eq)]
pub struct Borne {
    /// The token.
    pub token: String,
    /// The name that stood in front of it among the subprotocols. A browser wants one of those that it offered.
    pub(crate) marker: Option<HeaderValue>,
}

impl std::fmt::Debug for Borne {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Borne").field("marker", &self.marker).finish_non_exhaustive()
    }
}

/// Takes the token out of a request. One that was in the query or among the subprotocols is in the header `Authorization`
/// afterwards, unless that says something else.
///
/// # Errors
/// When there is none, or more than one.
pub fn take<B>(places: &TokenPlaces, request: &mut Request<B>) -> Result<Borne, BadToken> {
    let host = headers::host_of(request);
    let websocket = headers::is_websocket(request.headers());
    let stream = request.method() == Method::GET && asks_for_events(request.headers());
    // These two are taken out whatever else there is.
    let mut hidden = Vec::new();
    if let Some(name) = places.protocol.as_deref().filter(|_| websocket) {
        hidden.extend(of_protocols(request.headers_mut(), name));
    }
    if let Some(name) = places.query.as_deref().filter(|_| websocket || stream) {
        hidden
            .extend(of_query(request.uri_mut(), name).into_iter().map(|token| Borne { token, marker: None }));
    }
    let mut values = request.headers().get_all(AUTHORIZATION).iter();
    let (header, further) = (values.next(), values.next());
    if further.is_some() {
        return Err(BadToken::Missing);
    }
    let of_header = header.filter(|_| places.header).and_then(bearer).map(str::to_owned);
    let has_header = header.is_some();
    let mut found = of_header.map(|token| Borne { token, marker: None }).into_iter().chain(hidden);
    match (found.next(), found.next()) {
        (Some(borne), None) => {
            if let Some(value) = (!has_header).then(|| header_of(&borne.token)).flatten() {
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            Ok(borne)
        }
        (None, _) => {
            let name = places.cookie.as_deref().ok_or(BadToken::Missing)?;
            if !is_of_host(request.headers(), host.as_ref()) {
                return Err(BadToken::Missing);
            }
            let token = of_cookies(request.headers(), name).ok_or(BadToken::Missing)?;
            Ok(Borne { token, marker: None })
        }
        (Some(_), Some(_)) => Err(BadToken::Missing),
    }
}

/// A query without the parameter `name`; `None` if it has none of that name.
pub(crate) fn without_parameter(query: &str, name: &str) -> Option<String> {
    let others: Vec<&str> = query.split('&').filter(|pair| !names(pair, name)).collect();
    (others.len() < query.split('&').count()).then(|| others.join("&"))
}

/// Is this pair of a query one of `name`, however that is spelt?
fn names(pair: &str, name: &str) -> bool {
    form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| key == name)
}

/// Takes all that is called `name` out of the query.
fn of_query(uri: &mut Uri, name: &str) -> Vec<String> {
    let Some(query) = uri.query() else { return Vec::new() };
    let Some(rest) = without_parameter(query, name) else { return Vec::new() };
    let named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let tokens = named.map(|(_, token)| token.into_owned()).filter(|token| !token.is_empty()).collect();
    let text = if rest.is_empty() { uri.path().to_owned() } else { format!("{}?{rest}", uri.path()) };
    let mut parts = std::mem::take(uri).into_parts();
    // What is left of a URL is one.
    parts.path_and_query = PathAndQuery::try_from(text).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
    tokens
}

/// Takes `name` and what is behind it out of the subprotocols that a client offers.
fn of_protocols(headers: &mut HeaderMap, name: &str) -> Vec<Borne> {
    let offered: Vec<Vec<u8>> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(headers::tokens)
        .map(<[u8]>::to_vec)
        .collect();
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let mut offered = offered.into_iter();
    while let Some(one) = offered.next() {
        if !one.eq_ignore_ascii_case(name.as_bytes()) {
            others.push(one);
            continue;
        }
        let token = offered.next().and_then(|token| String::from_utf8(token).ok());
        // As the client has spelt it: that is what it wants to hear.
        found.extend(token.map(|token| Borne { token, marker: HeaderValue::from_bytes(&one).ok() }));
    }
    if !found.is_empty() {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Ok(others) = HeaderValue::from_bytes(&others.join(&b", "[..]))
            && !others.is_empty()
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
        }
    }
    found
}

/// The token in a value of `Authorization`.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn header_of(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The first cookie of this name.
fn of_cookies(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, token) = pairs.find(|(key, _)| *key == name)?;
    let token = token.trim().trim_matches('"');
    (!token.is_empty()).then(|| token.to_owned())
}

/// Does a request come from a page of `host`, or from none?
fn is_of_host(headers: &HeaderMap, host: Option<&HeaderValue>) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, page)| page);
    page.zip(host).is_some_and(|(page, host)| host.as_bytes().eq_ignore_ascii_case(page.as_bytes()))
}

fn asks_for_events(headers: &HeaderMap) -> bool {
    let wanted = headers.get_all(ACCEPT).iter().flat_map(headers::tokens);
    let kind = |one: &[u8]| one.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_vec();
    wanted.map(kind).any(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: (&str, &str) = ("upgrade", "websocket");
    const EVENTS: (&str, &str) = ("accept", "text/event-stream");

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri).header("host", "h.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn all() -> TokenPlaces {
        TokenPlaces { cookie: Some("session".into()), ..TokenPlaces::default() }
    }

    #[test]
    fn a_token_is_found_in_each_of_its_places_and_in_no_other() {
        let cookie = ("cookie", "a=1; session=\"t\"; b=2");
        for (uri, headers, found) in [
            ("/", &[("authorization", "Bearer t")][..], Some("t")),
            ("/", &[("authorization", "bearer  t ")], Some("t")),
            ("/", &[], None),
            ("/", &[("authorization", "Bearer ")], None),
            ("/", &[("authorization", "Basic YTpi")], None),
            // In a query or a subprotocol: of those who cannot set a header.
            ("/?access_token=t", &[HANDSHAKE], Some("t")),
            ("/?x=1&%61ccess_token=a%2Eb&y", &[HANDSHAKE], Some("a.b")),
            ("/?access_token=t", &[EVENTS], Some("t")),
            ("/?access_token=t", &[("accept", "text/html, text/event-stream;q=0.9")], Some("t")),
            ("/?access_token=t", &[], None),
            ("/?access_token=t", &[("accept", "*/*")], None),
            ("/?access_token=", &[HANDSHAKE], None),
            ("/", &[HANDSHAKE, ("sec-websocket-protocol", "bearer, t")], Some("t")),
            (
                "/",
                &[HANDSHAKE, ("sec-websocket-protocol", "chat, Bearer"), ("sec-websocket-protocol", "t")],
                Some("t"),
            ),
            ("/", &[HANDSHAKE, ("sec-websocket-protocol", "chat, bearer")], None),
            ("/", &[("sec-websocket-protocol", "bearer, t")], None),
            // Two of them are none.
            ("/", &[("authorization", "Bearer t"), ("authorization", "Bearer t")], None),
            ("/", &[("authorization", "Basic x"), ("authorization", "Bearer t")], None),
            ("/?access_token=t", &[HANDSHAKE, ("authorization", "Bearer t")], None),
            ("/?access_token=t&access_token=u", &[HANDSHAKE], None),
            ("/?access_token=t", &[HANDSHAKE, ("sec-websocket-protocol", "bearer, t")], None),
            ("/", &[HANDSHAKE, ("sec-websocket-protocol", "bearer, t, bearer, u")], None),
            // A login for somebody else is no token.
            ("/?access_token=t", &[HANDSHAKE, ("authorization", "Basic YTpi")], Some("t")),
            ("/", &[cookie], Some("t")),
            ("/", &[cookie, ("authorization", "Bearer u")], Some("u")),
            ("/", &[("cookie", "xsession=t"), ("cookie", "session=")], None),
            ("/", &[cookie, ("origin", "https://h.example")], Some("t")),
            ("/", &[cookie, ("origin", "https://H.Example")], Some("t")),
            ("/", &[cookie, ("origin", "https://h.example.evil")], None),
            ("/", &[cookie, ("origin", "https://h.example:8443")], None),
            ("/", &[cookie, ("origin", "null")], None),
        ] {
            let taken = take(&all(), &mut request(uri, headers));
            assert_eq!(taken.as_ref().map(|borne| &*borne.token).ok(), found, "{uri} {headers:?}");
        }
        let none = TokenPlaces { header: false, query: None, protocol: None, cookie: None };
        for (uri, header) in
            [("/", ("authorization", "Bearer t")), ("/?access_token=t", HANDSHAKE), ("/", cookie)]
        {
            assert!(take(&none, &mut request(uri, &[header])).is_err(), "{uri} {header:?}");
        }
    }

    #[test]
    fn what_others_would_see_goes_into_the_header_and_the_rest_stays_as_it_is() {
        for (uri, protocols, left, offered) in [
            ("/a?access_token=t", "chat", "/a", Some("chat")),
            ("/a?x=1&access_token=t&y=%20+z", "", "/a?x=1&y=%20+z", None),
            ("http://h:1/a?access_token=t&x", "", "http://h:1/a?x", None),
            ("/a?x", "bearer, t", "/a?x", None),
            ("/a", "v2.chat, BEARER, t, chat", "/a", Some("v2.chat, chat")),
        ] {
            let headers = [HANDSHAKE, ("sec-websocket-protocol", protocols)];
            let mut request = request(uri, if protocols.is_empty() { &headers[..1] } else { &headers });
            let borne = take(&TokenPlaces::default(), &mut request).unwrap();
            assert_eq!(borne.marker.is_some(), protocols.to_lowercase().contains("bearer"));
            assert_eq!(request.uri().to_string(), left);
            let protocols = request.headers().get("sec-websocket-protocol");
            assert_eq!(protocols.map(|value| value.to_str().unwrap()), offered, "{uri}");
            assert_eq!(request.headers()["authorization"], "Bearer t");
        }
        // Also where nobody is let in by it.
        let headers = [HANDSHAKE, ("authorization", "Bearer u"), ("sec-websocket-protocol", "bearer, t")];
        let mut two = request("/?access_token=v", &headers);
        assert_eq!(take(&TokenPlaces::default(), &mut two).unwrap_err(), BadToken::Missing);
        assert_eq!((two.uri().query(), two.headers().get("sec-websocket-protocol")), (None, None));
        assert!(!format!("{:?}", Borne { token: "t0ken".into(), marker: None }).contains("t0ken"));
    }
}
