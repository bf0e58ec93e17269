//! How people write durations and amounts, read without rounding surprises.
//!
//! Durations are Go's (`1m30s`, `500ms`) or bare seconds; amounts are Kubernetes quantities (`128Mi`, `0.5`, `100m`),
//! with an optional `B` behind the unit where sizes are written for people (`10GiB`).

use std::fmt;
use std::time::Duration;

/// Why a text is not a duration or an amount. The text itself is not repeated: whoever asks names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("expected a duration such as 90s, 1m30s or 2h, or a number of seconds")]
    Duration,
    /// Not an amount of memory.
    #[error("expected an amount of memory such as 128Mi, 1Gi or 500M, more than zero")]
    Memory,
    /// Not an amount of processor time.
    #[error("expected an amount of CPU such as 100m, 0.5 or 2, at least 1m")]
    Cpu,
}

/// Reads a Go duration or a bare number of seconds.
///
/// # Errors
/// When `text` is neither, is negative, or is longer than a `Duration` can hold.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(UnitError::Duration);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(UnitError::Duration)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(UnitError::Duration),
        };
        let number: f64 = number.parse().map_err(|_| UnitError::Duration)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| UnitError::Duration)?;
        total = total.checked_add(part).ok_or(UnitError::Duration)?;
        rest = tail;
    }
    Ok(total)
}

/// A duration as [`duration`] reads it, in hours, minutes and seconds; what is less than a second is left out unless it is
/// all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelt(pub Duration);

impl fmt::Display for Spelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if seconds == 0 {
            return match self.0.as_millis() {
                0 => f.write_str("0s"),
                millis => write!(f, "{millis}ms"),
            };
        }
        for (number, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

/// Reads an amount of memory in bytes, rounded up to a whole byte.
///
/// # Errors
/// When `text` is not a quantity or is zero.
pub fn memory(text: &str) -> Result<u64, UnitError> {
    let bytes = quantity(text.strip_suffix('B').unwrap_or(text)).ok_or(UnitError::Memory)?.ceil();
    // 2^63 and more cannot be a limit: the kernel counts memory in signed numbers.
    if (1.0..9.2e18).contains(&bytes) { Ok(to_u64(bytes)) } else { Err(UnitError::Memory) }
}

/// Reads an amount of processor time in thousandths of a core, rounded up.
///
/// # Errors
/// When `text` is not a quantity or is under one thousandth.
pub fn cpu_millis(text: &str) -> Result<u64, UnitError> {
    let millis = (quantity(text).ok_or(UnitError::Cpu)? * 1000.0).ceil();
    if (1.0..1e9).contains(&millis) { Ok(to_u64(millis)) } else { Err(UnitError::Cpu) }
}

/// A Kubernetes quantity as a number: decimal digits, then an SI or binary unit or an exponent.
fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("K", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
        .unwrap_or((text, 1.0));
    // Rust also reads "inf", "nan" and "+1" as numbers; a quantity begins with a digit or a dot.
    let plain = number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
        && number.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    plain
        .then(|| number.parse::<f64>().ok())
        .flatten()
        .map(|number| number * factor)
        .filter(|n| n.is_finite())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the callers have checked the range"
)]
fn to_u64(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them_or_as_seconds() {
        for (text, millis) in [
            ("0", 0),
            ("90", 90_000),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2h0m1s", 7_201_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "10x", "-1s", "1 s", "1m30", "..s", "1e400s", "99999999999999999999h"] {
            assert_eq!(duration(text), Err(UnitError::Duration), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (90_000, "1m30s"),
            (1500, "1s"),
            (900_000, "15m"),
            (7_201_000, "2h1s"),
        ] {
            assert_eq!(Spelt(Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn memory_is_read_as_kubernetes_writes_it() {
        for (text, bytes) in [
            ("5Mi", 5 << 20),
            ("128Mi", 128 << 20),
            ("1Gi", 1 << 30),
            ("0.5Gi", 1 << 29),
            ("500M", 500_000_000),
            ("1e6", 1_000_000),
            ("10GiB", 10 << 30),
            ("1500m", 2),
            ("64k", 64_000),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-5Mi", "abc", "5Xi", "inf", "nan", "5 Mi", "Mi", "1e30"] {
            assert_eq!(memory(text), Err(UnitError::Memory), "{text}");
        }
    }

    #[test]
    fn cpu_is_read_in_thousandths() {
        for (text, millis) in [("100m", 100), ("0.5", 500), ("2", 2000), ("1.5", 1500), ("1m", 1)] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for text in ["", "0", "-1", "half", "0m"] {
            assert_eq!(cpu_millis(text), Err(UnitError::Cpu), "{text}");
        }
    }
}
