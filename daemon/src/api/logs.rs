//! `/system/logs`: a function's output, one JSON object a line.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use nix::errno::Errno;
use roost_proxy::function::{FunctionKey, FunctionName};
use tracing::warn;

use super::extract::Query;
use super::{Api, ApiError};
use crate::function::spec::parse_namespace;
use crate::logs;

pub(super) async fn logs(
    State(api): State<Api>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let query = parse(&query)?;
    api.registry.require_namespace(&query.key.namespace).map_err(ApiError::bad_request)?;
    if !api.registry.contains(&query.key) {
        return Err(ApiError::unknown_function(query.key));
    }
    // Begun before it is answered: what cannot be read is no empty log.
    let key = query.key.clone();
    let records = api.logs.read(query).await.map_err(|error| unreadable(&key, &error))?;
    let registry = Arc::clone(&api.registry);
    let end = async move {
        tokio::select! {
            () = api.ending.cancelled() => {}
            () = registry.deleted(&key) => {}
        }
    };
    // An error breaks the answer off: it does not look complete.
    let lines = records.take_until(Box::pin(end)).map(|record| {
        let line = record.and_then(|record| Ok(serde_json::to_vec(&record)?));
        line.map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        })
        .inspect_err(|error| warn!("an answer with a function's output broke off: {error}"))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// The answer when output cannot be read: is it want of something that others may give back?
fn unreadable(key: &FunctionKey, error: &io::Error) -> ApiError {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let wanting = matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
        || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory);
    if !wanting {
        return ApiError::internal(&format!("the output of {key} cannot be read: {error}"));
    }
    warn!("the output of {key} cannot be read now: {error}");
    let text = "the host has no files or watches left to read this with: try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Reads the query. What is given empty is not given.
fn parse(query: &BTreeMap<String, String>) -> Result<logs::Query, ApiError> {
    let get = |key: &str| query.get(key).map(String::as_str).filter(|value| !value.is_empty());

    let unprocessable = |field: &str, text: &str, expected: &str| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {text:?}: expected {expected}"))
    };
    let name = get("name").ok_or_else(|| ApiError::bad_request("name: is required"))?;
    let namespace = parse_namespace(get("namespace").unwrap_or_default()).map_err(ApiError::bad_request)?;
    let name: FunctionName =
        name.parse().map_err(|_| ApiError::unknown_function(format!("{name}.{namespace}")))?;
    let tail = match get("tail") {
        None => None,
        Some(text) => {
            let tail: i64 = text.parse().map_err(|_| unprocessable("tail", text, "a number of lines"))?;
            usize::try_from(tail).ok().filter(|tail| *tail > 0)
        }
    };
    let since = match get("since") {
        None => None,
        Some(text) => {
            let since: Timestamp = text
                .parse()
                .map_err(|_| unprocessable("since", text, "a time such as 2006-01-02T15:04:05Z"))?;
            Some(since)
        }
    };
    Ok(logs::Query {
        key: FunctionKey::new(namespace, name),
        instance: get("instance").map(str::to_owned),
        tail,
        since,
        follow: get("follow").is_some_and(is_true),
    })
}

/// What Go takes for true.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<logs::Query, ApiError> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        super::parse(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn the_query_is_read_as_the_official_clients_write_it() {
        let query = parse("name=echo&follow=true&tail=-1&since=2026-01-02T03:04:05Z").unwrap();
        assert_eq!(
            (query.key.to_string().as_str(), query.follow, query.tail),
            ("echo.openfaas-fn", true, None)
        );
        assert!(query.since.is_some());
        let query = parse("name=a&name=echo&follow=maybe&tail=5&namespace=&instance=echo-1").unwrap();
        assert_eq!((query.key.name.as_str(), query.follow, query.tail), ("echo", false, Some(5)));
        assert_eq!(query.instance.as_deref(), Some("echo-1"));
    }

    #[test]
    fn want_of_files_or_watches_passes_and_other_trouble_is_the_hosts() {
        let key = parse("name=echo").unwrap().key;
        for (error, status) in [
            (Errno::EMFILE.into(), 503),
            (Errno::ENFILE.into(), 503),
            (io::Error::new(io::Error::from(Errno::ENOSPC).kind(), "the path: ENOSPC"), 503),
            (Errno::ENOMEM.into(), 503),
            (Errno::ENOTDIR.into(), 500),
            (io::Error::other("anything"), 500),
        ] {
            assert_eq!(unreadable(&key, &error).status, status, "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for query in [
            "",
            "name=",
            "name=UPPER",
            "name=echo&tail=many",
            "name=echo&since=yesterday",
            "name=e&namespace=X",
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }
}
