//! Calls that are made later: what the proxy hands over, and to whom.
//!
//! Owns the form of the handing over. Never keeps a call.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::Error;
use crate::body::ResponseBody;
use crate::client_body::ClientBody;
use crate::function::FunctionKey;

/// Something that is still to come.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer that is still to come.
pub type Answering<'a> = Soon<'a, Response<ResponseBody>>;

/// A call that a client does not wait for. Everything that is asked of callers has been asked.
#[derive(Debug)]
pub struct Deferred {
    /// The function, which there was a moment ago.
    pub function: FunctionKey,
    /// The function as the client named it.
    pub name: String,
    /// What the call is known by: the client's id or a new one. Ids of clients need not be unique.
    pub call_id: HeaderValue,
    /// How long the client may leave its body without a byte.
    pub idle: Option<Duration>,
    /// The largest body that the function takes, in bytes. One of known length was measured.
    pub max_body: Option<u64>,
    /// The request as it is for the function, but for what a [`Caller`](crate::Caller) adds. The URI is a path and a query. What its
    /// token was found to say is in its extensions, which a `Caller` wants to have with it.
    pub request: Request<ClientBody>,
}

/// Takes calls over, to make them later.
pub trait Intake: Send + Sync {
    /// Takes a call over and answers its client. The headers that every answer has are added to it.
    fn accept(&self, call: Deferred) -> Answering<'_>;

    /// Whose calls are known by this id, whether they have begun, or ended and left a result, or not. Each function once.
    /// As the two below, an error where that cannot be known now.
    fn functions_of<'a>(&'a self, id: &'a str) -> Soon<'a, Result<Vec<FunctionKey>, Error>>;

    /// Ends all calls of these functions that are known by this id. `false` if there is none.
    fn cancel<'a>(&'a self, id: &'a str, functions: Vec<FunctionKey>) -> Soon<'a, Result<bool, Error>>;

    /// What has become of a call of one of these functions that is known by this id. `None` if there is none.
    fn result<'a>(
        &'a self,
        id: &'a str,
        functions: Vec<FunctionKey>,
    ) -> Soon<'a, Result<Option<Response<ResponseBody>>, Error>>;

    /// Hears of each answer below `/async-function/`, whoever gave it, and of the time until its head.
    fn answered(&self, method: &Method, status: StatusCode, took: Duration);
}
