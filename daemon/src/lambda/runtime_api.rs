//! What the runtime in a replica calls: the Runtime API of Lambda, version 2018-06-01.
//!
//! Owns its paths, headers and statuses. An answer that is streamed is taken whole before its caller gets it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use roost_proxy::function::FunctionKey;
use serde::Deserialize;
use serde_json::json;

use super::MAX_PAYLOAD;
use super::desk::{Answer, Desk, Handed, Unknown};

const VERSION: &str = "/2018-06-01/runtime/";

const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE_MS: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const FUNCTION_ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE_ID: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
/// In the trailer of an answer that is streamed: the handler failed on the way.
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The longest text of a runtime that cannot start which is told on, in characters.
const MAX_SHOWN: usize = 300;

/// What is called.
#[derive(Debug, PartialEq, Eq)]
enum Called<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    InitError,
}

/// Why a call is none.
#[derive(Debug, PartialEq, Eq)]
enum NotCalled {
    Path,
    Method,
}

fn read<'a>(method: &Method, path: &'a str) -> Result<Called<'a>, NotCalled> {
    let parts: Vec<&str> = path.strip_prefix(VERSION).ok_or(NotCalled::Path)?.split('/').collect();
    let (expected, called) = match *parts {
        ["invocation", "next"] => (Method::GET, Called::Next),
        ["invocation", id, "response"] => (Method::POST, Called::Response(id)),
        ["invocation", id, "error"] => (Method::POST, Called::Error(id)),
        ["init", "error"] => (Method::POST, Called::InitError),
        _ => return Err(NotCalled::Path),
    };
    if *method == expected { Ok(called) } else { Err(NotCalled::Method) }
}

/// Answers a call of the replica of `desk`, which is one of `function`.
pub(super) async fn answer<B>(
    function: &FunctionKey,
    desk: &Desk,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let (head, body) = request.into_parts();
    let called = match read(&head.method, head.uri.path()) {
        Ok(Called::Next) => return handed(function, desk.next().await),
        Ok(called) => called,
        Err(NotCalled::Path) => return refusal(StatusCode::NOT_FOUND, "NotFound", "no such call"),
        Err(NotCalled::Method) => {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "another method is expected");
        }
    };
    let said = match Limited::new(body, MAX_PAYLOAD).collect().await {
        Ok(body) => {
            let failed = body.trailers().is_some_and(|trailers| trailers.contains_key(&ERROR_TYPE));
            Some((body.to_bytes(), failed))
        }
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(_) => return refusal(StatusCode::BAD_REQUEST, "BadRequest", "the body broke off"),
    };
    let (known, too_large) = match (called, said) {
        (Called::InitError, said) => {
            desk.failed(in_words(&said.unwrap_or_default().0));
            (Ok(()), false)
        }
        (Called::Error(id), said) => (desk.answered(id, Answer::Failed(said.unwrap_or_default().0)), false),
        (Called::Response(id), Some((body, false))) => {
            let content_type = head.headers.get(CONTENT_TYPE).cloned();
            (desk.answered(id, Answer::Returned { content_type, body }), false)
        }
        (Called::Response(id), Some((_, true))) => (desk.answered(id, Answer::Failed(Bytes::new())), false),
        (Called::Response(id), None) => (desk.answered(id, Answer::TooLarge), true),
        (Called::Next, _) => (Ok(()), false),
    };
    match known {
        Ok(()) if too_large => {
            refusal(StatusCode::PAYLOAD_TOO_LARGE, "Function.ResponseSizeTooLarge", "expected at most 6 MiB")
        }
        Ok(()) => json(StatusCode::ACCEPTED, &json!({ "status": "OK" })),
        Err(Unknown) => {
            refusal(StatusCode::BAD_REQUEST, "InvalidRequestID", "no event of this id is being worked on")
        }
    }
}

fn handed(function: &FunctionKey, Handed { event, deadline }: Handed) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(event.payload));
    let headers = response.headers_mut();
    let arn = format!("arn:aws:lambda:roost:000000000000:function:{}", function.name);
    let texts =
        [(REQUEST_ID, event.id), (DEADLINE_MS, milliseconds(deadline).to_string()), (FUNCTION_ARN, arn)];
    headers
        .extend(texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))));
    headers.extend(event.trace.map(|trace| (TRACE_ID, trace)));
    headers.insert(CONTENT_TYPE, JSON);
    response
}

