//! A revision that replicas may be started of: its image, its failures, when the next try is due.
//!
//! Owns no replica. Its controller asks and tells.

use std::time::{Duration, Instant};

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
    replicas: Backoff,
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
            replicas: Backoff::new(RESTART_PAUSE.0, RESTART_PAUSE.1),
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

    /// A replica ended that should not have. The next one is started at once, or behind a pause if this is not the
    /// first time, or it never was ready.
    pub fn replica_failed(&mut self, cause: &Cause, ready_since: Option<Instant>, now: Instant) {
        match ready_since {
            Some(since) if now.duration_since(since) >= GOOD_TIME => self.replicas.reset(),
            Some(_) if self.replicas.failures() == 0 => self.replicas.forgive(),
            _ => self.replicas.fail(now),
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

    /// No replica of it is wanted: the next one is a new beginning.
    pub fn rest(&mut self) {
        self.replicas.reset();
        if matches!(self.image, ImageState::Here(_)) {
            self.failure = None;
        }
    }

    /// What the plan is to know of it.
    #[must_use]
    pub fn target(&self, revision: &str, now: Instant) -> Target {
        let startable = matches!(self.image, ImageState::Here(_)) && self.replicas.until(now).is_none();
        Target { revision: revision.to_owned(), startable, failed: self.replicas.failures() > 0 }
    }

    /// When something is due that is not now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let fetch = self.fetches.until(now).filter(|_| matches!(self.image, ImageState::Absent));
        fetch.into_iter().chain(self.replicas.until(now)).min()
    }

    /// Is a request better refused than held, as far as this revision goes?
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.spec.is_err() || self.replicas.failures() >= REFUSE_BEHIND || self.fetches.failures() > 0
    }
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
