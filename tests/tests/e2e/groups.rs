//! Groups of a real daemon: what was said is kept, watched without a WebSocket, and goes on with the next process.

use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use roost_tests::{
    Api, Config, ECHO, Example, Host, Message, PATIENCE, Socket, body_of, eventually, next_piece,
};
use serde_json::{Value, json};

/// An echo that holds its WebSockets and has no replicas while nobody says anything, with these annotations.
async fn room(host: &Host, annotations: &Value) {
    let mut all = json!({ "roost.websocket": "events", "roost.idle.state": "stopped" });
    all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
    let labels = json!({ "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s" });
    host.post_function(&json!({ "service": "chat", "image": ECHO, "labels": labels, "annotations": all }))
        .await;
    host.was_up("chat").await;
}

/// One who watches a group.
struct Watch {
    body: Incoming,
    text: String,
    /// The id of the last event, as a browser has it.
    last: String,
}

impl Watch {
    /// Behind the event of this id, if there is one.
    async fn open(api: &Api, path: &str, last: &str) -> Self {
        let mut request = api.request(&Method::GET, path);
        if !last.is_empty() {
            request = request.header("last-event-id", last);
        }
        let response = api.open(request.body(body_of("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut watch = Self { body: response.into_body(), text: String::new(), last: String::new() };
        // The first words tell where it is, so that it can come back there if it hears nothing else.
        while !watch.text.contains("\n\n") {
            let piece = tokio::time::timeout(PATIENCE, next_piece(&mut watch.body)).await.expect("words");
            watch.text.push_str(str::from_utf8(&piece.unwrap().expect("no end")).unwrap());
        }
        let (opening, rest) = watch.text.split_once("\n\n").unwrap();
        let id = opening.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        (watch.last, watch.text) = (id.to_owned(), rest.to_owned());
        watch
    }

    /// What the next event says; `None` when the stream ends, however it does.
    async fn next(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.event()).await.expect("an event, or the end")
    }

    async fn event(&mut self) -> Option<String> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let mut said = Vec::new();
                for line in event.lines().filter(|line| !line.starts_with("retry")) {
                    match line.strip_prefix("id: ") {
                        Some(id) => id.clone_into(&mut self.last),
                        None => said.push(line),
                    }
                }
                if !said.is_empty() && !said[0].starts_with(':') {
                    return Some(said.join("\n"));
                }
            }
            let piece = next_piece(&mut self.body).await.ok()??;
            self.text.push_str(str::from_utf8(&piece).unwrap());
        }
    }
}

const EVENTS: &str = "/function/chat/@groups/lobby/events";

