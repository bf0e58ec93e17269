//! Calls that are taken over: published, and there once the server says so.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use roost_proxy::function::FunctionKey;
use tracing::warn;

use super::super::intake::Refusal;
use super::super::invocation::{Accepted, Invocation};
use super::super::spool::{Kept, Spool};
use super::names::{Lane, consumer, idempotency};
use super::server::{Failed, Head, Server, failed, head_of, headers, within};

/// How long it may take until a call is taken over.
const TAKEN: Duration = Duration::from_secs(60);

impl Server {
    /// Takes a call over, or says which one with its key was.
    pub(super) async fn append(
        &self,
        spool: &Spool,
        call: &Invocation,
        body: &Kept,
    ) -> Result<Accepted, Refusal> {
        match within(TAKEN, self.publish(spool, call, body)).await {
            Ok(accepted) => Ok(accepted),
            Err(Failed::Full(_)) => Err(Refusal::Full),
            Err(why @ Failed::TooLong(_)) => Err(Refusal::Wish(why.to_string())),
            Err(why) => {
                warn!(function = %call.function, "{}: a call is refused: {why}", call.function);
                Err(Refusal::Disk)
            }
        }
    }

    async fn publish(&self, spool: &Spool, call: &Invocation, body: &Kept) -> Result<Accepted, Failed> {
        self.connected()?;
        let key = call.wishes.idempotency_key.as_deref().map(|key| idempotency(&call.function, key));
        if let Some(key) = &key
            && let Some(id) = self.id_of(key).await?
        {
            return Ok(Accepted::Again(id));
        }
        let lane = Lane::of(&call.wishes);
        self.open_lane(&call.function, lane).await?;
        let (payload, object) = self.put_body(&self.bodies, spool, body).await?;
        let subject = self.names.subject(&call.function, lane, &call.id);
        let head = Head { body: object, call: call.clone() };
        let message = PublishMessage::build().headers(headers(&head, key.as_deref())?).payload(payload);
        let sent = self.context.send_publish(subject, message).await.map_err(failed)?;
        let published = match sent.await {
            Ok(published) => published,
            Err(error) => {
                // Where nobody knows whether the server has it, it may need its body.
                if !matches!(error.kind(), PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe) {
                    self.discard(head.body.as_ref()).await;
                }
                return Err(failed(error));
            }
        };
        let Some(key) = key else { return Ok(Accepted::New) };
        let mut accepted = Accepted::New;
        if published.duplicate {
            self.discard(head.body.as_ref()).await;
            let before = self.calls.get_raw_message(published.sequence).await.ok();
            let before = before.and_then(|message| head_of(Some(&message.headers)).ok());
            accepted = Accepted::Again(before.map_or_else(|| call.id.clone(), |head| head.call.id));
        }
        let id = if let Accepted::Again(id) = &accepted { id } else { &call.id };
        if let Err(why) = self.keys.put(&key, id.clone().into()).await {
            warn!(function = %call.function, "{}: an idempotency key is not kept: {why}", call.function);
        }
        Ok(accepted)
    }

    /// A lane has a consumer, and other nodes know of it.
    async fn open_lane(&self, function: &FunctionKey, lane: Lane) -> Result<(), Failed> {
        if self.has(function, lane) {
            return Ok(());
        }
        self.consumer(function, lane).await?;
        let told = self.client.publish(self.names.told("lane"), consumer(function, lane).into());
        told.await.map_err(failed)
    }

    /// Brings a call that has waited for its time into the lane of its key. It may be there already.
    pub(super) async fn move_on(&self, number: u64, head: &Head, payload: Bytes) -> Result<(), Failed> {
        let call = &head.call;
        let lane = Lane::when_due(&call.wishes);
        self.open_lane(&call.function, lane).await?;
        let subject = self.names.subject(&call.function, lane, &call.id);
        let once = format!("due-{}-{number}", self.names.0);
        let message = PublishMessage::build().headers(headers(head, Some(&once))?).payload(payload);
        let sent = self.context.send_publish(subject, message).await.map_err(failed)?;
        sent.await.map(drop).map_err(failed)
    }

    async fn id_of(&self, key: &str) -> Result<Option<String>, Failed> {
        let id = self.keys.get(key).await.map_err(failed)?;
        Ok(id.map(|id| String::from_utf8_lossy(&id).into_owned()))
    }
}
