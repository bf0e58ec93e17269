//! That the JSON is what functions expect is seen by reading it with the types of `aws_lambda_events`.

use std::time::Duration;

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Read;
use http::StatusCode;
use http::header::{COOKIE, HeaderName};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tunnel::By;
use crate::websocket::codec::Codec;
use crate::websocket::codec::samples::{self, CONNECTION, binary, text};
use crate::websocket::event::{Acceptance, Departure, Handshake};

const ID: &str = "AAECAwQFBgcICQoLDA0ODw.7";

fn api(routes: &[(&str, &str, bool)]) -> AwsApi {
    let route =
        |function: &str, two_way| Route { function: FunctionKey::from_route(function).unwrap(), two_way };
    AwsApi {
        api_id: "abcd1234".into(),
        stage: "prod".into(),
        domain_name: "ws.example".into(),
        selection: Expression::default(),
        routes: routes
            .iter()
            .map(|(key, function, two_way)| ((*key).to_owned(), route(function, *two_way)))
            .collect(),
        transport: Transport::Http,
        binary: Binary::Encoded,
    }
}

/// One with a function of its own for each route.
fn whole() -> AwsApi {
    api(&[
        (CONNECT, "door", false),
        (DISCONNECT, "exit", false),
        (DEFAULT, "other", false),
        ("echo", "echo", true),
    ])
}

fn asked(api: &AwsApi, event: &Event<'_>) -> Call {
    match Codec::Aws(api.clone()).call(event) {
        Encoded::Call(call) => *call,
        Encoded::Instead(actions) => panic!("no call, but {actions:?}"),
    }
}

fn instead(api: &AwsApi, event: &Event<'_>) -> Vec<Action> {
    match Codec::Aws(api.clone()).call(event) {
        Encoded::Call(call) => panic!("a call: {call:?}"),
        Encoded::Instead(actions) => actions,
    }
}

fn frame(message: &str) -> Message {
    let json = json!({ "message": message, "connectionId": CONNECTION, "requestId": ID });
    // In this order, as API Gateway writes it.
    let written = format!(r#"{{"message":"{message}","connectionId":"{CONNECTION}","requestId":"{ID}"}}"#);
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), json);
    text(&written)
}

