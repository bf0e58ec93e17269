//! `roost logout`: forgets a saved password.

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::Global;
use crate::config;
use crate::config::saved::{self, Saved};
use crate::output::Output;

pub(crate) fn run(global: &Global, out: &mut Output) -> Result<()> {
    let path = saved::path().context("there is no home folder, so no login was saved")?;
    let mut saved = Saved::read(&path)?;
    let named = global.gateway.as_deref().map(config::normalise).transpose()?;
    let gateway = match named.or_else(|| saved.current.clone()) {
        Some(gateway) => gateway,
        None => config::find(None, None)?.gateway,
    };
    let known = saved.remove(&gateway);
    if known {
        saved.write(&path)?;
    }
    if out.json {
        return out.value(&json!({ "gateway": gateway, "removed": known }));
    }
    let text = if known {
        format!("Forgot the login of {gateway}")
    } else {
        format!("No login of {gateway} was saved")
    };
    Ok(out.line(text)?)
}
