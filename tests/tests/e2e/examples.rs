//! The examples, from their sources to functions that answer, as their READMEs promise.

use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use roost_tests::{
    Example, Host, PATIENCE, Runner, Socket, clients, copy_of, eventually, image_of, repository,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A host on which the example's image was imported from a file and deployed.
async fn deployed(example: Example) -> Host {
    let archive = example.archive().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    host.roost_done(&["deploy", example.name(), "--image", example.name()]).await;
    host
}

async fn next(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> Message {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message");
    message.expect("no end yet").unwrap()
}

#[tokio::test]
async fn node_ws_answers_http_and_echoes_to_websocket_clients_of_three_languages() {
    let host = deployed(Example::NodeWs).await;
    let answer = host.api.get("/function/node-ws").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::OK, "Open a WebSocket here: messages come back.\n")
    );

    let url = format!("ws://127.0.0.1:{}/function/node-ws", host.port());
    let (mut socket, _) = connect_async(&url).await.unwrap();
    for message in [Message::text("h\u{e9}llo"), Message::text(""), Message::binary(vec![0, 255, 10])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, message);
    }
    socket.close(Some(CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() })).await.unwrap();
    let Message::Close(Some(back)) = next(&mut socket).await else { panic!("no Close came back") };
    assert_eq!(back.code, CloseCode::Library(4001));

    // They check texts, binary messages, pings and the close code themselves.
    let clients = clients().await;
    for runner in [Runner::Python, Runner::Node] {
        clients.run(runner, &url).await;
    }
}

#[tokio::test]
async fn node_ws_says_goodbye_to_its_sockets_when_it_is_removed() {
    let host = deployed(Example::NodeWs).await;
    let url = format!("ws://127.0.0.1:{}/function/node-ws", host.port());
    let (mut socket, _) = connect_async(&url).await.unwrap();
    socket.send(Message::text("hi")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text("hi"));
    let body = serde_json::json!({ "functionName": "node-ws" }).to_string();
    let answer = host.api.send(hyper::Method::DELETE, "/system/functions", body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    // The host says it for a function that goes, whatever that would say itself.
    let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no Close came") };
    assert_eq!(frame.code, CloseCode::Restart);
}

#[tokio::test]
async fn shell_greets_whom_the_body_names() {
    let host = deployed(Example::Shell).await;
    let machine = std::env::consts::ARCH;
    let ada = host.api.post("/function/shell/greet", "Ada").await;
    assert_eq!(ada.status, StatusCode::OK);
    assert_eq!(ada.text(), format!("Hello, Ada! You asked for POST /greet on {machine}.\n"));
    let world = host.api.get("/function/shell").await;
    assert_eq!(world.text(), format!("Hello, world! You asked for GET / on {machine}.\n"));
    let invoked = host.roost_done(&["invoke", "shell", "-d", "Grace"]).await;
    assert_eq!(invoked, format!("Hello, Grace! You asked for POST / on {machine}.\n"));
    let log = host.log_lines("shell").await;
    assert!(log.iter().any(|line| line == "POST /greet 200"), "{log:?}");
}

#[tokio::test]
async fn lambda_python_runs_under_the_runtime_of_aws_and_echoes_behind_a_websocket() {
    let archive = Example::LambdaPython.archive().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let deploy =
        ["deploy", "lambda-python", "--image", "lambda-python", "--annotation", "roost.lambda=runtime-api"];
    host.roost_done(&deploy).await;
    let answer = host.call("lambda-python", r#"{"name":"Ada"}"#).await;
    assert_eq!((answer.status, &answer.json()["message"]), (StatusCode::OK, &json!("Hello, Ada!")));
    let held = [
        "--annotation",
        "roost.websocket=events",
        "--annotation",
        "roost.websocket.codec=aws",
        "--annotation",
        "roost.websocket.aws.transport=lambda",
        "--annotation",
        "roost.websocket.aws.routes=$connect,$disconnect,$default;two-way",
    ];
    host.roost_done(&[&deploy[..], &held].concat()).await;
    let mut socket = Socket::open(&host, "/function/lambda-python").await;
    socket.says("hello").await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[test]
fn the_readme_of_shell_shows_the_script_as_it_is() {
    let read = |file| std::fs::read_to_string(Example::Shell.dir().join(file)).unwrap();
    assert!(read("README.md").contains(&format!("```sh\n{}```", read("handler.sh"))));
}

#[tokio::test]
async fn three_lines_of_shell_are_a_chat_room_that_needs_no_replica_while_all_are_silent() {
    let example = repository().join("examples/chat-shell");
    let script = std::fs::read_to_string(example.join("handler.sh")).unwrap();
    assert_eq!(script.lines().count(), 3, "{script}");
    for readme in [example.join("README.md"), repository().join("docs/websockets.md")] {
        let text = std::fs::read_to_string(&readme).unwrap();
        assert!(text.contains(&format!("```sh\n{script}```")), "{} shows another one", readme.display());
    }

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    copy_of(Example::Shell, &root).await;
    std::fs::copy(example.join("handler.sh"), root.join("bin/handler")).unwrap();
    let build = ["--user", "1000:1000", "--env", "OUTPUT=cgi", "--cmd", "/bin/watchdog /bin/handler"];
    let archive = image_of(&root, "chat", &build).await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let mut deploy = vec!["deploy", "chat", "--image", "chat"];
    for annotation in
        ["roost.websocket=events", "roost.websocket.events=connected,message", "roost.idle.state=stopped"]
    {
        deploy.extend(["--annotation", annotation]);
    }
    for label in ["com.openfaas.scale.zero=true", "com.openfaas.scale.zero-duration=2s"] {
        deploy.extend(["--label", label]);
    }
    host.roost_done(&deploy).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Socket::open(&host, "/function/chat").await);
    }
    eventually("all in the room", || async {
        let members = host.roost_done(&["groups", "members", "chat", "--quiet"]).await;
        (members.lines().count() == 3).then_some(())
    })
    .await;
    host.idle("chat").await;
    open[0].says("Ada: hello").await;
    for socket in &mut open {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("Ada: hello"));
    }
}

