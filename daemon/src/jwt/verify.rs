//! One token (RFC 7515, 7519): who signed it, and whether it counts here and now.
//!
//! Owns the order: nothing but the header is read before the signature is verified. Pure; the time is given.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use roost_proxy::{BadToken, Claims};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{Algorithm, KeySet};
use crate::config::Issuer;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// No time is later than this, since 1970: three thousand years.
const END_OF_TIME: Duration = Duration::from_secs(100_000_000_000);

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

/// The id of the key that a token names.
pub(super) fn key_id(token: &[u8]) -> Result<Option<String>, BadToken> {
    let header = token.split(|byte| *byte == b'.').next().unwrap_or_default();
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| BadToken::Malformed)?;
    Ok(header.kid)
}

/// Do these claims of `issuer` hold at `now`? Until when they do, with the `leeway`; both times since 1970.
pub(super) fn judge(
    claims: &Map<String, Value>,
    issuer: &Issuer,
    leeway: Duration,
    now: Duration,
) -> Result<Duration, BadToken> {
    let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
    let expires = time(claims, "exp")?.ok_or(BadToken::Endless)?;
    if now >= expires + leeway {
        return Err(BadToken::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|begins| now + leeway < begins) {
        return Err(BadToken::Early);
    }
    let named = claims.get("iss").and_then(Value::as_str);
    if issuer.name.as_deref().is_some_and(|name| named != Some(name)) {
        return Err(BadToken::Issuer);
    }
    let ours = issuer.audience.as_deref();
    let meant = match (claims.get("aud"), ours) {
        (None | Some(Value::Null), None) => true,
        (Some(Value::String(audience)), Some(ours)) => audience == ours,
        (Some(Value::Array(audiences)), Some(ours)) => audiences.iter().any(|one| one.as_str() == Some(ours)),
        // One that is meant for somebody is not for a host that has no name.
        _ => false,
    };
    if !meant {
        return Err(BadToken::Audience);
    }
    Ok(Duration::try_from_secs_f64(expires + leeway).unwrap_or(END_OF_TIME).min(END_OF_TIME))
}

/// What the claims say, until then: texts, numbers, truths, and lists of them. Of anything else nothing is made.
pub(super) fn said(claims: Map<String, Value>, until: Duration) -> Claims {
    let text = |value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let each = |(name, value): (String, Value)| {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        values.into_iter().filter_map(text).map(move |text| (name.clone(), text)).collect::<Vec<_>>()
    };
    claims.into_iter().flat_map(each).collect::<Claims>().counting_until(UNIX_EPOCH + until)
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
