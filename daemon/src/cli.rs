//! The command line of the daemon.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::DEFAULT_PATH;
use crate::doctor;

/// Runs functions in containers and answers for them over HTTP and WebSocket.
#[derive(Debug, Parser)]
#[command(name = "roostd", version)]
pub struct Arguments {
    /// Where the settings are.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH, env = "ROOST_CONFIG")]
    pub config: PathBuf,
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the daemon's binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground.
    Run,
    /// Run the daemon where there is no systemd, start it again when it ends, and keep its connections meanwhile.
    /// Signals are passed on: TERM ends both, HUP reads again what can be, USR2 starts the daemon anew, of another
    /// binary perhaps, and no connection notices.
    Supervise,
    /// Read the settings, say what is wrong with them, and end.
    CheckConfig,
    /// Look whether this machine has what Roost needs: a line for each check, with what was found, and below it what
    /// repairs it. Nothing is changed, and no daemon has to run.
    #[command(after_help = doctor::HELP)]
    Doctor {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Write a replica's output to its log. containerd starts this, one for each replica.
    #[command(hide = true)]
    LogDriver {
        /// `<bytes>:<directory>`
        target: String,
    },
}
