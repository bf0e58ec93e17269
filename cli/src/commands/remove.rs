//! `roost remove`: functions by name, or all functions of a stack file.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::args::Global;
use crate::client::{Client, Error};
use crate::config;
use crate::failure::Partly;
use crate::name::Target;
use crate::output::Output;
use crate::stack_file::{Chosen, StackArgs};

/// Remove functions
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Names of the functions
    #[arg(value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    names: Vec<String>,
    #[command(flatten)]
    stack: StackArgs,
}

pub(crate) fn run(args: &RemoveArgs, global: &Global, out: &mut Output) -> Result<()> {
    let stack = match &args.stack.file {
        Some(file) => Some(args.stack.read_names(file, out)?),
        None => None,
    };
    let in_file = stack.as_ref().and_then(|s| s.gateway.as_deref());
    let client = Client::new(&config::find(global.gateway.as_deref(), in_file)?);
    let targets = targets(args, global, stack.as_ref())?;
    let removals = targets.into_iter().map(|target| {
        let result = client.remove(&target);
        (target.to_string(), json!({ "name": target.name, "namespace": target.namespace }), result)
    });
    tell("Removing", removals, out)
}

/// Says of each how its removal went.
pub(super) fn tell(
    word: &str,
    removals: impl ExactSizeIterator<Item = (String, Value, Result<(), Error>)>,
    out: &mut Output,
) -> Result<()> {
    tell_each(word, "removed", removals, out)
}

/// Says of each how a change went, as it comes; one failure of several is told at once, and their sum at the end. `done`
/// is what programs are told in a field of that name.
pub(super) fn tell_each(
    word: &str,
    done: &str,
    changes: impl ExactSizeIterator<Item = (String, Value, Result<(), Error>)>,
    out: &mut Output,
) -> Result<()> {
    let all = changes.len();
    let (mut values, mut failed) = (Vec::new(), Vec::new());
    for (name, mut value, result) in changes {
        value[done] = result.is_ok().into();
        value["error"] = result.as_ref().err().map(ToString::to_string).into();
        values.push(value);
        match result {
            Ok(()) if out.json => {}
            Ok(()) => out.line(format!("{word} {name}"))?,
            Err(error) => {
                if all > 1 {
                    out.note(format!("roost: {name}: {error}"));
                }
                failed.push(error);
            }
        }
    }
    if out.json {
        out.value(&values)?;
    }
    match failed.pop() {
        None => Ok(()),
        Some(only) if all == 1 => Err(only.into()),
        Some(_) => Err(Partly(failed.len() + 1, all).into()),
    }
}

fn targets(args: &RemoveArgs, global: &Global, stack: Option<&Chosen>) -> Result<Vec<Target>> {
    let typed = global.namespace.as_deref();
    let Some(stack) = stack else {
        return args.names.iter().map(|name| Target::new(name, typed)).collect();
    };
    let of_file = stack.deployments.iter().map(|d| Target::new(&d.service, typed.or(d.namespace.as_deref())));
    of_file.collect()
}
