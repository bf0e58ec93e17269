//! Requests that two readers may take for different ones, through the proxy to three servers: none of them sees a request
//! that its client did not send, and no client gets an answer that is another's.
//!
//! Each case is sent with an ordinary request behind it on the same connection. Where the case is one request, both are
//! seen and both are answered; where it is refused, nothing behind it is read. Then somebody else asks, over the
//! connection to the server that the case has used: what it left there would be in front of it.

#![allow(clippy::unwrap_used, reason = "the support of tests is a test")]

mod backends;
mod corpus;
#[path = "../proxy/support.rs"]
#[allow(dead_code, reason = "shared with the other tests of the proxy")]
mod support;

use roost_proxy::Endpoint;

use crate::backends::Backend;
use crate::corpus::{Case, Expected, cases};
use crate::support::*;

/// What stands behind each case.
const LAST: &str = "GET /function/f/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn hyper_sees_no_request_that_was_not_sent() {
    none_is_seen_as_two(Backend::hyper().await).await;
}

#[tokio::test]
async fn node_sees_no_request_that_was_not_sent() {
    none_is_seen_as_two(Backend::node().await).await;
}

#[tokio::test]
async fn gunicorn_sees_no_request_that_was_not_sent() {
    none_is_seen_as_two(Backend::gunicorn().await).await;
}

#[test]
fn there_are_enough_cases_and_each_has_a_name_of_its_own() {
    let cases = cases();
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert!(cases.len() >= 60 && names.len() == cases.len(), "{}", cases.len());
}

async fn none_is_seen_as_two(backend: Backend) {
    let proxy = Proxy::start().await;
    let endpoint = Endpoint::new("f-1".parse().unwrap(), backend.address);
    proxy.function("f", &[]).publish(vec![endpoint]);
    let mut wrong = Vec::new();
    for case in cases() {
        let problems = try_case(&proxy, &backend, &case).await;
        wrong.extend(problems.into_iter().map(|problem| format!("{}: {problem}", case.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn try_case(proxy: &Proxy, backend: &Backend, case: &Case) -> Vec<String> {
    let mut client = proxy.connect().await;
    client.send([case.bytes.as_slice(), LAST.as_bytes()].concat()).await;
    let answers = read_answers(&client.closed().await);
    let canary = proxy.get("/function/f/canary").await;
    let mut seen = backend.seen_to("GET /canary 0").await;
    seen.retain(|line| line != "GET /canary 0");

    let mut problems = Vec::new();
    if canary.body != "GET /canary 0" {
        problems.push(format!("somebody else was answered {canary:?}"));
    }
    let last = "GET /last 0".to_owned();
    let (expected_seen, expected_answers) = match &case.expected {
        Expected::Refused => (vec![], vec![]),
        Expected::One(line) => (vec![(*line).to_owned(), last.clone()], vec![(*line).to_owned(), last]),
        Expected::OneAndClosed(line) => (vec![(*line).to_owned()], vec![(*line).to_owned()]),
    };
    if seen != expected_seen {
        problems.push(format!("seen {seen:?}, expected {expected_seen:?}"));
    }
    match (&case.expected, answers.as_slice()) {
        (Expected::Refused, [(400..=499, _)]) => {}
        (Expected::Refused, _) => problems.push(format!("answered {answers:?}, expected one refusal")),
        _ if answers.iter().all(|(status, _)| *status == 200)
            && answers.iter().map(|(_, body)| body).eq(&expected_answers) => {}
        _ => problems.push(format!("answered {answers:?}, expected {expected_answers:?}")),
    }
    problems
}

/// The final answers in what a client has read, each with its body.
fn read_answers(bytes: &[u8]) -> Vec<(u16, String)> {
    let mut rest = std::str::from_utf8(bytes).unwrap();
    let mut answers = Vec::new();
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer");
        rest = behind;
        if status < 200 {
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let (body, behind) = rest.split_at(length.map_or(0, |length| length.parse().unwrap()));
        answers.push((status, body.to_owned()));
        rest = behind;
    }
    assert!(rest.is_empty(), "behind the answers: {rest:?}");
    answers
}
