//! A WebSocket API in the dialect of AWS: its events reach the functions of their routes, and what these say counts.

use std::path::Path;

use hyper::StatusCode;
use roost_tests::{Host, Image, Message, Runner, Socket, clients, eventually};
use serde_json::{Value, json};

const IMAGE: &str = "handler:1";

/// Where the emulator in the images of Lambda takes events.
const EMULATOR: &str = "POST /2015-03-31/functions/function/invocations";

/// A host with the image of a handler: it prints the events it gets, and fails when they say so.
async fn host() -> Host {
    let host = Host::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws/serve.sh");
    let busybox = Path::new("/bin/busybox");
    let files = [(busybox, "/bin/sh"), (busybox, "/bin/busybox"), (script.as_path(), "/bin/serve")];
    let run =
        "echo keys $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY; exec busybox nc -ll -p 8080 -e /bin/serve";
    let command = ["/bin/sh", "-c", run];
    host.import(&Image::new(&files, &command), IMAGE).await;
    host
}

async fn deploy(host: &Host, name: &str, annotations: Value) {
    let env = json!({ "NAME": name });
    let deployment = json!({ "service": name, "image": IMAGE, "envVars": env, "annotations": annotations });
    host.post_function(&deployment).await;
    host.ready(name).await;
}

/// The event with this route that the function has printed, with the request that brought it.
async fn told(host: &Host, function: &str, route: &str) -> (String, Value) {
    eventually("an event", || async {
        let events = host.log_lines(function).await.into_iter().filter_map(|line| {
            let (request, event) = line.split_at_checked(line.find('{')?)?;
            let event: Value = serde_json::from_str(event).ok()?;
            Some((request.trim().to_owned(), event))
        });
        events.into_iter().find(|(_, event)| event["requestContext"]["routeKey"] == route)
    })
    .await
}

async fn heard(socket: &mut Socket) -> String {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => text.to_string(),
        other => panic!("expected a text, got {other:?}"),
    }
}

async fn heard_json(socket: &mut Socket) -> Value {
    serde_json::from_str(&heard(socket).await).unwrap()
}

