use http::HeaderValue;
use roost_proxy::function::ReplicaId;
use serde_json::json;

use super::*;

fn policy(annotations: &serde_json::Value) -> Result<Policy, Vec<String>> {
    let deployment = json!({ "service": "f", "image": "i", "annotations": annotations });
    Policy::parse(&serde_json::from_value(deployment).unwrap())
}

fn headers(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

fn again(seconds: u64) -> Verdict {
    Verdict::Again(Duration::from_secs(seconds))
}

fn judged(policy: &Policy, status: u16, with: &[(&'static str, &'static str)], attempts: u32) -> Verdict {
    policy.judge_answer(StatusCode::from_u16(status).unwrap(), &headers(with), attempts, 0.5)
}

#[test]
fn without_a_word_only_what_the_platform_refuses_is_made_again() {
    let policy = policy(&json!({})).unwrap();
    assert_eq!(policy, Policy::default());
    for (status, with, verdict) in [
        (200, &[][..], Verdict::Done),
        (200, &[(X_OPENFAAS_INTERNAL, "x")][..], Verdict::Done),
        (404, &[][..], Verdict::Done),
        (500, &[][..], Verdict::Failed),
        (503, &[("retry-after", "3")][..], Verdict::Failed),
        (429, &[][..], again(1)),
        (429, &[("retry-after", "3")][..], again(3)),
        (429, &[("retry-after", "soon")][..], again(1)),
        (503, &[(X_OPENFAAS_INTERNAL, "of-watchdog"), ("retry-after", " 7 ")][..], again(7)),
        (504, &[(X_OPENFAAS_INTERNAL, "of-watchdog")][..], again(1)),
    ] {
        assert_eq!(judged(&policy, status, with, 1), verdict, "{status} {with:?}");
    }
    assert_eq!(judged(&policy, 429, &[], 9), again(30));
    assert_eq!(judged(&policy, 429, &[], 10), Verdict::Failed);
}

#[test]
fn what_a_function_says_decides_and_the_rest_is_as_in_openfaas() {
    let some = policy(&json!({ "com.openfaas.retry.attempts": "3" })).unwrap();
    for (status, attempts, verdict) in [
        (500, 1, again(10)),
        (502, 2, again(20)),
        (504, 3, Verdict::Failed),
        (400, 1, Verdict::Done),
        (408, 1, again(10)),
    ] {
        assert_eq!(judged(&some, status, &[], attempts), verdict, "{status}, attempt {attempts}");
    }
    assert_eq!(judged(&some, 418, &[(X_OPENFAAS_INTERNAL, "x")], 1), again(10), "whatever its status is");
    let all = policy(&json!({
        "com.openfaas.retry.attempts": "100",
        "com.openfaas.retry.codes": "418, 503",
        "com.openfaas.retry.min_wait": "1s",
        "com.openfaas.retry.max_wait": "8",
        "com.openfaas.retry.backoff": "equal",
    }))
    .unwrap();
    assert_eq!(judged(&all, 500, &[], 1), Verdict::Failed);
    let waits = [1, 2, 3, 4, 9].map(|attempts| judged(&all, 418, &[], attempts));
    let expected = [750, 1500, 3000, 6000, 6000].map(|millis| Verdict::Again(Duration::from_millis(millis)));
    assert_eq!(waits, expected);
    assert_eq!(
        judged(&all, 503, &[("retry-after", "60")], 1),
        again(60),
        "what it asks for goes before the pauses"
    );
    assert_eq!(judged(&all, 503, &[("retry-after", "0")], 1), again(1), "but for the least one");
    assert_eq!(judged(&all, 418, &[("retry-after", "60")], 1), Verdict::Again(Duration::from_millis(750)));
}

#[test]
fn retry_after_may_be_a_date() {
    let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
    let wait = |text: &'static str| retry_after(&headers(&[("retry-after", text)]), now);
    assert_eq!(wait("Fri, 27 Nov 2026 12:01:30 GMT"), Some(Duration::from_secs(90)));
    assert_eq!(wait("Fri, 27 Nov 2026 11:00:00 GMT"), Some(Duration::ZERO));
    assert_eq!(wait("tomorrow"), None);
}

#[test]
fn mistakes_are_named_all_of_them() {
    let why = policy(&json!({
        "com.openfaas.retry.attempts": "0",
        "com.openfaas.retry.codes": "200",
        "com.openfaas.retry.min_wait": "soon",
        "com.openfaas.retry.backoff": "linear",
        "roost.queue.concurrency": "0",
        "roost.queue.results": "1y",
    }))
    .unwrap_err();
    let names: Vec<_> = why.iter().map(|why| why.split(':').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "annotations.com.openfaas.retry.attempts",
            "annotations.com.openfaas.retry.codes",
            "annotations.com.openfaas.retry.min_wait",
            "annotations.com.openfaas.retry.backoff",
            "annotations.roost.queue.concurrency",
            "annotations.roost.queue.results",
        ]
    );
}

#[test]
fn what_may_have_been_done_is_not_done_again_unless_the_function_says_so() {
    let function = roost_proxy::function::FunctionKey::from_route("f").unwrap();
    let replica: ReplicaId = "f-1".parse().unwrap();
    let limit = Duration::ZERO;
    let cause = std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    let (silent, eager) =
        (Policy::default(), policy(&json!({ "com.openfaas.retry.attempts": "2" })).unwrap());
    let no_answer = || Error::NoAnswer { function: function.clone(), replica: replica.clone(), what: "left" };
    for (error, verdict, eagerly) in [
        (Error::UnknownFunction { name: "f".into() }, Verdict::Failed, Verdict::Failed),
        (no_answer(), Verdict::Failed, again(10)),
        (Error::RequestTimeout { function: function.clone(), limit }, Verdict::Failed, again(10)),
        (
            Error::Connect { function: function.clone(), replica: replica.clone(), cause },
            Verdict::NotTaken,
            Verdict::NotTaken,
        ),
        (Error::WaitingTimeout { function: function.clone(), limit }, Verdict::NotTaken, Verdict::NotTaken),
        (Error::AtCapacity { function: function.clone(), cap: 1 }, Verdict::NotTaken, Verdict::NotTaken),
        (Error::MissingKey { at: roost_proxy::KeySource::Path(1) }, Verdict::Failed, Verdict::Failed),
        (
            Error::Unavailable { function: function.clone(), reason: "x".into() },
            Verdict::NotTaken,
            Verdict::NotTaken,
        ),
    ] {
        let text = error.to_string();
        let result = Err(error);
        assert_eq!(
            (silent.judge(&result, 1, 0.5), eager.judge(&result, 1, 0.5)),
            (verdict, eagerly),
            "{text}"
        );
    }
}
