//! `roost list`: one line a function.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::Function;
use crate::args::Global;
use crate::duration::age;
use crate::output::Output;

/// List the functions
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print the names only
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: &ListArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let namespace = global.namespace.as_deref();
    if out.json {
        return out.value(&client.functions::<Value>(namespace)?);
    }
    let mut functions = client.list(namespace)?;
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    if args.quiet {
        return functions.iter().try_for_each(|f| Ok(out.line(&f.name)?));
    }
    if functions.is_empty() {
        out.note("No functions yet. Deploy one: roost deploy NAME --image REF");
    } else {
        out.table(&rows(&functions, Timestamp::now()))?;
    }
    Ok(())
}

fn rows(functions: &[Function], now: Timestamp) -> Vec<Vec<String>> {
    let head = ["NAME", "PHASE", "REPLICAS", "CALLS", "AGE", "IMAGE"].map(str::to_owned).to_vec();
    let row = |f: &Function| {
        vec![
            f.name.clone(),
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
        let rows = rows(&[function], Timestamp::from_second(90).unwrap());
        assert_eq!(rows[1], ["a", "Ready", "1/2", "7", "1m", "i"]);
    }
}
