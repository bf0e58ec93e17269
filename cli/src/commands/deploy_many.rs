//! Sends deployments and waits for them, several at a time.
//!
//! ```text
//! worker: next job → send → look until it is ready ─┐ Event
//! worker: …                                         ├──▶ this thread: draws what goes on, says how each ended
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roost_stack::Deployment;
use serde_json::{Value, json};

use super::wait;
use crate::client::{Client, How};
use crate::failure::Partly;
use crate::name::Target;
use crate::output::Output;

/// One function to deploy.
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) deployment: Deployment,
}

/// In which way.
pub(super) struct Way {
    pub(super) how: How,
    /// How long to wait for all to be ready; none: do not wait.
    pub(super) wait: Option<Duration>,
    /// How many at a time; at least one.
    pub(super) parallel: usize,
}

enum Event {
    /// What a function does, and how far it is.
    Going(usize, String, String),
    /// How it went; with what was sent and has no effect.
    Ended(usize, Result<Vec<String>>),
}

/// Deploys all, and says of each how it went; one failure is one error, and the last word.
pub(super) fn run(client: &Client, jobs: &[Job], way: &Way, out: &mut Output) -> Result<()> {
    let deadline = way.wait.map(|limit| (Instant::now() + limit, limit));
    let next = AtomicUsize::new(0);
    let workers = way.parallel.clamp(1, jobs.len().max(1));
    thread::scope(|scope| {
        let (tell, told) = sync_channel(workers);
        for _ in 0..workers {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || work(client, jobs, next, way.how, deadline, &tell));
        }
        drop(tell);
        show(client, jobs, way, told, out)
    })
}

fn work(
    client: &Client,
    jobs: &[Job],
    next: &AtomicUsize,
    how: How,
    deadline: Option<(Instant, Duration)>,
    tell: &SyncSender<Event>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(Job { target, deployment }) = jobs.get(index) else { return };
        let mut going = |phase: &str, detail: &str| {
            tell.send(Event::Going(index, phase.to_owned(), detail.to_owned())).context("nobody listens")
        };
        let result = client.deploy(deployment, how).and_then(|()| match deadline {
            Some((deadline, limit)) => wait::until_ready(client, target, deadline, limit, &mut going),
            None => Ok(Vec::new()),
        });
        // Nobody listens when the output is closed: then nothing more is to be done.
        if tell.send(Event::Ended(index, result)).is_err() {
            return;
        }
    }
}

fn show(client: &Client, jobs: &[Job], way: &Way, told: Receiver<Event>, out: &mut Output) -> Result<()> {
    let mut going: Vec<Option<(String, String)>> = jobs.iter().map(|_| None).collect();
    let mut values: Vec<Value> = vec![Value::Null; jobs.len()];
    let mut failed = Vec::new();
    for event in told {
        match event {
            Event::Going(index, phase, detail) => {
                let before = going[index].replace((phase.clone(), detail));
                if out.is_live() {
                    out.progress(lines(jobs, &going).join("\n"));
                } else if !out.json && before.is_none_or(|(before, _)| before != phase) {
                    out.note(format!("{}: {phase}", jobs[index].target));
                }
            }
            Event::Ended(index, result) => {
                going[index] = None;
                let job = &jobs[index];
                values[index] = outcome(client, job, way, &result);
                match result {
                    Ok(_) if out.json => {}
                    Ok(warnings) => {
                        let word = if way.wait.is_some() { "Deployed" } else { "Accepted" };
                        out.line(format!("{word} {}: {}", job.target, client.function_url(&job.target)))?;
                        for warning in warnings {
                            out.note(format!("roost: note: {}: {warning}", job.target));
                        }
                    }
                    Err(error) => {
                        let error = error.context(job.target.to_string());
                        if jobs.len() > 1 {
                            out.note(format!("roost: {error:#}"));
                        }
                        failed.push(error);
                    }
                }
            }
        }
    }
    if out.json {
        out.value(&values)?;
    }
    match failed.pop() {
        None => Ok(()),
        Some(only) if jobs.len() == 1 => Err(only),
        Some(_) => Err(Partly(failed.len() + 1, jobs.len()).into()),
    }
}

/// A line for each function that is under way, the names aligned.
fn lines(jobs: &[Job], going: &[Option<(String, String)>]) -> Vec<String> {
    let under_way =
        || jobs.iter().zip(going).filter_map(|(job, going)| Some((job.target.to_string(), going.as_ref()?)));
    let width = under_way().map(|(name, _)| name.len()).max().unwrap_or(0);
    under_way().map(|(name, (phase, detail))| format!("{name:width$}  {phase} {detail}")).collect()
}

fn outcome(client: &Client, job: &Job, way: &Way, result: &Result<Vec<String>>) -> Value {
    json!({
        "name": job.target.name,
        "namespace": job.target.namespace,
        "image": job.deployment.image,
        "url": client.function_url(&job.target),
        "ready": result.is_ok() && way.wait.is_some(),
        "warnings": result.as_ref().map_or(&[][..], Vec::as_slice),
        "error": result.as_ref().err().map(|e| format!("{e:#}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_under_way_has_one_line() {
        let job =
            |name: &str| Job { target: Target::new(name, None).unwrap(), deployment: Deployment::default() };
        let jobs = [job("a"), job("longer"), job("done")];
        let state = |phase: &str, detail: &str| Some((phase.to_owned(), detail.to_owned()));
        let going = [state("Pulling", "50%"), state("Starting", "probing"), None];
        assert_eq!(lines(&jobs, &going), ["a       Pulling 50%", "longer  Starting probing"]);
    }
}
