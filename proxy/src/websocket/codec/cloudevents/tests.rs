use std::time::Duration;

use http::{Response, StatusCode};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::tunnel::{By, CloseFrame};
use crate::websocket::codec::samples::{self, CONNECTION, binary, text};
use crate::websocket::codec::{Codec, Decoded};
use crate::websocket::event::{Acceptance, Action, Decision, Departure, Handshake, Message, Outcome};

fn asked(settings: CloudEvents, event: &Event<'_>) -> Request<Bytes> {
    match Codec::CloudEvents(settings).call(event) {
        Encoded::Call(call) => {
            assert_eq!(call.function, event.of.function);
            call.request
        }
        Encoded::Instead(actions) => panic!("no call, but {actions:?}"),
    }
}

fn shown(request: &Request<Bytes>) -> Vec<String> {
    let headers = request.headers().iter();
    let mut shown: Vec<_> =
        headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    shown.sort();
    shown
}

#[test]
fn a_message_is_a_post_of_what_was_said_with_all_that_is_known_of_it() {
    let of = samples::identity();
    let messages = [text("hello")];
    let mut event = samples::event(&of, What::Messages(&messages));
    event.state = Some("eyJhIjoxfQ==");
    let request = asked(CloudEvents::default(), &event);
    assert_eq!((request.method(), &request.body()[..]), (&Method::POST, &b"hello"[..]));
    assert_eq!(request.uri(), "/room/1?name=J%C3%BCrgen+B&a=1&a=2");
    assert_eq!(
        shown(&request),
        [
            "ce-attempt: 2",
            "ce-awpsversion: 1.0",
            "ce-clientip: 192.0.2.1",
            "ce-connectionid: AAECAwQFBgcICQoLDA0ODw",
            "ce-connectionstate: eyJhIjoxfQ==",
            "ce-eventname: message",
            "ce-hub: chat",
            "ce-id: AAECAwQFBgcICQoLDA0ODw.7",
            "ce-seq: 7",
            "ce-source: /hubs/chat/client/AAECAwQFBgcICQoLDA0ODw",
            "ce-specversion: 1.0",
            "ce-subprotocol: v1.chat",
            "ce-time: 2026-11-20T20:38:28.941Z",
            "ce-type: azure.webpubsub.user.message",
            "ce-userid: ada",
            "content-type: text/plain",
            "webhook-request-origin: roost",
        ]
    );
    let elsewhere =
        CloudEvents { path: Some(PathAndQuery::from_static("/events?x=1")), ..CloudEvents::default() };
    assert_eq!(asked(elsewhere, &event).uri(), "/events?x=1");
    let messages = [binary(b"\0\xff")];
    let request = asked(CloudEvents::default(), &samples::event(&of, What::Messages(&messages)));
    assert_eq!(
        (&request.headers()[CONTENT_TYPE], &request.body()[..]),
        (&BINARY.parse().unwrap(), &b"\0\xff"[..])
    );
}

