//! A watchdog: an HTTP server that runs one program for each request, `watchdog PROGRAM [ARGUMENTS…]`.
//!
//! The body of the request is the program's standard input, its standard output is the answer, and its
//! standard error goes to the log. Exit status 0 is 200, any other is 500. The program finds the
//! request's method, path and query in `Http_Method`, `Http_Path` and `Http_Query`, and each header as
//! `Content-Type` in `Http_Content_Type`. With `OUTPUT=cgi` in the environment what it prints begins
//! with headers and an empty line.
//!
//! It owns the processes it starts, and limits their number, their time and their output. It keeps no
//! state between requests.

mod output;
mod run;

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::output::Form;
use crate::run::{Outcome, Program};

/// Where functions listen.
const PORT: u16 = 8080;
/// Programs at work at one time; the other requests wait.
const MAX_RUNNING: usize = 32;
/// The longest wait for programs at work after TERM.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// The pause after a failed accept (out of descriptors): nothing announces that one is free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: watchdog PROGRAM [ARGUMENTS…]"));
    };
    let output = std::env::var_os("OUTPUT").map(|text| text.to_string_lossy().into_owned());
    let form = Form::read(output.as_deref())
        .map_err(|expected| io::Error::new(io::ErrorKind::InvalidInput, expected))?;
    let slots = Semaphore::new(MAX_RUNNING);
    let program = Arc::new(Program { program, arguments: words.collect(), form, slots });
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;

    let (stop, told) = watch::channel(false);
    tokio::select! {
        () = accept(&listener, &program, told) => {}
        _ = terminate.recv() => {}
    }
    drop(listener);
    stop.send_replace(true);
    if timeout(STOP_LIMIT, stop.closed()).await.is_err() {
        log("stopping with programs still at work");
    }
    Ok(())
}

async fn accept(listener: &TcpListener, program: &Arc<Program>, told: watch::Receiver<bool>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(serve(socket, program.clone(), told.clone()))),
            Err(error) => {
                log(&format!("accept: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end; once told to stop, to the end of the request in progress.
async fn serve(socket: TcpStream, program: Arc<Program>, mut told: watch::Receiver<bool>) {
    let service = service_fn(move |request| answer(program.clone(), request));
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        _ = told.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result
        && !error.is_incomplete_message()
    {
        log(&format!("connection: {error}"));
    }
}

async fn answer(
    program: Arc<Program>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let response = match program.run(request).await {
        Outcome::Answered(response) => response,
        Outcome::Failed(why) => {
            log(&format!("{line}: {why}"));
            let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    log(&format!("{line} {}", response.status().as_u16()));
    Ok(response)
}

fn log(line: &str) {
    // Nobody can be told that the log is gone, and the answers must go on without it.
    writeln!(io::stdout(), "{line}").ok();
}
