//! The plugins of one attachment, one after the other.
//!
//! Owns the order: ADD and CHECK forwards, DEL backwards. Never touches a namespace or the cache; what was made so far is told
//! by the record.

use std::path::Path;

use serde_json::Value;

use crate::cache::Record;
use crate::plugin::{Command, Plugins, Run};
use crate::{PluginError, result};

/// The interface inside the namespace.
const INTERFACE: &str = "eth0";

/// The chain of one attachment.
pub(crate) struct Chain<'a> {
    plugins: &'a Plugins,
    record: &'a Record,
    /// `None` if the namespace is gone, which only DEL can bear.
    netns: Option<&'a Path>,
    args: String,
}

/// How DEL of a whole chain ended.
#[derive(Default)]
pub(crate) struct Deleted {
    /// What is to be tried again.
    pub(crate) failures: Vec<PluginError>,
    /// Something failed that is not tried again.
    pub(crate) unclean: bool,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(plugins: &'a Plugins, record: &'a Record, netns: Option<&'a Path>) -> Self {
        let args = record.options.args.iter().map(|(key, value)| format!("{key}={value}"));
        Self { plugins, record, netns, args: args.collect::<Vec<_>>().join(";") }
    }

    /// ADD of the next plugin; its result is the input of the one after it.
    pub(crate) async fn add_next(&self) -> Result<Value, PluginError> {
        let place = self.record.added;
        let stdout = self.run(Command::Add, place, self.record.result.as_ref()).await?;
        result::parse_add(&stdout, self.record.conflist.version()).map_err(|problem| PluginError::Result {
            plugin: self.kind(place).to_owned(),
            command: Command::Add,
            problem,
        })
    }

    /// CHECK of all, with the result of the whole chain. The first that finds something wrong ends it.
    pub(crate) async fn check(&self) -> Result<(), PluginError> {
        for place in 0..self.record.conflist.plugins().len() {
            self.run(Command::Check, place, self.record.result.as_ref()).await?;
        }
        Ok(())
    }

    /// DEL of all that were added, backwards, and of the one that may have been halfway. Goes on on failures.
    ///
    /// A failure of the one that was halfway only counts as unclean: what could not be added often cannot be read for DEL either,
    /// and would never go.
    pub(crate) async fn del(&self) -> Deleted {
        let conflist = &self.record.conflist;
        let previous = self.record.result.as_ref().filter(|_| conflist.version().knows_check());
        let mut deleted = Deleted::default();
        let begun = (self.record.added + 1).min(conflist.plugins().len());
        for place in (0..begun).rev() {
            match self.run(Command::Del, place, previous).await {
                Ok(_) => {}
                Err(error) if place >= self.record.added => {
                    tracing::warn!(id = self.record.id, %error, "a plugin that was not fully added does not go cleanly");
                    deleted.unclean = true;
                }
                Err(error) => deleted.failures.push(error),
            }
        }
        deleted
    }

    async fn run(
        &self,
        command: Command,
        place: usize,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, PluginError> {
        let config =
            self.record.conflist.stdin(place, &self.record.options.capabilities, previous).to_string();
        let run = Run {
            plugin: self.kind(place),
            command,
            id: &self.record.id,
            netns: self.netns,
            interface: INTERFACE,
            args: &self.args,
            stdin: config.as_bytes(),
        };
        self.plugins.run(&run).await
    }

    fn kind(&self, place: usize) -> &str {
        &self.record.conflist.plugins()[place].kind
    }
}
