//! The keys for which there is a replica in whatever phase, or is to be one: they count against the most that there may be.
//!
//! Owns the rule by which a request of one more key may wait. Never makes a replica: whoever does says what it holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::placement::ReplicaKey;

/// The keys that are held. Those with a reason have no replica that could answer, and nobody is to wait for one now.
pub type HeldKeys = HashMap<ReplicaKey, Option<Arc<str>>>;

/// May somebody wait for a replica of a key?
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Waits,
    Refused(Arc<str>),
    TooMany,
}

/// Decides for `key`, where these are `held`, and there may be `max`. The keys of endpoints, and of those who wait, count
/// beside them.
pub(crate) fn admit<'a>(
    key: &ReplicaKey,
    held: Option<&HeldKeys>,
    endpoints: impl Iterator<Item = &'a ReplicaKey>,
    waiting: &mut dyn Iterator<Item = &ReplicaKey>,
    max: usize,
) -> Admission {
    match held.and_then(|held| held.get(key)) {
        Some(Some(reason)) => return Admission::Refused(Arc::clone(reason)),
        Some(None) => return Admission::Waits,
        None => {}
    }
    let is_held = |other: &ReplicaKey| held.is_some_and(|held| held.contains_key(other));
    let mut others: HashSet<&ReplicaKey> = endpoints.filter(|other| !is_held(other)).collect();
    for other in waiting.filter(|other| !is_held(other)) {
        others.insert(other);
    }
    let count = held.map_or(0, HeldKeys::len) + others.len();
    if others.contains(key) || count < max { Admission::Waits } else { Admission::TooMany }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ReplicaKey {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_held_counts_and_is_let_in_and_so_are_those_who_wait() {
        let held: HeldKeys = [(key("a"), None), (key("b"), Some(Arc::from("it ends")))].into();
        for (asked, held, others, max, expected) in [
            ("a", Some(&held), &[][..], 2, Admission::Waits),
            ("a", Some(&held), &[], 1, Admission::Waits),
            ("b", Some(&held), &[], 2, Admission::Refused(Arc::from("it ends"))),
            ("c", Some(&held), &[], 2, Admission::TooMany),
            ("c", Some(&held), &[], 3, Admission::Waits),
            ("c", Some(&held), &["d"], 3, Admission::TooMany),
            // One that is held and waits counts once.
            ("c", Some(&held), &["a", "a"], 3, Admission::Waits),
            ("c", Some(&held), &["d", "c"], 3, Admission::Waits),
            ("c", None, &["d"], 2, Admission::Waits),
            ("c", None, &["d", "d", "e"], 2, Admission::TooMany),
            ("c", None, &[], 0, Admission::TooMany),
        ] {
            let others: Vec<_> = others.iter().map(|other| key(other)).collect();
            for (endpoints, waiting) in [(&others[..], &[][..]), (&[], &others), (&others, &others)] {
                let admission = admit(&key(asked), held, endpoints.iter(), &mut waiting.iter(), max);
                assert_eq!(admission, expected, "{asked} {others:?} {max}");
            }
        }
    }
}