#[test]
fn a_message_is_the_event_of_its_route_and_goes_to_the_function_of_that() {
    let of = samples::identity();
    let messages = [text(r#"{"action":"echo"}"#)];
    let call = asked(&whole(), &samples::event(&of, What::Messages(&messages)));
    assert_eq!((call.function.name.as_str(), call.terms), ("echo", Terms { two_way: true }));
    let request = call.request;
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/"));
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(
        body,
        json!({
            "requestContext": {
                "routeKey": "echo", "messageId": ID, "eventType": "MESSAGE", "extendedRequestId": ID,
                "requestTime": "20/Nov/2026:20:38:28 +0000", "messageDirection": "IN", "stage": "prod",
                "connectedAt": 1_795_207_048_941_u64, "requestTimeEpoch": 1_795_207_108_941_u64,
                "identity": { "sourceIp": "192.0.2.1", "userAgent": "ws/8" }, "requestId": ID,
                "domainName": "ws.example", "connectionId": CONNECTION, "apiId": "abcd1234",
                "authorizer": { "principalId": "ada" },
            },
            "body": "{\"action\":\"echo\"}",
            "isBase64Encoded": false,
        })
    );
    let read: Read = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(read.body.as_deref(), Some(r#"{"action":"echo"}"#));
    let context = read.request_context;
    assert_eq!(context.route_key.as_deref(), Some("echo"));
    assert_eq!(context.event_type.as_deref(), Some("MESSAGE"));
    assert_eq!(context.message_id.as_deref(), Some(ID));
    assert_eq!(context.connection_id.as_deref(), Some(CONNECTION));
    assert_eq!((context.apiid.as_deref(), context.stage.as_deref()), (Some("abcd1234"), Some("prod")));
    assert_eq!(context.domain_name.as_deref(), Some("ws.example"));
    assert_eq!(context.identity.source_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!((context.connected_at, context.request_time_epoch), (1_795_207_048_941, 1_795_207_108_941));
    assert_eq!(context.authorizer.fields["principalId"], "ada");
}

#[test]
fn a_message_takes_the_route_that_it_names_if_there_is_one_and_may_be_named() {
    let of = samples::identity();
    for (message, function) in [
        (text(r#"{"action":"echo"}"#), "echo"),
        (text(r#"{"action":"none"}"#), "other"),
        (text(r#"{"action":"$default"}"#), "other"),
        (text(r#"{"action":"$connect"}"#), "other"),
        (text(r#"{"action":"$disconnect"}"#), "other"),
        (text(r#"{"action":7}"#), "other"),
        (text("echo"), "other"),
        (text(""), "other"),
        (binary(br#"{"action":"echo"}"#), "other"),
    ] {
        let messages = [message.clone()];
        let event = samples::event(&of, What::Messages(&messages));
        let call = asked(&whole(), &event);
        assert_eq!(call.function.name.as_str(), function, "{message:?}");
        let read: Read = serde_json::from_slice(call.request.body()).unwrap();
        let key = if function == "echo" { "echo" } else { DEFAULT };
        assert_eq!(read.request_context.route_key.as_deref(), Some(key));
        let without = api(&[(CONNECT, "door", false), (DISCONNECT, "exit", false)]);
        assert_eq!(instead(&without, &event), [Action::Send(frame("Forbidden"))], "{message:?}");
    }
}

#[test]
fn binary_messages_are_base64_or_refused() {
    let of = samples::identity();
    let messages = [binary(b"\0\xff")];
    let event = samples::event(&of, What::Messages(&messages));
    let mut api = whole();
    let read: Read = serde_json::from_slice(asked(&api, &event).request.body()).unwrap();
    assert_eq!((read.body.as_deref(), read.is_base64_encoded), (Some("AP8="), true));
    api.binary = Binary::Refused;
    let close = CloseFrame::new(1003, "binary messages are not supported");
    assert_eq!(instead(&api, &event), [Action::Close(close)]);
}

#[test]
fn who_connects_is_told_of_with_headers_and_parameters_and_without_a_body() {
    let mut of = samples::identity();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("sec-websocket-key", "k"),
        ("x-mine", "1"),
        ("x-mine", "2"),
        ("x-forwarded-proto", "https"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.append(COOKIE, HeaderValue::from_bytes(b"a=\xff").unwrap());
    let handshake = Handshake { headers, subprotocols: vec!["a".into(), "b".into()], claims: Vec::new() };
    let call = asked(&whole(), &samples::event(&of, What::Connect(&handshake)));
    assert_eq!(call.function.name.as_str(), "door");
    let body: Value = serde_json::from_slice(call.request.body()).unwrap();
    assert_eq!(
        body["headers"],
        json!({
            "Authorization": "Bearer x", "Sec-WebSocket-Key": "k", "x-mine": "2", "X-Forwarded-Proto": "https",
            "Cookie": "a=\u{fffd}", "Host": "edge.example", "X-Forwarded-For": "192.0.2.1",
            "Sec-WebSocket-Protocol": "a, b",
        })
    );
    assert_eq!(body["multiValueHeaders"]["x-mine"], json!(["1", "2"]));
    assert_eq!(body["queryStringParameters"], json!({ "name": "Jürgen B", "a": "2" }));
    assert_eq!(body["multiValueQueryStringParameters"], json!({ "name": ["Jürgen B"], "a": ["1", "2"] }));
    assert_eq!((body.get("body"), &body["isBase64Encoded"]), (None, &json!(false)));
    assert_eq!(body["requestContext"].get("messageId"), None);
    let read: Read = serde_json::from_slice(call.request.body()).unwrap();
    assert_eq!(read.headers["authorization"], "Bearer x");
    assert_eq!(read.multi_value_query_string_parameters.all("a"), Some(vec!["1", "2"]));
    assert_eq!(read.request_context.event_type.as_deref(), Some("CONNECT"));
    assert_eq!(read.request_context.route_key.as_deref(), Some("$connect"));

    // What is not there is not named.
    (of.path, of.user, of.user_agent) = ("/".into(), Default::default(), None);
    let handshake = Handshake::default();
    let call = asked(&whole(), &samples::event(&of, What::Connect(&handshake)));
    let body: Value = serde_json::from_slice(call.request.body()).unwrap();
    assert!(
        body.get("queryStringParameters").is_none() && body.get("multiValueQueryStringParameters").is_none()
    );
    assert_eq!(body["requestContext"]["identity"], json!({ "sourceIp": "192.0.2.1" }));
    assert_eq!(body["requestContext"].get("authorizer"), None);
    serde_json::from_value::<Read>(body).unwrap();
}

#[test]
fn who_is_gone_is_told_of_with_the_code_and_the_reason() {
    let of = samples::identity();
    for (code, reason, shown) in [
        (1005, "", "Client-side close frame status not set"),
        (1001, "Going away", "Going away"),
        (1006, "", ""),
    ] {
        let departure = Departure { code, reason: reason.into(), by: By::Client, lasted: Duration::ZERO };
        let call = asked(&whole(), &samples::event(&of, What::Disconnected(&departure)));
        assert_eq!((call.function.name.as_str(), call.terms.two_way), ("exit", false));
        let body: Value = serde_json::from_slice(call.request.body()).unwrap();
        assert_eq!(
            body["headers"],
            json!({ "Host": "ws.example", "x-api-key": "", "X-Forwarded-For": "", "x-restapi": "" })
        );
        assert_eq!(body["multiValueHeaders"]["Host"], json!(["ws.example"]));
        assert_eq!(body.get("body"), None);
        let read: Read = serde_json::from_value(body).unwrap();
        let context = read.request_context;
        assert_eq!(context.event_type.as_deref(), Some("DISCONNECT"));
        assert_eq!(context.disconnect_status_code, Some(code.into()));
        assert_eq!(context.disconnect_reason.as_deref(), Some(shown));
    }
}

#[test]
fn of_what_has_no_route_nobody_is_told_and_whoever_connects_may() {
    let of = samples::identity();
    let handshake = Handshake::default();
    let departure = Departure { code: 1000, reason: "".into(), by: By::Client, lasted: Duration::ZERO };
    let none = api(&[]);
    for what in
        [What::Connect(&handshake), What::Connected, What::Disconnected(&departure), What::Messages(&[])]
    {
        assert_eq!(instead(&none, &samples::event(&of, what)), []);
    }
    assert_eq!(instead(&whole(), &samples::event(&of, What::Connected)), []);
    assert!(!Codec::Aws(none).batches());
}

#[test]
fn the_emulator_is_asked_at_its_own_path() {
    let of = samples::identity();
    let messages = [text("hi")];
    for (transport, path) in [
        (Transport::Http, "/"),
        (Transport::Lambda, "/"),
        (Transport::Emulator, "/2015-03-31/functions/function/invocations"),
    ] {
        let api = AwsApi { transport, ..whole() };
        assert_eq!(asked(&api, &samples::event(&of, What::Messages(&messages))).request.uri(), path);
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Response<Bytes> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Bytes::copy_from_slice(body)).unwrap()
}

fn outcome(transport: Transport, two_way: bool, answer: Response<Bytes>) -> Decoded<Outcome> {
    let of = samples::identity();
    let messages = [text("hi")];
    let event = samples::event(&of, What::Messages(&messages));
    Codec::Aws(AwsApi { transport, ..whole() }).outcome(&event, Terms { two_way }, answer)
}

fn failure(status: u16) -> Outcome {
    Outcome::Failed { status, tell: Some(frame("Internal server error")) }
}

#[test]
fn an_answer_over_http_is_the_reply_on_a_two_way_route_and_nothing_on_another() {
    let send = |message: Message| Outcome::Done(vec![Action::Send(message)]);
    let octets = [("content-type", "application/octet-stream")];
    for (status, headers, body, expected) in [
        (200, &[][..], &b"yes"[..], send(text("yes"))),
        (200, &[], b"\xff", send(binary(b"\xff"))),
        (200, &octets, b"yes", send(binary(b"yes"))),
        (201, &[], br#"{"statusCode":500}"#, send(text(r#"{"statusCode":500}"#))),
        (204, &[], b"", Outcome::Done(vec![])),
        (404, &[], b"no", failure(404)),
        (503, &[], b"", failure(503)),
    ] {
        let two_way = outcome(Transport::Http, true, answer(status, headers, body));
        assert_eq!((&two_way.meant, two_way.complaints.len()), (&expected, 0), "{body:?}");
        let one_way = outcome(Transport::Http, false, answer(status, headers, body)).meant;
        let swallowed = if status < 300 { Outcome::Done(vec![]) } else { expected };
        assert_eq!(one_way, swallowed, "{body:?}");
    }
}

#[test]
fn an_answer_of_a_handler_is_what_it_returns() {
    let send = |message: Message| Outcome::Done(vec![Action::Send(message)]);
    let nothing = || Outcome::Done(vec![]);
    for (body, expected) in [
        (r#"{"statusCode":200,"body":"yes"}"#, send(text("yes"))),
        (r#"{"statusCode":"200","body":"yes"}"#, send(text("yes"))),
        (r#"{"body":"yes","headers":{"a":"b"}}"#, send(text("yes"))),
        (r#"{"statusCode":200,"body":"AP8=","isBase64Encoded":true}"#, send(binary(b"\0\xff"))),
        (r#"{"statusCode":200,"body":""}"#, nothing()),
        (r#"{"statusCode":200,"body":null}"#, nothing()),
        (r#"{"statusCode":200}"#, nothing()),
        ("{}", nothing()),
        ("null", nothing()),
        ("", nothing()),
        // One that says a status has not failed, whatever else it says.
        (r#"{"statusCode":200,"errorMessage":"x"}"#, nothing()),
        // Nor has one that says any other status: there is no answer that it could be of.
        (r#"{"statusCode":400,"body":"no"}"#, send(text("no"))),
        (r#"{"statusCode":500}"#, nothing()),
        (r#"{"errorMessage":"boom","errorType":"Error","trace":[]}"#, failure(502)),
        (r#"{"statusCode":99}"#, failure(502)),
        (r#"{"statusCode":600}"#, failure(502)),
        (r#"{"statusCode":200.5}"#, failure(502)),
        (r#"{"statusCode":true}"#, failure(502)),
        (r#"{"statusCode":200,"body":{"a":1}}"#, failure(502)),
        (r#"{"statusCode":200,"body":"!","isBase64Encoded":true}"#, failure(502)),
        (r#""text""#, failure(502)),
        ("[]", failure(502)),
        ("Task timed out after 3.00 seconds", failure(502)),
    ] {
        for transport in [Transport::Lambda, Transport::Emulator] {
            let decoded = outcome(transport, true, answer(200, &[], body.as_bytes()));
            assert_eq!(decoded.meant, expected, "{body}");
            // Why is said.
            let unreadable = decoded.meant == failure(502);
            assert_eq!(decoded.complaints.len(), usize::from(unreadable), "{body}: {:?}", decoded.complaints);
        }
        let swallowed = if matches!(expected, Outcome::Done(_)) { nothing() } else { expected };
        assert_eq!(
            outcome(Transport::Emulator, false, answer(200, &[], body.as_bytes())).meant,
            swallowed,
            "{body}"
        );
    }
    let unhandled = answer(200, &[("X-Amz-Function-Error", "Unhandled")], b"{}");
    assert_eq!(outcome(Transport::Emulator, true, unhandled).meant, failure(502));
    assert_eq!(outcome(Transport::Lambda, true, answer(500, &[], br#"{"body":"x"}"#)).meant, failure(502));
    // As this host's own Runtime API says it.
    let failed =
        outcome(Transport::Lambda, true, answer(502, &[("X-Amz-Function-Error", "Unhandled")], b"{}"));
    assert_eq!(
        (failed.meant, failed.complaints),
        (failure(502), vec!["x-amz-function-error: the handler failed".into()])
    );
}

#[test]
fn a_client_hears_of_a_failure_only_where_it_has_said_something() {
    let of = samples::identity();
    let codec = Codec::Aws(whole());
    let messages = [text("hi")];
    let failed = codec.failed(&samples::event(&of, What::Messages(&messages)), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(failed, failure(504));
    let departure = Departure { code: 1000, reason: "".into(), by: By::Client, lasted: Duration::ZERO };
    let gone = samples::event(&of, What::Disconnected(&departure));
    assert_eq!(codec.failed(&gone, StatusCode::BAD_GATEWAY), Outcome::Failed { status: 502, tell: None });
}

fn decided(transport: Transport, answer: Response<Bytes>) -> Decoded<Decision> {
    let of = samples::identity();
    let handshake = Handshake { subprotocols: vec!["a".into(), "b".into()], ..Handshake::default() };
    let event = samples::event(&of, What::Connect(&handshake));
    Codec::Aws(AwsApi { transport, ..whole() }).decision(&event, Terms::default(), answer)
}

#[test]
fn whoever_connects_may_if_the_function_says_2xx_and_else_gets_what_it_says() {
    type Given<'a> = (Transport, u16, &'a [(&'a str, &'a str)], &'a str);
    let accepted: [(Given<'_>, Option<&str>); 6] = [
        ((Transport::Http, 200, &[], "not looked at"), None),
        ((Transport::Http, 204, &[("sec-websocket-protocol", "b")], ""), Some("b")),
        ((Transport::Lambda, 200, &[], r#"{"statusCode":200}"#), None),
        (
            (
                Transport::Emulator,
                200,
                &[],
                r#"{"statusCode":"201","headers":{"SEC-WEBSOCKET-PROTOCOL":"a"}}"#,
            ),
            Some("a"),
        ),
        (
            (
                Transport::Emulator,
                200,
                &[],
                r#"{"statusCode":200,"multiValueHeaders":{"Sec-WebSocket-Protocol":["a"]}}"#,
            ),
            Some("a"),
        ),
        (
            (Transport::Emulator, 200, &[], r#"{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":""}}"#),
            None,
        ),
    ];
    for ((transport, status, headers, body), subprotocol) in accepted {
        let decoded = decided(transport, answer(status, headers, body.as_bytes()));
        let expected = Acceptance { subprotocol: subprotocol.map(str::to_owned), ..Acceptance::default() };
        assert!(
            matches!(&decoded.meant, Decision::Accept(terms) if *terms == expected),
            "{body}: {decoded:?}"
        );
        assert!(decoded.complaints.is_empty());
    }
    let error = "{\"message\":\"Internal server error\"";
    let refused: [(Given<'_>, u16, &str); 12] = [
        ((Transport::Http, 401, &[], "no"), 401, "no"),
        ((Transport::Http, 302, &[], ""), 302, ""),
        ((Transport::Http, 500, &[], "trace"), 500, "trace"),
        (
            (Transport::Http, 200, &[("sec-websocket-protocol", "c")], ""),
            502,
            "The function chose a subprotocol",
        ),
        ((Transport::Lambda, 200, &[], r#"{"statusCode":403,"body":"no"}"#), 403, "no"),
        ((Transport::Lambda, 200, &[], r#"{"statusCode":101}"#), 502, error),
        ((Transport::Lambda, 200, &[], "{}"), 502, error),
        ((Transport::Lambda, 200, &[], "null"), 502, error),
        ((Transport::Lambda, 200, &[], ""), 502, error),
        ((Transport::Lambda, 401, &[], r#"{"statusCode":200}"#), 502, error),
        ((Transport::Emulator, 200, &[], r#"{"errorMessage":"boom"}"#), 502, error),
        (
            (Transport::Emulator, 200, &[("x-amz-function-error", "Unhandled")], r#"{"statusCode":200}"#),
            502,
            error,
        ),
    ];
    for ((transport, status, headers, body), expected, said) in refused {
        let decoded = decided(transport, answer(status, headers, body.as_bytes()));
        let Decision::Refuse(answer) = decoded.meant else { panic!("{body}: {decoded:?}") };
        assert_eq!(answer.status(), expected, "{body}");
        assert!(answer.body().starts_with(said.as_bytes()), "{body}: {answer:?}");
        assert_eq!(
            decoded.complaints.len(),
            usize::from(expected == 502),
            "{body}: {:?}",
            decoded.complaints
        );
    }
}

#[test]
fn a_header_of_a_handler_that_is_none_is_left_out_and_complained_of() {
    let body = r#"{"statusCode":401,"headers":{"www-authenticate":"Bearer","x-n":7,"x-yes":true,
        "a b":"x","x-split":"a\r\nb: c","x-null":null},"multiValueHeaders":{"set-cookie":["a=1","b=2"],"X-N":["7"]}}"#;
    let decoded = decided(Transport::Lambda, answer(200, &[], body.as_bytes()));
    let Decision::Refuse(answer) = decoded.meant else { panic!("{decoded:?}") };
    let headers: Vec<_> =
        answer.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    let mut sorted = headers.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        ["set-cookie: a=1", "set-cookie: b=2", "www-authenticate: Bearer", "x-n: 7", "x-yes: true"]
    );
    assert_eq!(decoded.complaints.len(), 3, "{:?}", decoded.complaints);
}

#[test]
fn of_more_headers_than_may_be_only_the_first_count() {
    let many: Vec<String> = (0..40_000).map(|at| at.to_string()).collect();
    let body = json!({ "statusCode": 401, "multiValueHeaders": { "a": many, "b": ["1"] } }).to_string();
    let decoded = decided(Transport::Lambda, answer(200, &[], body.as_bytes()));
    assert!(matches!(decoded.meant, Decision::Refuse(answer) if answer.headers().len() == 128));
    assert_eq!(decoded.complaints, ["headers: those behind the first 128 are left out"]);
}

/// What a handler might say, and what it should not.
fn handled() -> impl Strategy<Value = String> {
    let names = ["statusCode", "body", "isBase64Encoded", "headers", "multiValueHeaders", "errorMessage"];
    let values = [
        "null",
        "true",
        "200",
        "70000",
        "-1",
        "2.5",
        "\"200\"",
        "\"\"",
        "\"=\"",
        "[]",
        "{}",
        r#"{"a":[1,null]}"#,
    ];
    let member = (proptest::sample::select(names.to_vec()), proptest::sample::select(values.to_vec()))
        .prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let object =
        proptest::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")));
    prop_oneof![4 => object, 1 => "\\PC{0,20}"]
}

proptest! {
    #[test]
    fn whatever_a_client_says_comes_out_of_the_event_again(said in ".{0,40}", data in proptest::collection::vec(any::<u8>(), 0..40)) {
        use base64::Engine;

        let of = samples::identity();
        for message in [text(&said), binary(&data)] {
            let messages = [message.clone()];
            let call = asked(&whole(), &samples::event(&of, What::Messages(&messages)));
            let read: Read = serde_json::from_slice(call.request.body()).unwrap();
            let body = read.body.unwrap();
            prop_assert_eq!(read.is_base64_encoded, !message.text);
            let body = if message.text { body.into_bytes() } else { base64::prelude::BASE64_STANDARD.decode(body).unwrap() };
            prop_assert_eq!(&body[..], &message.data[..]);
        }
    }

    #[test]
    fn no_answer_breaks_it(body in handled(), status in 200..600_u16) {
        for transport in [Transport::Http, Transport::Lambda, Transport::Emulator] {
            let decoded = outcome(transport, true, answer(status, &[], body.as_bytes()));
            if let Outcome::Done(actions) = decoded.meant {
                prop_assert!(actions.len() <= 1);
            }
            let refused = matches!(decided(transport, answer(status, &[], body.as_bytes())).meant, Decision::Refuse(_));
            let accepted = status < 300 && (transport == Transport::Http || body.starts_with('{'));
            prop_assert!(refused || accepted);
        }
    }
}
