//! Calls that the host makes itself: by the clock, by messages, by files, and those that were dead letters.
//!
//! Owns how they become calls of the queue. They are limited as all others are.

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request};
use roost_proxy::PRODUCT;
use roost_proxy::function::FunctionKey;

use super::intake::Refusal;
use super::invocation::{Accepted, Invocation};
use super::keeper::Order;
use super::wishes::Wishes;
use super::{Place, Queue, X_CALL_ID, keeper};
use crate::triggers::{Deliver, Delivered, Refused, TriggeredCall};

impl Deliver for Queue {
    async fn deliver(&self, function: &FunctionKey, call: TriggeredCall) -> Result<Delivered, Refused> {
        if call.body.len() as u64 > self.0.settings.max_body {
            return Err(Refused::TooLarge(self.0.settings.max_body));
        }
        let call_id = uuid::Uuid::new_v4().to_string();
        let id = HeaderValue::from_str(&call_id).expect("an id is a header");
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::POST;
        parts.headers = call.headers;
        parts.headers.insert(X_CALL_ID, id.clone());
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        let TriggeredCall { idempotency_key, order_key, body, .. } = call;
        let wishes = Wishes { idempotency_key, order_key, ..Wishes::default() };
        let made = Invocation::new(function.clone(), function.to_string(), &id, &parts, None, wishes);
        match self.take_over(made, &body).await? {
            Accepted::New => Ok(Delivered { call_id }),
            Accepted::Again(before) => Ok(Delivered { call_id: before }),
        }
    }

    async fn is_open(&self, function: &FunctionKey, call_id: &str) -> bool {
        if self.0.settings.engine == Place::Local {
            return self.0.board.lines().functions_of(call_id).contains(function);
        }
        let (id, functions) = (call_id.to_owned(), vec![function.clone()]);
        // One of which nothing is known may go on.
        !matches!(self.ask(|reply| Order::Result { id, functions, reply }).await, Ok(None | Some(Some(_))))
    }
}

impl Queue {
    /// Has a call that was a dead letter made once more.
    ///
    /// # Errors
    /// When it cannot be taken over.
    pub async fn make_again(&self, call: Invocation, body: Bytes) -> Result<(), Refusal> {
        self.take_over(call, &body).await.map(drop)
    }

    async fn take_over(&self, call: Invocation, body: &[u8]) -> Result<Accepted, Refusal> {
        let mut writer = self.0.spool.writer();
        writer.write(body).await.map_err(|error| keeper::disk_refusal(&error))?;
        let body = writer.finish().await.map_err(|error| keeper::disk_refusal(&error))?;
        self.append(call, body).await
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Gone(_) => Self::Gone,
            Refusal::TooLarge(limit) => Self::TooLarge(limit),
            refusal => Self::Later(refusal.to_string()),
        }
    }
}
