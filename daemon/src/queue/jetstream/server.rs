//! What there is at the server.
//!
//! Owns the stream of calls and the buckets beside it, how long things stay there, and how they are read and written. A
//! message is a call: the header `Roost-Call` has all but the body, which is the payload, or an object where it is large.
//!
//! ```text
//!   NAME-calls     the calls, until they are over        NAME-state    how far a call is that had a turn
//!   NAME-bodies    bodies that are no messages           NAME-keys     idempotency keys → ids
//!   NAME-answers   those of answers that are kept        NAME-results  answers that are kept
//! ```

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::kv::Store as Bucket;
use async_nats::jetstream::object_store::{GetErrorKind, ObjectStore};
use async_nats::jetstream::stream::{
    Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType, Stream,
};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use roost_proxy::function::FunctionKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use super::super::Settings;
use super::super::invocation::{Answer, Invocation};
use super::super::spool::{Kept, Spool};
use super::super::wishes::LONGEST_RESULT;
use super::names::{Lane, Names, consumer};
use crate::nodes;

/// Which header of a message has the call.
pub(super) const CALL: &str = "Roost-Call";

/// The largest body that is in its message, in bytes; it may be less where the server takes no message so large.
const INLINE: u64 = 256 << 10;

/// What a message has besides its body at most, in bytes.
const HEAD: usize = 64 << 10;

/// A call that nobody deals with for so long is gone, and what is left of others with it: longer than one may be delayed.
const KEPT_FOR: Duration = Duration::from_hours(400 * 24);

/// A call that is not over and of which nothing was heard for so long is given to another node. It is told of more often.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);

/// How long the server may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a body may take on its way, either way: less than the server waits for a call.
pub(super) const TRANSFER: Duration = Duration::from_secs(25);

/// A connection to the server, and what is there.
pub(super) struct Server {
    pub(super) names: Names,
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) calls: Stream,
    pub(super) state: Bucket,
    pub(super) keys: Bucket,
    pub(super) results: Bucket,
    pub(super) bodies: ObjectStore,
    pub(super) answers: ObjectStore,
    /// Lanes that have a consumer, as far as it is known here.
    lanes: Mutex<HashSet<(FunctionKey, Lane)>>,
    /// The largest body that is in its message.
    inline: u64,
}

/// A message's header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// The object that has the body, and its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<(String, u64)>,
    #[serde(flatten)]
    pub(super) call: Invocation,
}

/// How far a call is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Attempts that have ended.
    pub(super) attempts: u32,
    /// Not before, in milliseconds of Unix time.
    pub(super) due: i64,
    /// Its answer, while its callback is sent again, and how often it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<(Answer, u32)>,
    /// The object that has the answer's body, if it is not behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<(String, u64)>,
}

/// An answer that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ResultHead {
    pub(super) answer: Answer,
    /// Until when, in milliseconds of Unix time.
    pub(super) until: i64,
    /// It has a body: behind this, or as an object.
    pub(super) has_body: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<(String, u64)>,
}

