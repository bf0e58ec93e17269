//! What the store keeps of a function: the revision that is wanted, and the one that serves until that is up.

use std::collections::HashSet;

use jiff::Timestamp;
use roost_proxy::Access;
use serde::{Deserialize, Serialize};

use crate::function::access;
use crate::function::bounds;
use crate::function::compression::COMPRESSION;
use crate::function::event_mode;
use crate::function::spec::Deployment;
use crate::function::timeouts::Times;
use crate::scaling::Policy;

/// One accepted deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Unique among the revisions of a function, and later ones sort later.
    pub id: String,
    /// What was sent.
    pub deployment: Deployment,
    /// The image that its reference stood for, once that is known. A restart uses this and asks no registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PinnedImage>,
    /// The names of fields that were sent and are none of a deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// The revision whose replicas it took over, being no different to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_of: Option<String>,
    /// Is it different from the one that serves in nothing that replicas see, except perhaps for the content of its image?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_settings: bool,
}

/// An image by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The reference in full.
    pub name: String,
    /// The digest of the manifest for this platform.
    pub digest: String,
}

impl Revision {
    /// A new revision of a deployment.
    #[must_use]
    pub fn new(deployment: Deployment) -> Self {
        Self::of(deployment, Vec::new())
    }

    /// A new revision of a deployment that was sent with further fields of these names.
    #[must_use]
    pub fn of(deployment: Deployment, ignored: Vec<String>) -> Self {
        Self {
            id: uuid::Uuid::now_v7().simple().to_string(),
            deployment,
            image: None,
            ignored,
            replicas_of: None,
            only_settings: false,
        }
    }

    /// The revision that its replicas say they are of.
    #[must_use]
    pub fn of_replicas(&self) -> &str {
        self.replicas_of.as_deref().unwrap_or(&self.id)
    }
}

/// A function, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// When it was first deployed.
    pub created_at: Timestamp,
    /// The revision that is wanted.
    pub newest: Revision,
    /// The last revision that was up with all its replicas, if that is not the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Revision>,
    /// Was the newest revision ever up with all its replicas?
    #[serde(default)]
    pub complete: bool,
    /// The most that was asked of callers since a revision was last complete: replicas of any revision since then may
    /// still serve.
    #[serde(default)]
    pub asked: Access,
    /// How many replicas it was scaled to, if not to what its labels ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How often it was scaled by hand: tells one order from the same one given again.
    #[serde(default)]
    pub scalings: u64,
}

impl FunctionRecord {
    /// A function that is deployed for the first time.
    #[must_use]
    pub fn new(revision: Revision) -> Self {
        Self {
            created_at: Timestamp::now(),
            newest: revision,
            serving: None,
            complete: false,
            asked: Access::default(),
            replicas: None,
            scalings: 0,
        }
    }

    /// The same function with a newer revision. What serves goes on serving until that is up. A function that was scaled
    /// keeps its replicas, but has at least as many as the new labels ask for: one that was at zero comes up.
    #[must_use]
    pub fn updated(&self, revision: Revision) -> Self {
        let serving = if self.complete { Some(self.newest.clone()) } else { self.serving.clone() };
        let only_settings =
            serving.as_ref().is_some_and(|s| only_settings(&s.deployment, &revision.deployment));
        // Settings alone wake nobody.
        let asleep = |scaled: &u32| *scaled == 0 && only_settings;
        let replicas = self.replicas.filter(|scaled| *scaled > minimum(&revision) || asleep(scaled));
        let asked = access::of(self);
        let newest = Revision { only_settings, ..revision };
        Self { newest, serving, complete: false, asked, replicas, ..*self }
    }

    /// The same function, if all that its newest revision changes are settings that replicas do not see: the replicas of
    /// the one that serves are its replicas. `None` if the image is not known to be the same.
    #[must_use]
    pub fn taken_over(&self) -> Option<Self> {
        let serving = self.serving.as_ref().filter(|_| self.newest.only_settings)?;
        let digest = |revision: &Revision| revision.image.as_ref().map(|image| image.digest.clone());
        if digest(serving).is_none() || digest(serving) != digest(&self.newest) {
            return None;
        }
        let mut record = self.completed();
        record.newest.replicas_of = Some(serving.of_replicas().to_owned());
        record.newest.only_settings = false;
        Some(record)
    }

    /// The same function, its newest revision being one that needs replicas of its own.
    #[must_use]
    pub fn parted(&self) -> Self {
        let mut record = self.clone();
        record.newest.only_settings = false;
        record
    }

