//! Does a function take events of this host? It is asked before the first one, where its deployment wants that: the
//! protection from abuse of CloudEvents' web hooks.
//!
//! Owns the asking: `OPTIONS` with `WebHook-Request-Origin`, once for each revision that says yes, by one who comes while
//! all others wait for the answer. A no holds for a while, so that many who come are not as many questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::codec::Codec;
use crate::caller::Caller;
use crate::function::FunctionKey;
use crate::placement::ReplicaKey;

/// How long nobody asks again behind a no.
const REFUSED: Duration = Duration::from_secs(10);

/// The same where there was no answer: whoever comes may find another replica.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What a revision of a function has said. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Validation(Arc<State>);

#[derive(Debug)]
struct State {
    revision: Box<str>,
    allowed: AtomicBool,
    /// Held while somebody asks.
    refused: Mutex<Option<(Unwelcome, Instant)>>,
}

/// Why no event is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unwelcome {
    pub(super) why: String,
    /// For a client that wants to connect.
    pub(super) status: StatusCode,
}

impl Validation {
    /// That of a revision which has not been asked.
    #[must_use]
    pub fn of(revision: &str) -> Self {
        let (allowed, refused) = (AtomicBool::new(false), Mutex::new(None));
        Self(Arc::new(State { revision: revision.into(), allowed, refused }))
    }

    /// Is it of the same revision?
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        self.0.revision == other.0.revision
    }
}

/// Asks the function, unless it has said yes, or need not be asked. `key` is the one of the connection that wants to know.
///
/// Cancel safe: whoever comes next asks.
pub(super) async fn ask(
    caller: &Caller,
    function: &FunctionKey,
    codec: &Codec,
    key: Option<&ReplicaKey>,
) -> Result<(), Unwelcome> {
    let Some((Validation(state), question)) = codec.validation() else { return Ok(()) };
    if state.allowed.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut refused = state.refused.lock().await;
    if state.allowed.load(Ordering::Acquire) {
        return Ok(());
    }
    if let Some((unwelcome, until)) = &*refused
        && *until > Instant::now()
    {
        return Err(unwelcome.clone());
    }
    let (unwelcome, wait) = match caller.ask(function, question(), key.cloned()).await {
        Ok(answer) => match codec.allows(answer.status(), answer.headers()) {
            Ok(()) => {
                info!(%function, "function {function}: takes events of this host");
                state.allowed.store(true, Ordering::Release);
                *refused = None;
                return Ok(());
            }
            Err(said) => {
                let why = format!("function {function} does not take events of this host: {said}");
                (Unwelcome { why, status: StatusCode::BAD_GATEWAY }, REFUSED)
            }
        },
        Err(error) => {
            let why = format!("it is not known if function {function} takes events of this host: {error}");
            (Unwelcome { why, status: error.status(true) }, UNANSWERED)
        }
    };
    warn!(%function, "{}", unwelcome.why);
    *refused = Some((unwelcome.clone(), Instant::now() + wait));
    Err(unwelcome)
}
