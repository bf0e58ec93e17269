//! From when to when a certificate is good.
//!
//! Owns the reading of these two times out of a certificate (RFC 5280, 4.1), and of nothing else in it. Whether it is one,
//! and whose, others say. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not behind.
    pub until: SystemTime,
}

impl Validity {
    /// That of the first certificate in PEM; `None` if there is none.
    #[must_use]
    pub fn of_pem(pem: &[u8]) -> Option<Self> {
        Self::of(&CertificateDer::pem_slice_iter(pem).next()?.ok()?)
    }

    /// That of a certificate in DER; `None` if it is none.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (certificate, _) = element(der, SEQUENCE)?;
        let (mut fields, _) = element(certificate, SEQUENCE)?;
        if fields.first() == Some(&VERSION) {
            fields = element(fields, VERSION)?.1;
        }
        // Number, algorithm, issuer.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            fields = element(fields, tag)?.1;
        }
        let (times, _) = element(fields, SEQUENCE)?;
        let (from, rest) = time(times)?;
        let (until, _) = time(rest)?;
        Some(Self { from, until })
    }
}

/// What the element at the beginning holds, and what stands behind it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(bytes: &[u8]) -> Option<(SystemTime, &[u8])> {
    let tag = *bytes.first()?;
    let (text, rest) = element(bytes, tag)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text)
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.parse().ok()?, text)
        }
        _ => return None,
    };
    if text.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| text[at..at + 2].parse::<i64>().ok();
    let (month, day) = (part(0).filter(|month| (1..=12).contains(month))?, part(2)?);
    let seconds = ((days(year, month, day) * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?;
    let offset = Duration::from_secs(seconds.unsigned_abs());
    Some((if seconds < 0 { UNIX_EPOCH.checked_sub(offset)? } else { UNIX_EPOCH.checked_add(offset)? }, rest))
}

/// Days since 1970, of a date of the Gregorian calendar. A year begins in March here, so that the odd day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["h.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_times_of_a_certificate_are_read_in_both_forms() {
        for (from, until) in [
            ((1999, 12, 31), (2000, 3, 1)),
            ((2024, 2, 29), (2049, 12, 31)),
            ((2026, 1, 1), (2050, 1, 1)),
            ((2050, 6, 15), (2400, 2, 29)),
        ] {
            let read = Validity::of(&certificate(from, until)).unwrap();
            for (read, date) in [(read.from, from), (read.until, until)] {
                let expected = date_time_ymd(date.0, date.1, date.2).unix_timestamp();
                let read = read.duration_since(UNIX_EPOCH).unwrap().as_secs();
                assert_eq!(i64::try_from(read).unwrap(), expected, "{date:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_nothing_breaks(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
            let mut bytes = certificate((2024, 2, 29), (2049, 12, 31));
            let index = at % bytes.len();
            bytes[index] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            // It may still be one.
            let _read = Validity::of(&bytes);
        }
    }
}
