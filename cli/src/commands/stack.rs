//! `roost stack export`: a stack file from what runs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use roost_stack::Deployment;

use super::list::namespaces;
use crate::args::Global;
use crate::name::Target;
use crate::output::Output;

/// The namespace of functions that say none.
const DEFAULT_NAMESPACE: &str = "openfaas-fn";

/// Write a stack file from what runs
#[derive(Debug, Args)]
pub(crate) struct StackVerbArgs {
    #[command(subcommand)]
    verb: StackVerb,
}

#[derive(Debug, Subcommand)]
enum StackVerb {
    /// Write a stack file that deploys the same functions again. Secrets are in it by name only
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Names of the functions; none: all of the namespace
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "names"])]
    all_namespaces: bool,
    /// Where to write it; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) fn run(args: &StackVerbArgs, global: &Global, out: &mut Output) -> Result<()> {
    let StackVerb::Export(args) = &args.verb;
    let deployments = deployments(args, global)?;
    if deployments.is_empty() {
        bail!("there are no functions to export");
    }
    let text = roost_stack::export(&deployments, DEFAULT_NAMESPACE)?;
    if args.output.as_os_str() == "-" {
        return Ok(out.raw(text.as_bytes())?);
    }
    fs::write(&args.output, text).with_context(|| format!("cannot write {}", args.output.display()))?;
    let count = deployments.len();
    out.note(format!(
        "Wrote {count} function{} to {}",
        if count == 1 { "" } else { "s" },
        args.output.display()
    ));
    Ok(())
}

fn deployments(args: &ExportArgs, global: &Global) -> Result<Vec<Deployment>> {
    let client = super::connect(global)?;
    if args.names.is_empty() {
        let mut all = Vec::new();
        for namespace in namespaces(&client, args.all_namespaces, global)? {
            let functions = client.functions(namespace.as_deref())?.into_iter();
            all.extend(functions.map(serde_json::from_value).collect::<serde_json::Result<Vec<_>>>()?);
        }
        return Ok(all);
    }
    let named = args.names.iter().map(|name| {
        let target = Target::new(name, global.namespace.as_deref())?;
        client.function(&target)?.with_context(|| format!("there is no function {target}"))
    });
    named.collect()
}
