//! Calls that are taken over: published, and there once the server says so.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use tracing::warn;

use super::super::intake::Refusal;
use super::super::invocation::{Accepted, Invocation};
use super::super::spool::{Kept, Spool};
use super::names::{Lane, consumer, idempotency};
use super::server::{Failed, Head, Server, failed, headers};

/// How often, and how long apart, it is looked for the id of a call that another node has just taken over.
const LOOKS: (u32, Duration) = (10, Duration::from_millis(200));

impl Server {
    /// Takes a call over, or says which one with its key was.
    pub(super) async fn append(
        &self,
        spool: &Spool,
        call: &Invocation,
        body: &Kept,
    ) -> Result<Accepted, Refusal> {
        match self.publish(spool, call, body).await {
            Ok(accepted) => Ok(accepted),
            Err(Failed::Full(_)) => Err(Refusal::Full),
            Err(Failed::Other(why)) => {
                warn!(function = %call.function, "{}: a call is refused: {why}", call.function);
                Err(Refusal::Disk)
            }
        }
    }

    async fn publish(&self, spool: &Spool, call: &Invocation, body: &Kept) -> Result<Accepted, Failed> {
        let key = call.wishes.idempotency_key.as_deref().map(|key| idempotency(&call.function, key));
        if let Some(key) = &key
            && let Some(id) = self.id_of(key).await?
        {
            return Ok(Accepted::Again(id));
        }
        let lane = Lane::of(&call.wishes);
        if !self.has(&call.function, lane) {
            self.consumer(&call.function, lane).await?;
            let told =
                self.client.publish(self.names.told("lane"), consumer(&call.function, lane).into()).await;
            told.map_err(failed)?;
        }
        let (payload, object) = self.put_body(spool, body).await?;
        let subject = self.names.subject(&call.function, lane, &call.id);
        let head = Head { body: object, call: call.clone() };
        let message = PublishMessage::build().headers(headers(&head, key.as_deref())?).payload(payload);
        let published = async {
            self.context.send_publish(subject, message).await.map_err(failed)?.await.map_err(failed)
        };
        let published = match published.await {
            Ok(published) => published,
            Err(why) => {
                self.discard(head.body.as_ref()).await;
                return Err(why);
            }
        };
        let Some(key) = key else { return Ok(Accepted::New) };
        if !published.duplicate {
            if let Err(why) = self.keys.put(&key, call.id.clone().into()).await {
                warn!(function = %call.function, "{}: an idempotency key is not kept: {why}", call.function);
            }
            return Ok(Accepted::New);
        }
        self.discard(head.body.as_ref()).await;
        for _ in 0..LOOKS.0 {
            if let Some(id) = self.id_of(&key).await? {
                return Ok(Accepted::Again(id));
            }
            tokio::time::sleep(LOOKS.1).await;
        }
        Err(Failed::Other("another call with its idempotency key is taken over at this moment".to_owned()))
    }

    async fn id_of(&self, key: &str) -> Result<Option<String>, Failed> {
        let id = self.keys.get(key).await.map_err(failed)?;
        Ok(id.map(|id| String::from_utf8_lossy(&id).into_owned()))
    }
}
