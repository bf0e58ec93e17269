//! A revision that replicas may be started of: its image, its failures, when the next try is due.
//!
//! Owns no replica. Its controller asks and tells.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use roost_proxy::ReplicaKey;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::function::backoff::Backoff;
use crate::function::controller::{Happening, Tools};
use crate::function::record::Revision;
use crate::function::replica::Cause;
use crate::function::rollout::Target;
use crate::function::spec::FunctionSpec;
use crate::image::{Progress, ResolvedImage};
use crate::memory;

/// The pauses after a replica that failed. The first failure after a good time is made good at once.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The pauses after an image that could not be fetched.
const IMAGE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// A replica that was ready for this long was good: its end is the first failure again.
const GOOD_TIME: Duration = Duration::from_secs(10);

/// Behind how many failures in a row a request without a replica is refused at once instead of held.
const REFUSE_BEHIND: u32 = 2;

/// What went wrong, in two texts.
#[derive(Debug, Clone)]
pub struct Failure {
    /// For whoever calls the function: nothing of the host.
    pub outside: String,
    /// For whoever runs it.
    pub inside: String,
}

/// A revision, as its controller knows it.
#[derive(Debug)]
pub struct Known {
    /// What was sent, read; or why it cannot be.
    pub spec: Result<FunctionSpec, String>,
    /// How far its image is.
    pub image: ImageState,
    /// The last thing that went wrong, until it is right.
    pub failure: Option<Failure>,
    /// Of replicas that failed, by what they were for: what is wrong with one key is not the others' matter.
    replicas: BTreeMap<Option<ReplicaKey>, Backoff>,
    fetches: Backoff,
}

/// How far an image is.
#[derive(Debug)]
pub enum ImageState {
    /// Nobody has looked for it, or it was not found.
    Absent,
    /// On its way; dropping this ends the way.
    Fetching(Progress, AbortOnDropHandle<()>),
    /// On this host, unpacked.
    Here(Box<ResolvedImage>),
}

impl Known {
    /// A revision of which nothing is known but what was sent.
    #[must_use]
    pub fn new(revision: &Revision) -> Self {
        let spec = FunctionSpec::parse(revision.deployment.clone()).map_err(|why| why.to_string());
        let failure = spec
            .as_ref()
            .err()
            .map(|why| Failure { outside: "its settings are not valid".to_owned(), inside: why.clone() });
        Self {
            spec,
            image: ImageState::Absent,
            failure,
            replicas: BTreeMap::new(),
            fetches: Backoff::new(IMAGE_PAUSE.0, IMAGE_PAUSE.1),
        }
    }

    /// Sets out for the image, if it is neither here nor on its way nor just failed to come.
    pub fn seek_image(
        &mut self,
        revision: &Revision,
        tools: &Tools,
        tell: &mpsc::Sender<Happening>,
        now: Instant,
    ) {
        let Ok(spec) = &self.spec else { return };
        if !matches!(self.image, ImageState::Absent) || self.fetches.until(now).is_some() {
            return;
        }
        let progress = Progress::new();
        let (shown, tools, spec) = (progress.clone(), tools.clone(), spec.clone());
        let (revision, tell) = (revision.clone(), tell.clone());
        let task = tokio::spawn(async move {
            let result = fetch(&tools, &spec, &revision, &progress).await;
            memory::settle();
            // Nobody listens only when the function is gone.
            tell.send(Happening::Image(revision.of_replicas().to_owned(), result)).await.ok();
        });
        self.image = ImageState::Fetching(shown, AbortOnDropHandle::new(task));
    }

    /// The image is here.
    pub fn image_arrived(&mut self, image: ResolvedImage) {
        self.image = ImageState::Here(Box::new(image));
        // What is known of a replica that did not start stays: its image was looked at again, and is not what was wrong.
        if self.fetches.failures() > 0 {
            self.failure = None;
        }
        self.fetches.reset();
    }

    /// The image did not come.
    pub fn image_failed(&mut self, why: String, now: Instant) {
        self.image = ImageState::Absent;
        self.fetches.fail(now);
        self.failure = Some(Failure { outside: "its image cannot be fetched".to_owned(), inside: why });
    }

