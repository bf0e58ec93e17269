//! `roost describe`: all there is to know about one function.

use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::list::phase;
use super::top_table::{plain, told};
use crate::api::{Function, Map, Resources, Scheduled};
use crate::args::Global;
use crate::duration::{age, left};
use crate::name::Target;
use crate::output::{self, Output};

/// Show all there is to know about one function
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Name of the function
    name: String,
}

pub(crate) fn run(args: &DescribeArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let target = Target::new(&args.name, global.namespace.as_deref())?;
    let Some(value) = client.function::<Value>(&target)? else {
        bail!("there is no function {target}; see what there is: roost list");
    };
    if out.json {
        return out.value(&value);
    }
    let function: Function = serde_json::from_value(value)?;
    let now = Timestamp::now();
    out.table(&facts(&function, &client.function_url(&target), now))?;
    let replicas = replicas(&function, now);
    if replicas.len() > 1 {
        out.line("")?;
        out.table(&replicas)?;
    }
    Ok(())
}

/// Two columns: what, and how it is. What is not set is not shown.
fn facts(function: &Function, url: &str, now: Timestamp) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |what: &str, text: String| {
        if !text.is_empty() {
            // Further lines and entries stand below the first.
            for (i, line) in text.lines().enumerate() {
                rows.push(vec![if i == 0 { format!("{what}:") } else { String::new() }, line.to_owned()]);
            }
        }
    };
    let status = function.status.clone().unwrap_or_default();
    add("Name", function.name.clone());
    add("Namespace", function.namespace.clone());
    add("Phase", phase(function));
    add("Message", status.message);
    add("Warnings", status.warnings.join("\n"));
    add("Last exit", status.last_exit.unwrap_or_default());
    add("Fetched", status.image.map(|i| output::share(i.done, i.total)).unwrap_or_default());
    add("URL", url.to_owned());
    add("Image", function.image.clone());
    add("Digest", status.digest);
    add("Revision", status.revision);
    add("Replicas", format!("{} ready of {}", function.available_replicas, function.replicas));
    let old = age(&function.created_at, now);
    let load = status.load.map(|load| {
        let crate::api::Load { in_flight, connections, waiting, .. } = load;
        format!("{in_flight} in flight, {connections} of them connections; {waiting} waiting")
    });
    add("Load", load.unwrap_or_default());
    add("Scaled", status.scaling.last_decision.map(|decision| told(&decision, now)).unwrap_or_default());
    add("Next runs", next_runs(&status.schedules, now));
    add("Created", if old.is_empty() { old } else { format!("{} ({old} ago)", function.created_at) });
    add("Process", function.env_process.clone());
    add("Environment", entries(Some(&function.env_vars)));
    add("Secrets", function.secrets.join("\n"));
    add("Labels", entries(function.labels.as_ref()));
    add("Annotations", entries(function.annotations.as_ref()));
    add("Limits", resources(function.limits.as_ref()));
    add("Requests", resources(function.requests.as_ref()));
    add("Root", if function.read_only_root_filesystem { "read-only".into() } else { String::new() });
    let used =
        |u: &crate::api::Usage| format!("{:.0}m CPU, {}", u.cpu, output::bytes(u.total_memory_bytes as u64));
    add("Uses", function.usage.as_ref().map(used).unwrap_or_default());
    rows
}

/// A line for each schedule: when, how long that is from now, and which it is.
fn next_runs(schedules: &[Scheduled], now: Timestamp) -> String {
    let line = |scheduled: &Scheduled| {
        let when = scheduled.next.as_ref().map_or_else(
            || "never".to_owned(),
            |next| match left(next, now) {
                left if left.is_empty() => format!("{next} (due)"),
                left => format!("{next} (in {left})"),
            },
        );
        format!("{when}: {}", plain(&scheduled.schedule))
    };
    schedules.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn entries(map: Option<&Map>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    lines.join("\n")
}

fn resources(resources: Option<&Resources>) -> String {
    let Some(resources) = resources else { return String::new() };
    let parts = [("memory", &resources.memory), ("cpu", &resources.cpu)];
    let given = parts.iter().filter_map(|(what, amount)| amount.as_ref().map(|a| format!("{what} {a}")));
    given.collect::<Vec<_>>().join(", ")
}

fn replicas(function: &Function, now: Timestamp) -> Vec<Vec<String>> {
    let head = ["REPLICA", "PHASE", "IN-FLIGHT", "CONNS", "KEY", "ADDRESS", "AGE", "REVISION"]
        .map(str::to_owned)
        .to_vec();
    let all = function.status.iter().flat_map(|s| &s.replicas).map(|r| {
        vec![
            r.id.clone(),
            r.phase.clone(),
            r.in_flight.to_string(),
            r.connections.to_string(),
            plain(r.key.as_deref().unwrap_or_default()),
            r.address.clone().unwrap_or_default(),
            r.started_at.as_deref().map(|at| age(at, now)).unwrap_or_default(),
            r.revision.clone(),
        ]
    });
    std::iter::once(head).chain(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_schedule_is_told_with_its_next_run() {
        let scheduled = |schedule: &str, next: Option<&str>| Scheduled {
            schedule: schedule.to_owned(),
            next: next.map(str::to_owned),
        };
        let all = [
            scheduled("TZ=UTC 0 8 * * *", Some("1970-01-01T08:00:00Z")),
            scheduled("@every 1m", Some("1969-12-31T23:59:00Z")),
            scheduled("0 0 30 2 *", None),
        ];
        let told = next_runs(&all, Timestamp::UNIX_EPOCH);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "1970-01-01T08:00:00Z (in 8h): TZ=UTC 0 8 * * *",
                "1969-12-31T23:59:00Z (due): @every 1m",
                "never: 0 0 30 2 *",
            ]
        );
    }

    #[test]
    fn only_what_is_set_is_shown() {
        let text = r#"{"name":"a","image":"i","envVars":{"A":"1","B":"x\ny"},"limits":{"memory":"5Mi"},
            "status":{"phase":"Failed","message":"no such image","replicas":[{"id":"a-1","phase":"ready"}]}}"#;
        let function: Function = serde_json::from_str(text).unwrap();
        let now = Timestamp::from_second(0).unwrap();
        let rows = facts(&function, "u", now);
        let shown: Vec<_> = rows.iter().map(|r| format!("{} {}", r[0], r[1])).collect();
        assert!(shown.contains(&"Message: no such image".to_owned()));
        assert!(shown.contains(&"Environment: A=1".to_owned()) && shown.contains(&" B=x".to_owned()));
        assert!(shown.contains(&"Limits: memory 5Mi".to_owned()));
        assert!(!shown.iter().any(|line| line.starts_with("Secrets") || line.starts_with("Created")));
        assert_eq!(replicas(&function, now).len(), 2);
    }
}
