//! What things are called at the server.
//!
//! Owns the names of streams, buckets, consumers and subjects. Calls of a function lie in lanes: one for each priority, and
//! some for calls that have an order, so that what waits in one is not in the way of another. Pure.
//!
//! ```text
//!   NAME.calls.NAMESPACE.FUNCTION.LANE.ID     p0 … p9: a lane of calls of that priority
//!   NAMESPACE_FUNCTION_LANE                   k0 … k3: a lane of calls that are made one behind the other
//! ```

use std::fmt;
use std::str::FromStr;

use roost_proxy::function::FunctionKey;
use sha2::{Digest, Sha256};

use super::super::wishes::Wishes;

/// How many calls of a function with keys of order are made at once: as many as there are lanes for them.
const ORDERED: u8 = 4;

/// What all names begin with.
#[derive(Debug, Clone)]
pub(super) struct Names(pub(super) String);

/// A part of a function's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lane {
    /// Calls of this priority.
    Priority(u8),
    /// Calls that are made one behind the other.
    Ordered(u8),
}

impl Lane {
    /// That of a call with these wishes. One that is delayed comes into that of its key when it is due: it would hold up
    /// others there.
    pub(super) fn of(wishes: &Wishes) -> Self {
        if wishes.delay.is_some() {
            return Self::Priority(wishes.priority.min(9));
        }
        Self::when_due(wishes)
    }

    /// The same of a call that is due.
    pub(super) fn when_due(wishes: &Wishes) -> Self {
        let Some(key) = &wishes.order_key else { return Self::Priority(wishes.priority.min(9)) };
        let digest = Sha256::digest(key);
        Self::Ordered(digest[0] % ORDERED)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Priority(priority) => write!(f, "p{priority}"),
            Self::Ordered(lane) => write!(f, "k{lane}"),
        }
    }
}

impl FromStr for Lane {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, number) = text.split_at_checked(1).ok_or(())?;
        let number = number.parse().map_err(|_| ())?;
        match kind {
            "p" if number <= 9 => Ok(Self::Priority(number)),
            "k" if number < ORDERED => Ok(Self::Ordered(number)),
            _ => Err(()),
        }
    }
}

impl Names {
    /// The stream of calls.
    pub(super) fn calls(&self) -> String {
        format!("{}-calls", self.0)
    }

    /// Its subjects.
    pub(super) fn subjects(&self) -> String {
        format!("{}.calls.>", self.0)
    }

    /// A bucket.
    pub(super) fn bucket(&self, of: &str) -> String {
        format!("{}-{of}", self.0)
    }

    /// What nodes tell each other.
    pub(super) fn told(&self, what: &str) -> String {
        format!("{}.queue.{what}", self.0)
    }

    /// The subject of a call.
    pub(super) fn subject(&self, function: &FunctionKey, lane: Lane, id: &str) -> String {
        format!("{}.calls.{}.{}.{lane}.{}", self.0, function.namespace, function.name, token(id))
    }

    /// All calls of a lane.
    pub(super) fn lane(&self, function: &FunctionKey, lane: Lane) -> String {
        format!("{}.calls.{}.{}.{lane}.*", self.0, function.namespace, function.name)
    }

    /// All calls of an id.
    pub(super) fn of_id(&self, id: &str) -> String {
        format!("{}.calls.*.*.*.{}", self.0, token(id))
    }
}

/// The consumer of a lane.
pub(super) fn consumer(function: &FunctionKey, lane: Lane) -> String {
    format!("{}_{}_{lane}", function.namespace, function.name)
}

/// Whose consumer this is, if it is one of ours.
pub(super) fn of_consumer(name: &str) -> Option<(FunctionKey, Lane)> {
    let mut parts = name.split('_');
    let (namespace, function, lane) = (parts.next()?, parts.next()?, parts.next()?);
    let key = FunctionKey::new(namespace.parse().ok()?, function.parse().ok()?);
    parts.next().is_none().then_some((key, lane.parse().ok()?))
}

/// Whose call has this subject, and in which lane it is.
pub(super) fn of_subject(subject: &str) -> Option<(FunctionKey, Lane)> {
    let mut parts = subject.rsplit('.').skip(1);
    let (lane, function, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    Some((FunctionKey::new(namespace.parse().ok()?, function.parse().ok()?), lane.parse().ok()?))
}

/// Where the result of a call is.
pub(super) fn result_key(id: &str, function: &FunctionKey) -> String {
    format!("{}.{}.{}", token(id), function.namespace, function.name)
}

/// Whose result has this key.
pub(super) fn of_result_key(key: &str) -> Option<FunctionKey> {
    let mut parts = key.rsplit('.');
    let (function, namespace) = (parts.next()?, parts.next()?);
    Some(FunctionKey::new(namespace.parse().ok()?, function.parse().ok()?))
}

/// A function's idempotency key.
pub(super) fn idempotency(function: &FunctionKey, key: &str) -> String {
    token(&format!("{function}\0{key}"))
}

/// Any text as what a subject and a key of a bucket take.
pub(super) fn token(text: &str) -> String {
    Sha256::digest(text).iter().take(16).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_a_name_is_read_from_it() {
        let names = Names("roost".to_owned());
        let key = FunctionKey::from_route("mail.blue").unwrap();
        for lane in [Lane::Priority(0), Lane::Priority(9), Lane::Ordered(3)] {
            assert_eq!(of_consumer(&consumer(&key, lane)), Some((key.clone(), lane)));
            assert_eq!(of_subject(&names.subject(&key, lane, "any id *.>")), Some((key.clone(), lane)));
        }
        assert_eq!(of_result_key(&result_key("any id", &key)), Some(key.clone()));
        assert_eq!(names.subject(&key, Lane::Priority(5), "x").split('.').count(), 6);
        for other in ["", "a", "a_b", "a_b_p10", "a_b_k4", "a_b_p1_c", "other"] {
            assert_eq!(of_consumer(other), None, "{other}");
        }
    }

    #[test]
    fn calls_of_a_key_are_in_one_lane_and_others_in_that_of_their_priority() {
        let wishes = |priority, key: Option<&str>| Wishes {
            priority,
            order_key: key.map(str::to_owned),
            ..Wishes::default()
        };
        assert_eq!(Lane::of(&wishes(7, None)), Lane::Priority(7));
        let of_key = Lane::of(&wishes(7, Some("a")));
        assert!(matches!(of_key, Lane::Ordered(_)) && of_key == Lane::of(&wishes(0, Some("a"))));
        let delayed = Wishes { delay: Some(1), ..wishes(7, Some("a")) };
        assert_eq!((Lane::of(&delayed), Lane::when_due(&delayed)), (Lane::Priority(7), of_key));
        let lanes: std::collections::BTreeSet<_> =
            (0..100).map(|key| Lane::of(&wishes(5, Some(&key.to_string())))).collect();
        assert_eq!(lanes.len(), usize::from(ORDERED));
    }
}
