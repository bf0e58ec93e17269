//! What a call is known by, on both sides of the proxy.
//!
//! Owns call ids, and the bits that other ids are made of. They are unique and of the form clients expect (UUID, version 4), and no secrets. Never asks the
//! system for randomness on the path of a request: it would be one of five system calls of a request.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderValue};
use uuid::{Builder, Uuid};

use crate::headers::X_CALL_ID;

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The client's, or a new one.
    pub(crate) id: HeaderValue,
    /// When it came, in nanoseconds of Unix time.
    pub(crate) start: u64,
}

/// Makes ids: a counter, made to look random by two keyed hashes whose keys are random.
#[derive(Debug, Default)]
pub(crate) struct CallIds {
    next: AtomicU64,
    keys: [RandomState; 2],
}

impl CallIds {
    /// The call of a request with these headers, which began now.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Call {
        self.call(headers.get(X_CALL_ID).filter(|id| !id.is_empty()).cloned())
    }

    /// The call that its client knows by this id, if by any, and which began now.
    pub(crate) fn call(&self, given: Option<HeaderValue>) -> Call {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Call {
            id: given.unwrap_or_else(|| {
                let mut text = Uuid::encode_buffer();
                HeaderValue::from_str(self.next().hyphenated().encode_lower(&mut text))
                    .expect("a UUID is visible ASCII")
            }),
            start: u64::try_from(start.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn next(&self) -> Uuid {
        Builder::from_random_bytes(self.bits().to_be_bytes()).into_uuid()
    }

    /// Bits that no other id has, and that look random.
    pub(crate) fn bits(&self) -> u128 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(number)));
        high << 64 | low
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_distinct_uuids_of_version_4_also_across_two_makers() {
        let makers = [CallIds::default(), CallIds::default()];
        let ids: HashSet<_> = (0..20_000).map(|index| makers[index % 2].next()).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 4 && id.get_variant() == uuid::Variant::RFC4122));
    }

    #[test]
    fn the_clients_own_id_is_kept_unless_it_is_empty() {
        let mut headers = HeaderMap::new();
        headers.insert(X_CALL_ID, HeaderValue::from_static("mine"));
        assert_eq!(CallIds::default().identify(&headers).id, "mine");
        headers.insert(X_CALL_ID, HeaderValue::from_static(""));
        assert_eq!(CallIds::default().identify(&headers).id.len(), 36);
    }
}
