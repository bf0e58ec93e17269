//! One run of the program: request in, output out. It owns the process from its start to its end; a
//! caller that leaves takes the process along.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a run may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// How much a run may print, in bytes: it is kept until the exit status is known.
const OUTPUT_LIMIT: u64 = 16 * 1024 * 1024;

/// What is run for each request.
pub(crate) struct Program {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) slots: Semaphore,
}

/// How a run ended.
pub(crate) enum Outcome {
    /// With status 0, and this output.
    Answered(Bytes),
    /// In another way, said in words.
    Failed(String),
}

impl Program {
    pub(crate) async fn run(&self, request: Request<Incoming>) -> Outcome {
        let Ok(_slot) = self.slots.acquire().await else { return Outcome::Failed("stopping".into()) };
        match timeout(RUN_LIMIT, self.run_once(request)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(format!("{}: {error}", self.program.display())),
            Err(_) => Outcome::Failed(format!("no end after {} s", RUN_LIMIT.as_secs())),
        }
    }

    async fn run_once(&self, request: Request<Incoming>) -> std::io::Result<Outcome> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("Http_Method", request.method().as_str())
            .env("Http_Path", request.uri().path())
            .env("Http_Query", request.uri().query().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        // Both at once: a program may answer before it has read all, or wait for either side.
        let ((), outcome) = tokio::join!(feed(stdin, request.into_body()), collect(&mut child));
        outcome
    }
}

/// A program need not read its input: that it closes it early is no failure.
async fn feed(stdin: Option<ChildStdin>, mut body: Incoming) {
    let Some(mut stdin) = stdin else { return };
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref()
            && stdin.write_all(data).await.is_err()
        {
            return;
        }
    }
}

async fn collect(child: &mut Child) -> std::io::Result<Outcome> {
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_LIMIT + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > OUTPUT_LIMIT {
        return Ok(Outcome::Failed(format!("more than {OUTPUT_LIMIT} bytes of output")));
    }
    let status = child.wait().await?;
    Ok(if status.success() { Outcome::Answered(output.into()) } else { Outcome::Failed(status.to_string()) })
}
