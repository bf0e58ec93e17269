//! Calls that no client makes: by the clock, by messages of brokers, by files that arrive.
//!
//! Owns who wants what ([`topics`], [`schedule`]) and one task for the clock and for each source that the settings name.
//! A call is the queue's from the moment it has taken it: only then a message is acknowledged, a file moved away, a run
//! noted. Never makes a call itself, and knows of the queue no more than [`Deliver`].
//!
//! ```text
//!  annotations ─► topics, schedule ─► Wanted ─► clock ───────────┐
//!                                       ├─────► mqtt.NAME ───────┤
//!                                       ├─────► nats.NAME ───────┼─► Deliver (the queue) ─► function
//!                                       └─────► directory.NAME ──┘      │ taken
//!                                                   ▲                   │
//!                                                   └── acknowledged ◄──┘
//! ```

pub mod ahead;
pub mod clock;
pub mod directory;
pub mod figures;
pub mod handing;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
pub mod plan;
pub mod schedule;
pub mod sessions;
pub mod settings;
pub mod topics;
pub mod wanted;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use roost_proxy::function::FunctionKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::ahead::Ahead;
use self::figures::Figures;
use self::topics::{Kind, Source};
use self::wanted::Wanted;
use crate::function::registry::Registry;
use crate::secrets::Secrets;
use crate::store::Store;

/// Says which of the connectors of OpenFaaS would have made the call.
pub(crate) const X_CONNECTOR: &str = "x-connector";

/// Says of which topic it is.
pub(crate) const X_TOPIC: &str = "x-topic";

/// A call that a schedule or a source makes: a POST to the function's root.
#[derive(Debug, Clone, Default)]
pub struct TriggeredCall {
    /// What the function sees, besides what the queue adds.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Two calls of one function with the same key are one, where the queue can tell.
    pub idempotency_key: Option<String>,
    /// Calls of one function with the same key are made one after the other, where the queue can do so.
    pub order_key: Option<String>,
}

/// A call that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// What it is known by.
    pub call_id: String,
}

/// Why a call was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such function any more.
    #[error("there is no such function")]
    Gone,
    /// It never will be: its body is larger than this many bytes.
    #[error("the body of a queued call may have {0} bytes, and this one has more")]
    TooLarge(u64),
    /// Not now.
    #[error("{0}")]
    Later(String),
}

/// Takes calls over: the queue.
pub trait Deliver: Clone + Send + Sync + 'static {
    /// Takes a call over. Resolves when it is safe with the queue: whoever asks for it acknowledges then what it came from.
    /// Where the future is dropped before, it may have been taken or not, and comes again.
    fn deliver(
        &self,
        function: &FunctionKey,
        call: TriggeredCall,
    ) -> impl Future<Output = Result<Delivered, Refused>> + Send;

    /// Does this call wait, or is it being made?
    fn is_open(&self, function: &FunctionKey, call_id: &str) -> impl Future<Output = bool> + Send;
}

/// What the tasks need.
#[derive(Clone)]
pub struct Tools<D> {
    /// The queue.
    pub deliver: D,
    /// Where runs and sessions are noted.
    pub store: Arc<Store>,
    /// Where passwords may be.
    pub secrets: Secrets,
    /// What is counted.
    pub figures: Figures,
    /// Where the clock tells what comes next.
    pub ahead: Ahead,
    /// The largest body of a call, in bytes.
    pub max_body: u64,
    /// Ends all of them.
    pub ending: CancellationToken,
}

/// Starts all that `settings` name, for the functions that there are now and will be.
pub fn start<D: Deliver>(settings: &settings::Settings, registry: Arc<Registry>, tools: &Tools<D>) {
    let mut changes = registry.watch_deployments();
    let sources = settings.sources();
    let look = move |registry: &Registry| Arc::new(Wanted::of(registry, &sources));
    changes.mark_unchanged();
    let (tell, wanted) = watch::channel(look(&registry));
    tokio::spawn(tools.until_the_end(clock::run(tools.clone(), wanted.clone())));
    for (name, directory) in &settings.directories {
        let source = Source::new(Kind::Directory, name);
        let task = directory::run(source, directory.clone(), tools.clone(), wanted.clone());
        tokio::spawn(tools.until_the_end(task));
    }
    #[cfg(feature = "mqtt")]
    for (name, broker) in &settings.mqtt {
        let source = Source::new(Kind::Mqtt, name);
        let task = mqtt::run(source, broker.clone(), tools.clone(), wanted.clone());
        tokio::spawn(tools.until_the_end(task));
    }
    #[cfg(feature = "nats")]
    for (name, server) in &settings.nats {
        let source = Source::new(Kind::Nats, name);
        let task = nats::run(source, server.clone(), tools.clone(), wanted.clone());
        tokio::spawn(tools.until_the_end(task));
    }
    let figures = tools.figures.clone();
    tokio::spawn(tools.until_the_end(async move {
        while changes.changed().await.is_ok() {
            let next = look(&registry);
            figures.retain(|function| registry.contains(function));
            tell.send_if_modified(|wanted| {
                let modified = **wanted != *next;
                *wanted = next;
                modified
            });
        }
    }));
}

impl<D> Tools<D> {
    fn until_the_end<F: Future<Output = ()> + Send>(
        &self,
        task: F,
    ) -> impl Future<Output = ()> + Send + use<D, F> {
        let ending = self.ending.clone();
        async move {
            tokio::select! {
                () = ending.cancelled() => {}
                () = task => {}
            }
        }
    }
}
