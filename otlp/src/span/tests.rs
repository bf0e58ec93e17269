use std::collections::BTreeSet;
use std::fs;

use prost::Message;
use roost_proxy::function::FunctionKey;
use roost_proxy::{Trace, TunnelClose, TunnelEntry};

use super::*;
use crate::tests::entry;

/// The attributes as text.
fn told(entry: &AccessEntry) -> Vec<String> {
    let text = |attribute: KeyValue| match attribute.value.and_then(|value| value.value) {
        Some(Value::String(text)) => format!("{}={text}", attribute.key),
        Some(Value::Int(number)) => format!("{}={number}", attribute.key),
        Some(Value::Double(number)) => format!("{}={number:?}", attribute.key),
        None => attribute.key,
    };
    span(entry).unwrap().attributes.into_iter().map(text).collect()
}

fn tunnel(close: TunnelClose) -> AccessEntry {
    let opening = Duration::from_millis(10);
    AccessEntry {
        kind: EntryKind::Tunnel,
        status: 101,
        tunnel: Some(Box::new(TunnelEntry { opening, close, ..TunnelEntry::default() })),
        ..*entry("/function/echo")
    }
}

fn full() -> AccessEntry {
    AccessEntry {
        function: Some(FunctionKey::from_route("echo").unwrap()),
        peer: Some("[::ffff:192.0.2.1]:5".parse().unwrap()),
        secure: true,
        call_id: Some("id".into()),
        replica: Some("echo-1".parse().unwrap()),
        user_agent: Some("curl/8".into()),
        waited: Some(Duration::from_millis(250)),
        query: Some("token=hush".into()),
        user: Some("ann".into()),
        referer: Some("http://x/?token=hush".into()),
        ..*entry("/function/echo/a%20b")
    }
}

#[test]
fn a_span_has_the_ids_the_times_and_the_facts_of_its_request() {
    let entry = AccessEntry { status: 503, ..full() };
    let span = span(&entry).unwrap();
    assert_eq!(span.trace_id, 0xab_u128.to_be_bytes());
    assert_eq!(span.span_id, 2_u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 1_u64.to_be_bytes());
    assert_eq!(span.name, "GET echo.openfaas-fn");
    assert_eq!(span.kind(), SpanKind::Server);
    assert_eq!(span.start_time_unix_nano, 1_700_000_000_042_000_000);
    assert_eq!(span.end_time_unix_nano, 1_700_000_000_043_500_999);
    assert_eq!(span.flags, 0x301);
    assert_eq!(
        told(&entry),
        [
            "http.request.method=GET",
            "http.response.status_code=503",
            "url.path=/function/echo/a%20b",
            "url.scheme=https",
            "network.protocol.version=1.1",
            "client.address=192.0.2.1",
            "user_agent.original=curl/8",
            "error.type=503",
            "faas.name=echo.openfaas-fn",
            "faas.instance=echo-1",
            "roost.call_id=id",
            "roost.waited=0.25",
        ]
    );
}

#[test]
fn what_is_not_known_is_not_told() {
    let bare = entry("/x");
    let trace = Some(Trace { parent_id: None, ..bare.trace.unwrap() });
    let bare = AccessEntry { trace, version: Version::HTTP_2, ..*bare };
    assert_eq!(
        told(&bare),
        [
            "http.request.method=GET",
            "http.response.status_code=200",
            "url.path=/x",
            "url.scheme=http",
            "network.protocol.version=2"
        ]
    );
    let span = span(&bare).unwrap();
    assert_eq!((span.name.as_str(), span.flags), ("GET", 0x101));
    assert!(span.parent_span_id.is_empty());
}

#[test]
fn what_a_client_invents_as_a_method_is_in_no_name() {
    let entry = AccessEntry { method: Method::from_bytes(b"BREW").unwrap(), ..full() };
    assert_eq!(span(&entry).unwrap().name, "HTTP echo.openfaas-fn");
    assert_eq!(told(&entry)[..2], ["http.request.method=_OTHER", "http.request.method_original=BREW"]);
}

#[test]
fn what_failed_here_is_an_error_and_what_clients_do_is_none() {
    let close = |category, by, failed| TunnelClose { code: None, by, category, failed };
    let request = |status, broken| AccessEntry { status, broken, ..*entry("/") };
    for (entry, failed, why) in [
        (request(200, None), false, None),
        (request(404, None), false, None),
        (request(429, None), false, None),
        (request(499, None), false, Some("client")),
        (request(500, None), true, Some("500")),
        (request(504, Some("client")), true, Some("504")),
        (request(200, Some("client")), false, Some("client")),
        (request(200, Some("function")), true, Some("function")),
        (request(200, Some("idle")), true, Some("idle")),
        (tunnel(close("normal", None, false)), false, None),
        (tunnel(close("idle", Some("host"), false)), false, None),
        (tunnel(close("restart", Some("host"), false)), false, None),
        (tunnel(close("function_exit", Some("function"), true)), true, Some("function_exit")),
        (tunnel(close("network", Some("network"), true)), true, Some("network")),
    ] {
        let code = if failed { StatusCode::Error } else { StatusCode::Unset };
        assert_eq!(span(&entry).unwrap().status.unwrap().code(), code, "{entry:?}");
        let said =
            told(&entry).into_iter().find_map(|told| Some(told.strip_prefix("error.type=")?.to_owned()));
        assert_eq!(said.as_deref(), why, "{entry:?}");
    }
    let left = told(&request(CLIENT_LEFT, None));
    assert!(
        !left.iter().any(|told| told.starts_with("http.response.status_code")),
        "nothing was sent: {left:?}"
    );
}

