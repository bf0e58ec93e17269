//! Calls that this node takes from a lane.
//!
//! Owns one task a lane. It asks for as many as there are permits; each call that is held has one of them. What is not due
//! is given back at once, for as long as it is not.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt;
use roost_proxy::function::FunctionKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::super::keeper::now;
use super::super::spool::{Kept, Spool};
use super::super::store::Loaded;
use super::News;
use super::names::Lane;
use super::server::{ACK_WAIT, Failed, Head, PATIENCE, Server, failed, head_of, within};
use crate::pauses::Pauses;

/// How long one question for calls stands.
const STANDS: Duration = Duration::from_secs(20);

/// The pauses between questions that fail.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// When a call comes again that could not be read whole.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How often the body of a call may be missing before it is lost.
const LOOKS: i64 = 6;

/// How long it is looked for messages that have come when no more are wanted.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// No call comes again sooner: it would find itself still held.
const LEAST: Duration = Duration::from_millis(200);

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
        let this = Arc::new(self);
        let mut pauses = Pauses::new(PAUSES);
        while !this.stopped.is_cancelled() {
            match Arc::clone(&this).round().await {
                Ok(()) => pauses = Pauses::new(PAUSES),
                Err(why) => {
                    debug!(function = %this.function, "{}: {}: no calls: {why}", this.function, this.lane);
                    pauses.wait().await;
                }
            }
        }
    }

    async fn round(self: Arc<Self>) -> Result<(), Failed> {
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
                    () = self.stopped.cancelled() => break,
                    message = messages.next() => message,
                };
                let Some(message) = message else { break };
                let message = message.map_err(|error| Failed::Other(error.to_string()))?;
                let Some(place) = places.split(1) else { break };
                // Each by itself: one with a large body is no reason for others to wait until they are somebody else's.
                let this = Arc::clone(&self);
                tokio::spawn(async move {
                    if let Err(why) = this.take(message, place).await {
                        debug!(function = %this.function, "{}: a call comes again: {why}", this.function);
                    }
                });
            }
            // What has come and will not be looked at is for others.
            while self.stopped.is_cancelled()
                && let Ok(Some(Ok(message))) = timeout(LAST_LOOK, messages.next()).await
            {
                let (_, acker) = message.split();
                nak(&self.server, &acker, AckKind::Nak(None)).await?;
            }
        }
    }

    async fn take(&self, message: Message, place: OwnedSemaphorePermit) -> Result<(), Failed> {
        let info = message.info().map_err(|error| Failed::Other(error.to_string()))?;
        let (number, delivered) = (info.stream_sequence, info.delivered);
        let (message, acker) = message.split();
        let head = match head_of(message.headers.as_ref()) {
            Ok(head) => head,
            Err(why) => {
                error!(function = %self.function, "{}: queued call {number} is lost: {why}", self.function);
                return nak(&self.server, &acker, AckKind::Term).await;
            }
        };
        if matches!(self.lane, Lane::Priority(_))
            && head.call.wishes.order_key.is_some()
            && due(&head) <= now()
        {
            within(PATIENCE * 2, self.server.move_on(number, &head, message.payload)).await?;
            return nak(&self.server, &acker, AckKind::Ack).await;
        }
        match within(ACK_WAIT, self.read(number, head, message.payload, delivered)).await {
            Ok(Read::Now(pulled)) => {
                let Found { loaded, attempts, objects, has_progress } = *pulled;
                let held = Held { acker, objects, has_progress, _place: place };
                let function = self.function.clone();
                let pulled = Pulled { number, function, loaded, attempts, held };
                self.news
                    .send(News::Pulled(Box::new(pulled)))
                    .await
                    .map_err(|_| Failed::Other("the queue is kept no more".to_owned()))
            }
            Ok(Read::Later(pause)) => nak(&self.server, &acker, AckKind::Nak(Some(pause))).await,
            Err(why) => {
                warn!(function = %self.function, "{}: a queued call cannot be read, and is again: {why}", self.function);
                nak(&self.server, &acker, AckKind::Nak(Some(READ_AGAIN))).await
            }
        }
    }

    async fn read(
        &self,
        number: u64,
        head: Head,
        payload: bytes::Bytes,
        delivered: i64,
    ) -> Result<Read, Failed> {
        let known = if delivered > 1 { self.server.progress(number).await? } else { None };
        let due = known.as_ref().map_or_else(|| due(&head), |(progress, _)| progress.due);
        let left = due.saturating_sub(now());
        if left > 0 {
            return Ok(Read::Later(Duration::from_millis(left.unsigned_abs())));
        }
        let Head { body: object, call } = head;
        let body = match &object {
            Some((name, length)) => match self.server.fetch(&self.spool, name).await {
                // It is a dead letter, which says so.
                Err(Failed::Gone(_)) if delivered > LOOKS => Spool::lost(*length),
                body => body?,
            },
            // In memory of its own: it came in a buffer with others.
            None => Kept::Inline(payload.to_vec().into()),
        };
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
        Ok(Read::Now(Box::new(Found { loaded, attempts, objects, has_progress })))
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
    objects: [Option<(String, u64)>; 2],
    has_progress: bool,
}

/// When a call is due, if it never had a turn.
fn due(head: &Head) -> i64 {
    head.call.wishes.delay.map_or(0, |delay| head.call.accepted.saturating_add_unsigned(delay))
}

/// Gives a call back, or ends it, without waiting for the server's word. Without a connection nothing is said: it would be
/// said when there is one again, and somebody else may be at the call then.
pub(super) async fn nak(server: &Server, acker: &Acker, kind: AckKind) -> Result<(), Failed> {
    server.connected()?;
    let kind = if let AckKind::Nak(pause) = kind { AckKind::Nak(pause.max(Some(LEAST))) } else { kind };
    within(PATIENCE, async { acker.ack_with(kind).await.map_err(|error| Failed::Other(error.to_string())) })
        .await
}
