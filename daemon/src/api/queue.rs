//! `/system/queue`: the calls that nobody waits for, function by function.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, FunctionName, Namespace};
use serde::{Deserialize, Serialize};

use super::extract::Query;
use super::{Api, ApiError};
use crate::queue::QueueLoad;

/// Whose calls are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    namespace: String,
    function: String,
}

/// The calls of a function.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LineView {
    name: String,
    namespace: String,
    pending: usize,
    in_flight: usize,
    /// Since the oldest call that is not over was taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<f64>,
    bytes: u64,
    submitted: u64,
    processed: u64,
    retried: u64,
    dead: u64,
    dropped: u64,
    redelivered: u64,
}

pub(super) async fn list(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<LineView>>, ApiError> {
    let (name, namespace) = if asked.function.is_empty() {
        (None, api.namespace(&asked.namespace)?)
    } else {
        let (name, namespace) = api.function(&asked.function, &asked.namespace)?;
        let name = name.parse().map_err(|why| ApiError::bad_request(format!("function: {why}")))?;
        (Some(name), namespace)
    };
    Ok(Json(lines(api.queue.loads(), &namespace, name.as_ref(), Timestamp::now())))
}

/// Those of a namespace, or of one function in it, by name.
fn lines(
    mut loads: Vec<(FunctionKey, QueueLoad)>,
    namespace: &Namespace,
    name: Option<&FunctionName>,
    now: Timestamp,
) -> Vec<LineView> {
    loads.retain(|(key, _)| key.namespace == *namespace && name.is_none_or(|name| key.name == *name));
    loads.sort_by(|(a, _), (b, _)| a.cmp(b));
    loads.into_iter().map(|(key, load)| LineView::new(&key, &load, now)).collect()
}

impl LineView {
    fn new(key: &FunctionKey, load: &QueueLoad, now: Timestamp) -> Self {
        Self {
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            pending: load.pending,
            in_flight: load.in_flight,
            oldest_seconds: load.age(now).map(|age| age.as_secs_f64()),
            bytes: load.bytes,
            submitted: load.submitted_total,
            processed: load.processed_total,
            retried: load.retried_total,
            dead: load.dead_total,
            dropped: load.dropped_total,
            redelivered: load.redelivered_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(route: &str) -> FunctionKey {
        FunctionKey::from_route(route).unwrap()
    }

    #[test]
    fn functions_of_a_namespace_are_told_of_by_name_or_one_of_them() {
        let loads = || ["b.blue", "a.red", "a.blue"].map(|route| (key(route), QueueLoad::default())).to_vec();
        let (namespace, now) = ("blue".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let names = |name: Option<&str>| {
            let name = name.map(|name| name.parse().unwrap());
            let told = lines(loads(), &namespace, name.as_ref(), now);
            told.into_iter().map(|line| format!("{}.{}", line.name, line.namespace)).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["a.blue", "b.blue"]);
        assert_eq!(names(Some("b")), ["b.blue"]);
        assert_eq!(names(Some("c")), [""; 0]);
    }

    #[test]
    fn the_oldest_call_has_an_age_if_there_is_one() {
        let load = QueueLoad {
            pending: 1,
            in_flight: 2,
            oldest: Some(1500),
            bytes: 3,
            submitted_total: 4,
            processed_total: 5,
            dropped_total: 6,
            retried_total: 7,
            dead_total: 8,
            redelivered_total: 9,
        };
        let now = Timestamp::from_second(4).unwrap();
        let told = |load: &QueueLoad| serde_json::to_value(LineView::new(&key("a.blue"), load, now)).unwrap();
        let expected = json!({ "name": "a", "namespace": "blue", "pending": 1, "inFlight": 2,
            "oldestSeconds": 2.5, "bytes": 3, "submitted": 4, "processed": 5, "dropped": 6, "retried": 7,
            "dead": 8, "redelivered": 9 });
        assert_eq!(told(&load), expected);
        assert!(told(&QueueLoad::default()).get("oldestSeconds").is_none());
        // By a clock that was set back.
        assert_eq!(told(&QueueLoad { oldest: Some(9000), ..load })["oldestSeconds"], 0.0);
    }
}