    /// The same function with so many replicas.
    #[must_use]
    pub fn scaled(&self, replicas: u32) -> Self {
        let replicas = Some(replicas).filter(|replicas| *replicas != minimum(&self.newest));
        Self { replicas, scalings: self.scalings + 1, ..self.clone() }
    }

    /// The same function with as many replicas as its labels ask for, if it has none.
    #[must_use]
    pub fn woken(&self) -> Self {
        Self { replicas: self.replicas.filter(|replicas| *replicas > 0), ..self.clone() }
    }

    /// How many replicas are wanted of a revision. What was scaled before it became a singleton counts for one at most.
    #[must_use]
    pub fn wanted(&self, revision: &Revision) -> u32 {
        let policy = policy(revision);
        policy.allowed(self.replicas.unwrap_or(policy.min))
    }

    /// The same function, its newest revision being up.
    #[must_use]
    pub fn completed(&self) -> Self {
        Self { serving: None, complete: true, asked: Access::default(), ..self.clone() }
    }

    /// The same function, the image of one of its revisions being known.
    #[must_use]
    pub fn pinned(&self, revision: &str, image: &PinnedImage) -> Self {
        let mut record = self.clone();
        for each in [Some(&mut record.newest), record.serving.as_mut()].into_iter().flatten() {
            if each.of_replicas() == revision {
                each.image = Some(image.clone());
            }
        }
        record
    }

    /// The revisions that replicas may be of: the newest, and the one that serves until that is up.
    pub fn revisions(&self) -> impl Iterator<Item = &Revision> {
        [Some(&self.newest), self.serving.as_ref()].into_iter().flatten()
    }

    /// Adds the digests of the images that the function may start from.
    pub fn images_in_use(&self, digests: &mut HashSet<String>) {
        digests.extend(self.revisions().filter_map(|r| r.image.as_ref()).map(|image| image.digest.clone()));
    }
}

/// Do two deployments differ, and in nothing but settings that replicas do not see? One that is sent again as it is asks
/// for new replicas: there is nothing else that it could ask for.
fn only_settings(old: &Deployment, new: &Deployment) -> bool {
    let seen = |deployment: &Deployment| {
        let mut seen = deployment.clone();
        let is_seen = |name: &str| {
            !Policy::is_setting_name(name)
                && !Times::is_setting_name(name)
                && !bounds::NAMES.contains(&name)
                && name != COMPRESSION
                && !event_mode::is_for_the_host_alone(name)
        };
        seen.labels.retain(|name, _| is_seen(name));
        seen.annotations.retain(|name, _| is_seen(name));
        seen
    };
    old != new && seen(old) == seen(new)
}

/// How many replicas the settings of a revision ask for: at least 1, but with keys none.
fn minimum(revision: &Revision) -> u32 {
    policy(revision).min
}

