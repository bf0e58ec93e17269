//! The verbs, one a file: arguments → requests → what is shown.

pub(crate) mod auth;
pub(crate) mod connections;
pub(crate) mod deadletters;
pub(crate) mod deploy;
mod deploy_many;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod events;
mod faas_cli;
pub(crate) mod groups;
mod groups_past;
mod held;
pub(crate) mod image;
mod image_build;
pub(crate) mod invoke;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod namespace;
pub(crate) mod queue;
pub(crate) mod ready;
pub(crate) mod remove;
pub(crate) mod scale;
pub(crate) mod secret;
pub(crate) mod stack;
pub(crate) mod system;
pub(crate) mod token;
pub(crate) mod top;
mod top_table;
pub(crate) mod usage;
pub(crate) mod version;
mod wait;

use crate::args::Global;
use crate::client::Client;
use crate::config;

/// The daemon that the global options mean.
fn connect(global: &Global) -> anyhow::Result<Client> {
    Ok(Client::new(&config::find(global.gateway.as_deref(), None)?))
}
