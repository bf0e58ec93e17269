//! A build that sends no spans.

use std::str::FromStr;

use roost_proxy::AccessLog;

use super::Counts;

/// There is none.
#[derive(Debug, Clone, Copy)]
pub enum Endpoint {}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Err("this build has no OpenTelemetry: build it with --features otel")
    }
}

/// There are none.
#[derive(Debug, Clone, Copy)]
pub enum Figures {}

impl Figures {
    /// Is never asked.
    #[must_use]
    pub fn read(&self) -> Counts {
        match *self {}
    }
}

/// Nothing.
#[derive(Debug, Default)]
pub struct Running;

impl Running {
    /// Starts nothing.
    ///
    /// # Errors
    /// None.
    pub fn start(_: Option<&Endpoint>) -> anyhow::Result<Self> {
        Ok(Self)
    }

    /// `log`, as it is.
    #[must_use]
    pub fn watch(&self, log: AccessLog) -> AccessLog {
        log
    }

    /// None.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        None
    }

    /// There is nothing to end.
    pub async fn end(self) {}
}