/// What the settings of a revision say. They were checked when they were sent; those that an earlier daemon took and this
/// one does not are left aside.
fn policy(revision: &Revision) -> Policy {
    Policy::parse(&revision.deployment).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(image: &str) -> Revision {
        Revision::new(Deployment { image: image.into(), ..Deployment::default() })
    }

    #[test]
    fn the_last_complete_revision_serves_through_updates_that_never_come_up() {
        let first = FunctionRecord::new(revision("a")).completed();
        let third = first.updated(revision("b")).updated(revision("c"));
        assert_eq!(third.serving.as_ref().unwrap().deployment.image, "a");
        assert_eq!(third.newest.deployment.image, "c");
        assert_eq!(third.completed().serving, None);
        assert_eq!(third.created_at, first.created_at);
    }

    #[test]
    fn an_update_keeps_what_was_scaled_but_not_less_than_its_labels_ask_for() {
        let asking = |min: &str| {
            let labels = [("com.openfaas.scale.min".to_owned(), min.to_owned())].into();
            Revision::new(Deployment { labels, ..Deployment::default() })
        };
        for (min, scaled, next, wanted) in
            [("1", 3, "1", 3), ("1", 3, "5", 5), ("1", 0, "1", 1), ("1", 0, "2", 2), ("4", 4, "2", 2)]
        {
            let record = FunctionRecord::new(asking(min)).scaled(scaled);
            assert_eq!(record.wanted(&record.newest), scaled);
            let record = record.updated(asking(next));
            assert_eq!(record.wanted(&record.newest), wanted, "min {min}, scaled to {scaled}, min {next}");
        }
        let asleep = FunctionRecord::new(asking("2")).scaled(0);
        assert_eq!(asleep.woken().wanted(&asleep.newest), 2);
        let awake = asleep.scaled(1);
        assert_eq!(awake.woken(), awake);
    }

    #[test]
    fn the_least_is_read_from_annotations_before_labels() {
        let of = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            let texts = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            let (labels, annotations) = (texts(labels), texts(annotations));
            let record = FunctionRecord::new(Revision::new(Deployment {
                labels,
                annotations,
                ..Deployment::default()
            }));
            record.wanted(&record.newest)
        };
        let min = |count| ("com.openfaas.scale.min", count);
        assert_eq!(of(&[], &[min("3")]), 3);
        assert_eq!(of(&[min("2")], &[min("3")]), 3);
        assert_eq!(of(&[min("2")], &[]), 2);
        assert_eq!(of(&[], &[("roost.scale.key", "path[1]")]), 0);
    }

    #[test]
    fn what_was_scaled_by_hand_and_becomes_a_singleton_wants_one() {
        let with = |name: &str, value: &str| {
            let annotations = [(name.to_owned(), value.to_owned())].into();
            Revision::new(Deployment { annotations, ..Deployment::default() })
        };
        let many = FunctionRecord::new(revision("a")).scaled(3);
        for (name, value, wanted) in [
            ("roost.scale.singleton", "true", 1),
            ("roost.rollout", "recreate", 1),
            ("roost.rollout", "start-first", 3),
        ] {
            let record = many.updated(with(name, value));
            assert_eq!(record.wanted(&record.newest), wanted, "{name}");
            assert_eq!(record.scaled(0).wanted(&record.newest), 0, "{name}");
        }
    }

    #[test]
    fn an_update_of_settings_takes_the_replicas_over_if_the_image_is_the_same() {
        let with = |max: &str, note: &str| {
            let labels =
                [("com.openfaas.scale.max".to_owned(), max.to_owned()), ("note".into(), note.into())].into();
            Revision::new(Deployment { labels, ..Deployment::default() })
        };
        let image = |digest: &str| PinnedImage { name: "a".into(), digest: digest.into() };
        let pinned = |record: &FunctionRecord, digest| record.pinned(&record.newest.id, &image(digest));
        let first = pinned(&FunctionRecord::new(with("3", "")), "1").completed();
        for (max, note, digest, taken_over) in
            [("4", "", "1", true), ("4", "", "2", false), ("4", "new", "1", false), ("3", "", "1", false)]
        {
            let updated = first.scaled(0).updated(with(max, note));
            assert_eq!(updated.taken_over(), None, "the image is not known yet");
            let record = pinned(&updated, digest);
            let next = record.taken_over();
            assert_eq!(next.is_some(), taken_over, "{max} {note} {digest}");
            let Some(next) = next else { continue };
            assert_eq!((next.newest.of_replicas(), next.complete), (first.newest.id.as_str(), true));
            assert_eq!((next.serving.is_none(), next.replicas), (true, Some(0)));
            let third = pinned(&next.updated(with("5", "")), "1").taken_over().unwrap();
            assert_eq!(third.newest.of_replicas(), first.newest.id, "and so on");
        }
        assert_eq!(pinned(&first.updated(with("4", "")), "1").parted().taken_over(), None);
        let mut timed = with("3", "");
        timed.deployment.annotations.insert("roost.timeout.request".into(), "1h".into());
        assert!(pinned(&first.updated(timed), "1").taken_over().is_some(), "replicas see no limits either");
    }

    #[test]
    fn limits_are_settings_that_replicas_do_not_see() {
        let with = |name: &str| {
            let annotations = [(name.to_owned(), "1".to_owned())].into();
            Revision::new(Deployment { annotations, ..Deployment::default() })
        };
        let first = FunctionRecord::new(revision("")).completed();
        for (name, only_settings) in [("roost.limit.connections", true), ("roost.limits", false)] {
            assert_eq!(first.updated(with(name)).newest.only_settings, only_settings, "{name}");
        }
    }

    #[test]
    fn an_image_is_pinned_to_its_own_revision_only() {
        let record = FunctionRecord::new(revision("a")).completed().updated(revision("b"));
        let image = PinnedImage { name: "docker.io/library/a:latest".into(), digest: "sha256:aa".into() };
        let serving = record.serving.as_ref().unwrap().id.clone();
        let pinned = record.pinned(&serving, &image);
        assert_eq!(pinned.serving.unwrap().image, Some(image));
        assert_eq!(pinned.newest.image, None);
    }
}
