//! Lambda functions under AWS' own runtime, unmodified: they ask this host for their events.

use std::path::{Path, PathBuf};

use hyper::StatusCode;
use roost_tests::{Example, Host, Message, Socket, copy_of, eventually, image_of};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A function whose handler does what its event says.
const NAME: &str = "behave";

/// The image of that: the example's, with another handler. It is built once.
async fn image() -> PathBuf {
    static IMAGE: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        copy_of(Example::LambdaPython, &root).await;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lambda/behave.py");
        std::fs::copy(source, root.join("var/task/behave.py")).unwrap();
        let runtime = ["--entrypoint", "/bin/python3 -m awslambdaric", "--workdir", "/var/task"];
        image_of(&root, NAME, &[&runtime[..], &["--cmd", "behave.handler"]].concat()).await
    };
    IMAGE.get_or_init(build).await.clone()
}

/// A host with the function on it, deployed with these annotations and variables.
async fn deployed(mut annotations: Value, variables: Value) -> Host {
    let image = image().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", image.to_str().unwrap()]).await;
    annotations["roost.lambda"] = json!("runtime-api");
    let limits = json!({ "memory": "128Mi" });
    let deployment = json!({
        "service": NAME, "image": NAME, "limits": limits, "annotations": annotations, "envVars": variables
    });
    host.post_function(&deployment).await;
    host
}

/// The same, once it is ready.
async fn ready(annotations: Value) -> Host {
    let host = deployed(annotations, json!({})).await;
    host.ready(NAME).await;
    host
}

/// What the handler returns for an event.
async fn returned(host: &Host, event: Value) -> Value {
    let answer = host.call(NAME, &event.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{event}: {}", answer.text());
    answer.json()
}

#[tokio::test]
async fn a_handler_is_called_with_the_body_of_a_request_and_answers_with_what_it_returns() {
    let host = ready(json!({})).await;
    let answer = host.call(NAME, r#"{"name":"Ada"}"#).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    assert_eq!(answer.json()["message"], "Hello, Ada!");
    assert_eq!(answer.json()["requestId"], answer.header("x-call-id"), "it is known by the id of the call");
    // Whoever says nothing sends an event without anything in it.
    assert_eq!(host.api.get("/function/behave").await.json()["message"], "Hello, world!");

    let failed = host.call(NAME, r#"{"name":"nobody"}"#).await;
    assert_eq!(
        (failed.status, failed.header("x-amz-function-error")),
        (StatusCode::BAD_GATEWAY, "Unhandled")
    );
    assert_eq!(failed.json()["errorType"], "ValueError");
    assert_eq!(failed.json()["errorMessage"], "there is nobody to greet");

    // One at a time, and the others wait for it.
    let calls = (0..20).map(|n| {
        let host = &host;
        async move { host.call(NAME, &json!({ "name": n.to_string() }).to_string()).await }
    });
    for (n, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.json()["message"], format!("Hello, {n}!"), "{}", answer.text());
    }
    let status = host.function(NAME).await;
    assert_eq!(status["invocationCount"], 23, "each was counted, as of any function: {status}");

    // From zero.
    host.scale(NAME, 0).await;
    assert_eq!(host.call(NAME, "{}").await.json()["message"], "Hello, world!");
}

#[tokio::test]
async fn a_handler_is_told_who_it_is_and_how_long_it_has() {
    let host = ready(json!({ "roost.timeout.request": "20s" })).await;
    let names = [
        "_HANDLER",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_REGION",
        "LAMBDA_TASK_ROOT",
    ];
    let told = returned(&host, json!({ "env": names })).await;
    let remaining = told["remaining"].as_u64().unwrap();
    assert!((1..=20_000).contains(&remaining), "{remaining} ms");
    for (name, expected) in [
        ("arn", json!("arn:aws:lambda:roost:000000000000:function:behave")),
        ("memory", json!("128")),
        ("_HANDLER", json!("behave.handler")),
        ("AWS_LAMBDA_FUNCTION_NAME", json!("behave")),
        ("AWS_LAMBDA_FUNCTION_VERSION", json!("$LATEST")),
        ("AWS_REGION", json!("roost")),
        ("LAMBDA_TASK_ROOT", json!("/var/task")),
    ] {
        assert_eq!(told[name], expected, "{name}");
    }
    let too_large = host.call(NAME, &json!({ "big": 7 << 20 }).to_string()).await;
    assert_eq!(too_large.status, StatusCode::BAD_GATEWAY);
    assert_eq!(too_large.text(), "The handler returned more than 6 MiB.\n");
    let too_large = host.call(NAME, &"x".repeat((6 << 20) + 1)).await;
    assert_eq!(too_large.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_caller_whose_replica_dies_gets_a_bad_gateway_and_the_next_one_another_replica() {
    let host = ready(json!({})).await;
    let gone = host.call(NAME, r#"{"exit":3}"#).await;
    assert_eq!(gone.status, StatusCode::BAD_GATEWAY, "{}", gone.text());
    returned(&host, json!({})).await;
    // The same if it is killed from outside, in the middle of its work.
    let killed = async {
        eventually("the handler's work", || async {
            host.log_lines(NAME).await.iter().any(|line| line.contains("sleeping")).then_some(())
        })
        .await;
        host.kill_function(NAME);
    };
    let (answer, ()) = tokio::join!(host.call(NAME, r#"{"sleep":60}"#), killed);
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    // It is not started again at once, as it has failed twice in a short time.
    eventually("an answer", || async {
        (host.call(NAME, "{}").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_has_no_end_is_ended_with_its_replica() {
    let host = ready(json!({ "roost.timeout.request": "1s" })).await;
    let before = host.process_of(NAME).0;
    let late = host.call(NAME, r#"{"sleep":600}"#).await;
    assert_eq!(late.status, StatusCode::BAD_GATEWAY, "{}", late.text());
    assert_eq!(late.header("x-roost-timeout"), "request");
    eventually("an answer", || async {
        (host.call(NAME, "{}").await.status == StatusCode::OK).then_some(())
    })
    .await;
    eventually("the end of the first replica", || async {
        host.processes().iter().all(|(replica, _)| *replica != before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_runtime_that_cannot_start_says_why_in_the_status() {
    let host = deployed(json!({}), json!({ "MISSING": "1" })).await;
    let status =
        host.status(NAME, "a failure", |status| status.to_string().contains("could not start")).await;
    assert!(
        status.to_string().contains(
            "Runtime.ImportModuleError: Unable to import module 'behave': No module named 'missing'"
        ),
        "{status}"
    );
}

#[tokio::test]
async fn functions_answer_again_behind_a_restart_of_the_daemon() {
    let mut host = ready(json!({})).await;
    returned(&host, json!({})).await;
    host.restart().await;
    returned(&host, json!({})).await;
    host.kill9();
    host.start_daemon().await;
    returned(&host, json!({})).await;
}

#[tokio::test]
async fn a_handler_is_told_of_a_websocket_as_behind_an_api_gateway() {
    let host = ready(json!({
        "roost.websocket": "events",
        "roost.websocket.codec": "aws",
        "roost.websocket.aws.transport": "lambda",
        "roost.websocket.aws.routes": "$connect,$disconnect,$default;two-way",
    }))
    .await;
    let mut socket = Socket::open(&host, "/function/behave").await;
    socket.says("hello").await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    socket.leave().await;
    for route in ["$connect", "$default", "$disconnect"] {
        eventually("an event", || async {
            host.log_lines(NAME).await.iter().any(|line| line.starts_with(route)).then_some(())
        })
        .await;
    }
}