#[test]
fn other_events_are_json_and_say_what_they_are() {
    let of = samples::identity();
    let handshake = Handshake {
        headers: [("x-a", "1"), ("x-a", "2"), ("cookie", "c=1")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            }),
        subprotocols: vec!["a".into(), "b".into()],
        claims: [("sub", "ada"), ("role", "r1"), ("role", "r2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    let departure = Departure {
        code: 4001,
        reason: "had \"enough\"\r\n".into(),
        by: By::Client,
        lasted: Duration::from_millis(1500),
    };
    let connect = json!({
        "claims": { "sub": ["ada"], "role": ["r1", "r2"] },
        "query": { "name": ["Jürgen B"], "a": ["1", "2"] },
        "headers": { "x-a": ["1", "2"], "cookie": ["c=1"] },
        "subprotocols": ["a", "b"],
        "clientCertificates": [],
    });
    for (what, kind, name, body, more) in [
        (What::Connect(&handshake), "sys.connect", "connect", connect, &[][..]),
        (What::Connected, "sys.connected", "connected", json!({}), &[]),
        (
            What::Disconnected(&departure),
            "sys.disconnected",
            "disconnected",
            json!({ "reason": "had \"enough\"\r\n" }),
            &[("ce-closecode", "4001"), ("ce-closedby", "client"), ("ce-durationms", "1500")],
        ),
    ] {
        let request = asked(CloudEvents::default(), &samples::event(&of, what));
        let headers = request.headers();
        assert_eq!(headers["ce-type"], format!("azure.webpubsub.{kind}"));
        assert_eq!(
            (&headers["ce-eventname"], &headers["content-type"]),
            (&name.parse().unwrap(), &JSON.parse().unwrap())
        );
        assert_eq!(serde_json::from_slice::<Value>(request.body()).unwrap(), body);
        for (name, value) in more {
            assert_eq!(headers[*name], value);
        }
        assert_eq!(headers.contains_key(CE_CLOSE_CODE), !more.is_empty());
    }
    // Of one that nobody saw end, nobody knows how many came before.
    let event = Event { sequence: None, ..samples::event(&of, What::Disconnected(&departure)) };
    let request = asked(CloudEvents::default(), &event);
    assert!(!request.headers().contains_key(CE_SEQ));
    assert_eq!(request.headers()["ce-id"], "AAECAwQFBgcICQoLDA0ODw.end");
}

#[test]
fn each_key_signs_the_id_of_the_connection_and_without_one_there_is_no_signature() {
    let of = samples::identity();
    let event = samples::event(&of, What::Connected);
    // As `printf %s ID | openssl dgst -sha256 -hmac KEY` says.
    let [one, two] = [
        "sha256=c835b506ff704b1861cdb261054fac42facc1157565bc2ab755629f94cd7b859",
        "sha256=2c9b9e1b9ad6cc7793689692fcc90c38577206758f14938a64763adabc1a5e8f",
    ];
    for (keys, expected) in [
        (vec![], None),
        (vec!["one"], Some(one.to_owned())),
        (vec!["one", "two"], Some(format!("{one},{two}"))),
    ] {
        let keys = keys.into_iter().map(|key: &str| SigningKey::new(key.as_bytes())).collect();
        let request = asked(CloudEvents { keys, ..CloudEvents::default() }, &event);
        let signature = request.headers().get(CE_SIGNATURE).map(|value| value.to_str().unwrap());
        assert_eq!(signature, expected.as_deref());
    }
    // What takes the place of a secret counts at once, wherever it is used.
    let key = SigningKey::new(b"two");
    let settings = CloudEvents { keys: vec![key.clone()], ..CloudEvents::default() };
    key.replace(b"one");
    assert_eq!(asked(settings, &event).headers()[CE_SIGNATURE], one);
    assert_eq!(format!("{key:?}"), "SigningKey");
}

#[test]
fn what_a_client_says_of_itself_cannot_end_a_header() {
    let mut of = samples::identity();
    for (user, shown) in [
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("\"q\"", "%22q%22"),
        ("Jürgen", "J%C3%BCrgen"),
        ("x\r\nce-hub: other", "x%0D%0Ace-hub:%20other"),
        ("", ""),
        ("auth0|a@b.c", "auth0|a@b.c"),
    ] {
        of.user = Box::<str>::from(user).into();
        of.subprotocol = Box::<str>::from(user).into();
        let request = asked(CloudEvents::default(), &samples::event(&of, What::Connected));
        assert_eq!(request.headers()[CE_USER_ID], shown);
        assert_eq!(request.headers()[CE_SUBPROTOCOL], shown);
        assert_eq!(request.headers()[CE_HUB], "chat");
    }
    // A state goes back as it came, or not at all.
    for (state, shown) in [("a b %", Some("a b %")), ("x\r\nce-hub: other", None)] {
        let mut event = samples::event(&of, What::Connected);
        event.state = Some(state);
        let request = asked(CloudEvents::default(), &event);
        assert_eq!(request.headers().get(CE_CONNECTION_STATE).map(|value| value.to_str().unwrap()), shown);
    }
}

#[test]
fn batches_are_arrays_of_events_each_with_an_id_of_its_own() {
    let of = samples::identity();
    let messages = [text("one"), binary(b"\0")];
    let mut event = samples::event(&of, What::Messages(&messages));
    event.state = Some("s");
    // Several are a batch, and one is where the function asked for it.
    for (batch, count) in [(false, 2), (true, 2), (true, 1)] {
        event.what = What::Messages(&messages[..count]);
        let request = asked(CloudEvents { batch, ..CloudEvents::default() }, &event);
        assert_eq!(request.headers()[CONTENT_TYPE], "application/cloudevents-batch+json; charset=utf-8");
        assert!(request.headers().keys().all(|name| !name.as_str().starts_with("ce-")));
        let body: Vec<Value> = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body.len(), count);
        assert_eq!(
            body[0],
            json!({
                "specversion": "1.0", "awpsversion": "1.0", "type": "azure.webpubsub.user.message",
                "eventname": "message", "source": format!("/hubs/chat/client/{CONNECTION}"),
                "id": format!("{CONNECTION}.7.0"), "hub": "chat", "seq": "7", "attempt": "2",
                "clientip": "192.0.2.1", "time": "2026-11-20T20:38:28.941Z", "connectionid": CONNECTION,
                "userid": "ada", "subprotocol": "v1.chat", "connectionstate": "s",
                "datacontenttype": "text/plain", "data": "one",
            })
        );
        if let Some(two) = body.get(1) {
            let expected = [
                json!(format!("{CONNECTION}.7.1")),
                json!("application/octet-stream"),
                json!("AA=="),
                Value::Null,
            ];
            assert_eq!(
                ["id", "datacontenttype", "data_base64", "data"].map(|name| two[name].clone()),
                expected
            );
        }
    }
    event.what = What::Messages(&[]);
    assert!(matches!(CloudEvents::default().call(&event), Encoded::Instead(actions) if actions.is_empty()));
    assert_eq!(
        [false, true]
            .map(|batch| Codec::CloudEvents(CloudEvents { batch, ..CloudEvents::default() }).batches()),
        [false, true]
    );
}

fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Response<Bytes> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    answer.body(Bytes::copy_from_slice(body)).unwrap()
}

fn done(headers: &[(&str, &str)], body: &[u8]) -> (Vec<Action>, Vec<String>) {
    match outcome(answer(200, headers, body)) {
        Decoded { meant: Outcome::Done(actions), complaints } => (actions, complaints),
        failed @ Decoded { .. } => panic!("{failed:?}"),
    }
}

fn send(message: Message) -> Vec<Action> {
    vec![Action::Send(message)]
}

fn publish(group: &str, message: Message, exclude_self: bool) -> Action {
    Action::Publish { group: group.into(), message, exclude_self }
}

#[test]
fn an_answer_is_what_the_client_is_told_and_what_is_asked_in_headers() {
    let join = |group: &str| Action::Join(group.into());
    let leave = |group: &str| Action::Leave(group.into());
    let state = |text: &str| Action::SetState(Some(text.into()));
    let close = |code, reason| Action::Close(CloseFrame::new(code, reason));
    for (headers, body, expected) in [
        (&[][..], &b""[..], vec![]),
        (&[], b"hi", send(text("hi"))),
        (&[], b"\xff", send(binary(b"\xff"))),
        (&[("content-type", "text/plain")], b"hi", send(text("hi"))),
        (&[("content-type", "application/octet-stream")], b"hi", send(binary(b"hi"))),
        (&[("x-ws-reply", "none")], b"hi", vec![]),
        (&[("x-ws-reply", "Binary")], b"hi", send(binary(b"hi"))),
        (&[("x-ws-reply", "text"), ("content-type", "application/octet-stream")], b"hi", send(text("hi"))),
        (&[("x-ws-reply", "text")], b"", vec![]),
        (&[("ce-connectionState", "e30=")], b"", vec![state("e30=")]),
        (&[("ce-connectionState", "")], b"", vec![Action::SetState(None)]),
        (
            &[("x-ws-join", "g1, g2 ,,"), ("x-ws-join", "grün")],
            b"",
            vec![join("g1"), join("g2"), join("grün")],
        ),
        (&[("x-ws-close", "4001 go away")], b"bye", vec![Action::Send(text("bye")), close(4001, "go away")]),
        (&[("x-ws-close", "1000")], b"", vec![close(1000, "")]),
        (&[("x-ws-broadcast", "group=g1")], b"hi", vec![publish("g1", text("hi"), false)]),
        (&[("x-ws-broadcast", "group=g1;exclude-self")], b"hi", vec![publish("g1", text("hi"), true)]),
        (
            &[("x-ws-broadcast", "Group = g1 ; Exclude-Self , group=g=2"), ("x-ws-broadcast", "group=g3")],
            b"hi",
            vec![
                publish("g1", text("hi"), true),
                publish("g=2", text("hi"), false),
                publish("g3", text("hi"), false),
            ],
        ),
        (&[("x-ws-broadcast", "group=g1")], b"", vec![]),
        (
            &[("x-ws-broadcast", "group=g1"), ("x-ws-reply", "none")],
            b"hi",
            vec![publish("g1", text("hi"), false)],
        ),
        (
            &[("x-ws-broadcast", "group=g1;exclude-self"), ("x-ws-reply", "binary")],
            b"hi",
            vec![publish("g1", binary(b"hi"), true), Action::Send(binary(b"hi"))],
        ),
        // In one order, however they are written.
        (
            &[
                ("x-ws-close", "1000"),
                ("x-ws-broadcast", "group=g1"),
                ("x-ws-leave", "g2"),
                ("x-ws-join", "g1"),
                ("ce-connectionstate", "s"),
            ],
            b"hi",
            vec![state("s"), join("g1"), leave("g2"), publish("g1", text("hi"), false), close(1000, "")],
        ),
    ] {
        assert_eq!(done(headers, body), (expected, vec![]), "{headers:?}");
    }
}

