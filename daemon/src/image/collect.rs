//! Which images nothing uses any more.
//!
//! Owns the decision, by the records alone. An image is kept for a while after its last use, so that going back to
//! the version before is quick; when that use ended is written on the record, so that a restart forgets nothing.
//! What a person imported, or somebody else named, stays until a person removes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::record::{Origin, Record};

/// The host in the names of images that were made on this machine for one deployment.
const PRIVATE_HOST: &str = "roost.local/";

/// How long an image counts as used after somebody has asked for it: until then a deployment has said that it uses it.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// The images that somebody has asked for a short while ago, by the digests of their manifests.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<String, Instant>>);

impl Recent {
    pub(super) fn note(&self, digest: &str) {
        let (mut recent, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        recent.retain(|_, at| now.duration_since(*at) < ASKED_FOR);
        recent.insert(digest.to_owned(), now);
    }

    /// These, and those that are used.
    pub(super) fn and(&self, in_use: &HashSet<String>) -> HashSet<String> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = recent.iter().filter(|(_, at)| at.elapsed() < ASKED_FOR).map(|(digest, _)| digest);
        recent.chain(in_use).cloned().collect()
    }
}

/// What to do with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It is unused since now: say so on it.
    Mark,
    /// It is used again: take the mark away.
    Unmark,
    Remove,
}

/// What to do with `record`, when the images `in_use` are used and an unused one is kept for `keep`.
pub(super) fn decide(record: &Record, in_use: &HashSet<String>, keep: Duration, now: Timestamp) -> Verdict {
    if !is_disposable(record) {
        return Verdict::Keep;
    }
    match (is_used(record, in_use), record.unused_since) {
        (true, None) => Verdict::Keep,
        (true, Some(_)) => Verdict::Unmark,
        (false, since) => {
            // A clock that was set back makes the time negative: then it is kept.
            let unused = now.duration_since(since.unwrap_or(now));
            match (Duration::try_from(unused), since) {
                (Ok(unused), _) if unused >= keep => Verdict::Remove,
                (_, Some(_)) => Verdict::Keep,
                (_, None) => Verdict::Mark,
            }
        }
    }
}

/// May it go without a person's word?
pub(super) fn is_disposable(record: &Record) -> bool {
    match record.origin {
        Origin::Pulled => true,
        // Made by `roost deploy --binary` for one deployment, and named by its content: the next one has another name.
        Origin::Imported => record.name.starts_with(PRIVATE_HOST),
        Origin::Foreign => false,
    }
}

/// Is it among these digests?
pub(super) fn is_used(record: &Record, in_use: &HashSet<String>) -> bool {
    in_use.contains(&record.manifest) || in_use.contains(&record.target)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Descriptor;
    use super::*;

    #[test]
    fn only_what_was_pulled_and_is_unused_long_enough_goes() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| Some(Timestamp::from_second(1_000_000 - seconds).unwrap());
        let hour = Duration::from_secs(3600);
        let table = [
            (Origin::Pulled, true, None, hour, Verdict::Keep),
            (Origin::Pulled, true, ago(9999), hour, Verdict::Unmark),
            (Origin::Pulled, false, None, hour, Verdict::Mark),
            (Origin::Pulled, false, ago(3599), hour, Verdict::Keep),
            (Origin::Pulled, false, ago(3600), hour, Verdict::Remove),
            (Origin::Pulled, false, ago(-60), hour, Verdict::Keep),
            (Origin::Pulled, false, None, Duration::ZERO, Verdict::Remove),
            (Origin::Imported, false, ago(9999), hour, Verdict::Keep),
            (Origin::Foreign, false, None, Duration::ZERO, Verdict::Keep),
        ];
        let private = "roost.local/echo:0123";
        let table =
            table.map(|(origin, used, since, keep, verdict)| ("a", origin, used, since, keep, verdict));
        let made_here = [(private, Origin::Imported, false, ago(9999), hour, Verdict::Remove)];
        for (name, origin, used, unused_since, keep, verdict) in table.into_iter().chain(made_here) {
            let target = Descriptor { digest: "index".to_owned(), ..Descriptor::default() };
            let mut record = Record::new(name.to_owned(), &target, origin, "manifest", 0);
            record.unused_since = unused_since;
            let in_use = HashSet::from([if used { "manifest" } else { "other" }.to_owned()]);
            assert_eq!(decide(&record, &in_use, keep, now), verdict, "{origin:?} {used} {unused_since:?}");
        }
    }
}