/// Why the server did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// The headers of a call have so many bytes too many.
    #[error("its headers are {0} bytes too long")]
    TooLong(usize),
    /// What was asked for is not there.
    #[error("{0}")]
    Gone(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What went wrong, with what is behind it.
pub(super) fn failed(error: impl std::error::Error) -> Failed {
    let text = match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    let full = ["maximum messages exceeded", "maximum bytes exceeded", "insufficient"];
    if full.iter().any(|full| text.contains(full)) { Failed::Full(text) } else { Failed::Other(text) }
}

/// What comes of something within a time.
pub(super) async fn within<T>(
    limit: Duration,
    what: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let late = |_| Failed::Other("the server does not answer".to_owned());
    tokio::time::timeout(limit, what).await.map_err(late)?
}

impl Server {
    /// Has everything there that is needed.
    pub(super) async fn open(
        client: Client,
        nodes: &nodes::Settings,
        settings: &Settings,
    ) -> Result<Self, Failed> {
        let names = Names(nodes.name.clone());
        let mut context = async_nats::jetstream::new(client.clone());
        context.set_timeout(PATIENCE);
        let calls = StreamConfig {
            name: names.calls(),
            subjects: vec![names.subjects()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: i64::try_from(settings.max_calls).unwrap_or(i64::MAX),
            max_bytes: i64::try_from(settings.max_size).unwrap_or(i64::MAX),
            max_age: KEPT_FOR,
            duplicate_window: settings.idempotency.clamp(Duration::from_secs(1), KEPT_FOR),
            num_replicas: nodes.replicas,
            ..StreamConfig::default()
        };
        context.create_or_update_stream(calls).await.map_err(failed)?;
        let calls = context.get_stream(names.calls()).await.map_err(failed)?;
        let bucket = async |of: &str, max_age: Duration| {
            let bucket = names.bucket(of);
            let mut config = StreamConfig { max_age, num_replicas: nodes.replicas, ..bucket_config(&bucket) };
            // How far a call is must not be read from a copy that is behind.
            config.allow_direct = of != "state";
            context.create_or_update_stream(config).await.map_err(failed)?;
            context.get_key_value(bucket).await.map_err(failed)
        };
        let (state, keys) =
            (bucket("state", KEPT_FOR).await?, bucket("keys", settings.idempotency.max(PATIENCE)).await?);
        let results = bucket("results", LONGEST_RESULT).await?;
        let objects = async |of: &str, max_age: Duration, max_size: u64| {
            let config = object_config(&names.bucket(of), max_age, max_size, nodes.replicas);
            context.create_or_update_stream(config).await.map_err(failed)?;
            context.get_object_store(names.bucket(of)).await.map_err(failed)
        };
        let bodies = objects("bodies", KEPT_FOR, settings.max_size).await?;
        let answers = objects("answers", LONGEST_RESULT, settings.max_size / 4).await?;
        let largest = client.server_info().max_payload.saturating_sub(HEAD) as u64;
        let lanes = Mutex::default();
        Ok(Self {
            names,
            client,
            context,
            calls,
            state,
            keys,
            results,
            bodies,
            answers,
            lanes,
            inline: INLINE.min(largest),
        })
    }

    /// The consumer of a lane, which is made if there is none.
    pub(super) async fn consumer(&self, function: &FunctionKey, lane: Lane) -> Result<PullConsumer, Failed> {
        let config = ConsumerConfig {
            durable_name: Some(consumer(function, lane)),
            filter_subject: self.names.lane(function, lane),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // One that has an order waits for the one before it, whatever becomes of that.
            max_ack_pending: if matches!(lane, Lane::Ordered(_)) { 1 } else { -1 },
            ..ConsumerConfig::default()
        };
        let made = self.calls.get_or_create_consumer(&consumer(function, lane), config).await;
        let made = made.map_err(failed)?;
        self.lock_lanes().insert((function.clone(), lane));
        Ok(made)
    }

    /// Is there a connection? What is said without one is said when there is one again, whenever that is.
    pub(super) fn connected(&self) -> Result<(), Failed> {
        let connected = self.client.connection_state() == State::Connected;
        if connected { Ok(()) } else { Err(Failed::Other("there is no connection to the server".to_owned())) }
    }

    /// Is it known that this lane has a consumer?
    pub(super) fn has(&self, function: &FunctionKey, lane: Lane) -> bool {
        self.lock_lanes().contains(&(function.clone(), lane))
    }

    fn lock_lanes(&self) -> std::sync::MutexGuard<'_, HashSet<(FunctionKey, Lane)>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body as bytes, or where it is too large for that, as an object.
    pub(super) async fn put_body(
        &self,
        objects: &ObjectStore,
        spool: &Spool,
        body: &Kept,
    ) -> Result<(Bytes, Option<(String, u64)>), Failed> {
        let unreadable = |error: io::Error| Failed::Other(format!("its body cannot be read: {error}"));
        let length = body.length();
        if length <= self.inline {
            return Ok((spool.read_all(body).await.map_err(unreadable)?, None));
        }
        let name = uuid::Uuid::new_v4().to_string();
        match body {
            Kept::Inline(bytes) => {
                objects.put(name.as_str(), &mut &bytes[..]).await.map_err(failed)?;
            }
            Kept::File(named) => {
                let file = spool.open_file(named).await.map_err(unreadable)?;
                let data = http_body_util::BodyDataStream::new(file);
                objects.put(name.as_str(), &mut StreamReader::new(data)).await.map_err(failed)?;
            }
        }
        Ok((Bytes::new(), Some((name, length))))
    }

    /// A body that is an object, as a file here.
    pub(super) async fn fetch(&self, spool: &Spool, name: &str) -> Result<Kept, Failed> {
        within(TRANSFER, async {
            let unwritable = |error: io::Error| Failed::Other(format!("its body cannot be written: {error}"));
            let mut object = self.bodies.get(name).await.map_err(|error| match error.kind() {
                GetErrorKind::NotFound => Failed::Gone(format!("its body is gone: {error}")),
                _ => failed(error),
            })?;
            let mut writer = spool.writer();
            let mut piece = vec![0; 64 << 10];
            loop {
                let read = object.read(&mut piece).await.map_err(failed)?;
                if read == 0 {
                    break;
                }
                writer.write(&piece[..read]).await.map_err(unwritable)?;
            }
            writer.finish().await.map_err(unwritable)
        })
        .await
    }

    /// An object that is not needed any more.
    pub(super) async fn discard(&self, object: Option<&(String, u64)>) {
        let Some((name, _)) = object else { return };
        let deleted = within(PATIENCE, async { self.bodies.delete(name).await.map_err(failed) });
        if let Err(why) = deleted.await {
            tracing::debug!("{name}: a body is left until it is old: {why}");
        }
    }

    /// How far a call is, and the bytes behind that.
    pub(super) async fn progress(&self, number: u64) -> Result<Option<(Progress, Bytes)>, Failed> {
        let value =
            within(PATIENCE, async { self.state.get(number.to_string()).await.map_err(failed) }).await?;
        value.map(|value| parse(&value)).transpose()
    }

    pub(super) async fn put_progress(
        &self,
        number: u64,
        progress: &Progress,
        body: &[u8],
    ) -> Result<(), Failed> {
        let value = frame(progress, body)?;
        within(PATIENCE, async { self.state.put(number.to_string(), value).await.map(drop).map_err(failed) })
            .await
    }

    pub(super) async fn forget_progress(&self, number: u64) {
        // Not by the bucket's own way, which leaves a mark of each.
        let subject = format!("$KV.{}.{number}", self.names.bucket("state"));
        let purged = async { self.state.stream.purge().filter(subject).await.map_err(failed) };
        if let Err(why) = within(PATIENCE, purged).await {
            tracing::debug!("{number}: what is known of a call that is over is left until it is old: {why}");
        }
    }
}

/// The stream that a bucket of keys and values is. Made by hand, as the library asks the server about the account first, and
/// does not understand what one of 2.9 answers.
fn bucket_config(bucket: &str) -> StreamConfig {
    StreamConfig {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        storage: StorageType::File,
        ..StreamConfig::default()
    }
}

/// The stream that a bucket of objects is. What is there already gets the limits, too.
fn object_config(bucket: &str, max_age: Duration, max_size: u64, replicas: usize) -> StreamConfig {
    StreamConfig {
        name: format!("OBJ_{bucket}"),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        discard: DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        storage: StorageType::File,
        max_age,
        max_bytes: i64::try_from(max_size).unwrap_or(i64::MAX),
        num_replicas: replicas,
        ..StreamConfig::default()
    }
}

/// The call of a message.
pub(super) fn head_of(headers: Option<&HeaderMap>) -> Result<Head, Failed> {
    let text = headers.and_then(|headers| headers.get(CALL));
    let text = text.ok_or_else(|| Failed::Other("it is none of ours".to_owned()))?;
    serde_json::from_str(text.as_str()).map_err(failed)
}

/// A message's header.
pub(super) fn headers(head: &Head, message_id: Option<&str>) -> Result<HeaderMap, Failed> {
    let text = serde_json::to_string(head).map_err(failed)?;
    if text.len() > HEAD - 1024 {
        return Err(Failed::TooLong(text.len() - HEAD + 1024));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CALL, text);
    if let Some(id) = message_id {
        headers.insert("Nats-Msg-Id", id);
    }
    Ok(headers)
}

/// A head, a line's end, and the bytes.
pub(super) fn frame(head: &impl Serialize, body: &[u8]) -> Result<Bytes, Failed> {
    let mut value = serde_json::to_vec(head).map_err(failed)?;
    value.push(b'\n');
    value.extend_from_slice(body);
    Ok(value.into())
}

/// What [`frame`] has made.
pub(super) fn parse<T: DeserializeOwned>(value: &Bytes) -> Result<(T, Bytes), Failed> {
    let end = value.iter().position(|byte| *byte == b'\n').unwrap_or(value.len());
    let head = serde_json::from_slice(&value[..end]).map_err(failed)?;
    Ok((head, value.slice(value.len().min(end + 1)..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_parsed_whatever_bytes_are_behind_it() {
        for body in [&b""[..], b"\n", b"a\nb\0"] {
            let progress = Progress { attempts: 3, due: 5, answer: None, object: Some(("x".into(), 9)) };
            let (parsed, rest): (Progress, Bytes) = parse(&frame(&progress, body).unwrap()).unwrap();
            assert_eq!((parsed.attempts, parsed.due, parsed.object), (3, 5, progress.object));
            assert_eq!(rest, body);
        }
        assert!(parse::<Progress>(&Bytes::from_static(b"nothing")).is_err());
    }
}