#[test]
fn a_header_that_means_nothing_is_left_out_and_complained_of() {
    let long = "x".repeat(MAX_STATE_AND_ONE);
    let groups = ["g"; verbs::MAX_GROUPS + 1].join(",");
    let sent = || send(text("hi"));
    for (name, value, left, complaint) in [
        ("x-ws-close", "abc", sent(), "x-ws-close: \"abc\" is left out: expected a code of 1000 to 1003"),
        ("x-ws-close", "", sent(), "expected a code"),
        ("x-ws-close", "1006 gone", sent(), "expected a code"),
        ("x-ws-close", "70000", sent(), "expected a code"),
        ("x-ws-close", "-1", sent(), "expected a code"),
        ("x-ws-reply", "maybe", sent(), "expected none, text or binary"),
        ("ce-connectionstate", &long, sent(), "expected at most 8192 bytes"),
        ("x-ws-join", &long, sent(), "expected a name of at most 1024 bytes"),
        // What was meant for a group is not told to the client instead.
        ("x-ws-broadcast", "", vec![], ""),
        ("x-ws-broadcast", "g1", vec![], "expected group=NAME, and perhaps ;exclude-self"),
        ("x-ws-broadcast", "group=", vec![], "expected group=NAME"),
        ("x-ws-broadcast", "exclude-self", vec![], "expected group=NAME"),
        ("x-ws-broadcast", "group=g1;group=g2", vec![], "expected group=NAME"),
        ("x-ws-broadcast", "group=g1;exclude", vec![], "expected group=NAME"),
    ] {
        let (actions, complaints) = done(&[(name, value)], b"hi");
        assert_eq!(actions, left, "{name}: {value}");
        assert!(complaints.concat().contains(complaint), "{name}: {value}: {complaints:?}");
        assert_eq!(complaints.len(), usize::from(!complaint.is_empty()), "{complaints:?}");
        assert!(complaints.iter().all(|text| text.len() < 250), "{complaints:?}");
    }
    let (actions, complaints) = done(&[("x-ws-join", &groups)], b"");
    assert_eq!((actions.len(), complaints.len()), (verbs::MAX_GROUPS, 1));
    let (actions, complaints) = done(&[("x-ws-reply", "text")], b"\xff");
    assert_eq!((actions, complaints.len()), (send(binary(b"\xff")), 1));
    let mut not_utf_8 = answer(200, &[], b"hi");
    for name in ["x-ws-join", "x-ws-close"] {
        not_utf_8.headers_mut().insert(name, HeaderValue::from_bytes(b"\xff").unwrap());
    }
    assert_eq!(outcome(not_utf_8).complaints.len(), 2);
}

const MAX_STATE_AND_ONE: usize = verbs::MAX_STATE + 1;

#[test]
fn an_answer_may_be_several_frames() {
    let frames = [("content-type", "Application/websocket-events; x=1")];
    let body =
        b"OPEN\r\nTEXT 2\r\nhi\r\nPING\r\nBINARY 1\r\n\xff\r\nCLOSE 4\r\n\x0f\xa1no\r\nTEXT 1\r\nx\r\n";
    let [one, two] = [text("hi"), binary(b"\xff")];
    let close = |code, reason| Action::Close(CloseFrame::new(code, reason));
    let said = vec![Action::Send(one.clone()), Action::Send(two.clone()), close(4001, "no")];
    assert_eq!(done(&frames, body), (said, vec![]));
    let headers = [frames[0], ("x-ws-broadcast", "group=g"), ("x-ws-close", "1000")];
    let published = vec![publish("g", one, false), publish("g", two, false), close(1000, "")];
    assert_eq!(done(&headers, body), (published, vec![]));
    let body = b"TEXT\r\n".repeat(answer::MAX_PUBLISHED / 2);
    for (groups, published, complained) in [("group=a,group=b", 1024, 0), ("group=a,group=b,group=c", 0, 1)] {
        let (actions, complaints) = done(&[frames[0], ("x-ws-broadcast", groups)], &body);
        assert_eq!((actions.len(), complaints.len()), (published, complained), "{groups}");
    }
    let (actions, complaints) = done(&frames, b"hello");
    assert_eq!((actions, complaints.len()), (vec![], 1));
    assert!(complaints[0].contains("event 0 does not begin with a line"), "{complaints:?}");
}

