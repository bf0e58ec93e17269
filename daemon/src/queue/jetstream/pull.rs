//! Calls that this node takes from a lane.
//!
//! Owns one task a lane. It asks for as many as there are permits; each call that is held has one of them. What is not due
//! is given back at once, for as long as it is not.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message, message::Acker};
use futures_util::StreamExt;
use roost_proxy::function::FunctionKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::super::keeper::now;
use super::super::spool::{Kept, Spool};
use super::super::store::Loaded;
use super::News;
use super::names::Lane;
use super::server::{CALL, Failed, Head, Server, failed};
use crate::pauses::Pauses;

/// How long one question for calls stands.
const STANDS: Duration = Duration::from_secs(20);

/// The pauses between questions that fail.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// When a call comes again that could not be read whole.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How many calls of a lane one question is for, at most.
pub(super) const MOST: usize = 256;

/// A lane of a function.
pub(super) struct Puller {
    pub(super) server: Arc<Server>,
    pub(super) spool: Spool,
    pub(super) function: FunctionKey,
    pub(super) lane: Lane,
    pub(super) room: Arc<Semaphore>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) stopped: CancellationToken,
}

/// A call that this node holds.
pub(super) struct Pulled {
    /// Its number in the stream.
    pub(super) number: u64,
    pub(super) function: FunctionKey,
    pub(super) loaded: Loaded,
    pub(super) attempts: u32,
    /// It was at a node that is gone.
    pub(super) redelivered: bool,
    pub(super) held: Held,
}

/// What is needed to end it.
pub(super) struct Held {
    pub(super) acker: Acker,
    /// Objects of the body and the answer.
    pub(super) objects: [Option<(String, u64)>; 2],
    /// Something is known of it beside the stream.
    pub(super) has_progress: bool,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Puller {
    /// Takes calls until it is stopped.
    pub(super) async fn run(self) {
        let mut pauses = Pauses::new(PAUSES);
        while !self.stopped.is_cancelled() {
            match self.round().await {
                Ok(()) => pauses = Pauses::new(PAUSES),
                Err(why) => {
                    debug!(function = %self.function, "{}: {}: no calls: {why}", self.function, self.lane);
                    pauses.wait().await;
                }
            }
        }
    }

    async fn round(&self) -> Result<(), Failed> {
        let consumer = self.server.consumer(&self.function, self.lane).await?;
        loop {
            let mut places = tokio::select! {
                () = self.stopped.cancelled() => return Ok(()),
                place = Arc::clone(&self.room).acquire_owned() => {
                    place.map_err(|_| Failed::Other("the lane is closed".to_owned()))?
                }
            };
            let more = self.room.available_permits().min(MOST - 1);
            if more > 0
                && let Ok(others) = Arc::clone(&self.room).try_acquire_many_owned(more as u32)
            {
                places.merge(others);
            }
            let batch = consumer.batch().max_messages(places.num_permits()).expires(STANDS);
            let mut messages = batch.messages().await.map_err(failed)?;
            loop {
                let message = tokio::select! {
                    () = self.stopped.cancelled() => return Ok(()),
                    message = messages.next() => message,
                };
                let Some(message) = message else { break };
                let message = message.map_err(|error| Failed::Other(error.to_string()))?;
                let Some(place) = places.split(1) else { break };
                self.take(message, place).await?;
            }
        }
    }

    async fn take(&self, message: Message, place: OwnedSemaphorePermit) -> Result<(), Failed> {
        let info = message.info().map_err(|error| Failed::Other(error.to_string()))?;
        let (number, again) = (info.stream_sequence, info.delivered > 1);
        let (message, acker) = message.split();
        let head = message.headers.as_ref().and_then(|headers| headers.get(CALL));
        let head = head
            .ok_or_else(|| "it is none of ours".to_owned())
            .and_then(|head| serde_json::from_str::<Head>(head.as_str()).map_err(|error| error.to_string()));
        let head = match head {
            Ok(head) => head,
            Err(why) => {
                error!(function = %self.function, "{}: queued call {number} is lost: {why}", self.function);
                return nak(&acker, AckKind::Term).await;
            }
        };
        match self.read(number, head, message.payload, again).await {
            Ok(Read::Now(pulled)) => {
                let Found { loaded, attempts, redelivered, objects, has_progress } = *pulled;
                let held = Held { acker, objects, has_progress, _place: place };
                let function = self.function.clone();
                let pulled = Pulled { number, function, loaded, attempts, redelivered, held };
                self.news
                    .send(News::Pulled(Box::new(pulled)))
                    .await
                    .map_err(|_| Failed::Other("the queue is kept no more".to_owned()))
            }
            Ok(Read::Later(pause)) => nak(&acker, AckKind::Nak(Some(pause))).await,
            Err(why) => {
                warn!(function = %self.function, "{}: a queued call cannot be read, and is again: {why}", self.function);
                nak(&acker, AckKind::Nak(Some(READ_AGAIN))).await
            }
        }
    }

    async fn read(
        &self,
        number: u64,
        head: Head,
        payload: bytes::Bytes,
        again: bool,
    ) -> Result<Read, Failed> {
        let known = if again { self.server.progress(number).await? } else { None };
        let delayed =
            head.call.wishes.delay.map_or(0, |delay| head.call.accepted.saturating_add_unsigned(delay));
        let due = known.as_ref().map_or(delayed, |(progress, _)| progress.due);
        let left = due.saturating_sub(now());
        if left > 0 {
            return Ok(Read::Later(Duration::from_millis(left.unsigned_abs())));
        }
        let Head { body: object, call } = head;
        let body = match &object {
            Some((name, _)) => self.server.fetch(&self.spool, name).await?,
            // In memory of its own: it came in a buffer with others.
            None => Kept::Inline(payload.to_vec().into()),
        };
        let redelivered = again && known.is_none() && delayed == 0;
        let (mut attempts, mut answer, mut answer_object, has_progress) = (0, None, None, known.is_some());
        if let Some((progress, rest)) = known {
            attempts = progress.attempts;
            answer_object = progress.object;
            if let Some((head, times)) = progress.answer {
                let kept = match &answer_object {
                    Some((name, _)) => self.server.fetch(&self.spool, name).await?,
                    None => Kept::Inline(rest),
                };
                answer = Some((head, kept, times));
            }
        }
        let loaded = Loaded { call, body, answer };
        let objects = [object, answer_object];
        Ok(Read::Now(Box::new(Found { loaded, attempts, redelivered, objects, has_progress })))
    }
}

enum Read {
    Now(Box<Found>),
    Later(Duration),
}

/// What a message, and what is kept beside it, say of a call.
struct Found {
    loaded: Loaded,
    attempts: u32,
    redelivered: bool,
    objects: [Option<(String, u64)>; 2],
    has_progress: bool,
}

/// Gives a call back, or ends it, without waiting for the server's word.
pub(super) async fn nak(acker: &Acker, kind: AckKind) -> Result<(), Failed> {
    acker.ack_with(kind).await.map_err(|error| Failed::Other(error.to_string()))
}
