//! Trace context on its way to functions.

use roost_proxy::Settings;

use crate::support::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a function sees of a client's headers.
async fn seen(proxy: &Proxy, headers: &str) -> (Option<String>, Option<String>) {
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let mut client = proxy.ask(&format!("GET /function/f HTTP/1.1\r\nhost: h\r\n{headers}\r\n")).await;
    let mut wire = function.accept().await;
    let head = wire.head().await;
    wire.send(ok("")).await;
    let answer = client.answer().await;
    assert_eq!(answer.head.value("traceparent"), None);
    let value = |name: &str| head.value(name).map(str::to_owned);
    (value("traceparent"), value("tracestate"))
}

#[tokio::test]
async fn a_trace_of_the_client_goes_on_and_none_is_begun() {
    let proxy = Proxy::start().await;
    let given = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\ntracestate: b=2\r\n");
    let function = Function::start().await;
    proxy.function("f", &[&function]);
    let _client = proxy.ask(&format!("GET /function/f HTTP/1.1\r\nhost: h\r\n{given}\r\n")).await;
    let head = function.accept().await.head().await;
    let states: Vec<_> = head.headers.iter().filter(|(name, _)| name == "tracestate").collect();
    assert_eq!((head.value("traceparent"), states.len()), (Some(PARENT), 2));
    assert_eq!(seen(&proxy, "traceparent: 00-nonsense\r\ntracestate: a=1\r\n").await, (None, None));
    assert_eq!(seen(&proxy, "tracestate: a=1\r\n").await, (None, None));
    assert_eq!(seen(&proxy, "").await, (None, None));
}

#[tokio::test]
async fn with_spans_of_ours_the_function_is_below_one_of_them() {
    let proxy = Proxy::with(Settings { spans: true, ..Settings::default() }).await;
    let (parent, state) = seen(&proxy, &format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n")).await;
    let parent = parent.unwrap();
    assert_eq!((&parent[..36], &parent[52..]), (&PARENT[..36], "-01"), "{parent}");
    assert_ne!(parent, PARENT);
    assert_eq!(state.as_deref(), Some("a=1"));
    for headers in ["", "traceparent: 00-nonsense\r\ntracestate: a=1\r\n"] {
        let (parent, state) = seen(&proxy, headers).await;
        let parent = parent.unwrap();
        assert!(parent.len() == 55 && parent.starts_with("00-") && parent.ends_with("-01"), "{parent}");
        assert_eq!(state, None);
    }
}