#[test]
fn an_answer_may_be_several_parts_and_one_that_is_broken_is_a_failure() {
    let mixed = [("content-type", "Multipart/Mixed; boundary=\"a b\"")];
    let body = b"--a b\r\n\r\nhi\r\n--a b\r\nContent-Type: application/octet-stream\r\n\r\nhi\r\n\
        --a b\r\nContent-Type: text/html\r\n\r\n\xff\r\n--a b\r\n\r\n\r\n--a b--\r\n";
    let all = [text("hi"), binary(b"hi"), binary(b"\xff"), text("")];
    let said = all.clone().map(Action::Send);
    assert_eq!(done(&mixed, body), (said.into(), vec![]));
    let headers = [mixed[0], ("x-ws-broadcast", "group=g"), ("x-ws-reply", "binary"), ("x-ws-close", "1000")];
    let (actions, complaints) = done(&headers, body);
    assert_eq!((actions.len(), complaints.len()), (9, 0), "each is said to the group and to the client");
    assert_eq!(actions[0], publish("g", binary(b"hi"), false));
    assert_eq!(actions[8], Action::Close(CloseFrame::new(1000, "")));
    for (content_type, body, why) in [
        ("multipart/mixed", &body[..], "its Content-Type has no boundary of 1 to 70 printable characters"),
        ("multipart/mixed; boundary=a", b"--a\r\n\r\nhi", "of which part 1 is not ended by the boundary"),
    ] {
        let Decoded { meant, complaints } = outcome(answer(200, &[("content-type", content_type)], body));
        assert_eq!(meant, Outcome::Failed { status: 502, tell: None });
        assert!(complaints.len() == 1 && complaints[0].contains(why), "{complaints:?}");
    }
}

#[test]
fn a_program_that_gives_back_what_it_gets_is_an_echo() {
    let of = samples::identity();
    for message in [text("hi"), text("{}"), binary(b"hi"), binary(b"\0\xff")] {
        let messages = [message.clone()];
        let request = asked(CloudEvents::default(), &samples::event(&of, What::Messages(&messages)));
        // As the classic watchdog answers.
        let content_type = request.headers()[CONTENT_TYPE].to_str().unwrap();
        assert_eq!(done(&[("content-type", content_type)], request.body()), (send(message), vec![]));
    }
}

