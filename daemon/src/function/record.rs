//! What the store keeps of a function: the revision that is wanted, and the one that serves until that is up.

use std::collections::HashSet;

use jiff::Timestamp;
use roost_proxy::Access;
use serde::{Deserialize, Serialize};

use crate::function::access;
use crate::function::spec::{self, Deployment};

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
        Self { id: uuid::Uuid::now_v7().simple().to_string(), deployment, image: None, ignored }
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
        }
    }

    /// The same function with a newer revision. What serves goes on serving until that is up. A function that was scaled
    /// keeps its replicas, but has at least as many as the new labels ask for: one that was at zero comes up.
    #[must_use]
    pub fn updated(&self, revision: Revision) -> Self {
        let serving = if self.complete { Some(self.newest.clone()) } else { self.serving.clone() };
        let replicas = self.replicas.filter(|scaled| *scaled > minimum(&revision));
        let asked = access::of(self);
        Self { created_at: self.created_at, newest: revision, serving, complete: false, asked, replicas }
    }

    /// The same function with so many replicas.
    #[must_use]
    pub fn scaled(&self, replicas: u32) -> Self {
        let replicas = Some(replicas).filter(|replicas| *replicas != minimum(&self.newest));
        Self { replicas, ..self.clone() }
    }

    /// The same function with as many replicas as its labels ask for, if it has none.
    #[must_use]
    pub fn woken(&self) -> Self {
        Self { replicas: self.replicas.filter(|replicas| *replicas > 0), ..self.clone() }
    }

    /// How many replicas are wanted of a revision.
    #[must_use]
    pub fn wanted(&self, revision: &Revision) -> u32 {
        self.replicas.unwrap_or_else(|| minimum(revision))
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
            if each.id == revision {
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

/// What the labels of a revision ask for: at least 1. They were checked when they were sent.
fn minimum(revision: &Revision) -> u32 {
    spec::replicas(&revision.deployment.labels).unwrap_or(1)
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
    fn an_image_is_pinned_to_its_own_revision_only() {
        let record = FunctionRecord::new(revision("a")).completed().updated(revision("b"));
        let image = PinnedImage { name: "docker.io/library/a:latest".into(), digest: "sha256:aa".into() };
        let serving = record.serving.as_ref().unwrap().id.clone();
        let pinned = record.pinned(&serving, &image);
        assert_eq!(pinned.serving.unwrap().image, Some(image));
        assert_eq!(pinned.newest.image, None);
    }
}
