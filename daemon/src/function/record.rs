//! What the store keeps of a function: the revision that is wanted, and the one that serves until that is up.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::function::spec::Deployment;

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
        Self { id: uuid::Uuid::now_v7().simple().to_string(), deployment, image: None }
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
}

impl FunctionRecord {
    /// A function that is deployed for the first time.
    #[must_use]
    pub fn new(revision: Revision) -> Self {
        Self { created_at: Timestamp::now(), newest: revision, serving: None, complete: false }
    }

    /// The same function with a newer revision. What serves goes on serving until that is up.
    #[must_use]
    pub fn updated(&self, revision: Revision) -> Self {
        let serving = if self.complete { Some(self.newest.clone()) } else { self.serving.clone() };
        Self { created_at: self.created_at, newest: revision, serving, complete: false }
    }

    /// The same function, its newest revision being up.
    #[must_use]
    pub fn completed(&self) -> Self {
        Self { serving: None, complete: true, ..self.clone() }
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
    fn an_image_is_pinned_to_its_own_revision_only() {
        let record = FunctionRecord::new(revision("a")).completed().updated(revision("b"));
        let image = PinnedImage { name: "docker.io/library/a:latest".into(), digest: "sha256:aa".into() };
        let serving = record.serving.as_ref().unwrap().id.clone();
        let pinned = record.pinned(&serving, &image);
        assert_eq!(pinned.serving.unwrap().image, Some(image));
        assert_eq!(pinned.newest.image, None);
    }
}
