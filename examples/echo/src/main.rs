//! A function that echoes. It is the first function of a new host, and a pattern to copy.
//!
//! This file owns the process: the listener, one task per connection, and the way out.
//! What is answered is in `answer.rs`, the WebSocket side in `websocket.rs`.
//!
//! ```text
//! listening ──TERM──▶ stopping: no new connection; requests finish, clocks end, sockets get a Close
//!                        └── the last task ends, or STOP_LIMIT passes ──▶ exit 0
//! ```
//!
//! It never buffers a body and never runs a second thread.

mod answer;
mod websocket;

use std::fmt;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::answer::Who;

/// Where functions listen when nothing else is said.
const DEFAULT_PORT: u16 = 8080;
/// The longest wait for open requests and sockets after TERM. Less than the host's grace before KILL.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a failed accept (out of descriptors): nothing announces that one is free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Told once, when the process is to stop. Each task keeps one: when the last is dropped, nothing is
/// open any more.
#[derive(Clone)]
struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Returns when the process is to stop; at once from then on.
    async fn asked(&mut self) {
        // An error means that the sender is gone with `main`: that is stopping, too.
        drop(self.0.wait_for(|&stop| stop).await);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    // As PID 1 of a container there is no default action for TERM: without a handler it is ignored.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(("0.0.0.0", port()?)).await?;
    log(format_args!("listening on {}", listener.local_addr()?));

    let (stop, told) = watch::channel(false);
    tokio::select! {
        () = accept(&listener, Stopping(told)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(listener);
    stop.send_replace(true);
    if timeout(STOP_LIMIT, stop.closed()).await.is_err() {
        log(format_args!("stopping with connections still open"));
    }
    Ok(())
}

fn port() -> io::Result<u16> {
    let Ok(text) = std::env::var("PORT") else { return Ok(DEFAULT_PORT) };
    text.parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("PORT: not a port: {text:?}")))
}

/// Takes connections until it is dropped.
async fn accept(listener: &TcpListener, stopping: Stopping) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(serve(socket, stopping.clone()))),
            Err(error) => {
                log(format_args!("accept: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end; once stopping, to the end of the request in progress.
async fn serve(socket: TcpStream, mut stopping: Stopping) {
    if let Err(error) = socket.set_nodelay(true) {
        log(format_args!("nodelay: {error}"));
    }
    let who = match socket.local_addr() {
        Ok(address) => Who::at(address),
        Err(error) => return log(format_args!("address: {error}")),
    };
    let answers = stopping.clone();
    let service = service_fn(move |request| answer::answer(request, who.clone(), answers.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopping.asked() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that leaves in the middle (of the clock, say) is no news.
    if let Err(error) = result
        && !error.is_incomplete_message()
    {
        log(format_args!("connection: {error}"));
    }
}

/// One line to standard output: that is where a function logs.
fn log(line: fmt::Arguments<'_>) {
    // Nobody can be told that the log is gone, and the answers must go on without it.
    writeln!(io::stdout(), "{line}").ok();
}
