//! Who has made a request, by AWS Signature Version 4 in its header `Authorization`.
//!
//! Owns the verification for the service `execute-api`. Pure: a request, the keys that this host knows and the time in, a
//! verdict out. A signature in the query, and one of a body in signed chunks, are not taken.
//!
//! ```text
//!   method, path, query, signed headers, hash of the body ──► canonical request ──► string to sign ─┐
//!   secret ──► of the day ──► of the region ──► of the service ──► signing key ─────────────────────┴──► signature
//! ```
//!
//! What was signed is the request as its client sent it: path and host must not have been rewritten on the way here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha2::{Digest, Sha256};

use crate::websocket::codec::hex;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "execute-api";
const TERMINATOR: &str = "aws4_request";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const X_AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// How far the clock of a client may be from this host's.
const MAX_SKEW: Duration = Duration::from_mins(5);

/// The most headers that a signature covers.
const MAX_SIGNED: usize = 64;

/// What stands for itself in a query, and in a path beside `/`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// The keys of this host's callers: secrets by access key id.
#[derive(Clone, Default)]
pub struct SecretKeys(BTreeMap<Box<str>, Box<str>>);

impl FromIterator<(String, String)> for SecretKeys {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(keys: I) -> Self {
        Self(keys.into_iter().map(|(id, secret)| (id.into(), secret.into())).collect())
    }
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why nobody is known to have made a request. The text is for whoever did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// It has no signature.
    #[error("Missing Authentication Token")]
    Missing,
    /// What it has is none, or none that is taken here.
    #[error("the signature is incomplete: expected {0}")]
    Incomplete(&'static str),
    /// It is one of a key that this host does not know.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// It is too old, or from a clock that is ahead.
    #[error(
        "Signature expired: the request was signed at {0}, more than 5 minutes from the time of this host"
    )]
    Skewed(String),
    /// The body is not the one that was signed.
    #[error("x-amz-content-sha256 is not the hash of the body")]
    OtherBody,
    /// Something of the request is not what was signed, or the secret is not the one of this key.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."
    )]
    Mismatch,
}

/// The access key id of whoever has made the request of `head` and `body`, at about `now`.
///
/// # Errors
/// When that cannot be told.
pub fn verify<'k>(
    head: &Parts,
    body: &[u8],
    keys: &'k SecretKeys,
    now: SystemTime,
) -> Result<&'k str, Unsigned> {
    let claim = Claim::read(&head.headers)?;
    if claim.service != SERVICE || claim.terminator != TERMINATOR {
        return Err(Unsigned::Incomplete("a scope of DATE/REGION/execute-api/aws4_request"));
    }
    let (id, secret) = keys.0.get_key_value(claim.key_id).ok_or(Unsigned::UnknownKey)?;
    let date = date(&head.headers, &claim, now)?;
    let payload = payload(&head.headers, body)?;
    let canonical = canonical(head, &claim.signed, &payload)?;
    let mac = signing(secret, &claim, date, &canonical);
    // In constant time.
    mac.verify_slice(&claim.signature).map_err(|_| Unsigned::Mismatch).map(|()| &**id)
}

/// What `Authorization` says.
struct Claim<'a> {
    key_id: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed: Vec<&'a str>,
    signature: [u8; 32],
}

impl<'a> Claim<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Unsigned> {
        let form = || {
            Unsigned::Incomplete(
                "AWS4-HMAC-SHA256 Credential=ID/SCOPE, SignedHeaders=NAMES, Signature=HEX, once",
            )
        };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(Unsigned::Missing)?;
        let text = value.to_str().ok().filter(|_| values.next().is_none()).ok_or_else(form)?;
        let fields = text.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' ')).ok_or_else(form)?;
        let mut found: [Option<&str>; 3] = [None; 3];
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').ok_or_else(form)?;
            let at = ["Credential", "SignedHeaders", "Signature"].iter().position(|known| *known == name);
            if found[at.ok_or_else(form)?].replace(value).is_some() {
                return Err(form());
            }
        }
        let [Some(credential), Some(signed), Some(signature)] = found else { return Err(form()) };
        let mut scope = credential.rsplitn(5, '/');
        let [Some(terminator), Some(service), Some(region), Some(day), Some(key_id)] =
            [(); 5].map(|()| scope.next())
        else {
            return Err(form());
        };
        let signed: Vec<&str> = signed.split(';').collect();
        let signature = unhex(signature).ok_or_else(form)?;
        Ok(Self { key_id, day, region, service, terminator, signed, signature })
    }
}

