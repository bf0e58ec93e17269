//! When a certificate is to be ordered.
//!
//! Pure: times and numbers in, times out. Chance comes from outside, as a number from 0 to 1.

use std::time::{Duration, SystemTime};

use crate::Pace;
use crate::validity::Validity;

/// How much earlier than at two thirds of its life a certificate may be renewed, as a part of its life: many hosts that
/// began at once do not come back at once.
const SPREAD: f64 = 1.0 / 30.0;

/// When a certificate is to be renewed: at two thirds of its life, or by chance somewhat earlier.
pub(crate) fn due(validity: Validity, chance: f64) -> SystemTime {
    let life = validity.until.duration_since(validity.from).unwrap_or_default();
    validity.from + life.mul_f64(2.0 / 3.0 - SPREAD * chance.clamp(0.0, 1.0))
}

/// How long to wait after that many failures in a row: somewhat shorter or longer by chance.
pub(crate) fn pause(failures: u32, pace: Pace, chance: f64) -> Duration {
    let grown = 3_u32.saturating_pow(failures.saturating_sub(1));
    pace.first.saturating_mul(grown).min(pace.most).mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_certificate_of_ninety_days_is_renewed_after_fifty_seven_to_sixty() {
        let validity = Validity { from: UNIX_EPOCH, until: UNIX_EPOCH + 90 * DAY };
        assert_eq!(due(validity, 0.0), UNIX_EPOCH + 60 * DAY);
        assert_eq!(due(validity, 1.0), UNIX_EPOCH + 57 * DAY);
    }

    #[test]
    fn pauses_grow_to_the_longest() {
        let pauses: Vec<_> =
            (1..=6).map(|failures| pause(failures, Pace::default(), 0.5).as_secs()).collect();
        assert_eq!(pauses, [120, 360, 1080, 3240, 9720, 29_160]);
        assert_eq!(pause(u32::MAX, Pace::default(), 0.5), Duration::from_secs(43_200));
    }

    proptest! {
        #[test]
        fn a_renewal_is_always_within_the_life(life in 1_u64..10_000_000, chance: f64) {
            let validity = Validity { from: UNIX_EPOCH, until: UNIX_EPOCH + Duration::from_secs(life) };
            let due = due(validity, chance);
            prop_assert!(due >= validity.from && due <= validity.until);
        }
    }
}
