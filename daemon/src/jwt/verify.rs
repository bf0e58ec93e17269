//! One token (RFC 7515, 7519): who signed it, and whether it counts here and now.
//!
//! Owns the order: nothing but the header is read before the signature is verified. Pure; the time is given.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use roost_proxy::{BadToken, Claims};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{Algorithm, KeySet};
use crate::config::Jwt;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// What of the header counts. A member that stands there twice is a mistake.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What has to be understood, and is not.
    crit: Option<serde::de::IgnoredAny>,
}

/// The claims of a token that one of these keys has signed. Whether they hold is not asked yet.
pub(super) fn signed(token: &[u8], keys: &KeySet) -> Result<Map<String, Value>, BadToken> {
    if token.len() > MAX_TOKEN {
        return Err(BadToken::Malformed);
    }
    let (message, signature) = split(token).ok_or(BadToken::Malformed)?;
    let (header, claims) = split(message).ok_or(BadToken::Malformed)?;
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| BadToken::Malformed)?;
    if header.crit.is_some() {
        return Err(BadToken::Malformed);
    }
    let signature = decode(signature)?;
    let algorithm = Algorithm::named(&header.alg).ok_or(BadToken::Untrusted)?;
    let mut keys = keys.fitting(algorithm, header.kid.as_deref());
    if !keys.any(|key| key.verifies(message, &signature)) {
        return Err(BadToken::Untrusted);
    }
    serde_json::from_slice(&decode(claims)?).map_err(|_| BadToken::Malformed)
}

/// Do these claims hold at `now`, the time since 1970?
pub(super) fn judge(claims: &Map<String, Value>, settings: &Jwt, now: Duration) -> Result<(), BadToken> {
    let (now, leeway) = (now.as_secs_f64(), settings.leeway.as_secs_f64());
    let expires = time(claims, "exp")?.ok_or(BadToken::Endless)?;
    if now >= expires + leeway {
        return Err(BadToken::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|begins| now + leeway < begins) {
        return Err(BadToken::Early);
    }
    let issuer = claims.get("iss").and_then(Value::as_str);
    if settings.issuer.as_deref().is_some_and(|ours| issuer != Some(ours)) {
        return Err(BadToken::Issuer);
    }
    let ours = settings.audience.as_deref();
    let meant = match (claims.get("aud"), ours) {
        (None | Some(Value::Null), None) => true,
        (Some(Value::String(audience)), Some(ours)) => audience == ours,
        (Some(Value::Array(audiences)), Some(ours)) => audiences.iter().any(|one| one.as_str() == Some(ours)),
        // One that is meant for somebody is not for a host that has no name.
        _ => false,
    };
    if meant { Ok(()) } else { Err(BadToken::Audience) }
}

/// The claims that are text.
pub(super) fn texts(claims: Map<String, Value>) -> Claims {
    let text = |(name, value)| match value {
        Value::String(text) => Some((name, text)),
        _ => None,
    };
    claims.into_iter().filter_map(text).collect()
}

/// A claim that is a time, in seconds since 1970, perhaps with a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, BadToken> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    claim.as_f64().map(Some).ok_or(BadToken::Malformed)
}

/// What is in front of the last dot, and what is behind it.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = text.iter().rposition(|byte| *byte == b'.')?;
    Some((&text[..dot], &text[dot + 1..]))
}

fn decode(part: &[u8]) -> Result<Vec<u8>, BadToken> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| BadToken::Malformed)
}
