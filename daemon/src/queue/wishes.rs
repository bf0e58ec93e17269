//! What a client may wish of a call that it hands over: how soon, before which others, how long it is worth anything.
//!
//! Owns the headers for that, which the function does not see. Pure.

use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::units;

const DELAY: &str = "x-roost-delay";
const EXPIRES: &str = "x-roost-expires";
const PRIORITY: &str = "x-roost-priority";
const ORDER_KEY: &str = "x-roost-order-key";
const IDEMPOTENCY_KEY: &str = "x-roost-idempotency-key";
const KEEP_RESULT: &str = "x-roost-keep-result";

const ALL: [&str; 6] = [DELAY, EXPIRES, PRIORITY, ORDER_KEY, IDEMPOTENCY_KEY, KEEP_RESULT];

/// What a call has that asks for no other.
const PRIORITY_OF_MOST: u8 = 4;

/// The longest key, in bytes.
const MAX_KEY: usize = 256;

/// The longest delay, and time until a call is worth nothing.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// For how long a result may be kept.
pub(super) const LONGEST_RESULT: Duration = Duration::from_hours(24 * 7);

/// What the client of a call wishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Those with more begin first: 0 to 9.
    #[serde(default = "of_most", skip_serializing_if = "is_of_most")]
    pub priority: u8,
    /// Not before so many milliseconds behind its being taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// Not any more so many milliseconds behind its being taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Calls of one key are made one behind the other, in the order in which they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
    /// Of calls of one key there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// For how many milliseconds its result is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_result: Option<u64>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            priority: PRIORITY_OF_MOST,
            delay: None,
            expires: None,
            order_key: None,
            idempotency_key: None,
            keep_result: None,
        }
    }
}

impl Wishes {
    /// Takes them out of the headers of a call.
    ///
    /// # Errors
    /// When one of them cannot be read: which, and what was expected.
    pub fn take(headers: &mut HeaderMap) -> Result<Self, String> {
        let mut wishes = Self::default();
        if let Some(text) = text(headers, PRIORITY)? {
            let priority = text.parse().ok().filter(|priority| *priority <= 9);
            wishes.priority = priority.ok_or("x-roost-priority: expected a number from 0 to 9")?;
        }
        wishes.delay = duration(headers, DELAY, LONGEST)?;
        wishes.expires = duration(headers, EXPIRES, LONGEST)?;
        wishes.keep_result = duration(headers, KEEP_RESULT, LONGEST_RESULT)?;
        wishes.order_key = key(headers, ORDER_KEY)?;
        wishes.idempotency_key = key(headers, IDEMPOTENCY_KEY)?;
        if let (Some(delay), Some(expires)) = (wishes.delay, wishes.expires)
            && expires <= delay
        {
            return Err("x-roost-expires: expected more than x-roost-delay".to_owned());
        }
        for name in ALL {
            headers.remove(name);
        }
        Ok(wishes)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| format!("{name}: expected text"))?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn duration(headers: &HeaderMap, name: &str, longest: Duration) -> Result<Option<u64>, String> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    let expected = || format!("{name}: expected a duration of up to {} days, such as 30s", days(longest));
    let duration = units::duration(text).ok().filter(|duration| *duration <= longest);
    let duration = duration.ok_or_else(expected)?;
    Ok(u64::try_from(duration.as_millis()).ok().filter(|millis| *millis > 0))
}

fn days(duration: Duration) -> u64 {
    duration.as_secs() / (24 * 3600)
}

fn key(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    if text.len() > MAX_KEY {
        return Err(format!("{name}: expected at most {MAX_KEY} bytes"));
    }
    Ok(Some(text.to_owned()))
}

fn of_most() -> u8 {
    PRIORITY_OF_MOST
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_of_most(priority: &u8) -> bool {
    *priority == PRIORITY_OF_MOST
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn take(headers: &[(&'static str, &'static str)]) -> (Result<Wishes, String>, usize) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let taken = Wishes::take(&mut map);
        (taken, map.len())
    }

    #[test]
    fn wishes_are_read_and_not_passed_on() {
        let (wishes, left) = take(&[
            ("x-own", "1"),
            ("x-roost-delay", "1m30s"),
            ("x-roost-expires", "120"),
            ("x-roost-priority", "9"),
            ("x-roost-order-key", " a b "),
            ("x-roost-idempotency-key", "k"),
            ("x-roost-keep-result", "1h"),
        ]);
        let expected = Wishes {
            priority: 9,
            delay: Some(90_000),
            expires: Some(120_000),
            order_key: Some("a b".into()),
            idempotency_key: Some("k".into()),
            keep_result: Some(3_600_000),
        };
        assert_eq!((wishes.unwrap(), left), (expected, 1));
        assert_eq!(take(&[("x-roost-delay", ""), ("x-roost-expires", "0")]).0.unwrap(), Wishes::default());
    }

    #[test]
    fn a_wish_that_cannot_be_read_is_named() {
        for (name, value) in [
            ("x-roost-priority", "10"),
            ("x-roost-priority", "high"),
            ("x-roost-delay", "soon"),
            ("x-roost-delay", "99999h"),
            ("x-roost-keep-result", "200h"),
        ] {
            let why = take(&[(name, value)]).0.unwrap_err();
            assert!(why.starts_with(&format!("{name}: expected ")), "{why}");
        }
        assert!(take(&[("x-roost-delay", "2m"), ("x-roost-expires", "1m")]).0.is_err());
    }
}