/// 32 bytes as they are written in hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(bytes)
}

/// When the request was signed, as it says: near to `now`, and on the day of the scope.
fn date<'a>(headers: &'a HeaderMap, claim: &Claim<'_>, now: SystemTime) -> Result<&'a str, Unsigned> {
    let wrong = || Unsigned::Incomplete("X-Amz-Date: YYYYMMDDTHHMMSSZ, of the day of the scope");
    let text = headers.get(X_AMZ_DATE).and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
    let at = DateTime::strptime("%Y%m%dT%H%M%SZ", text)
        .and_then(|at| at.to_zoned(TimeZone::UTC))
        .map_err(|_| wrong())?
        .timestamp();
    let now = Timestamp::try_from(now).map_err(|_| wrong())?;
    if text.get(..8) != Some(claim.day) {
        return Err(wrong());
    }
    if at.duration_since(now).unsigned_abs() > MAX_SKEW {
        return Err(Unsigned::Skewed(text.to_owned()));
    }
    Ok(text)
}

/// What stands for the body in what was signed.
fn payload(headers: &HeaderMap, body: &[u8]) -> Result<String, Unsigned> {
    let hash = hex(&Sha256::digest(body));
    match headers.get(X_AMZ_CONTENT_SHA256).map(HeaderValue::as_bytes) {
        Some(said) if said == UNSIGNED_PAYLOAD.as_bytes() => Ok(UNSIGNED_PAYLOAD.to_owned()),
        Some(said) if said != hash.as_bytes() => Err(Unsigned::OtherBody),
        _ => Ok(hash),
    }
}

/// The request in the one form in which both sides hash it.
fn canonical(head: &Parts, signed: &[&str], payload: &str) -> Result<Vec<u8>, Unsigned> {
    if signed.len() > MAX_SIGNED || ![HOST, X_AMZ_DATE].iter().all(|name| signed.contains(&name.as_str())) {
        return Err(Unsigned::Incomplete("SignedHeaders with host and x-amz-date, of at most 64 names"));
    }
    let (path, query) = (canonical_path(head.uri.path()), canonical_query(head.uri.query()));
    let mut canonical = format!("{}\n{path}\n{query}\n", head.method).into_bytes();
    for name in signed {
        canonical.extend_from_slice(name.as_bytes());
        canonical.push(b':');
        canonical.extend(canonical_header(head, name).ok_or(Unsigned::Mismatch)?);
        canonical.push(b'\n');
    }
    canonical.extend(format!("\n{}\n{payload}", signed.join(";")).into_bytes());
    Ok(canonical)
}

/// A path without empty and dot segments, encoded once more than it was sent.
fn canonical_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    let path = format!("/{}{end}", segments.join("/"));
    percent_encode(path.as_bytes(), PATH).to_string()
}

/// A query with its parameters in order, encoded in one way.
fn canonical_query(query: Option<&str>) -> String {
    let encoded = |text| percent_encode(&percent_decode_str(text).collect::<Vec<_>>(), QUERY).to_string();
    let mut pairs: Vec<(String, String)> = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// All values of a header, each without the space around it and with one space for several within. `None` if there is none.
fn canonical_header(head: &Parts, name: &str) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = match head.uri.authority() {
        // HTTP/2 says so what it asks.
        Some(authority) if name == HOST.as_str() => vec![authority.as_str().as_bytes()],
        _ => head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect(),
    };
    let words = |value: &[u8]| {
        let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(&b' ')
    };
    (!values.is_empty()).then(|| values.into_iter().map(words).collect::<Vec<_>>().join(&b','))
}

/// The signature of a canonical request, ready to be compared.
fn signing(secret: &str, claim: &Claim<'_>, date: &str, canonical: &[u8]) -> Hmac<Sha256> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [claim.day, claim.region, claim.service, claim.terminator] {
        key = keyed(&key, part.as_bytes()).finalize().into_bytes().to_vec();
    }
    let scope = [claim.day, claim.region, claim.service, claim.terminator].join("/");
    let hash = hex(&Sha256::digest(canonical));
    keyed(&key, format!("{ALGORITHM}\n{date}\n{scope}\n{hash}").as_bytes())
}

fn keyed(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(data);
    mac
}

#[cfg(test)]
mod tests;
