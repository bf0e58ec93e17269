//! A NATS server: messages of its subjects are calls.
//!
//! Owns one listener for each function and subject. Where a stream of JetStream holds the subject, the listener is a durable
//! consumer, and a message is acknowledged when the queue has it; where none does, it is a subscription of a queue group,
//! and what comes while nobody listens is lost. Hosts with the same `group` share the messages of a function.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::GetStreamByNameErrorKind;
use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, HeaderMap as NatsHeaders};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use roost_proxy::function::FunctionKey;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::handing::hand_over;
use super::settings::Nats;
use super::topics::Source;
use super::wanted::Wanted;
use super::{Deliver, Tools, TriggeredCall, X_CONNECTOR, X_TOPIC};
use crate::nats;
use crate::pauses::Pauses;

/// How many messages of a listener may be read and not acknowledged.
const MAX_IN_FLIGHT: usize = 64;

/// A message that is not acknowledged comes again after this time. It is asked for more before.
const ACK_WAIT: Duration = Duration::from_secs(30);
const MORE_TIME: Duration = Duration::from_secs(10);

/// A consumer that nobody asks for so long is removed by the server, and what it has not given out is lost with it.
const FORGOTTEN: Duration = Duration::from_hours(7 * 24);

/// How often it is looked whether a stream holds a subject meanwhile.
const LOOK_FOR_STREAM: Duration = Duration::from_mins(1);

/// The pauses between two tries to connect, or to listen.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

const CONNECTOR: HeaderValue = HeaderValue::from_static("nats-connector");

