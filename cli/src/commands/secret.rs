//! `roost secret`: what functions may read and nobody else. A value goes one way only, and is never printed.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args, Subcommand};
use serde_json::json;

use crate::api::Secret;
use crate::args::Global;
use crate::failure::usage;
use crate::output::Output;
use crate::terminal;

/// The largest value that a daemon takes, in bytes.
const MAX_VALUE: u64 = 1024 * 1024;

/// The status of a secret that is there already.
const CONFLICT: u16 = 409;

const EXAMPLES: &str = "\
Examples:
  roost secret create db-password                  # asks for the value
  roost secret create tls.key --from-file ./tls.key
  pass show db | roost secret create db-password --trim --replace
  # It reads /var/openfaas/secrets/db-password:
  roost deploy shop --image shop:2 --secret db-password

A value is taken as it is, to its last byte: --trim takes white space away at both ends, as a line's end. \
--from-literal leaves the value in the history of your shell and in the list of processes.";

/// Create, list, update and remove secrets
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Debug, Subcommand)]
enum SecretVerb {
    /// Create a secret
    Create(CreateArgs),
    /// List the names of the secrets
    #[command(visible_alias = "ls")]
    List,
    /// Give a secret another value; functions see it when they read the file again
    #[command(visible_alias = "u")]
    Update(UpdateArgs),
    /// Remove secrets that no function uses
    #[command(visible_aliases = ["rm", "delete"])]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Name of the secret
    name: String,
    #[command(flatten)]
    source: Source,
    /// Update the secret if it is there already
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// Name of the secret
    name: String,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Names of the secrets
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Where a value comes from: one of these, or stdin, or a person who is asked. No `Debug` that shows it.
#[derive(Args)]
struct Source {
    /// The value itself: your shell keeps it in its history
    #[arg(long, value_name = "VALUE", conflicts_with = "from_file")]
    from_literal: Option<String>,
    /// A file that holds the value; without it stdin is read
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Take white space away at both ends of the value
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
        default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true
    )]
    trim: bool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("from_file", &self.from_file).finish_non_exhaustive()
    }
}

pub(crate) fn run(args: &SecretArgs, global: &Global, out: &mut Output) -> Result<()> {
    match &args.verb {
        SecretVerb::Create(args) => create(args, global, out),
        SecretVerb::List => list(global, out),
        SecretVerb::Update(args) => {
            let value = args.source.read(&args.name)?;
            super::connect(global)?.update_secret(&args.name, global.namespace.as_deref(), &value)?;
            show("Updated", &args.name, global, out)
        }
        SecretVerb::Remove(args) => remove(args, global, out),
    }
}

fn create(args: &CreateArgs, global: &Global, out: &mut Output) -> Result<()> {
    let value = args.source.read(&args.name)?;
    let (client, namespace) = (super::connect(global)?, global.namespace.as_deref());
    let done = match client.create_secret(&args.name, namespace, &value) {
        Err(e) if e.status() == Some(CONFLICT) => {
            if !args.replace {
                bail!("there is a secret {0} already: 'roost secret update {0}' changes it", args.name);
            }
            client.update_secret(&args.name, namespace, &value)?;
            "Updated"
        }
        created => created.map(|()| "Created")?,
    };
    show(done, &args.name, global, out)
}

/// Tells what was done.
fn show(done: &str, name: &str, global: &Global, out: &mut Output) -> Result<()> {
    if out.json {
        let done = done.to_lowercase();
        return out.value(&json!({ "name": name, "namespace": global.namespace, done: true }));
    }
    Ok(out.line(format!("{done} {name}"))?)
}

fn list(global: &Global, out: &mut Output) -> Result<()> {
    let (client, namespace) = (super::connect(global)?, global.namespace.as_deref());
    if out.json {
        return out.value(&client.secrets::<Vec<Secret>>(namespace)?);
    }
    let mut secrets: Vec<Secret> = client.secrets(namespace)?;
    if secrets.is_empty() {
        out.note("No secrets yet. Create one: roost secret create NAME");
        return Ok(());
    }
    secrets.sort_by(|a, b| a.name.cmp(&b.name));
    let head = ["NAME", "NAMESPACE"].map(str::to_owned).to_vec();
    let rows = secrets.into_iter().map(|secret| vec![secret.name, secret.namespace]);
    Ok(out.table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())?)
}

fn remove(args: &RemoveArgs, global: &Global, out: &mut Output) -> Result<()> {
    let (client, namespace) = (super::connect(global)?, global.namespace.as_deref());
    let removals = args.names.iter().map(|name| {
        let result = client.remove_secret(name, namespace);
        (name.clone(), json!({ "name": name, "namespace": namespace }), result)
    });
    super::remove::tell("Removed", removals, out)
}

impl Source {
    /// The value, to its last byte.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let value = match (&self.from_literal, &self.from_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) if path != Path::new("-") => {
                let context = || format!("cannot read {}", path.display());
                limited(File::open(path).with_context(context)?).with_context(context)?
            }
            (None, None) if io::stdin().is_terminal() => {
                let asked = terminal::ask_secret(&format!("Value of {name}: "));
                let asked = asked.context("cannot ask for the value")?;
                asked.ok_or_else(|| usage("there is no terminal to ask on: use --from-file"))?.into_bytes()
            }
            (None, _) => limited(io::stdin()).context("cannot read the value from stdin")?,
        };
        let value = if self.trim { trimmed(&value).to_vec() } else { value };
        if value.is_empty() {
            return Err(usage("the value is empty"));
        }
        Ok(value)
    }
}

/// Without white space at both ends. Bytes that are no text are kept as they are.
fn trimmed(value: &[u8]) -> &[u8] {
    str::from_utf8(value).map_or_else(|_| value.trim_ascii(), |text| text.trim().as_bytes())
}

fn limited(source: impl Read) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    source.take(MAX_VALUE + 1).read_to_end(&mut value)?;
    if value.len() as u64 > MAX_VALUE {
        bail!("the value is larger than {MAX_VALUE} bytes");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trimmed_is_white_space_at_the_ends() {
        for (value, expected) in [
            (b" a b\r\n".as_slice(), b"a b".as_slice()),
            ("\u{a0}a\u{2003}".as_bytes(), b"a"),
            (b" \xff\n", b"\xff"),
            (b"\n", b""),
        ] {
            assert_eq!(trimmed(value), expected);
        }
    }

    #[test]
    fn arguments_are_shown_without_the_value() {
        let source = Source { from_literal: Some("hunter2".into()), from_file: None, trim: false };
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