    /// A replica ended that should not have. The next one for the same key is started at once, or behind a pause if this
    /// is not the first time, or it never was ready.
    pub fn replica_failed(
        &mut self,
        key: &Option<ReplicaKey>,
        cause: &Cause,
        ready_since: Option<Instant>,
        now: Instant,
    ) {
        let tries = self
            .replicas
            .entry(key.clone())
            .or_insert_with(|| Backoff::new(RESTART_PAUSE.0, RESTART_PAUSE.1));
        match ready_since {
            Some(since) if now.duration_since(since) >= GOOD_TIME => tries.reset(),
            Some(_) if tries.failures() == 0 => tries.forgive(),
            _ => tries.fail(now),
        }
        self.failure = Some(match cause {
            Cause::Ended(how) | Cause::OutOfMemory(how) => {
                Failure { outside: how.clone(), inside: how.clone() }
            }
            Cause::NotStarted(why) => {
                // It may be the image that is not what it was: look at it again before the next try.
                self.image = ImageState::Absent;
                Failure { outside: "it cannot be started".to_owned(), inside: why.clone() }
            }
        });
    }

    /// No replica of it is wanted for this key any more: the next one is a new beginning. To be told once each time: what
    /// is kept ready meanwhile and fails is not tried again.
    pub fn rest(&mut self, key: &Option<ReplicaKey>) {
        self.replicas.remove(key);
        if self.replicas.is_empty() && matches!(self.image, ImageState::Here(_)) {
            self.failure = None;
        }
    }

    /// Forgets all keys but those that count.
    pub fn keep(&mut self, counts: impl Fn(&Option<ReplicaKey>) -> bool) {
        self.replicas.retain(|key, _| counts(key));
    }

    /// What the plan for a key is to know of it.
    #[must_use]
    pub fn target(&self, revision: &str, key: &Option<ReplicaKey>, now: Instant) -> Target {
        let tries = self.replicas.get(key);
        let startable =
            matches!(self.image, ImageState::Here(_)) && tries.is_none_or(|tries| tries.until(now).is_none());
        Target { revision: revision.to_owned(), startable, failed: failures(tries) > 0 }
    }

    /// When something is due that is not now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let fetch = self.fetches.until(now).filter(|_| matches!(self.image, ImageState::Absent));
        fetch.into_iter().chain(self.replicas.values().filter_map(|tries| tries.until(now))).min()
    }

    /// Is a request for this key better refused than held, as far as this revision goes?
    #[must_use]
    pub fn refuses(&self, key: &Option<ReplicaKey>) -> bool {
        let tries = self.replicas.get(key);
        self.spec.is_err() || failures(tries) >= REFUSE_BEHIND || self.fetches.failures() > 0
    }
}

fn failures(tries: Option<&Backoff>) -> u32 {
    tries.map_or(0, Backoff::failures)
}

/// The image of a revision: the one it was pinned to if that is still here, else what its reference stands for now.
async fn fetch(
    tools: &Tools,
    spec: &FunctionSpec,
    revision: &Revision,
    progress: &Progress,
) -> Result<ResolvedImage, String> {
    let namespace = &spec.key.namespace;
    if let Some(pin) = &revision.image {
        match tools.images.pinned(namespace, &pin.name, &pin.digest).await {
            Ok(Some(image)) => return Ok(image),
            Ok(None) => {
                warn!(function = %spec.key, "{}: the image {} is no longer on this host", spec.key, pin.digest);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    tools.host.runtime.ensure_namespace(namespace).await.map_err(|e| e.to_string())?;
    tools.images.ensure(namespace, &spec.image, tools.policy, progress).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::spec::Deployment;

    #[test]
    fn what_fails_for_one_key_holds_up_no_other() {
        let revision =
            Revision::new(Deployment { service: "f".into(), image: "a".into(), ..Deployment::default() });
        let mut known = Known::new(&revision);
        let (a, b) = (Some("a".parse().unwrap()), Some("b".parse().unwrap()));
        let (now, ended) = (Instant::now(), Cause::Ended("exited with 1".to_owned()));
        known.replica_failed(&a, &ended, None, now);
        let failed = |known: &Known, key| known.target("r", key, now).failed;
        assert!(failed(&known, &a) && !failed(&known, &b) && !failed(&known, &None));
        assert_eq!(known.due(now), Some(now + RESTART_PAUSE.0));
        known.replica_failed(&a, &ended, None, now + RESTART_PAUSE.0);
        assert!(known.refuses(&a) && !known.refuses(&b) && !known.refuses(&None));
        known.rest(&b);
        assert!(known.refuses(&a), "b's rest is not a's");
        known.rest(&a);
        assert!(!known.refuses(&a) && !failed(&known, &a));
        known.replica_failed(&a, &ended, None, now);
        known.keep(Option::is_none);
        assert!(!failed(&known, &a) && known.due(now).is_none());
    }
}
