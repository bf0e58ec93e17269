//! Waits until a function's newest revision serves, and tells what it is doing meanwhile.
//!
//! ```text
//! going ─ Ready, seen twice ─▶ done
//!   ├─ Failed, or a message why it does not come up, seen twice ─▶ that message
//!   └─ deadline ─▶ the last phase
//! ```
//!
//! Twice, because the first answer may still tell of the revision before.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::api::Function;
use crate::client::Client;
use crate::name::Target;
use crate::output;

/// Time between two looks. `?wait=` tells no progress, and other hosts have none.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long a daemon may be away, as when it restarts, before we give up.
const MAX_SILENCE: Duration = Duration::from_secs(15);

/// What one look tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// With what was sent and has no effect.
    Ready(Vec<String>),
    Failed(String),
    /// The phase, and how far it is.
    Going(String, String),
}

pub(super) fn until_ready(
    client: &Client,
    target: &Target,
    deadline: Instant,
    limit: Duration,
    going: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<Vec<String>> {
    let mut before: Option<Verdict> = None;
    let mut silent_since: Option<Instant> = None;
    loop {
        pause(INTERVAL);
        let now = Instant::now();
        let verdict = match client.function::<Function>(target) {
            Ok(found) => judge(found.as_ref()),
            Err(e)
                if e.is_passing() && now.duration_since(*silent_since.get_or_insert(now)) < MAX_SILENCE =>
            {
                Verdict::Going("Waiting".into(), "for the daemon to answer".into())
            }
            Err(e) => return Err(e.into()),
        };
        let passing = matches!(&verdict, Verdict::Going(phase, _) if phase == "Waiting");
        silent_since = silent_since.filter(|_| passing);
        match &verdict {
            Verdict::Ready(warnings) if before.as_ref() == Some(&verdict) => return Ok(warnings.clone()),
            Verdict::Failed(message) if matches!(before, Some(Verdict::Failed(_))) => {
                bail!("{message}\nWhat it wrote: roost logs {target}");
            }
            Verdict::Going(phase, detail) => going(phase, detail)?,
            _ => {}
        }
        if now >= deadline {
            return Err(late(before.as_ref(), target, limit));
        }
        before = Some(verdict);
    }
}

/// Waits until the daemon answers.
pub(super) fn until_healthy(client: &Client, deadline: Instant) -> Result<()> {
    loop {
        match client.health() {
            Err(e) if e.is_passing() && Instant::now() < deadline => pause(INTERVAL),
            other => return Ok(other?),
        }
    }
}

/// What the state of a function means for one who waits for it.
fn judge(function: Option<&Function>) -> Verdict {
    let Some(function) = function else { return Verdict::Failed("it is gone: somebody removed it".into()) };
    let Some(status) = &function.status else {
        // Another OpenFaaS host: it tells how many replicas answer, and no more.
        let ready = function.available_replicas > 0;
        return if ready {
            Verdict::Ready(Vec::new())
        } else {
            Verdict::Going("Starting".into(), String::new())
        };
    };
    let why = |otherwise: &str| {
        let message = if status.message.is_empty() { otherwise } else { &status.message };
        match &status.last_exit {
            Some(exit) if !message.contains(exit.as_str()) => format!("{message} (last exit: {exit})"),
            _ => message.to_owned(),
        }
    };
    match status.phase.as_str() {
        // Somebody scaled it to zero meanwhile: it serves who calls it.
        "Ready" | "Idle" => Verdict::Ready(status.warnings.clone()),
        "Failed" => Verdict::Failed(why("it failed, and the daemon does not say why")),
        "Updating" if !status.message.is_empty() => Verdict::Failed(why("")),
        "Removing" => Verdict::Failed("it is being removed".into()),
        phase => {
            let fetched = status.image.filter(|_| phase != "Starting").map(|i| output::part(i.done, i.total));
            Verdict::Going(phase.to_owned(), fetched.unwrap_or_else(|| status.message.clone()))
        }
    }
}

fn late(last: Option<&Verdict>, target: &Target, limit: Duration) -> anyhow::Error {
    let phase = match last {
        Some(Verdict::Going(phase, _)) => phase.as_str(),
        Some(Verdict::Failed(message)) => message.as_str(),
        Some(Verdict::Ready(_)) | None => "not known to be ready",
    };
    anyhow!("not ready after {limit:?} ({phase}). The daemon goes on with it: roost describe {target}")
}

#[expect(
    clippy::disallowed_methods,
    reason = "one thread, nothing to wait on, and nothing else to do meanwhile"
)]
pub(super) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_meaning() {
        let going = |phase: &str, detail: &str| Verdict::Going(phase.into(), detail.into());
        let failed = |message: &str| Verdict::Failed(message.into());
        let ready = || Verdict::Ready(Vec::new());
        let table = [
            (r#"{"availableReplicas":1}"#, ready()),
            (r#"{"replicas":1}"#, going("Starting", "")),
            (r#"{"status":{"phase":"Ready","warnings":["w"]}}"#, Verdict::Ready(vec!["w".into()])),
            (r#"{"replicas":0,"status":{"phase":"Idle"}}"#, ready()),
            (
                r#"{"status":{"phase":"Pulling","image":{"done":1024,"total":2048}}}"#,
                going("Pulling", "50%, 1.0 KiB of 2.0 KiB"),
            ),
            (r#"{"status":{"phase":"Starting","message":"probing"}}"#, going("Starting", "probing")),
            (r#"{"availableReplicas":1,"status":{"phase":"Updating","message":""}}"#, going("Updating", "")),
            (
                r#"{"availableReplicas":1,"status":{"phase":"Updating","message":"no such image"}}"#,
                failed("no such image"),
            ),
            (
                r#"{"status":{"phase":"Failed","message":"not ready","lastExit":"exited with code 1"}}"#,
                failed("not ready (last exit: exited with code 1)"),
            ),
            (r#"{"status":{"phase":"Failed"}}"#, failed("it failed, and the daemon does not say why")),
        ];
        for (text, expected) in table {
            let function: Function = serde_json::from_str(text).unwrap();
            assert_eq!(judge(Some(&function)), expected, "{text}");
        }
        assert!(matches!(judge(None), Verdict::Failed(_)));
    }
}