#[tokio::test]
async fn a_client_that_comes_back_over_and_over_hears_each_message_once_while_the_function_is_at_zero() {
    let host = Host::with_echo(Config { supervised: true, ..Config::default() }).await;
    room(&host, &json!({ "roost.websocket.history": "1000/1h", "roost.websocket.group-events": "lobby" }))
        .await;
    host.idle("chat").await;
    eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
    let client = Api::new(host.port(), None);
    let mut watch = Watch::open(&client, EVENTS, "").await;
    let (mut said, mut heard) = (0, 0);
    for round in 0..40 {
        for _ in 0..round % 7 {
            let answer = host.api.post("/system/groups/lobby", said.to_string()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            said += 1;
        }
        // Sometimes all of it is heard before it goes away, and sometimes not.
        let goal = if round % 3 == 0 { said } else { heard + (said - heard) / 2 };
        while heard < goal {
            assert_eq!(watch.next().await.as_deref(), Some(&*format!("data: {heard}")));
            heard += 1;
        }
        if round == 20 {
            host.hand_over().await;
            // What it had not read yet may still be there.
            while let Some(event) = watch.next().await {
                assert_eq!(event, format!("data: {heard}"));
                heard += 1;
            }
        }
        let last = watch.last.clone();
        drop(watch);
        watch = Watch::open(&client, EVENTS, &last).await;
    }
    while heard < said {
        assert_eq!(watch.next().await.as_deref(), Some(&*format!("data: {heard}")));
        heard += 1;
    }
    assert!(host.processes().is_empty(), "no replica was needed for it");
    assert!(said > 100);
    let metrics = Api::new(host.metrics_port(), None);
    eventually("the end of all streams but one", || async {
        metrics.get("/metrics").await.text().contains("ws_group_streams 1\n").then_some(())
    })
    .await;
    let lost = "ws_group_stream_resumes_total{outcome=\"lost\"} 0\n";
    assert!(metrics.get("/metrics").await.text().contains(lost));
    // Of another group it may not know, and it ends with its function.
    let other = client.get("/function/chat/@groups/other/events").await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    host.remove("chat").await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn after_a_crash_a_client_is_told_that_it_cannot_be_whole() {
    let mut host = Host::with_echo(Config::default()).await;
    room(&host, &json!({ "roost.websocket.history": "1000/1h", "roost.websocket.group-events": "*" })).await;
    let client = Api::new(host.port(), None);
    let mut watch = Watch::open(&client, EVENTS, "").await;
    host.api.post("/system/groups/lobby", "before").await;
    assert_eq!(watch.next().await.as_deref(), Some("data: before"));
    host.kill9();
    host.start_daemon().await;
    host.ready("chat").await;
    let client = Api::new(host.port(), None);
    let last = watch.last;
    let mut watch = eventually("its function", || async {
        let open = Watch::open(&client, EVENTS, &last).await;
        Some(open)
    })
    .await;
    assert!(watch.next().await.unwrap().starts_with("event: lost\n"));
    host.api.post("/system/groups/lobby", "behind").await;
    assert_eq!(watch.next().await.as_deref(), Some("data: behind"));
}

#[tokio::test]
async fn who_is_in_a_group_and_what_was_said_there_is_shown_and_the_function_hears_who_comes() {
    let host = Host::start().await;
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    host.log_in().await;
    let answer = r#"printf '{"userId":"Ada","groups":["lobby"]}'"#;
    let command = json!(["/bin/watchdog", "/bin/sh", "-c", answer]).to_string();
    host.roost_done(&["image", "build", root.to_str().unwrap(), "-t", "chat", "--cmd", &command]).await;
    let annotations = json!({
        "roost.websocket": "events",
        "roost.websocket.events": "connect,joined,left",
        "roost.websocket.history": "10/1h",
    });
    host.post_function(&json!({ "service": "chat", "image": "chat", "annotations": annotations })).await;
    host.was_up("chat").await;
    let mut watch = Watch::open(&host.api, "/system/groups/lobby/events?presence=true", "").await;
    assert!(watch.next().await.unwrap().contains(r#""users":[]"#));
    let mut first = Socket::open(&host, "/function/chat").await;
    let second = Socket::open(&host, "/function/chat").await;
    let joined = "event: presence\ndata: {\"event\":\"joined\",\"user\":\"Ada\"}";
    assert_eq!(watch.next().await.as_deref(), Some(joined));
    let users = host.api.get("/system/groups/lobby/users").await.json();
    assert_eq!(users, json!({ "users": [{ "id": "Ada", "connections": 2 }] }));
    assert!(host.roost_done(&["groups", "users", "lobby"]).await.contains("Ada"));

    host.roost_done(&["groups", "send", "lobby", "-d", "hello"]).await;
    assert_eq!(first.next().await.unwrap().unwrap(), Message::text("hello"));
    assert_eq!(watch.next().await.as_deref(), Some("data: hello"));
    let kept = host.api.get("/system/groups/lobby/history").await.json();
    assert_eq!(
        (&kept["messages"][0]["text"], &kept["whole"], &kept["more"]),
        (&json!("hello"), &json!(true), &json!(false))
    );
    assert_eq!(kept["last"], watch.last);
    let rest = format!("/system/groups/lobby/history?after={}", watch.last);
    assert_eq!(host.api.get(&rest).await.json()["messages"], json!([]));
    assert_eq!(host.api.get("/system/groups/lobby/history?after=x").await.status, StatusCode::BAD_REQUEST);
    assert!(host.roost_done(&["groups", "history", "lobby"]).await.trim_end().ends_with(" hello"));

    drop((first, second));
    let left = "event: presence\ndata: {\"event\":\"left\",\"user\":\"Ada\"}";
    assert_eq!(watch.next().await.as_deref(), Some(left));
    for event in ["joined", "left"] {
        let sample = format!(
            "ws_events_total{{function_name=\"chat.openfaas-fn\",event=\"{event}\",outcome=\"done\"}} 1\n"
        );
        eventually("an event that is done", || async {
            let page = Api::new(host.metrics_port(), None).get("/metrics").await;
            page.text().contains(&sample).then_some(())
        })
        .await;
    }
}
