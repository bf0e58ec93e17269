//! Spans of requests, as they come to a collector from a `roostd` that is built to send them.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use hyper::{Method, StatusCode};
use prost::Message;
use roost_tests::{Api, Config, Host, Receiver, Socket, body_of, eventually};

/// What of `opentelemetry/proto/collector/trace/v1/trace_service.proto` is looked at here.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(double, tag = "4")]
    Fraction(f64),
}

const SERVER: i32 = 2;
const CONSUMER: i32 = 5;

/// An attribute as text; empty when it is not there.
fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.clone()?.value) {
        None => String::new(),
        Some(Value::Text(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Fraction(number)) => number.to_string(),
    }
}

impl Span {
    fn says(&self, key: &str) -> String {
        attribute(&self.attributes, key)
    }
}

/// The next spans that come, of one host.
async fn spans(collector: &mut Receiver) -> Vec<Span> {
    let mut export = collector.next().await;
    assert_eq!((&export.method, export.path.as_str()), (&Method::POST, "/v1/traces"));
    assert_eq!(export.header("content-type"), "application/x-protobuf");
    let export = Export::decode(&*export.bytes().await).unwrap();
    let [of_host] = &export.resource_spans[..] else { panic!("{export:?}") };
    let resource = &of_host.resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name"), "roost");
    of_host.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect()
}

/// The spans of these calls, in their order, and no others.
async fn spans_of<const N: usize>(collector: &mut Receiver, calls: [(&str, i32); N]) -> [Span; N] {
    let mut found = Vec::new();
    while found.len() < N {
        found.extend(spans(collector).await);
    }
    assert_eq!(found.len(), N, "{found:?}");
    calls.map(|(call, kind)| {
        let of_it = |span: &&Span| span.says("roost.call_id") == call && span.kind == kind;
        found.iter().find(of_it).unwrap_or_else(|| panic!("{call} {kind} in {found:?}")).clone()
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_a_host_did_for_functions_comes_to_a_collector_and_the_last_of_it_when_the_host_ends() {
    let mut collector = Receiver::open().await;
    let config = Config { access_log: true, otlp: Some(collector.url("")), ..Config::default() };
    let mut host = Host::with_echo(config).await;
    host.deploy("echo", "echo:1").await;
    let (replica, _) = host.process_of("echo");
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = host.api.request(&Method::POST, "/function/echo/headers?token=hush");
    let request = request.header("x-call-id", "one").header("traceparent", parent);
    let answer = host.api.try_send(request.body(body_of("hello")).unwrap()).await.unwrap();

    let [span] = spans_of(&mut collector, [("one", SERVER)]).await;
    let seen = format!("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&span.span_id));
    assert!(answer.text().lines().any(|line| line == seen), "{seen} in {}", answer.text());
    assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(span.name, "POST echo.openfaas-fn");
    assert!(span.start > 0 && span.start < span.end);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/function/echo/headers"),
        ("faas.name", "echo.openfaas-fn"),
        ("faas.instance", replica.as_str()),
    ] {
        assert_eq!(span.says(key), value, "{key} of {span:?}");
    }
    let metrics = Api::new(host.metrics_port(), None);
    eventually("a span that is counted", || async {
        let text = metrics.get("/metrics").await.text().to_owned();
        text.lines().any(|line| line == "roost_spans_exported_total 1").then_some(())
    })
    .await;

    // These wait for others to be sent with, and the host does not wait for them with its end.
    let mut socket = Socket::try_open(&host, "/function/echo", &[("x-call-id", "two")]).await.unwrap();
    socket.echoes("hi").await;
    let later = host.api.request(&Method::POST, "/async-function/echo/later").header("x-call-id", "three");
    let later = host.api.try_send(later.body(body_of("hi")).unwrap()).await.unwrap();
    assert_eq!(later.status, StatusCode::ACCEPTED);
    eventually("the call's end", || async {
        let log = std::fs::read_to_string(host.dir().join("access.log")).unwrap();
        log.contains("\"kind\":\"call\"").then_some(())
    })
    .await;
    host.terminate();
    socket.closed().await;
    host.ended().await;
    let calls = [("two", SERVER), ("three", SERVER), ("three", CONSUMER)];
    let [tunnel, taken, call] = spans_of(&mut collector, calls).await;
    assert_eq!(
        (tunnel.name.as_str(), &*tunnel.says("roost.tunnel.category")),
        ("GET echo.openfaas-fn", "restart")
    );
    assert_eq!(
        (&*taken.says("http.response.status_code"), &*call.says("http.response.status_code")),
        ("202", "200")
    );
    assert_eq!((&call.trace_id, &call.parent_span_id), (&taken.trace_id, &taken.span_id));
}
