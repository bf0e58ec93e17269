//! A function of tests that remembers what it was called for, and fails where it is told to.
//!
//! `/call/N` is answered with 200 and remembered. One in ten fails the first time it is seen, and one in a hundred always.
//! `/slow/…` and `/busy/…` are as their names say: the one takes a while, the other sends the first two attempts back. `/seen` tells what was
//! remembered: a line for each path, in the order in which they were first seen, with the number of times that it was answered well,
//! and the attempt that the last one was. What has to outlive the function is a line for each call in the file that `LEDGER_NOTES` names,
//! which others may write, too.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Default)]
struct Ledger {
    order: Vec<String>,
    done: HashMap<String, (u32, String)>,
    failed: HashSet<String>,
    notes: Option<File>,
}

impl Ledger {
    fn with_notes() -> Self {
        let open = |path| File::options().create(true).append(true).open(path).unwrap();
        Self { notes: std::env::var_os("LEDGER_NOTES").map(open), ..Self::default() }
    }

    fn call(&mut self, path: &str, attempt: &str) -> StatusCode {
        let number = path.rsplit('/').next().and_then(|number| number.parse::<u64>().ok());
        if path.starts_with("/busy/") && attempt.parse::<u32>().is_ok_and(|attempt| attempt < 3) {
            return StatusCode::TOO_MANY_REQUESTS;
        }
        if path.starts_with("/call/") && number.is_some_and(|number| number % 100 == 99) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let first = path.starts_with("/call/") && self.failed.insert(path.to_owned());
        if first && number.is_some_and(|number| number % 10 == 3) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let Self { order, done, notes, .. } = self;
        if let Some(notes) = notes {
            // In one piece: so lines of others stand before or behind it.
            notes.write_all(format!("{path}\n").as_bytes()).unwrap();
        }
        let entry = done.entry(path.to_owned()).or_insert_with(|| {
            order.push(path.to_owned());
            (0, String::new())
        });
        entry.0 += 1;
        attempt.clone_into(&mut entry.1);
        StatusCode::OK
    }

    fn seen(&self) -> String {
        let mut text = String::new();
        for path in &self.order {
            let (times, attempt) = &self.done[path];
            writeln!(text, "{path} {times} {attempt}").unwrap();
        }
        text
    }
}

async fn answer(
    request: Request<Incoming>,
    ledger: Arc<Mutex<Ledger>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/seen" {
        return Ok(Response::new(Full::new(ledger.lock().unwrap().seen().into())));
    }
    if path == "/_/health" {
        return Ok(Response::new(Full::default()));
    }
    let attempt =
        request.headers().get("x-roost-attempt").map_or("", |value| value.to_str().unwrap()).to_owned();
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    if path.starts_with("/slow/") {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut response = Response::new(Full::new(format!("{length} bytes for {path}").into()));
    *response.status_mut() = ledger.lock().unwrap().call(&path, &attempt);
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // For the first process of a container nothing ends it but this.
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let listener = TcpListener::bind("0.0.0.0:8080").await.unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::with_notes()));
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let ledger = Arc::clone(&ledger);
            let service = service_fn(move |request| answer(request, Arc::clone(&ledger)));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    tokio::select! {
        () = serve => {}
        _ = terminate.recv() => {}
    }
}