#[tokio::test]
async fn events_reach_the_functions_of_their_routes_and_failures_are_told_to_the_client() {
    let host = host().await;
    deploy(&host, "sender", json!({ "roost.websocket.codec": "aws" })).await;
    let api = json!({
        "roost.websocket": "events",
        "roost.websocket.codec": "aws",
        "roost.websocket.aws.transport": "lambda",
        "roost.websocket.aws.routes": "$connect,$disconnect,send=sender;two-way,note=sender",
        "roost.websocket.aws.stage": "dev",
    });
    deploy(&host, "rooms", api).await;

    // $connect decides.
    let open = async |query: &str| Socket::try_open(&host, &format!("/function/rooms{query}"), &[]).await;
    assert_eq!(open("?door=shut").await.unwrap_err(), StatusCode::FORBIDDEN);
    assert_eq!(open("?door=broken").await.unwrap_err(), StatusCode::BAD_GATEWAY);
    let mut socket = open("").await.unwrap();
    let (request, connect) = told(&host, "rooms", "$connect").await;
    assert_eq!((request.as_str(), &connect["requestContext"]["stage"]), ("POST /", &json!("dev")));

    // A message goes where it says, and only a two-way route brings back what is said there.
    socket.says(r#"{"action":"note"}"#).await;
    socket.says(r#"{"action":"send","to":"all"}"#).await;
    assert_eq!(heard(&mut socket).await, "sender heard it");
    let (_, message) = told(&host, "sender", "send").await;
    assert_eq!(message["body"], r#"{"action":"send","to":"all"}"#);
    let connection = message["requestContext"]["connectionId"].clone();
    assert_eq!(message["requestContext"]["apiId"], "rooms");
    told(&host, "sender", "note").await;

    // What fails, and what has no route, is told to the client in a frame; the connection stays.
    for (says, hears) in [
        (r#"{"action":"send","do":"throw"}"#, "Internal server error"),
        (r#"{"action":"note","do":"crash"}"#, "Internal server error"),
        (r#"{"action":"else"}"#, "Forbidden"),
        ("no JSON", "Forbidden"),
    ] {
        socket.says(says).await;
        let frame = heard_json(&mut socket).await;
        assert_eq!((&frame["message"], &frame["connectionId"]), (&json!(hears), &connection), "{says}");
    }
    socket.says(r#"{"action":"send"}"#).await;
    assert_eq!(heard(&mut socket).await, "sender heard it");

    socket.leave().await;
    let (_, gone) = told(&host, "rooms", "$disconnect").await;
    assert_eq!(gone["requestContext"]["connectionId"], connection);
    assert_eq!(gone["requestContext"]["eventType"], "DISCONNECT");
    // The function of $disconnect got no message, that of messages nothing else.
    let other = host.log_lines("sender").await.into_iter().find(|line| line.contains("CONNECT"));
    assert_eq!(other, None);
}

#[tokio::test]
async fn the_sdks_of_aws_speak_to_connections_and_know_each_error_by_its_class() {
    let host = host().await;
    let api = json!({
        "roost.websocket": "events",
        "roost.websocket.codec": "aws",
        "roost.websocket.aws.transport": "lambda",
        "roost.websocket.aws.routes": "$default",
    });
    deploy(&host, "rooms", api).await;
    let keys = eventually("the replica's keys", || async {
        let lines = host.log_lines("rooms").await.into_iter();
        lines.filter_map(|line| Some(line.strip_prefix("keys ")?.to_owned())).next()
    })
    .await;
    let (id, secret) = keys.split_once(' ').unwrap();
    let clients = clients().await;
    for (sdk, name) in [(Runner::Python, "boto3"), (Runner::Node, "JavaScript")] {
        let mut socket = Socket::open(&host, "/function/rooms").await;
        let listed = host.api.get("/system/connections?function=rooms").await.json();
        let connection = listed["connections"][0]["id"].as_str().unwrap().to_owned();
        // A path before the call does not matter, as handlers put their stage there.
        clients.manage(sdk, &format!("{}/prod", host.url()), &connection, (id, secret)).await;
        assert_eq!(heard(&mut socket).await, format!("h\u{e9}llo from {name}"));
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![0xff, 0]));
        assert_eq!(socket.closed().await, (1000, String::new()));
    }
}

#[tokio::test]
async fn a_plain_get_is_told_that_there_is_a_websocket() {
    let host = host().await;
    deploy(&host, "rooms", json!({ "roost.websocket": "events", "roost.websocket.codec": "aws" })).await;
    let answer = host.api.get("/function/rooms").await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED, "{}", answer.text());
    assert_eq!((answer.header("upgrade"), answer.header("connection")), ("websocket", "Upgrade"));
    // It can be invoked by whoever says what with, as any function.
    assert_eq!(host.call("rooms", "hello").await.status, StatusCode::OK);
    // Where events are those of another dialect, a function answers what it likes.
    deploy(&host, "echo", json!({ "roost.websocket": "events" })).await;
    assert_eq!(host.api.get("/function/echo").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_emulator_of_lambda_images_is_asked_at_its_path_and_a_stack_file_says_all_of_it() {
    let host = host().await;
    host.log_in().await;
    let stack = format!(
        "functions:
  door: {{ image: '{IMAGE}', environment: {{ NAME: door }} }}
  other: {{ image: '{IMAGE}', environment: {{ NAME: other }} }}
websockets:
  door:
    transport: emulator
    selection: $request.body.type
    routes:
      $connect:
      $default: {{ function: other, response: true }}
"
    );
    let file = host.dir().join("stack.yaml");
    std::fs::write(&file, stack).unwrap();
    host.roost_done(&["deploy", "-f", file.to_str().unwrap()]).await;
    let mut socket = Socket::open(&host, "/function/door").await;
    assert_eq!(told(&host, "door", "$connect").await.0, EMULATOR);
    socket.says(r#"{"type":"anything"}"#).await;
    assert_eq!(heard(&mut socket).await, "other heard it");
    assert_eq!(told(&host, "other", "$default").await.0, EMULATOR);
}