#[test]
fn a_tunnel_is_a_span_from_the_arrival_of_its_request_to_its_end() {
    let close = TunnelClose { code: Some(1012), by: Some("host"), category: "restart", failed: false };
    let entry = tunnel(close);
    let span = span(&entry).unwrap();
    assert_eq!(span.start_time_unix_nano, 1_700_000_000_032_000_000);
    assert_eq!(span.end_time_unix_nano, 1_700_000_000_043_500_999);
    let told = told(&entry);
    assert!(told.contains(&"http.response.status_code=101".to_owned()), "{told:?}");
    assert_eq!(told[told.len() - 2..], ["roost.tunnel.category=restart", "roost.tunnel.code=1012"]);
}

#[test]
fn a_call_that_nobody_waits_for_is_consumed() {
    let entry = AccessEntry { kind: EntryKind::Call, ..full() };
    assert_eq!(span(&entry).unwrap().kind(), SpanKind::Consumer);
}

#[test]
fn what_has_no_span_of_ours_is_none() {
    let of_client = entry("/").trace.map(|trace| Trace { span_id: None, ..trace });
    for trace in [None, of_client] {
        assert_eq!(span(&AccessEntry { trace, ..full() }), None);
    }
}

/// The bytes that Google's protobuf makes of the same message, with the definitions of opentelemetry-proto 1.45.
const REFERENCE: &str = "\
    0a9d040a4a0a170a0c736572766963652e6e616d6512070a05726f6f73740a1a0a0f736572766963652e76657273696f\
    6e12070a05302e312e300a130a09686f73742e6e616d6512060a046e65737412ce030a0e0a05726f6f73741205302e31\
    2e3012bb030a10000000000000000000000000000000ab12080000000000000002220800000000000000012a14474554\
    206563686f2e6f70656e666161732d666e30023980deaa38fe9c971741c7c5c138fe9c97174a1c0a13687474702e7265\
    71756573742e6d6574686f6412050a034745544a200a19687474702e726573706f6e73652e7374617475735f636f6465\
    120318f7034a220a0875726c2e7061746812160a142f66756e6374696f6e2f6563686f2f61253230624a150a0a75726c\
    2e736368656d6512070a0568747470734a210a186e6574776f726b2e70726f746f636f6c2e76657273696f6e12050a03\
    312e314a1d0a0e636c69656e742e61646472657373120b0a093139322e302e322e314a1f0a13757365725f6167656e74\
    2e6f726967696e616c12080a066375726c2f384a130a0a6572726f722e7479706512050a033530334a1f0a0966616173\
    2e6e616d6512120a106563686f2e6f70656e666161732d666e4a190a0d666161732e696e7374616e636512080a066563\
    686f2d314a150a0d726f6f73742e63616c6c5f696412040a0269644a190a0c726f6f73742e7761697465641209210000\
    00000000d03f7a021802850101030000";

#[test]
fn the_bytes_are_those_that_other_implementations_make() {
    let mut request = request(&[Box::new(AccessEntry { status: 503, ..full() })], Some("nest"));
    // Whatever version this is by now.
    let of_host = &mut request.resource_spans[0];
    of_host.resource.as_mut().unwrap().attributes[1] =
        KeyValue::new("service.version", Value::String("0.1.0".into()));
    of_host.scope_spans[0].scope.as_mut().unwrap().version = "0.1.0".to_owned();
    let bytes = request.encode_to_vec();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, REFERENCE);
    assert_eq!(ExportTraceServiceRequest::decode(&*bytes), Ok(request));
}

#[test]
fn the_document_tells_of_every_attribute_and_of_no_other() {
    let close = TunnelClose { code: Some(1000), by: None, category: "network", failed: true };
    let method = Method::from_bytes(b"BREW").unwrap();
    let tunnel = AccessEntry { method, tunnel: tunnel(close).tunnel, ..full() };
    let key = |attribute: KeyValue| attribute.key;
    let mut known: BTreeSet<String> = attributes(&tunnel).into_iter().map(key).collect();
    let resource = request(&[], Some("nest")).resource_spans.remove(0).resource.unwrap();
    known.extend(resource.attributes.into_iter().map(key));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/opentelemetry.md");
    let text = fs::read_to_string(path).unwrap();
    let told: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    assert_eq!(told, known);
}
