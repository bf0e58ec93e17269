//! `/system/logs`: a function's output, one JSON object a line.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use roost_proxy::function::{FunctionKey, FunctionName};
use tracing::warn;

use super::functions::namespace;
use super::{Api, ApiError};
use crate::logs;

pub(super) async fn logs(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query = parse(query.as_deref().unwrap_or_default())?;
    if !api.registry.contains(&query.key) {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("function: {} not found", query.key)));
    }
    let (registry, key) = (Arc::clone(&api.registry), query.key.clone());
    let end = async move {
        tokio::select! {
            () = api.ending.cancelled() => {}
            () = registry.deleted(&key) => {}
        }
    };
    let records = api.logs.read(query).take_until(Box::pin(end));
    let lines = records.filter_map(|record| async move {
        match record {
            Ok(record) => serde_json::to_vec(&record).ok().map(|mut line| {
                line.push(b'\n');
                Ok::<_, Infallible>(Bytes::from(line))
            }),
            Err(error) => {
                warn!("a function's output cannot be read: {error}");
                None
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Reads the query. A parameter that is given twice counts the last time.
fn parse(query: &str) -> Result<logs::Query, ApiError> {
    let pairs = Uri::builder().path_and_query(format!("/?{query}")).build().ok();
    let pairs: Vec<(String, String)> = pairs
        .and_then(|uri| axum::extract::Query::try_from_uri(&uri).ok())
        .map(|axum::extract::Query(pairs)| pairs)
        .ok_or_else(|| ApiError::bad_request("the query cannot be read"))?;
    let get = |key: &str| {
        pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    };

    let unprocessable = |field: &str, text: &str, expected: &str| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {text:?}: expected {expected}"))
    };
    let name = get("name").ok_or_else(|| ApiError::bad_request("name: is required"))?;
    let namespace = namespace(get("namespace").unwrap_or_default())?;
    let name: FunctionName = name.parse().map_err(|_| {
        ApiError::new(StatusCode::NOT_FOUND, format!("function: {name}.{namespace} not found"))
    })?;
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
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_cannot_be_read_is_refused() {
        for query in [
            "",
            "name=",
            "name=UPPER",
            "name=echo&tail=many",
            "name=echo&since=yesterday",
            "name=e&namespace=x",
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }
}
