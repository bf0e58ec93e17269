//! A client comes back to the replica that it had.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_tests::{Answer, Config, ECHO, Example, Host, Socket, body_of, clients, eventually};
use serde_json::json;

async fn two(affinity: &str) -> Host {
    let host = Host::with_echo(Config::default()).await;
    let labels = json!({ "com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2" });
    let annotations = json!({ "roost.affinity": affinity });
    let body = json!({ "service": "echo", "image": ECHO, "labels": labels, "annotations": annotations });
    host.deployed(&body).await;
    host.has_ready("echo", 2).await;
    host
}

async fn get(host: &Host, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = host.api.request(&Method::GET, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = host.api.try_send(request.body(body_of("")).unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer
}

/// The name and value of the cookie that an answer sets, as a client sends it back.
fn cookie(set: &str) -> String {
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn by_a_cookie_that_requests_and_sockets_get_and_send_back() {
    let host = two("cookie").await;
    // Without one, clients are spread.
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        seen.insert(get(&host, "/function/echo/headers", &[]).await.header("x-replica").to_owned());
    }
    assert_eq!(seen.len(), 2);

    let first = get(&host, "/function/echo/headers", &[]).await;
    let set = first.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Lax", "Path=/function/echo"] {
        assert!(set.contains(part), "{set}");
    }
    let cookie_of_first = cookie(set);
    let headers = [("cookie", cookie_of_first.as_str())];
    for _ in 0..20 {
        let again = get(&host, "/function/echo/headers", &headers).await;
        assert_eq!(again.header("x-replica"), first.header("x-replica"));
    }
    for _ in 0..5 {
        let socket = Socket::try_open(&host, "/function/echo", &headers).await.unwrap();
        assert_eq!(socket.replica(), first.header("x-replica"));
    }
    // Sockets get one, too.
    let socket = Socket::open(&host, "/function/echo").await;
    let given = cookie(socket.header("set-cookie"));
    let answer = get(&host, "/function/echo/headers", &[("cookie", given.as_str())]).await;
    assert_eq!(answer.header("x-replica"), socket.replica());
}

#[tokio::test]
async fn to_another_one_with_another_cookie_when_the_replica_is_gone() {
    let host = two("cookie").await;
    let first = get(&host, "/function/echo/headers", &[]).await;
    let old = cookie(first.header("set-cookie"));
    let status = host.function("echo").await["status"].clone();
    let replicas = status["replicas"].as_array().unwrap();
    let id = replicas.iter().find(|replica| replica["address"] == first.header("x-replica")).unwrap()["id"]
        .clone();
    let (_, process) = host.processes().into_iter().find(|(other, _)| id == **other).unwrap();
    kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    eventually("the end of the replica", || async {
        let ids = host.function("echo").await["status"]["replicas"].clone();
        ids.as_array().unwrap().iter().all(|replica| replica["id"] != id).then_some(())
    })
    .await;
    let second = get(&host, "/function/echo/headers", &[("cookie", old.as_str())]).await;
    let new = cookie(second.header("set-cookie"));
    assert_ne!(new, old);
    let third = get(&host, "/function/echo/headers", &[("cookie", new.as_str())]).await;
    assert_eq!(third.header("x-replica"), second.header("x-replica"));
}

#[tokio::test]
async fn by_a_header_or_a_parameter_of_the_query() {
    let host = two("header:X-Room").await;
    let room = [("x-room", "attic")];
    let first = get(&host, "/function/echo/headers", &room).await;
    for _ in 0..20 {
        assert_eq!(
            get(&host, "/function/echo/headers", &room).await.header("x-replica"),
            first.header("x-replica")
        );
    }
    let socket = Socket::try_open(&host, "/function/echo", &room).await.unwrap();
    assert_eq!(socket.replica(), first.header("x-replica"));
    drop(socket);
    drop(host);

    let host = two("query:room").await;
    let mut seen = BTreeSet::new();
    for room in 0..40 {
        let path = format!("/function/echo/headers?a=b&room={room}");
        let first = get(&host, &path, &[]).await.header("x-replica").to_owned();
        assert_eq!(get(&host, &path, &[]).await.header("x-replica"), first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "rooms are spread");
}

#[tokio::test]
async fn socket_io_polls_and_goes_over_to_a_websocket_with_two_replicas() {
    let archive = Example::SocketIo.archive().await;
    let host = Host::start().await;
    host.log_in().await;
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let labels = json!({ "com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2" });
    let annotations = json!({ "roost.affinity": "cookie" });
    let body =
        json!({ "service": "chat", "image": "socket-io", "labels": labels, "annotations": annotations });
    host.deployed(&body).await;
    host.has_ready("chat", 2).await;
    let clients = clients().await;
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        seen.extend(clients.socket_io(&host.url(), "chat", 6).await);
        if seen.len() == 2 {
            return;
        }
    }
    panic!("of two replicas only {seen:?} was asked in thirty sessions");
}
