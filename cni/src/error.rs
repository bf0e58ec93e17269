//! What can go wrong, and about what: every error names the attachment, the key, the file or the plugin it concerns.
//!
//! Owns the texts. Never decides what happens next.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::plugin::Command;

/// Why an operation of this crate failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id of an attachment becomes file names: only what is harmless there is taken.
    #[error(
        "attachment id {id:?} is not valid: expected 1 to {limit} of the letters, digits, '_', '.' and '-', \
         beginning with a letter or digit"
    )]
    InvalidId {
        /// The id, shortened if it is very long.
        id: String,
        /// The longest id, in bytes.
        limit: usize,
    },

    /// An argument for the plugins cannot be written as `CNI_ARGS`.
    #[error("plugin argument {key:?}: key and value must not be empty nor contain ';' or '='")]
    InvalidArgument {
        /// The argument's key.
        key: String,
    },

    /// The conflist cannot be read from disk.
    #[error("cannot read the conflist {}: {source}", path.display())]
    ReadConflist {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The conflist says something that is not valid.
    #[error("{origin}: {key}: {problem}")]
    Conflist {
        /// The file, or `conflist` if it does not come from one.
        origin: String,
        /// The path of the key, as `plugins[1].type`.
        key: String,
        /// What is wrong, and what was expected.
        problem: String,
    },

    /// A plugin of the chain is not installed.
    #[error(
        "{key}: the CNI plugin {plugin:?} is in none of {}: install it (Debian and Ubuntu: containernetworking-plugins) or set the plugin directories",
        display_paths(dirs)
    )]
    PluginMissing {
        /// The key that names the plugin.
        key: String,
        /// The plugin's name.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },

    /// A directory that is needed cannot be made or read.
    #[error("directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// There is an attachment of this id.
    #[error("{id} is attached already, or was left half-made: detach it first")]
    AlreadyAttached {
        /// The attachment.
        id: String,
    },

    /// There is no complete attachment of this id.
    #[error("{id} is not attached")]
    NotAttached {
        /// The attachment.
        id: String,
    },

    /// A plugin failed.
    #[error("{id}: {source}")]
    Plugin {
        /// The attachment.
        id: String,
        /// Which plugin, and why.
        source: PluginError,
    },

    /// Some plugins could not undo their work. The rest is undone; what is left stays in the cache for the next try.
    #[error("{id} is not fully detached: {}", display_all(failures))]
    Detach {
        /// The attachment.
        id: String,
        /// What failed, in the order of the tries.
        failures: Vec<PluginError>,
    },

    /// The network namespace cannot be made, found or removed.
    #[error("network namespace {}: {step}: {source}", path.display())]
    Namespace {
        /// The path of the namespace, or of the directory of all.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },

    /// The cache cannot be read or written.
    #[error("network cache {}: {step}: {source}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },

    /// What the attachments of a network share cannot be removed.
    #[error("network {network}: cannot remove {what}: {source}")]
    Dismantle {
        /// The network.
        network: String,
        /// The bridge, or a directory.
        what: String,
        /// Why.
        source: io::Error,
    },

    /// Something is attached to a network that was to go.
    #[error("network {network}: {id} is still attached")]
    InUse {
        /// The network.
        network: String,
        /// The attachment.
        id: String,
    },

    /// The rules that keep networks apart cannot be read or written.
    #[error("cannot keep networks apart: {program}: {problem}")]
    Isolation {
        /// The program that failed.
        program: &'static str,
        /// What it said.
        problem: String,
    },

    /// The rules that let what leaves a network have the host's address cannot be read or written.
    #[error("cannot masquerade what leaves the networks: {program}: {problem}")]
    Masquerade {
        /// The program that failed.
        program: &'static str,
        /// What it said.
        problem: String,
    },

    /// The rules that let attached addresses through cannot be read.
    #[error("cannot read the rules of the firewall: {program}: {problem}")]
    Accepts {
        /// The program that failed.
        program: &'static str,
        /// What it said.
        problem: String,
    },

    /// What a failed teardown left behind of an attachment's masquerading cannot be removed. It can be tried again.
    #[error("{id}: the rules left of its masquerading cannot be removed: {program}: {problem}")]
    Sweep {
        /// The attachment.
        id: String,
        /// The program that failed.
        program: &'static str,
        /// What it said.
        problem: String,
    },

    /// A collection went through, but some of it failed.
    #[error("not everything could be collected: {}", display_all(failures))]
    Collect {
        /// What failed.
        failures: Vec<Error>,
    },

    /// The task of the operation ended without a result: the program is shutting down, or the task panicked.
    #[error("{what}: the operation was cut short")]
    CutShort {
        /// The attachment, or the operation.
        what: String,
    },
}

/// Why one run of one plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The program cannot be found or started.
    #[error("CNI plugin {plugin:?} cannot be started for {command}: {source}")]
    Start {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// Why.
        source: io::Error,
    },

    /// The plugin says itself what went wrong.
    #[error("CNI plugin {plugin:?} failed on {command} (code {code}): {message}{}", display_details(details))]
    Reported {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The error code: below 100 by the specification, from 100 the plugin's own.
        code: u32,
        /// The plugin's text.
        message: String,
        /// More of it, or empty.
        details: String,
    },

    /// The plugin failed and did not say why in the form of the specification.
    #[error("CNI plugin {plugin:?} failed on {command} ({status}): {output}")]
    Failed {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },

    /// The plugin succeeded, but its answer is not a result.
    #[error("CNI plugin {plugin:?} answered {command} with something that is not a result: {problem}")]
    Result {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// What is wrong with the answer.
        problem: String,
    },

    /// The plugin did not come to an end and was killed.
    #[error("CNI plugin {plugin:?} did not finish {command} within {} s and was killed", after.as_secs())]
    Deadline {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The time it had.
        after: Duration,
    },

    /// The plugin printed without end and was killed.
    #[error("CNI plugin {plugin:?} printed more than {limit} bytes on {command} and was killed")]
    TooMuchOutput {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// The limit, in bytes, for each of the two streams.
        limit: usize,
    },

    /// The pipes to the plugin broke.
    #[error("CNI plugin {plugin:?}, {command}: {source}")]
    Pipe {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        command: Command,
        /// Why.
        source: io::Error,
    },
}

fn display_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn display_all<E: std::fmt::Display>(errors: &[E]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn display_details(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(" ({details})") }
}
