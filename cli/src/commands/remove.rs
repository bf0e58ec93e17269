//! `roost remove`: functions by name, or all functions of a stack file.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::args::Global;
use crate::client::Client;
use crate::config;
use crate::failure::{Partly, usage};
use crate::name::Target;
use crate::output::Output;
use crate::stack::Stack;

/// Remove functions
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Names of the functions
    #[arg(value_name = "NAME", required_unless_present = "file")]
    names: Vec<String>,
    /// A stack file: removes every function in it
    #[arg(short, long, visible_alias = "yaml", value_name = "STACK.YAML", conflicts_with = "names")]
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &RemoveArgs, global: &Global, out: &mut Output) -> Result<()> {
    let stack = args.file.as_deref().map(Stack::read).transpose()?;
    let in_file = stack.as_ref().and_then(|s| s.gateway.as_deref());
    let client = Client::new(&config::find(global.gateway.as_deref(), in_file)?);
    let targets = targets(args, global, stack.as_ref())?;
    let results: Vec<_> = targets.into_iter().map(|target| (client.remove(&target), target)).collect();
    if out.json {
        let value = |(result, target): &(Result<(), crate::client::Error>, Target)| {
            let error = result.as_ref().err().map(ToString::to_string);
            json!({ "name": target.name, "namespace": target.namespace, "removed": result.is_ok(), "error": error })
        };
        out.value(&results.iter().map(value).collect::<Vec<Value>>())?;
    }
    let all = results.len();
    let mut errors = Vec::new();
    for (result, target) in results {
        match result {
            Ok(()) if out.json => {}
            Ok(()) => out.line(format!("Removing {target}"))?,
            Err(e) => errors.push(anyhow::Error::from(e).context(target.to_string())),
        }
    }
    if all == 1 {
        return errors.pop().map_or(Ok(()), Err);
    }
    for error in &errors {
        out.note(format!("roost: {error:#}"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Partly(errors.len(), all).into()) }
}

fn targets(args: &RemoveArgs, global: &Global, stack: Option<&Stack>) -> Result<Vec<Target>> {
    let typed = global.namespace.as_deref();
    let Some(stack) = stack else {
        return args.names.iter().map(|name| Target::new(name, typed)).collect();
    };
    let of_file = stack.deployments.iter().map(|d| Target::new(&d.service, typed.or(d.namespace.as_deref())));
    let targets: Vec<_> = of_file.collect::<Result<_>>()?;
    if targets.is_empty() { Err(usage("the stack file names no function")) } else { Ok(targets) }
}
