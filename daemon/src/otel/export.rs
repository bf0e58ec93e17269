//! A build that sends spans.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
pub use roost_otlp::Endpoint;
use roost_otlp::{Exporter, Pace, Settings};
use roost_proxy::AccessLog;
use tracing::warn;

use super::Counts;

/// How long the last spans may take.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// What became of the spans so far. Clones read the same.
#[derive(Debug, Clone)]
pub struct Figures(Arc<roost_otlp::Figures>);

impl Figures {
    /// As it is now.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts { exported: self.0.exported(), dropped: self.0.dropped(), failures: self.0.failures() }
    }
}

/// The export as long as the daemon lives, or none.
#[derive(Debug, Default)]
pub struct Running(Option<Exporter>);

impl Running {
    /// Starts what is needed.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub fn start(endpoint: Option<&Endpoint>) -> anyhow::Result<Self> {
        let start = |endpoint: &Endpoint| {
            let settings = Settings { endpoint: endpoint.clone(), host: host(), pace: Pace::default() };
            Exporter::start(settings).context("cannot send spans")
        };
        Ok(Self(endpoint.map(start).transpose()?))
    }

    /// A log that says the same as `log`, and gives spans to what is started here.
    #[must_use]
    pub fn watch(&self, log: AccessLog) -> AccessLog {
        match &self.0 {
            Some(exporter) => log.with_spans(exporter.sink()),
            None => log,
        }
    }

    /// What becomes of the spans, if any are sent.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        self.0.as_ref().map(|exporter| Figures(exporter.figures()))
    }

    /// Sends what is left, but waits for no collector that hangs.
    pub async fn end(self) {
        let Some(exporter) = self.0 else { return };
        let left = exporter.end(LAST_SPANS).await;
        if left > 0 {
            warn!("{left} spans are not exported: the collector does not take them");
        }
    }
}

/// The name of this host.
fn host() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