/// By this NATS knows that two messages are one.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Takes messages of one server for ever, while somebody listens to it.
pub async fn run<D: Deliver>(
    source: Source,
    server: Nats,
    tools: Tools<D>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
) {
    let mut pauses = Pauses::new(PAUSES);
    let mut told = String::new();
    let client = loop {
        while !wanted.borrow_and_update().topics.contains_key(&source) {
            if wanted.changed().await.is_err() {
                return;
            }
        }
        let (figures, of) = (tools.figures.clone(), source.clone());
        match nats::connect(&server, &tools.secrets, move |is| figures.connected(&of, is)).await {
            Ok(client) => break client,
            Err(why) => {
                tools.figures.connected(&source, false);
                if told != why {
                    warn!("{source}: not connected: {why}");
                    told = why;
                }
                pauses.wait().await;
            }
        }
    };
    let mut listeners: BTreeMap<(FunctionKey, String), AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let topics = wanted.borrow_and_update().of_source(&source);
        let pairs = topics.into_iter().flat_map(|(subject, functions)| {
            functions.into_iter().map(move |function| (function, subject.clone()))
        });
        let pairs: BTreeSet<_> = pairs.collect();
        listeners.retain(|pair, _| pairs.contains(pair));
        for pair in pairs {
            listeners.entry(pair.clone()).or_insert_with(|| {
                let (function, subject) = pair;
                let listener = Listener {
                    name: source.to_string(),
                    group: server.group.clone(),
                    client: client.clone(),
                    tools: tools.clone(),
                    function,
                    subject,
                };
                AbortOnDropHandle::new(tokio::spawn(listener.run()))
            });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

struct Listener<D> {
    /// The source, in words.
    name: String,
    group: String,
    client: Client,
    tools: Tools<D>,
    function: FunctionKey,
    subject: String,
}

impl<D: Deliver> Listener<D> {
    async fn run(self) {
        let mut pauses = Pauses::new(PAUSES);
        loop {
            match self.listen().await {
                Ok(()) => pauses = Pauses::new(PAUSES),
                Err(why) => {
                    warn!(function = %self.function, "{}: {}: {}: again soon: {why}", self.function, self.name, self.subject);
                    pauses.wait().await;
                }
            }
        }
    }

    /// Listens until something else is to be done: `Ok` if a stream holds the subject now.
    async fn listen(&self) -> Result<(), String> {
        match self.stream().await? {
            Some(stream) => self.consume(&stream).await,
            None => self.subscribe().await,
        }
    }

    /// The stream that holds the subject, if there is one.
    async fn stream(&self) -> Result<Option<String>, String> {
        if !self.client.server_info().jetstream {
            return Ok(None);
        }
        match jetstream::new(self.client.clone()).stream_by_subject(&self.subject).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn consume(&self, stream: &str) -> Result<(), String> {
        let told = |why: &dyn std::fmt::Display| why.to_string();
        let durable = durable(&self.group, &self.function, &self.subject);
        let config = Config {
            durable_name: Some(durable.clone()),
            filter_subject: self.subject.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_IN_FLIGHT as i64,
            deliver_policy: DeliverPolicy::New,
            inactive_threshold: FORGOTTEN,
            ..Config::default()
        };
        let stream_of =
            jetstream::new(self.client.clone()).get_stream(stream).await.map_err(|why| told(&why))?;
        let consumer = stream_of.get_or_create_consumer(&durable, config).await.map_err(|why| told(&why))?;
        let messages = consumer.stream().max_messages_per_batch(MAX_IN_FLIGHT).messages().await;
        let mut messages = messages.map_err(|why| told(&why))?;
        info!(function = %self.function, "{}: {}: {} of the stream {stream}", self.function, self.name, self.subject);
        let mut handing = FuturesOrdered::new();
        loop {
            tokio::select! {
                Some(acknowledged) = handing.next(), if !handing.is_empty() => {
                    let acknowledged: Result<(), String> = acknowledged;
                    acknowledged?;
                }
                message = messages.next(), if handing.len() < MAX_IN_FLIGHT => {
                    let message = message.ok_or("the consumer is gone")?.map_err(|why| told(&why))?;
                    handing.push_back(self.take(message));
                }
            }
        }
    }

    /// Hands a message over and acknowledges it; asks for more time meanwhile.
    async fn take(&self, message: jetstream::Message) -> Result<(), String> {
        let key =
            message.info().map(|info| format!("{}:{}:{}", self.name, info.stream, info.stream_sequence));
        let key = key.map_err(|why| why.to_string())?;
        let call = call(&message.subject, message.headers.as_ref(), &message.payload, Some(key));
        let mut handing = std::pin::pin!(self.hand_over(&call));
        while timeout(MORE_TIME, &mut handing).await.is_err() {
            message.ack_with(AckKind::Progress).await.map_err(|why| why.to_string())?;
        }
        message.ack().await.map_err(|why| why.to_string())
    }

    /// Without a stream: what is lost is lost.
    async fn subscribe(&self) -> Result<(), String> {
        let group = durable(&self.group, &self.function, &self.subject);
        let subscribed = self.client.queue_subscribe(self.subject.clone(), group).await;
        let mut messages = subscribed.map_err(|why| why.to_string())?;
        info!(function = %self.function, "{}: {}: {}, which no stream holds", self.function, self.name, self.subject);
        let mut look = interval(LOOK_FOR_STREAM);
        look.tick().await;
        let mut handing = FuturesOrdered::new();
        loop {
            tokio::select! {
                Some(()) = handing.next(), if !handing.is_empty() => {}
                message = messages.next(), if handing.len() < MAX_IN_FLIGHT => {
                    let message = message.ok_or("the subscription is gone")?;
                    let id = message.headers.as_ref().and_then(|headers| headers.get(MESSAGE_ID));
                    let key = id.map(|id| format!("{}:{}", self.name, id.as_str()));
                    let call = call(&message.subject, message.headers.as_ref(), &message.payload, key);
                    handing.push_back(async move { self.hand_over(&call).await });
                }
                _ = look.tick() => if self.stream().await?.is_some() { return Ok(()) },
            }
        }
    }

    async fn hand_over(&self, call: &TriggeredCall) {
        let Tools { deliver, figures, .. } = &self.tools;
        hand_over(deliver, figures, &self.name, std::slice::from_ref(&self.function), call).await;
    }
}

/// What a function's consumer of a subject is called, and its queue group: letters, digits, `-` and `_`.
fn durable(group: &str, function: &FunctionKey, subject: &str) -> String {
    let hash =
        Sha256::digest(subject).iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{group}_{}_{}_{hash}", function.namespace, function.name)
}

fn call(subject: &str, of: Option<&NatsHeaders>, payload: &Bytes, key: Option<String>) -> TriggeredCall {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(X_CONNECTOR, CONNECTOR);
    if let Ok(topic) = HeaderValue::from_bytes(subject.as_bytes()) {
        headers.insert(X_TOPIC, topic);
    }
    let kind = of.and_then(|of| of.get("Content-Type")).and_then(|kind| kind.as_str().parse().ok());
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, kind);
    }
    // In memory of its own: it came in a buffer with others.
    TriggeredCall { headers, body: payload.to_vec().into(), idempotency_key: key, ..TriggeredCall::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_and_subject_has_a_name_of_its_own_that_nats_takes() {
        let [f, g] = ["f", "f.blue"].map(|name| FunctionKey::from_route(name).unwrap());
        let names = [durable("roost", &f, "a.>"), durable("roost", &g, "a.>"), durable("roost", &f, "a.*")];
        assert_eq!(BTreeSet::from(names.clone()).len(), 3);
        assert!(
            names[0].starts_with("roost_openfaas-fn_f_")
                && names[0].len() == "roost_openfaas-fn_f_".len() + 16
        );
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)), "{name}");
        }
    }

    #[test]
    fn a_message_is_a_call_with_its_subject_and_its_type() {
        let mut of = NatsHeaders::new();
        of.insert("Content-Type", "text/x");
        of.insert("Host", "elsewhere");
        let call = call("a.b", Some(&of), &Bytes::from_static(b"hi"), None);
        let headers: Vec<_> =
            call.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(
            headers,
            [("x-connector", &b"nats-connector"[..]), ("x-topic", b"a.b"), ("content-type", b"text/x")]
        );
        assert_eq!(call.body, "hi");
    }
}
