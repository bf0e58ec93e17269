//! WebSockets that the host holds: the function is told of messages by plain requests, and may be at zero meanwhile.

use std::time::Duration;

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use hyper::{Method, StatusCode};
use roost_tests::{Answer, Api, Config, ECHO, Example, Host, Message, Socket, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How soon a function without requests has no replicas.
const IDLE: &str = "2s";

/// An echo whose WebSockets are held, and that has no replicas while nobody says anything.
fn chat(annotations: &Value) -> Value {
    let mut all = json!({ "roost.websocket": "events", "roost.idle.state": "stopped" });
    all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
    json!({ "service": "chat", "image": ECHO, "labels": zero(), "annotations": all })
}

fn zero() -> Value {
    json!({ "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": IDLE })
}

async fn host() -> Host {
    let host = Host::with_echo(Config::default()).await;
    host.post_function(&chat(&json!({}))).await;
    host.was_up("chat").await;
    host
}

async fn sockets<const N: usize>(host: &Host) -> [Socket; N] {
    let mut open = Vec::new();
    for number in 0..N {
        open.push(Socket::open(host, &format!("/function/chat/room/{number}?token=hidden")).await);
    }
    open.try_into().unwrap()
}

/// The ids of the connections, in the order in which they were opened.
async fn ids(host: &Host) -> Vec<String> {
    let mut all = list(host, "/system/connections").await;
    all.sort_by_key(|one| one["path"].as_str().unwrap().to_owned());
    all.iter().map(id).collect()
}

async fn list(host: &Host, path: &str) -> Vec<Value> {
    let answer = host.api.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["connections"].as_array().unwrap().clone()
}

fn id(connection: &Value) -> String {
    connection["id"].as_str().unwrap().to_owned()
}

async fn delete(host: &Host, path: &str) -> Answer {
    host.api.send(Method::DELETE, path, "").await
}

async fn told(host: &Host, path: &str, what: &'static str) -> Value {
    let answer = host.api.post(path, what).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.json()
}

async fn hears(socket: &mut Socket, text: &str) {
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
}

#[tokio::test]
async fn a_function_goes_to_zero_under_its_open_sockets_and_comes_back_for_a_message() {
    let host = host().await;
    let mut open: [Socket; 10] = sockets(&host).await;
    open[0].echoes("while it is there").await;
    host.idle("chat").await;
    eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
    assert_eq!(list(&host, "/system/connections").await.len(), 10);
    // What is said from outside wakes nobody.
    assert_eq!(told(&host, "/system/connections", "hello").await, json!({ "queued": 10, "tooSlow": 0 }));
    for socket in &mut open {
        hears(socket, "hello").await;
    }
    assert!(host.processes().is_empty());
    for (number, socket) in open.iter_mut().enumerate() {
        socket.echoes(&format!("from zero {number}")).await;
    }
    // A deployment closes nothing, and what is said behind it goes to what was deployed.
    host.put_function(&chat(&json!({ "roost.websocket.events": "message,connected" }))).await;
    let mut changed = chat(&json!({}));
    changed["envVars"] = json!({ "CHANGED": "yes" });
    host.put_function(&changed).await;
    host.was_up("chat").await;
    for socket in &mut open {
        socket.echoes("behind the deployment").await;
    }
    assert_eq!(list(&host, "/system/connections?function=chat").await.len(), 10);
    // Its removal does.
    host.remove("chat").await;
    assert_eq!(open[0].closed().await.0, 1001);
}

#[tokio::test]
async fn connections_are_listed_shown_spoken_to_and_closed() {
    let host = host().await;
    let [mut first, mut second] = sockets(&host).await;
    first.echoes("hello").await;
    let ids = ids(&host).await;
    let path = format!("/system/connections/{}", ids[0]);
    let shown = host.api.get(&path).await.json();
    assert_eq!(
        json!([shown["function"], shown["namespace"], shown["state"], shown["path"], shown["groups"]]),
        json!(["chat", "openfaas-fn", "open", "/room/0", []])
    );
    assert_eq!(
        json!([shown["messages"], shown["bytes"], shown["unsentBytes"], shown["peer"]]),
        json!([{ "in": 1, "out": 1 }, { "in": 5, "out": 5 }, 0, "127.0.0.1"])
    );

    assert_eq!(host.api.post(&path, "to the first").await.status, StatusCode::ACCEPTED);
    hears(&mut first, "to the first").await;
    assert_eq!(host.api.post(&path, vec![0xff]).await.status, StatusCode::ACCEPTED);
    assert_eq!(first.next().await.unwrap().unwrap(), Message::binary(vec![0xff]));
    assert_eq!(host.api.post(&format!("{path}?type=binary"), "b").await.status, StatusCode::ACCEPTED);
    assert_eq!(first.next().await.unwrap().unwrap(), Message::binary("b"));
    assert_eq!(host.api.post(&format!("{path}?type=text"), vec![0xff]).await.status, StatusCode::BAD_REQUEST);
    let large = host.api.post(&path, vec![b'x'; (1 << 20) + 1]).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);

    // To all but one.
    let except = format!("/system/connections?function=chat&exclude={}", ids[0]);
    assert_eq!(told(&host, &except, "not to the first").await["queued"], 1);
    hears(&mut second, "not to the first").await;

    let closed = delete(&host, &format!("{path}?code=4000&reason=enough")).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT);
    assert_eq!(first.closed().await, (4000, "enough".to_owned()));
    eventually("one connection", || async {
        (list(&host, "/system/connections").await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(host.api.post(&path, "too late").await.status, StatusCode::NOT_FOUND);
    assert_eq!(delete(&host, &path).await.status, StatusCode::NOT_FOUND);

    let all = delete(&host, "/system/function/chat/connections?code=4001").await;
    assert_eq!(all.json(), json!({ "closed": 1 }));
    assert_eq!(second.closed().await.0, 4001);
}

#[tokio::test]
async fn lists_come_in_pages_and_only_what_is_asked_for() {
    let host = host().await;
    let _open: [Socket; 5] = sockets(&host).await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = host.api.get(&format!("/system/connections?limit=2{after}")).await.json();
        seen.extend(page["connections"].as_array().unwrap().iter().map(id));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let mut sorted = ids(&host).await;
    sorted.sort_unstable();
    seen.sort_unstable();
    assert_eq!((seen.len(), &seen), (5, &sorted));
    for (query, count) in [("?group=none", 0), ("?user=nobody", 0), ("?function=chat.openfaas-fn", 5)] {
        assert_eq!(list(&host, &format!("/system/connections{query}")).await.len(), count, "{query}");
    }
    for (query, status) in [
        ("?limit=0", StatusCode::BAD_REQUEST),
        ("?limit=1001", StatusCode::BAD_REQUEST),
        ("?after=x", StatusCode::BAD_REQUEST),
        ("?namespace=none", StatusCode::BAD_REQUEST),
        ("?function=none", StatusCode::NOT_FOUND),
        ("/nobody", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(host.api.get(&format!("/system/connections{query}")).await.status, status, "{query}");
    }
    let stranger = Api::new(host.port(), None);
    for path in ["/system/connections", "/system/groups", "/connections", "/groups", "/users/a/connections"] {
        assert_eq!(stranger.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    // The password of a user is no token, and there is no page at what is not there.
    assert_eq!(host.api.get("/connections").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(host.api.get("/connection").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_group_is_spoken_to_together_and_closed_together() {
    let host = host().await;
    let [mut first, mut second, mut third] = sockets(&host).await;
    let ids = ids(&host).await;
    for id in &ids[..2] {
        let path = format!("/system/groups/lobby/connections/{id}");
        assert_eq!(host.api.send(Method::PUT, &path, "").await.status, StatusCode::NO_CONTENT);
    }
    let groups = host.api.get("/system/groups").await.json();
    assert_eq!(groups, json!({ "groups": [{ "name": "lobby", "connections": 2 }] }));
    assert_eq!(list(&host, "/system/groups/lobby/connections").await.len(), 2);
    let bad = format!("/system/groups/a%2Cb/connections/{}", ids[0]);
    assert_eq!(host.api.send(Method::PUT, &bad, "").await.status, StatusCode::BAD_REQUEST);

    assert_eq!(told(&host, "/system/groups/lobby", "hi").await, json!({ "queued": 2, "tooSlow": 0 }));
    hears(&mut first, "hi").await;
    hears(&mut second, "hi").await;
    let except = format!("/system/groups/lobby?exclude={}", ids[0]);
    assert_eq!(told(&host, &except, "psst").await["queued"], 1);
    hears(&mut second, "psst").await;
    let left = delete(&host, &format!("/system/groups/lobby/connections/{}", ids[0])).await;
    assert_eq!(left.status, StatusCode::NO_CONTENT);
    let closed = delete(&host, "/system/groups/lobby?code=4002&reason=over").await;
    assert_eq!(closed.json(), json!({ "closed": 1 }));
    assert_eq!(second.closed().await, (4002, "over".to_owned()));
    first.echoes("still here").await;
    third.echoes("so am I").await;
}

#[tokio::test]
async fn all_connections_of_a_user_are_spoken_to_grouped_and_closed_together() {
    let host = Host::start().await;
    let events = json!({ "roost.websocket": "events", "roost.websocket.events": "connect" });
    shell(&host, "chat", &["-c", r#"printf '{"userId":"Ada L/1"}'"#], &events).await;
    let [mut first, mut second] = sockets(&host).await;
    let user = "/system/users/Ada%20L%2F1";
    let found = list(&host, &format!("{user}/connections")).await;
    assert_eq!(found.iter().map(|one| one["user"].clone()).collect::<Vec<_>>(), ["Ada L/1", "Ada L/1"]);
    assert_eq!(list(&host, "/system/connections?user=Ada%20L%2F1").await.len(), 2);
    assert_eq!(told(&host, user, "hello").await, json!({ "queued": 2, "tooSlow": 0 }));
    hears(&mut first, "hello").await;
    hears(&mut second, "hello").await;
    assert_eq!(told(&host, "/system/users/nobody", "hello").await["queued"], 0);

    let group = format!("{user}/groups/lobby");
    assert_eq!(host.api.send(Method::PUT, &group, "").await.json(), json!({ "joined": 2 }));
    assert_eq!(list(&host, "/system/groups/lobby/connections").await.len(), 2);
    assert_eq!(delete(&host, &group).await.json(), json!({ "left": 2 }));
    assert_eq!(delete(&host, &group).await.json(), json!({ "left": 0 }));
    assert_eq!(delete(&host, &format!("{user}?code=4005")).await.json(), json!({ "closed": 2 }));
    assert_eq!((first.closed().await.0, second.closed().await.0), (4005, 4005));
}

#[tokio::test]
async fn what_is_typed_does_the_same() {
    let host = host().await;
    host.log_in().await;
    let [mut first, mut second] = sockets(&host).await;
    let ids = ids(&host).await;
    let table = host.roost_done(&["connections", "list", "--function", "chat"]).await;
    assert!(ids.iter().all(|id| table.contains(id.as_str())), "{table}");
    let json: Value =
        serde_json::from_str(&host.roost_done(&["connections", "show", &ids[0], "--json"]).await).unwrap();
    assert_eq!(json["function"], "chat");
    let shown = host.roost_done(&["connections", "show", &ids[0]]).await;
    assert!(shown.contains("chat.openfaas-fn") && shown.contains("/room"), "{shown}");

    host.roost_done(&["connections", "send", &ids[0], "-d", "typed"]).await;
    hears(&mut first, "typed").await;
    let piped = host.roost_with(&["connections", "send", &ids[0]], "piped").await;
    assert_eq!(piped.code, Some(0), "{piped:?}");
    hears(&mut first, "piped").await;
    let said = host.roost_done(&["connections", "broadcast", "--exclude", &ids[0], "-d", "all"]).await;
    assert_eq!(said.trim(), "Said to 1");
    hears(&mut second, "all").await;

    host.roost_done(&["groups", "add", "lobby", &ids[0], &ids[1]]).await;
    assert!(host.roost_done(&["groups", "list"]).await.contains("lobby"));
    assert_eq!(host.roost_done(&["groups", "members", "lobby", "-q"]).await.lines().count(), 2);
    host.roost_done(&["groups", "remove", "lobby", &ids[1]]).await;
    assert_eq!(
        host.roost_done(&["groups", "send", "lobby", "-d", "you", "--json"]).await.matches('1').count(),
        1
    );
    hears(&mut first, "you").await;
    assert_eq!(host.roost_done(&["groups", "close", "lobby", "--code", "4003"]).await.trim(), "Closed 1");
    assert_eq!(first.closed().await.0, 4003);
    host.roost_done(&["connections", "close", &ids[1], "--code", "4000", "--reason", "bye"]).await;
    assert_eq!(second.closed().await, (4000, "bye".to_owned()));
    // Until a client has answered its Close, its connection is still there.
    drop((first, second));
    eventually("no connection", || async {
        list(&host, "/system/connections").await.is_empty().then_some(())
    })
    .await;
    let gone = host.roost(&["connections", "show", &ids[1]]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("not found"), "{gone:?}");
}

/// Deploys the watchdog of the shell example, under root, with a shell that is started with these words.
async fn shell(host: &Host, name: &str, words: &[&str], annotations: &Value) {
    Example::Shell.archive().await;
    let root = Example::Shell.dir().join("rootfs");
    host.log_in().await;
    let command = json!([&["/bin/watchdog", "/bin/sh"], words].concat()).to_string();
    host.roost_done(&["image", "build", root.to_str().unwrap(), "-t", name, "--cmd", &command]).await;
    host.post_function(&json!({ "service": name, "image": name, "annotations": annotations })).await;
    host.was_up(name).await;
}

#[tokio::test]
async fn a_function_speaks_to_the_connections_of_its_namespace_and_of_no_other() {
    let mut host = host().await;
    // What runs here is what a request's body says.
    shell(&host, "sh", &[], &json!({ "roost.websocket.codec": "aws" })).await;
    let [mut socket] = sockets(&host).await;
    let call = |query: &str, data: &str| {
        format!(
            "busybox wget -qO- --header \"Authorization: Bearer $ROOST_CONNECTIONS_TOKEN\" {data} \
             \"$ROOST_CONNECTIONS_URL/connections{query}\" 2>&1 || true"
        )
    };
    let run = async |host: &Host, script: String| host.call("sh", &script).await.text().to_owned();
    let seen: Value = serde_json::from_str(&run(&host, call("", "")).await).unwrap();
    assert_eq!(seen["connections"].as_array().unwrap().len(), 1, "{seen}");
    run(&host, call("?function=chat", "--post-data=hello")).await;
    hears(&mut socket, "hello").await;
    let refused = run(&host, call("?namespace=other", "")).await;
    assert!(refused.contains("403"), "{refused}");
    let forged = run(&host, call("", "").replace("$ROOST_CONNECTIONS_TOKEN", "openfaas-fn.AAAA")).await;
    assert!(forged.contains("401"), "{forged}");
    socket.leave().await;

    // The replica outlives the daemon, and its token with it.
    let before = host.process_of("sh").1;
    host.restart().await;
    host.ready("sh").await;
    let seen = run(&host, call("", "")).await;
    assert_eq!(host.process_of("sh").1, before);
    assert_eq!(seen.trim(), "{\"connections\":[]}");

    let variable = async |name: &str| run(&host, format!("printf %s \"${name}\"")).await;
    let token = variable("ROOST_CONNECTIONS_TOKEN").await;
    of_aws(&host, |_, _| vec![("authorization", format!("Bearer {token}"))]).await;
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID").await, variable("AWS_SECRET_ACCESS_KEY").await);
    let authority = format!("127.0.0.1:{}", host.port());
    of_aws(&host, |method, path| signed(method, &authority, path, &id, &secret)).await;
}

/// What the body of each call is.
const BODY: &str = "hi";

/// The calls of AWS' clients, each with the headers by which its caller is known.
async fn of_aws(host: &Host, headers: impl Fn(&Method, &str) -> Vec<(&'static str, String)>) {
    let [mut socket] = sockets(host).await;
    let id = ids(host).await.remove(0);
    let api = Api::new(host.port(), None);
    let call = async |method: Method, path: &str, headers: Vec<(&'static str, String)>| {
        let request = api.request(&method, path);
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        api.try_send(request.body(roost_tests::body_of(BODY)).unwrap()).await.unwrap()
    };
    let path = format!("/prod/@connections/{id}");
    // What is good for one call is not for another, nor is a little less of it.
    let broken = headers(&Method::POST, &path).into_iter().map(|(name, mut value)| {
        value.pop();
        (name, value)
    });
    let refused = call(Method::POST, &path, broken.collect()).await;
    let class = refused.header("x-amzn-errortype");
    assert_eq!((refused.status, class), (StatusCode::FORBIDDEN, "ForbiddenException"));
    let sent = call(Method::POST, &path, headers(&Method::POST, &path)).await;
    assert_eq!(sent.status, StatusCode::OK, "{}", sent.text());
    hears(&mut socket, BODY).await;
    let shown = call(Method::GET, &path, headers(&Method::GET, &path)).await.json();
    assert_eq!(shown["identity"]["sourceIp"], "127.0.0.1");
    let closed = call(Method::DELETE, &path, headers(&Method::DELETE, &path)).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT);
    assert_eq!(socket.closed().await.0, 1000);
    drop(socket);
    let gone = eventually("the end", || async {
        let answer = call(Method::GET, &path, headers(&Method::GET, &path)).await;
        (answer.status == StatusCode::GONE).then_some(answer)
    })
    .await;
    assert_eq!(gone.header("x-amzn-errortype"), "GoneException");
}

/// A call of an SDK of AWS: its signature, and when it was made.
fn signed(
    method: &Method,
    authority: &str,
    path: &str,
    id: &str,
    secret: &str,
) -> Vec<(&'static str, String)> {
    let date = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let scope = format!("{}/roost/execute-api/aws4_request", &date[..8]);
    let hash = |data: &str| hex(&Sha256::digest(data));
    let mac = |key: &[u8], data: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(data.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let canonical = format!(
        "{method}\n{}\n\nhost:{authority}\nx-amz-date:{date}\n\nhost;x-amz-date\n{}",
        path.replace('@', "%40"),
        hash(BODY)
    );
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    let signature = mac(&key, &format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(&canonical)));
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders=host;x-amz-date, Signature={}",
        hex(&signature)
    );
    vec![("authorization", value), ("x-amz-date", date)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_is_held_is_on_the_page_of_metrics() {
    let host = host().await;
    let [mut socket] = sockets(&host).await;
    socket.echoes("hello").await;
    let expected = [
        r#"ws_connections{function_name="chat.openfaas-fn",mode="event",state="open"} 1"#,
        r#"ws_handshakes_total{function_name="chat.openfaas-fn",mode="event",code="101"} 1"#,
        r#"ws_messages_total{function_name="chat.openfaas-fn",mode="event",dir="in"} 1"#,
        r#"ws_bytes_total{function_name="chat.openfaas-fn",mode="event",dir="out"} 5"#,
        r#"ws_events_total{function_name="chat.openfaas-fn",event="message",outcome="done"} 1"#,
    ];
    let metrics = Api::new(host.metrics_port(), None);
    eventually("the metrics", || async {
        let page = metrics.get("/metrics").await;
        expected.iter().all(|line| page.text().lines().any(|one| one == *line)).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(30), socket.leave()).await.expect("its Close is answered");
}
