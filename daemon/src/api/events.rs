//! `/system/events`: what is decided about replicas, as it is decided, as server-sent events.
//!
//! Owns their form. Nothing is told twice and nothing from before: a watcher that comes back asks how things are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use roost_proxy::function::{FunctionKey, Namespace};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::extract::Query;
use super::{Api, ApiError};
use crate::scaling::events::{DecisionView, Event, Scaled};

/// After so much silence something is sent all the same, so that both sides, and what stands between them, know of each
/// other.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is sent then: a comment.
const BEAT: Bytes = Bytes::from_static(b":\n\n");

/// The query.
#[derive(Debug, Deserialize)]
pub(super) struct Watched {
    /// Only this function, as `NAME` or `NAME.NAMESPACE`.
    #[serde(default)]
    function: String,
    /// Its namespace; without a function, only of this namespace.
    #[serde(default)]
    namespace: String,
}

/// Whose decisions are told.
#[derive(Debug)]
enum Whose {
    Everybodys,
    Of(Namespace),
    Only(FunctionKey),
}

/// What is told as `scaled`.
#[derive(Serialize)]
struct Shown<'a> {
    function: &'a str,
    namespace: &'a str,
    #[serde(flatten)]
    decision: DecisionView,
}

pub(super) async fn events(
    State(api): State<Api>,
    Query(watched): Query<Watched>,
) -> Result<Response, ApiError> {
    let whose = watched.whose(&api)?;
    let deleted = match &whose {
        Whose::Only(key) => Some(key.clone()),
        _ => None,
    };
    // Before the answer: what is decided from now on is told.
    let watch = Watch { events: api.events.watch(), whose, heartbeat: HEARTBEAT };
    let registry = Arc::clone(&api.registry);
    let end = async move {
        let gone = async {
            match &deleted {
                Some(key) => registry.deleted(key).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = api.ending.cancelled() => {}
            () = gone => {}
        }
    };
    let texts = stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)));
    let body = Body::from_stream(texts.take_until(Box::pin(end)).map(Ok::<_, Infallible>));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

impl Watched {
    fn whose(&self, api: &Api) -> Result<Whose, ApiError> {
        if self.function.is_empty() {
            let all = self.namespace.is_empty();
            return if all { Ok(Whose::Everybodys) } else { api.namespace(&self.namespace).map(Whose::Of) };
        }
        let (name, namespace) = api.function(&self.function, &self.namespace)?;
        let unknown = || ApiError::unknown_function(format!("{name}.{namespace}"));
        // A text that is no name names no function.
        let key = FunctionKey::new(namespace.clone(), name.parse().map_err(|_| unknown())?);
        if api.registry.contains(&key) { Ok(Whose::Only(key)) } else { Err(unknown()) }
    }
}

impl Whose {
    fn contains(&self, function: &FunctionKey) -> bool {
        match self {
            Self::Everybodys => true,
            Self::Of(namespace) => function.namespace == *namespace,
            Self::Only(key) => function == key,
        }
    }
}

/// One watcher.
struct Watch {
    events: Receiver<Arc<Event>>,
    whose: Whose,
    heartbeat: Duration,
}

impl Watch {
    /// The next text to send; `None` when nothing will ever be told.
    async fn next(&mut self) -> Option<Bytes> {
        let silence = tokio::time::sleep(self.heartbeat);
        tokio::pin!(silence);
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = &mut silence => return Some(BEAT),
            };
            match event {
                Ok(event) if self.whose.contains(&event.scaled.function) => return Some(told(&event)),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => return Some(missed(count)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// A decision. JSON has no line breaks, so it is one line of data.
fn told(Event { id, scaled }: &Event) -> Bytes {
    let Scaled { function, .. } = scaled;
    let shown = Shown {
        function: function.name.as_str(),
        namespace: function.namespace.as_str(),
        decision: DecisionView::from(scaled),
    };
    let data = serde_json::to_string(&shown).expect("texts and numbers are JSON");
    format!("event: scaled\nid: {id}\ndata: {data}\n\n").into()
}

/// So many were told of any function while the watcher did not read.
fn missed(count: u64) -> Bytes {
    format!("event: missed\ndata: {{\"count\":{count}}}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::events::Events;
    use crate::scaling::events::tests::scaled;

    fn watch(events: &Events, whose: Whose) -> Watch {
        Watch { events: events.watch(), whose, heartbeat: HEARTBEAT }
    }

    #[tokio::test]
    async fn each_watcher_hears_of_whom_it_asked_for() {
        let events = Events::default();
        let mut all = watch(&events, Whose::Everybodys);
        let mut staging = watch(&events, Whose::Of("staging".parse().unwrap()));
        let mut one = watch(&events, Whose::Only(FunctionKey::from_route("b.staging").unwrap()));
        for name in ["a", "a.staging", "b.staging"] {
            events.tell(scaled(name, 0, 1));
        }
        let key = Some("room \"7\"".parse().unwrap());
        events.tell(Scaled { key, reason: "two\nlines".to_owned(), ..scaled("b.staging", 1, 0) });
        drop(events);
        let texts = async |watch: &mut Watch| {
            let mut texts = Vec::new();
            while let Some(text) = watch.next().await {
                texts.push(String::from_utf8(text.to_vec()).unwrap());
            }
            texts
        };
        let (all, staging, one) = (texts(&mut all).await, texts(&mut staging).await, texts(&mut one).await);
        assert_eq!((&all[1..], &all[2..]), (&staging[..], &one[..]));
        assert_eq!(
            [&*all[0], &*one[1]],
            [
                "event: scaled\nid: 1\ndata: {\"function\":\"a\",\"namespace\":\"openfaas-fn\",\
                 \"at\":\"1970-01-01T00:00:00Z\",\"from\":0,\"to\":1,\"reason\":\"test\"}\n\n",
                "event: scaled\nid: 4\ndata: {\"function\":\"b\",\"namespace\":\"staging\",\
                 \"at\":\"1970-01-01T00:00:00Z\",\"key\":\"room \\\"7\\\"\",\"from\":1,\"to\":0,\
                 \"reason\":\"two\\nlines\"}\n\n",
            ]
        );
    }

    #[tokio::test]
    async fn who_did_not_read_hears_how_many_it_missed_and_goes_on() {
        let events = Events::default();
        let mut watch = watch(&events, Whose::Everybodys);
        for _ in 0..257 {
            events.tell(scaled("a", 0, 1));
        }
        assert_eq!(watch.next().await.unwrap(), "event: missed\ndata: {\"count\":1}\n\n");
        assert!(watch.next().await.unwrap().starts_with(b"event: scaled\nid: 2\n"));
    }

    #[tokio::test]
    async fn in_silence_there_is_a_heartbeat_whatever_is_told_of_others() {
        let events = Events::default();
        let whose = Whose::Of("staging".parse().unwrap());
        let mut watch = Watch { heartbeat: Duration::from_millis(50), ..watch(&events, whose) };
        let mut others = tokio::time::interval(Duration::from_millis(1));
        let beat = async {
            let mut next = std::pin::pin!(watch.next());
            loop {
                tokio::select! {
                    beat = &mut next => return beat,
                    _ = others.tick() => events.tell(scaled("a", 0, 1)),
                }
            }
        };
        assert_eq!(tokio::time::timeout(HEARTBEAT, beat).await.unwrap(), Some(BEAT));
    }
}
