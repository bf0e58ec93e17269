//! Calls that the host makes itself: by the clock, by messages, by files.
//!
//! Owns how they become calls of the queue. They are limited as all others are.

use std::time::Instant;

use http::{Method, Request, Uri};
use roost_proxy::function::FunctionKey;

use super::intake::{Refusal, X_CALL_ID, owned, weight};
use super::{Invocation, Queue};
use crate::triggers::{Deliver, Delivered, Refused, TriggeredCall};

impl Deliver for Queue {
    async fn deliver(&self, function: &FunctionKey, call: TriggeredCall) -> Result<Delivered, Refused> {
        let size = call.body.len() as u64;
        if size > self.0.settings.max_body {
            return Err(Refused::TooLarge(self.0.settings.max_body));
        }
        let call_id = uuid::Uuid::new_v4().to_string();
        let id = call_id.parse().expect("an id is a header");
        let mut request = Request::new(call.body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/");
        *request.headers_mut() = owned(&call.headers, &id);
        let mut memory = self.0.memory.take(function);
        memory.add(weight(request.headers()) + size)?;
        let call = Invocation {
            function: function.clone(),
            name: function.to_string(),
            id: request.headers()[&X_CALL_ID].clone(),
            request,
            callback: None,
            accepted: Instant::now(),
            _memory: memory.held()?,
        };
        self.submit(call)?;
        Ok(Delivered { call_id })
    }

    fn is_open(&self, function: &FunctionKey, call_id: &str) -> bool {
        self.0.lines().functions_of(call_id).contains(function)
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
