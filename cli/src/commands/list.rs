//! `roost list`: one line a function.

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;

use crate::api::Function;
use crate::args::Global;
use crate::client::Client;
use crate::duration::age;
use crate::output::Output;

/// List the functions
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// All is shown anyway
    #[arg(short, long, hide = true)]
    verbose: bool,
    /// What to order them by
    #[arg(long, value_name = "ORDER", value_parser = ["name", "invocations"], default_value = "name")]
    sort: String,
}

pub(crate) fn run(args: &ListArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let mut values = Vec::new();
    for namespace in namespaces(&client, args.all_namespaces, global)? {
        values.extend(client.functions(namespace.as_deref())?);
    }
    if out.json {
        return out.value(&values);
    }
    let functions: serde_json::Result<_> = values.into_iter().map(serde_json::from_value).collect();
    let mut functions: Vec<Function> = functions.context("a function is not understood")?;
    functions.sort_by(|a, b| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace)));
    if args.sort == "invocations" {
        functions.sort_by(|a, b| b.invocation_count.total_cmp(&a.invocation_count));
    }
    if args.quiet {
        return functions.iter().try_for_each(|f| Ok(out.line(name(f, args.all_namespaces))?));
    }
    if functions.is_empty() {
        out.note("No functions yet. Deploy one: roost deploy NAME --image REF");
    } else {
        out.table(&rows(&functions, args.all_namespaces, Timestamp::now()))?;
    }
    Ok(())
}

/// The namespaces that are meant; `None` is the daemon's default one.
pub(super) fn namespaces(client: &Client, all: bool, global: &Global) -> Result<Vec<Option<String>>> {
    if all {
        Ok(client.namespaces()?.into_iter().map(Some).collect())
    } else {
        Ok(vec![global.namespace.clone()])
    }
}

fn name(function: &Function, with_namespace: bool) -> String {
    if with_namespace { format!("{}.{}", function.name, function.namespace) } else { function.name.clone() }
}

fn rows(functions: &[Function], with_namespace: bool, now: Timestamp) -> Vec<Vec<String>> {
    let head = ["NAME", "PHASE", "REPLICAS", "CALLS", "AGE", "IMAGE"].map(str::to_owned).to_vec();
    let row = |f: &Function| {
        vec![
            name(f, with_namespace),
            phase(f),
            format!("{}/{}", f.available_replicas, f.replicas),
            format!("{:.0}", f.invocation_count),
            age(&f.created_at, now),
            f.image.clone(),
        ]
    };
    std::iter::once(head).chain(functions.iter().map(row)).collect()
}

/// In one word what the function does; hosts that do not say it are judged by their replicas.
pub(super) fn phase(function: &Function) -> String {
    match &function.status {
        Some(status) if !status.phase.is_empty() => status.phase.clone(),
        _ if function.available_replicas > 0 => "Ready".to_owned(),
        _ if function.replicas == 0 => "Idle".to_owned(),
        _ => "Starting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_one_line() {
        let text = r#"{"name":"a","image":"i","replicas":2,"availableReplicas":1,"invocationCount":7,"createdAt":"1970-01-01T00:00:00Z"}"#;
        let function: Function = serde_json::from_str(text).unwrap();
        let rows = rows(&[function], false, Timestamp::from_second(90).unwrap());
        assert_eq!(rows[1], ["a", "Ready", "1/2", "7", "1m", "i"]);
    }
}