fn milliseconds(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// Why a runtime cannot start, as it says it.
fn in_words(said: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Said {
        error_type: String,
        error_message: String,
    }
    let said: Said = serde_json::from_slice(said).unwrap_or_default();
    let text = match (said.error_type.is_empty(), said.error_message.is_empty()) {
        (true, true) => return "its runtime could not start".to_owned(),
        (false, false) => format!("{}: {}", said.error_type, said.error_message),
        _ => said.error_type + &said.error_message,
    };
    let text: String = text.chars().take(MAX_SHOWN).collect();
    format!("its runtime could not start: {}", text.replace(char::is_control, " "))
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json(status, &json!({ "errorType": kind, "errorMessage": message }))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(value.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::desk::Event;
    use super::*;

    async fn call(desk: &Desk, method: &str, path: &str, body: &[u8]) -> (StatusCode, String) {
        let body = Full::new(Bytes::copy_from_slice(body));
        let request = Request::builder().method(method).uri(format!("{VERSION}{path}")).body(body).unwrap();
        let function = "f.dev".parse_key();
        let response = answer(&function, desk, request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    trait ParseKey {
        fn parse_key(&self) -> FunctionKey;
    }

    impl ParseKey for str {
        fn parse_key(&self) -> FunctionKey {
            FunctionKey::from_route(self).unwrap()
        }
    }

    #[test]
    fn calls_are_known_by_method_and_path() {
        let path = |rest: &str| format!("/2018-06-01/runtime/{rest}");
        for (method, rest, expected) in [
            (Method::GET, "invocation/next", Ok(Called::Next)),
            (Method::POST, "invocation/a-b/response", Ok(Called::Response("a-b"))),
            (Method::POST, "invocation/a-b/error", Ok(Called::Error("a-b"))),
            (Method::POST, "init/error", Ok(Called::InitError)),
            (Method::POST, "invocation/next", Err(NotCalled::Method)),
            (Method::GET, "invocation/a/response", Err(NotCalled::Method)),
            (Method::GET, "invocation/next/", Err(NotCalled::Path)),
            (Method::GET, "", Err(NotCalled::Path)),
        ] {
            assert_eq!(read(&method, &path(rest)), expected, "{method} {rest}");
        }
        assert_eq!(read(&Method::GET, "/2020-01-01/extension/register"), Err(NotCalled::Path));
    }

    #[tokio::test]
    async fn an_event_goes_out_by_next_with_what_the_runtime_has_to_know_of_it() {
        let trace = Some(HeaderValue::from_static("Root=1-2-3"));
        let event = Event { id: "e1".to_owned(), payload: Bytes::from_static(b"[1]"), trace };
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let response = handed(&"f.dev".parse_key(), Handed { event, deadline: at });
        for (name, value) in [
            (REQUEST_ID, "e1"),
            (DEADLINE_MS, "1700000000123"),
            (FUNCTION_ARN, "arn:aws:lambda:roost:000000000000:function:f"),
            (TRACE_ID, "Root=1-2-3"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "[1]");
    }

    #[tokio::test]
    async fn answers_are_accepted_once_and_for_what_is_worked_on() {
        let desk = Desk::new(Duration::from_secs(9));
        let event = |id: &str| Event { id: id.to_owned(), payload: Bytes::new(), trace: None };
        let runtime = async {
            desk.next().await;
            let other = call(&desk, "POST", "invocation/b/response", b"1").await;
            assert_eq!(other.0, StatusCode::BAD_REQUEST);
            assert!(other.1.contains("InvalidRequestID"), "{}", other.1);
            assert_eq!(call(&desk, "POST", "invocation/a/response", b"1").await.0, StatusCode::ACCEPTED);
            assert_eq!(call(&desk, "POST", "invocation/a/response", b"1").await.0, StatusCode::BAD_REQUEST);
        };
        let (answer, ()) = tokio::join!(desk.ask(event("a")), runtime);
        assert_eq!(answer, Answer::Returned { content_type: None, body: Bytes::from_static(b"1") });

        let error = br#"{"errorType":"KeyError","errorMessage":"x"}"#;
        let runtime = async {
            desk.next().await;
            call(&desk, "POST", "invocation/a/error", error).await
        };
        let (answer, accepted) = tokio::join!(desk.ask(event("a")), runtime);
        assert_eq!((answer, accepted.0), (Answer::Failed(error[..].into()), StatusCode::ACCEPTED));

        let runtime = async {
            desk.next().await;
            call(&desk, "POST", "invocation/a/response", &vec![b'x'; MAX_PAYLOAD + 1]).await
        };
        let (answer, refused) = tokio::join!(desk.ask(event("a")), runtime);
        assert_eq!((answer, refused.0), (Answer::TooLarge, StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test]
    async fn a_runtime_that_cannot_start_says_why() {
        for (said, why) in [
            (
                &br#"{"errorType":"Runtime.ImportModuleError","errorMessage":"No module\nnamed 'app'"}"#[..],
                "its runtime could not start: Runtime.ImportModuleError: No module named 'app'",
            ),
            (br#"{"errorMessage":"x"}"#, "its runtime could not start: x"),
            (b"no JSON", "its runtime could not start"),
        ] {
            let desk = Desk::new(Duration::from_secs(9));
            assert_eq!(call(&desk, "POST", "init/error", said).await.0, StatusCode::ACCEPTED);
            assert_eq!(desk.ready().await, Err(why.to_owned()));
        }
    }
}
