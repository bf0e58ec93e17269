//! Steady load on a function, to see whether a caller notices what happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{Api, body_of};

/// As many answers may be still to come, at most.
const MAX_OPEN: usize = 10_000;

/// Callers that send one request after the other. They stop when this is dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Report>>,
}

/// What callers saw.
#[derive(Debug, Default)]
pub struct Report {
    /// How many requests were answered as they should be.
    pub answered: usize,
    /// What went wrong with each of the others.
    pub failed: Vec<String>,
}

impl Load {
    /// Lets `callers` clients post to `path` of an echoing function, and check what comes back.
    #[must_use]
    pub fn start(api: &Api, path: &str, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |caller| tokio::spawn(call(api.clone(), path.to_owned(), caller, Arc::clone(&stop)));
        let callers = (0..callers).map(call).collect();
        Self { stop, callers }
    }

    /// Posts to `path` of an echoing function so many times a second, however long the answers take.
    ///
    /// # Panics
    /// When 10,000 answers are still to come.
    #[must_use]
    pub fn at_rate(api: &Api, path: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pace = pace(api.clone(), path.to_owned(), per_second, Arc::clone(&stop));
        Self { stop, callers: vec![tokio::spawn(pace)] }
    }

    /// Ends the load and tells what the callers saw.
    pub async fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for caller in std::mem::take(&mut self.callers) {
            sum.merge(caller.await.unwrap());
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn pace(api: Api, path: String, per_second: u32, stop: Arc<AtomicBool>) -> Report {
    let mut beat = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut calls = JoinSet::new();
    let mut report = Report::default();
    for n in 0_usize.. {
        beat.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        assert!(calls.len() < MAX_OPEN, "{MAX_OPEN} answers are still to come");
        let (api, path) = (api.clone(), path.clone());
        calls.spawn(async move {
            let mut report = Report::default();
            report.add(&api, &path, format!("request {n}")).await;
            report
        });
        while let Some(done) = calls.try_join_next() {
            report.merge(done.unwrap());
        }
    }
    while let Some(done) = calls.join_next().await {
        report.merge(done.unwrap());
    }
    report
}

async fn call(api: Api, path: String, caller: usize, stop: Arc<AtomicBool>) -> Report {
    let mut report = Report::default();
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        report.add(&api, &path, format!("caller {caller}, request {n}")).await;
    }
    report
}

impl Report {
    async fn add(&mut self, api: &Api, path: &str, text: String) {
        let request = api.request(&Method::POST, path).body(body_of(text.clone())).unwrap();
        match api.try_send(request).await {
            Ok(answer) if answer.status == StatusCode::OK && answer.body == text => self.answered += 1,
            Ok(answer) => self.failed.push(format!("{text}: {} {:?}", answer.status, answer.body)),
            Err(error) => self.failed.push(format!("{text}: {error}")),
        }
    }

    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed.extend(other.failed);
    }
}
