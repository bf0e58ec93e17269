//! Pulls that are under way, so that who wants the same image shares one.
//!
//! Owns the table. A pull goes on as long as anybody waits for it: one caller who goes away takes nothing from the
//! others, and the last one ends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::ResolvedImage;
use super::error::ImageError;
use super::progress::Counters;

pub(super) type Work = BoxFuture<'static, Result<ResolvedImage, ImageError>>;

type Flight = (WeakShared<Work>, Arc<Counters>);

/// The pulls under way, by what they fetch.
#[derive(Default)]
pub(super) struct Flights {
    going: Mutex<HashMap<String, Flight>>,
}

impl Flights {
    /// Joins the work on `key`, or starts it.
    pub(super) fn join(
        &self,
        key: String,
        start: impl FnOnce(Arc<Counters>) -> Work,
    ) -> (Shared<Work>, Arc<Counters>) {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.retain(|_, (work, _)| work.upgrade().is_some());
        if let Some((work, counters)) = going.get(&key)
            && let Some(work) = work.upgrade()
            // One that has ended already answers for then, not for now.
            && work.peek().is_none()
        {
            return (work, counters.clone());
        }
        let counters = Arc::new(Counters::default());
        let work = start(counters.clone()).shared();
        if let Some(weak) = work.downgrade() {
            going.insert(key, (weak, counters.clone()));
        }
        (work, counters)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn image(name: &str) -> ResolvedImage {
        ResolvedImage {
            name: name.to_owned(),
            digest: String::new(),
            chain_id: String::new(),
            config: super::super::ImageConfig::default(),
        }
    }

    fn never(_: Arc<Counters>) -> Work {
        std::future::pending().boxed()
    }

    #[tokio::test]
    async fn whoever_joins_gets_the_answer_of_the_first() {
        let flights = Flights::default();
        let started = AtomicUsize::new(0);
        let (answer, wait) = oneshot::channel();
        let mut wait = Some(wait);
        let mut join = || {
            let wait = wait.take();
            let start = |_| {
                started.fetch_add(1, Ordering::Relaxed);
                async move { Ok(wait.unwrap().await.unwrap()) }.boxed()
            };
            flights.join("a".to_owned(), start).0
        };
        let (first, second, third) = (join(), join(), join());
        // The one that started it goes away.
        drop(first);
        answer.send(image("x")).unwrap();
        assert_eq!(second.await.unwrap().name, "x");
        assert_eq!(third.await.unwrap().name, "x");
        assert_eq!(started.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_has_ended_is_not_joined() {
        let flights = Flights::default();
        let ready = |name: &'static str| move |_| async move { Ok(image(name)) }.boxed();
        let (first, _) = flights.join("a".to_owned(), ready("old"));
        assert_eq!(first.clone().await.unwrap().name, "old");
        let (second, _) = flights.join("a".to_owned(), ready("new"));
        assert_eq!(second.await.unwrap().name, "new");
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        let flights = Flights::default();
        let (guard, gone) = oneshot::channel::<()>();
        let start = move |_| {
            async move {
                let _guard = guard;
                std::future::pending().await
            }
            .boxed()
        };
        let (work, _) = flights.join("a".to_owned(), start);
        drop(work);
        assert!(gone.await.is_err(), "the work was dropped");
        drop(flights.join("b".to_owned(), never));
        assert_eq!(flights.going.lock().unwrap().len(), 1, "only the last is still in the table");
    }
}
