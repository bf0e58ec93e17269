//! Steady load on a function, to see whether a caller notices what happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::{Method, StatusCode};
use tokio::task::JoinHandle;

use crate::client::{Api, body_of};

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

    /// Ends the load and tells what the callers saw.
    pub async fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for caller in std::mem::take(&mut self.callers) {
            let report = caller.await.unwrap();
            sum.answered += report.answered;
            sum.failed.extend(report.failed);
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn call(api: Api, path: String, caller: usize, stop: Arc<AtomicBool>) -> Report {
    let mut report = Report::default();
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("caller {caller}, request {n}");
        let request = api.request(&Method::POST, &path).body(body_of(text.clone())).unwrap();
        match api.try_send(request).await {
            Ok(answer) if answer.status == StatusCode::OK && answer.body == text => report.answered += 1,
            Ok(answer) => report.failed.push(format!("{text}: {} {:?}", answer.status, answer.body)),
            Err(error) => report.failed.push(format!("{text}: {error}")),
        }
    }
    report
}