#[test]
fn any_status_but_2xx_is_a_failure() {
    let of = samples::identity();
    for (status, failed) in [(200, false), (202, false), (204, false), (301, true), (404, true), (503, true)]
    {
        let Decoded { meant, complaints } = outcome(answer(status, &[("x-ws-close", "abc")], b"no"));
        let expected = Outcome::Failed { status, tell: None };
        assert_eq!((meant == expected, complaints.is_empty()), (failed, failed), "{status}");
    }
    let failed = Codec::CloudEvents(CloudEvents::default())
        .failed(&samples::event(&of, What::Connected), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(failed, Outcome::Failed { status: 504, tell: None });
}

fn decided(status: u16, headers: &[(&str, &str)], body: &str) -> Decoded<Decision> {
    let of = samples::identity();
    let handshake = Handshake { subprotocols: vec!["a".into(), "b".into()], ..Handshake::default() };
    decision(&samples::event(&of, What::Connect(&handshake)), answer(status, headers, body.as_bytes()))
}

#[test]
fn an_answer_to_connect_says_on_which_terms() {
    let none = Acceptance::default;
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (status, headers, body, expected) in [
        (204, &[][..], "", none()),
        (204, &[], "no JSON, and not looked at", none()),
        (200, &[], "", none()),
        (200, &[], " \n", none()),
        (200, &[], "{}", none()),
        (200, &[], r#"{"userId":null,"groups":null,"roles":null,"subprotocol":null,"more":[1]}"#, none()),
        (200, &[], r#"{"userId":"","subprotocol":""}"#, none()),
        (
            200,
            &[("x-ws-join", "g2"), ("ce-connectionstate", "s")],
            r#"{"userId":"ada","groups":["g1"],"roles":["webpubsub.sendToGroup"],"subprotocol":"b"}"#,
            Acceptance {
                user: Some("ada".into()),
                groups: texts(&["g1", "g2"]),
                subprotocol: Some("b".into()),
                state: Some("s".into()),
                roles: texts(&["webpubsub.sendToGroup"]),
            },
        ),
    ] {
        let Decoded { meant, complaints } = decided(status, headers, body);
        assert!(matches!(&meant, Decision::Accept(accepted) if *accepted == expected), "{body}: {meant:?}");
        assert_eq!(complaints, [""; 0]);
    }
    let Decoded { meant, complaints } = decided(204, &[("x-ws-close", "1000")], "");
    assert!(matches!(meant, Decision::Accept(_)));
    assert_eq!(complaints, ["x-ws-close means nothing in an answer to connect"]);
}

#[test]
fn a_client_is_refused_with_the_functions_words_or_with_502_if_those_cannot_be_read() {
    let long = |field: &str, most| format!(r#"{{"{field}":["{}"]}}"#, "x".repeat(most + 1));
    let many = format!(r#"{{"groups":[{}]}}"#, [r#""g""#; verbs::MAX_GROUPS + 1].join(","));
    for (status, body, refused, said) in [
        (401, "who are you?", 401, "who are you?"),
        (404, "", 404, ""),
        (500, "stack trace", 502, "The function failed at the connect event.\n"),
        (302, "", 502, "The function failed"),
        (200, "ok", 502, "The function's answer to the connect event cannot be read.\n"),
        (200, r#"{"userId":1}"#, 502, "The function's answer"),
        (200, r#"["a"]"#, 502, "The function's answer"),
        (200, &format!(r#"{{"userId":"{}"}}"#, "x".repeat(1025)), 502, "The function's answer"),
        (200, &long("groups", verbs::MAX_GROUP_NAME), 502, "The function's answer"),
        (200, &long("roles", verbs::MAX_GROUP_NAME), 502, "The function's answer"),
        (200, r#"{"groups":[""]}"#, 502, "The function's answer"),
        (200, &many, 502, "The function's answer"),
        (
            200,
            r#"{"subprotocol":"c"}"#,
            502,
            "The function chose a subprotocol that the client does not offer.\n",
        ),
    ] {
        let Decoded { meant, complaints } = decided(status, &[("x-why", "1")], body);
        let Decision::Refuse(answer) = meant else { panic!("{status} {body}: {meant:?}") };
        assert_eq!(answer.status(), refused, "{status} {body}");
        assert!(answer.body().starts_with(said.as_bytes()), "{body}: {answer:?}");
        // Only what the function said of the client is the client's.
        assert_eq!(answer.headers().contains_key("x-why"), refused != 502);
        assert_eq!(complaints.len(), usize::from(refused == 502), "{complaints:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_client_is_called_the_function_reads_it_back(user in "(%[0-9a-f]{2}|\\PC|[\\x00-\\xff]){0,20}") {
        let mut of = samples::identity();
        of.user = Box::<str>::from(user.as_str()).into();
        let request = asked(CloudEvents::default(), &samples::event(&of, What::Connected));
        let value = request.headers()[CE_USER_ID].to_str().unwrap();
        prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()));
        let decoded = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
        prop_assert_eq!(decoded.as_ref(), user.as_str());
    }

    #[test]
    fn no_answer_breaks_it(
        name in proptest::sample::select(
            &["x-ws-close", "x-ws-join", "x-ws-broadcast", "x-ws-reply", "ce-connectionstate", "content-type"][..]
        ),
        value in "[ -~]{0,20}|(group=|exclude-self|[;, =g1]){0,6}",
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let (actions, complaints) = done(&[(name, &value)], &body);
        for action in &actions {
            if let Action::Send(message) | Action::Publish { message, .. } = action {
                prop_assert!(!message.text || std::str::from_utf8(&message.data).is_ok());
            }
        }
        prop_assert!(complaints.len() <= 20);
        let of = samples::identity();
        let handshake = Handshake::default();
        let event = samples::event(&of, What::Connect(&handshake));
        let decoded = decision(&event, answer(200, &[(name, &value)], &body));
        let readable = matches!(body.trim_ascii().first(), None | Some(b'{'));
        prop_assert!(readable || matches!(decoded.meant, Decision::Refuse(_)));
    }
}
