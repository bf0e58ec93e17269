//! Durations and moments as people write them: `90s`, `1m30s`, `1.5h`, a bare number of seconds, or RFC 3339.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// Nanoseconds in each unit of Go's notation.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3_600e9)];

/// The longest duration we take: a hundred years keeps all sums in range.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0 * 1e9;

/// Reads Go's notation, or a bare number of seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration; write it like 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let (mut rest, mut nanos) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end]).ok_or_else(wrong)?;
        nanos += number * unit;
        rest = &rest[end..];
    }
    if nanos > LONGEST { Err(wrong()) } else { Ok(Duration::from_nanos(nanos as u64)) }
}

/// A moment: RFC 3339, or so long before now. Answers RFC 3339, as the API wants it.
pub(crate) fn since(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(moment) = Timestamp::from_str(text) {
        return Ok(moment.to_string());
    }
    let ago = parse(text)
        .map_err(|_| format!("'{text}' is neither a duration (5m) nor a moment (2026-01-31T12:00:00Z)"))?;
    now.checked_sub(ago).map(|moment| moment.to_string()).map_err(|e| e.to_string())
}

/// How long ago, in the one or two units that matter: `42s`, `3m`, `5h`, `12d`. Empty for what cannot be read.
pub(crate) fn age(moment: &str, now: Timestamp) -> String {
    let Ok(then) = Timestamp::from_str(moment) else { return String::new() };
    coarse((now.as_second() - then.as_second()).max(0))
}

/// How long until then, in the one unit that matters. Empty for what is over, and for what cannot be read.
pub(crate) fn left(moment: &str, now: Timestamp) -> String {
    let Ok(then) = Timestamp::from_str(moment) else { return String::new() };
    let seconds = then.as_second() - now.as_second();
    if seconds < 0 { String::new() } else { coarse(seconds) }
}

/// Seconds in the one unit that matters.
pub(crate) fn coarse(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_and_bare_seconds_are_read() {
        let table = [
            ("0", 0),
            ("30", 30_000),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("2h0m", 7_200_000),
        ];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "5x", "-5s", "1h5", "5 m", "1..2s", "99999999999h", "ten"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn since_takes_both_forms() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(since("5m", now).unwrap(), "1970-01-12T13:41:40Z");
        assert_eq!(since("2026-01-31T12:00:00+01:00", now).unwrap(), "2026-01-31T11:00:00Z");
        assert!(since("yesterday", now).is_err());
    }

    #[test]
    fn age_names_the_largest_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |s: i64| age(&Timestamp::from_second(1_000_000 - s).unwrap().to_string(), now);
        assert_eq!([ago(5), ago(61), ago(7_200), ago(200_000), ago(-9)], ["5s", "1m", "2h", "2d", "0s"]);
        assert_eq!(age("", now), "");
    }
}
