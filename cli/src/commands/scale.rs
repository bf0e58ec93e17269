//! `roost scale`: how many replicas a function has.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::args::Global;
use crate::name::Target;
use crate::output::Output;

/// Set how many replicas a function has
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Name of the function
    name: String,
    /// How many; at 0 the next request starts it again
    #[arg(value_name = "REPLICAS")]
    replicas: u32,
}

pub(crate) fn run(args: &ScaleArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let target = Target::new(&args.name, global.namespace.as_deref())?;
    client.scale(&target, args.replicas)?;
    if out.json {
        let scaled = json!({ "name": target.name, "namespace": target.namespace, "replicas": args.replicas });
        return out.value(&scaled);
    }
    out.line(format!("Scaling {target} to {}", args.replicas))?;
    Ok(())
}
