//! `roost version`: of this program, and of what answers at the other end.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::api::Info;
use crate::args::Global;
use crate::output::Output;

/// Print the version of this program and of the daemon
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Do not ask the daemon
    #[arg(long)]
    client: bool,
}

pub(crate) fn run(args: &VersionArgs, global: &Global, out: &mut Output) -> Result<()> {
    let ours = env!("CARGO_PKG_VERSION");
    if !out.json {
        out.line(format!("roost   {ours}"))?;
    }
    if args.client {
        return if out.json { out.value(&json!({ "client": { "version": ours } })) } else { Ok(()) };
    }
    let client = super::connect(global)?;
    let info = client.info()?;
    if out.json {
        return out.value(&json!({
            "client": { "version": ours },
            "server": {
                "gateway": client.gateway(),
                "name": info.provider.provider,
                "version": release(&info),
                "orchestration": info.provider.orchestration,
                "architecture": info.arch,
            },
        }));
    }
    let about =
        [info.provider.orchestration.as_str(), info.arch.as_str()].into_iter().filter(|t| !t.is_empty());
    let about = about.collect::<Vec<_>>().join(", ");
    Ok(out.line(format!(
        "{:7} {} ({about}) at {}",
        info.provider.provider,
        release(&info),
        client.gateway()
    ))?)
}

fn release(info: &Info) -> &str {
    let candidates = [&info.version.release, &info.provider.version.release, &info.version.sha];
    candidates.into_iter().find(|text| !text.is_empty()).map_or("unknown", String::as_str)
}