#[tokio::test]
async fn chat_lambda_is_an_api_by_its_stack_file_and_says_who_is_here() {
    let archive = Example::ChatLambda.archive().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let stack = Example::ChatLambda.dir().join("stack.yaml");
    host.roost_done(&["deploy", "-f", stack.to_str().unwrap()]).await;

    let path = "/function/chat-lambda";
    let refused = Socket::try_open(&host, path, &[]).await.unwrap_err();
    assert_eq!(refused, StatusCode::BAD_REQUEST, "it asks for a name");
    let mut ada = Socket::open(&host, &format!("{path}?name=ada")).await;
    let mut bert = Socket::open(&host, &format!("{path}?name=bert")).await;
    assert_eq!(here(&mut ada).await, json!(["ada", "bert"]));
    bert.says(r#"{"action":"sendMessage","text":"hello","to":"ada"}"#).await;
    let said = r#"{"from":"bert","to":"ada","text":"hello"}"#;
    assert_eq!(ada.next().await.unwrap().unwrap(), Message::text(said));
    assert_eq!(bert.next().await.unwrap().unwrap(), Message::text(said));
    bert.leave().await;
    while here(&mut ada).await != json!(["ada"]) {}
}

/// Who the chat says is here.
async fn here(socket: &mut Socket) -> Value {
    socket.says("{}").await;
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no text") };
    serde_json::from_str::<Value>(&text).unwrap()["here"].clone()
}

#[tokio::test]
async fn each_customer_has_an_agent_that_streams_its_answers_and_remembers_over_zero() {
    let archive = Example::Agent.archive().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let stack = std::fs::read_to_string(Example::Agent.dir().join("stack.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sooner = dir.path().join("stack.yaml");
    std::fs::write(&sooner, stack.replace("zero-duration: 2m", "zero-duration: 2s")).unwrap();
    host.roost_done(&["deploy", "-f", sooner.to_str().unwrap()]).await;

    let mut ada = Socket::open(&host, "/function/agent/ada").await;
    let mut grace = Socket::open(&host, "/function/agent/grace").await;
    assert_eq!(answer(&mut ada, "hello").await, "ada, this is question 1 of yours. You said: hello");
    assert_eq!(answer(&mut grace, "hi").await, "grace, this is question 1 of yours. You said: hi");
    eventually("both at zero", || async { host.processes().is_empty().then_some(()) }).await;
    assert_eq!(answer(&mut ada, "again").await, "ada, this is question 2 of yours. You said: again");
}

/// What an agent says to `text`, from all the pieces in which it comes.
async fn answer(socket: &mut Socket, text: &str) -> String {
    let mut whole = String::new();
    socket.says(text).await;
    for pieces in 0.. {
        let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no text") };
        let said: Value = serde_json::from_str(&text).unwrap();
        if said["done"] == json!(true) {
            assert!(pieces > 1, "{whole}");
            return whole;
        }
        whole.push_str(said["piece"].as_str().unwrap());
    }
    unreachable!("it ends with its answer")
}
