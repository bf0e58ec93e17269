//! The question if a function takes events of this host, and its answer (HTTP 1.1 Web Hooks for Event Delivery, 4).
//!
//! Owns both as HTTP has them. Pure.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};

use super::{CE_AWPSVERSION, CloudEvents, WEBHOOK_REQUEST_ORIGIN};

const WEBHOOK_ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");

/// The question.
pub(in crate::websocket::codec) fn question(settings: &CloudEvents) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = settings.path.clone().map_or_else(|| Uri::from_static("/"), Uri::from);
    let headers = request.headers_mut();
    headers.insert(WEBHOOK_REQUEST_ORIGIN, settings.origin.clone());
    // Azure's own SDK says 404 without it.
    headers.insert(CE_AWPSVERSION, HeaderValue::from_static("1.0"));
    request
}

/// Does the answer allow events of `origin`? If not, what is wrong with it.
pub(in crate::websocket::codec) fn allows(
    origin: &HeaderValue,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), String> {
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let expected =
        format!("expected 2xx with {WEBHOOK_ALLOWED_ORIGIN}: {origin} (or *) as the answer to OPTIONS");
    if !status.is_success() {
        return Err(format!("{expected}, got status {}", status.as_u16()));
    }
    let mut said = headers.get_all(&WEBHOOK_ALLOWED_ORIGIN).iter().peekable();
    if said.peek().is_none() {
        return Err(format!("{expected}, got none"));
    }
    let names = said.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let allows = |name: &str| name == "*" || name.eq_ignore_ascii_case(&origin);
    if names.map(str::trim).any(allows) { Ok(()) } else { Err(format!("{expected}, got another")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_allows_who_it_names_or_everybody() {
        for (status, said, expected) in [
            (200, &["*"][..], None),
            (204, &["Roost"], None),
            (200, &["a.example, roost"], None),
            (200, &["a.example", "roost"], None),
            (200, &[], Some("got none")),
            (200, &["a.example"], Some("got another")),
            (200, &["roost.example"], Some("got another")),
            (404, &["*"], Some("got status 404")),
            (302, &["*"], Some("got status 302")),
        ] {
            let headers = said.iter().map(|value| (WEBHOOK_ALLOWED_ORIGIN, value.parse().unwrap())).collect();
            let origin = HeaderValue::from_static("roost");
            let allowed = allows(&origin, StatusCode::from_u16(status).unwrap(), &headers);
            let fits = match (&allowed, expected) {
                (Ok(()), None) => true,
                (Err(why), Some(end)) => why.ends_with(end) && why.contains("webhook-allowed-origin: roost"),
                _ => false,
            };
            assert!(fits, "{status} {said:?}: {allowed:?}");
        }
    }
}
