//! One run of the program: request in, output out. It owns the process from its start to its end; a
//! caller that leaves takes the process along.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::output::Form;

/// How long a run may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// How much a run may print, in bytes: it is kept until the exit status is known.
const OUTPUT_LIMIT: u64 = 16 * 1024 * 1024;

/// What is run for each request.
pub(crate) struct Program {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) form: Form,
    pub(crate) slots: Semaphore,
}

/// How a run ended.
pub(crate) enum Outcome {
    /// With status 0, and this answer.
    Answered(Response<Full<Bytes>>),
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
            .envs(variables(request.headers()))
            .env("Http_Method", request.method().as_str())
            .env("Http_Path", request.uri().path())
            .env("Http_Query", request.uri().query().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        // Both at once: a program may answer before it has read all, or wait for either side.
        let ((), outcome) = tokio::join!(feed(stdin, request.into_body()), self.collect(&mut child));
        outcome
    }

    async fn collect(&self, child: &mut Child) -> std::io::Result<Outcome> {
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT_LIMIT + 1).read_to_end(&mut output).await?;
        }
        if output.len() as u64 > OUTPUT_LIMIT {
            return Ok(Outcome::Failed(format!("more than {OUTPUT_LIMIT} bytes of output")));
        }
        let status = child.wait().await?;
        if !status.success() {
            return Ok(Outcome::Failed(status.to_string()));
        }
        Ok(self.form.answer(output.into()).map_or_else(Outcome::Failed, Outcome::Answered))
    }
}

/// The headers of a request, each with the values of its name.
fn variables(headers: &HeaderMap) -> impl Iterator<Item = (String, OsString)> {
    headers.keys().map(|name| {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        (variable(name), OsString::from_vec(values.join(&b", "[..])))
    })
}

/// `Http_Content_Type`, of `content-type`.
fn variable(name: &HeaderName) -> String {
    let mut variable = "Http".to_owned();
    for word in name.as_str().split('-') {
        variable.push('_');
        let mut letters = word.chars();
        variable.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        variable.push_str(letters.as_str());
    }
    variable
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_is_a_variable_of_its_name() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("ce-eventname", "message"), ("x-a", "1"), ("x-a", "2"), ("content-type", "a/b")]
        {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut all: Vec<_> = variables(&headers).collect();
        all.sort();
        let expected = [("Http_Ce_Eventname", "message"), ("Http_Content_Type", "a/b"), ("Http_X_A", "1, 2")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.into())));
    }
}
