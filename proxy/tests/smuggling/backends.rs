//! Servers that say what they have seen: hyper in this process, Node, and gunicorn.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;

use crate::support::within;

/// What one server has seen, and where it is.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Seen,
    /// Its standard input: its end is the server's.
    _process: Option<(Child, ChildStdin)>,
}

/// The requests that were seen whole: `METHOD PATH LENGTH`.
#[derive(Clone, Default)]
struct Seen(Arc<(Mutex<Vec<String>>, Notify)>);

impl Seen {
    fn push(&self, line: String) {
        self.0.0.lock().unwrap().push(line);
        self.0.1.notify_waiters();
    }
}

impl Backend {
    pub(crate) async fn hyper() -> Self {
        let seen = Seen::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sees = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sees = sees.clone();
                let service = service_fn(move |request| answer(request, sees.clone()));
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // What goes wrong on a connection shows in what is seen and answered.
                tokio::spawn(async move { drop(served.await) });
            }
        });
        Self { address, seen, _process: None }
    }

    pub(crate) async fn node() -> Self {
        Self::run(Command::new("node").arg(script("backend.mjs"))).await
    }

    pub(crate) async fn gunicorn() -> Self {
        let setup = Command::new(script("setup")).stderr(Stdio::inherit()).output().await.unwrap();
        assert!(setup.status.success(), "the setup of gunicorn failed");
        let python = String::from_utf8(setup.stdout).unwrap();
        Self::run(Command::new(python.trim()).arg(script("backend.py"))).await
    }

    async fn run(command: &mut Command) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = within(lines.next_line()).await.unwrap().expect("the server ended at once");
        let port = first.strip_prefix("PORT ").unwrap().parse().unwrap();
        let seen = Seen::default();
        let sees = seen.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sees.push(line.strip_prefix("SEEN ").unwrap_or(&line).to_owned());
            }
        });
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), seen, _process: Some((process, input)) }
    }

    /// All that was seen since this was last asked, once `last` is among it.
    pub(crate) async fn seen_to(&self, last: &str) -> Vec<String> {
        within(async {
            loop {
                let told = self.seen.0.1.notified();
                let mut told = std::pin::pin!(told);
                told.as_mut().enable();
                {
                    let mut lines = self.seen.0.0.lock().unwrap();
                    if lines.iter().any(|line| line == last) {
                        return std::mem::take(&mut *lines);
                    }
                }
                told.await;
            }
        })
        .await
    }
}

fn script(name: &str) -> String {
    format!("{}/tests/smuggling/{name}", env!("CARGO_MANIFEST_DIR"))
}

async fn answer(request: Request<Incoming>, seen: Seen) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        // Whoever sent half a body has gone, or hears this in vain.
        return Ok(Response::new(Full::default()));
    };
    let line = format!("{} {} {}", parts.method, parts.uri, body.to_bytes().len());
    seen.push(line.clone());
    Ok(Response::new(Full::from(line)))
}
