//! `roost ready`: waits until the daemon answers, or until a function is ready.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::wait;
use crate::args::Global;
use crate::duration;
use crate::name::Target;
use crate::output::Output;

/// Wait until the daemon answers, or a function is ready
#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    /// Name of the function; none: the daemon itself
    name: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration::parse)]
    timeout: Duration,
}

pub(crate) fn run(args: &ReadyArgs, global: &Global, out: &mut Output) -> Result<()> {
    let target =
        args.name.as_deref().map(|name| Target::new(name, global.namespace.as_deref())).transpose()?;
    let client = super::connect(global)?;
    let deadline = Instant::now() + args.timeout;
    wait::until_healthy(&client, deadline)?;
    let Some(target) = target else {
        return tell(client.gateway(), &json!({ "gateway": client.gateway(), "ready": true }), out);
    };
    let mut going = |phase: &str, detail: &str| {
        out.progress(format!("{target}  {phase} {detail}"));
        Ok(())
    };
    wait::until_ready(&client, &target, deadline, args.timeout, &mut going)?;
    let value = json!({ "name": target.name, "namespace": target.namespace, "ready": true });
    tell(&target.to_string(), &value, out)
}

fn tell(what: &str, value: &Value, out: &mut Output) -> Result<()> {
    if out.json { out.value(value) } else { Ok(out.line(format!("{what} is ready"))?) }
}
