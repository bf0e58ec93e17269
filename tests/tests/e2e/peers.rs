//! Several hosts as nodes of one, over a real NATS server, in a build that has it: what is said on one reaches sockets of all.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use roost_tests::{
    Api, Config, Host, Image, Message, NatsServer, PATIENCE, Socket, body_of, eventually, next_piece,
};
use serde_json::{Value, json};

/// Sooner than a node that does not answer would be given up.
const SOON: Duration = Duration::from_secs(1);

/// A room: who comes is Ada, in the lobby, and what is said there the function says to the lobby.
fn room() -> Image {
    let answer = r#"#!/bin/sh
        body=$(busybox head -c "${CONTENT_LENGTH:-0}")
        case $HTTP_CE_EVENTNAME in
            connect) printf 'Content-Type: application/json\r\n\r\n{"userId":"Ada","groups":["lobby"],"roles":["webpubsub.sendToGroup"]}' ;;
            message) printf 'Content-Type: text/plain\r\nX-Ws-Broadcast: group=lobby\r\n\r\n%s' "$body" ;;
            *) printf 'Content-Type: text/plain\r\n\r\n' ;;
        esac
    "#;
    let mut script = tempfile::NamedTempFile::new().unwrap();
    script.write_all(answer.as_bytes()).unwrap();
    let busybox = Path::new("/bin/busybox");
    Image::new(
        &[(busybox, "/bin/busybox"), (busybox, "/bin/sh"), (script.path(), "/www/cgi-bin/index.cgi")],
        &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
    )
}

/// A host that is a node, with the room.
async fn node(server: &NatsServer, supervised: bool) -> Host {
    let section = format!("[nats]\nurl = '{}'\nname = 'cluster'\n", server.url());
    let host = Host::start_with(Config { nodes: section, supervised, ..Config::default() }).await;
    host.import(&room(), "room:1").await;
    let annotations = json!({
        "roost.websocket": "events",
        "roost.websocket.events": "connect,message",
        "roost.websocket.path": "/",
        "roost.websocket.client-groups": "message",
        "roost.websocket.outbound": "8Mi",
    });
    host.post_function(&json!({ "service": "room", "image": "room:1", "annotations": annotations })).await;
    host.was_up("room").await;
    host
}

/// A number on a host's page of metrics.
async fn metric(host: &Host, name: &str) -> u64 {
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let line = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no metric {name}"))
}

pub(crate) async fn knows(host: &Host, others: u64) {
    eventually("nodes that know each other", || async {
        (metric(host, "roost_nodes_known").await == others).then_some(())
    })
    .await;
}

async fn nodes<const N: usize>(server: &NatsServer) -> [Host; N] {
    let mut hosts = Vec::new();
    for _ in 0..N {
        hosts.push(node(server, false).await);
    }
    for host in &hosts {
        knows(host, N as u64 - 1).await;
    }
    hosts.try_into().unwrap()
}

/// So many sockets on each, those of the first host first.
async fn sockets(hosts: &[Host], each: usize) -> Vec<Socket> {
    let mut open = Vec::new();
    for host in hosts {
        for _ in 0..each {
            open.push(Socket::open(host, "/function/room").await);
        }
    }
    open
}

async fn all_hear(sockets: &mut [Socket], what: &str) {
    for (number, socket) in sockets.iter_mut().enumerate() {
        let heard = socket.next().await.unwrap().unwrap();
        assert!(heard == Message::text(what), "socket {number}: {} bytes for {}", heard.len(), what.len());
    }
}

async fn post(host: &Host, path: &str, what: &str) -> Value {
    let answer = host.api.post(path, what.to_owned()).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.json()
}

async fn get(host: &Host, path: &str) -> Value {
    let answer = host.api.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.json()
}

/// The connections in the order in which they are listed, all pages of two.
async fn listed(host: &Host) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = get(host, &format!("/system/connections?limit=2&after={after}")).await;
        all.append(page["connections"].as_array_mut().unwrap());
        let Some(next) = page["next"].as_str() else { return all };
        next.clone_into(&mut after);
    }
}

fn of<'a>(all: &'a [Value], what: &str) -> Vec<&'a str> {
    all.iter().map(|one| one[what].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_said_to_many_on_one_node_reaches_the_sockets_of_all_in_its_order() {
    let server = NatsServer::start().await;
    let hosts: [Host; 3] = nodes(&server).await;
    let mut open = sockets(&hosts, 2).await;
    for (number, path) in
        ["groups/lobby", "users/Ada", "connections", "connections?function=room"].iter().enumerate()
    {
        let told = post(&hosts[number % 3], &format!("/system/{path}"), path).await;
        assert_eq!(told, json!({ "queued": 2, "tooSlow": 0 }), "those that are here are counted");
        all_hear(&mut open, path).await;
    }
    // By the function, and by a client itself; and whoever watches on another node hears it, too.
    open[2].says("hello").await;
    all_hear(&mut open, "hello").await;
    let request =
        hosts[2].api.request(&Method::GET, "/system/groups/lobby/events").body(body_of("")).unwrap();
    let mut watch = hosts[2].api.open(request).await.unwrap().into_body();
    let mut watched = String::new();
    while !watched.contains("data: by a client\n") {
        let piece = tokio::time::timeout(PATIENCE, next_piece(&mut watch)).await.expect("an event");
        if watched.is_empty() {
            open[0]
                .says(r#"{"type":"sendToGroup","group":"lobby","dataType":"text","data":"by a client"}"#)
                .await;
        }
        watched.push_str(str::from_utf8(&piece.unwrap().expect("no end")).unwrap());
    }
    all_hear(&mut open, "by a client").await;
    drop(watch);
    // More than one message of NATS holds.
    let long = "x".repeat(1 << 20);
    post(&hosts[1], "/system/groups/lobby", &long).await;
    all_hear(&mut open, &long).await;
    let ids = of(&listed(&hosts[0]).await, "id").join(",");
    post(&hosts[0], &format!("/system/connections?exclude={ids}"), "to nobody").await;
    for number in 0..200 {
        post(&hosts[0], "/system/groups/lobby", &number.to_string()).await;
    }
    for number in 0..200 {
        all_hear(&mut open, &number.to_string()).await;
    }
    for host in &hosts {
        assert_eq!(metric(host, "roost_nodes_messages_lost_total{dir=\"in\"}").await, 0);
        assert_eq!(metric(host, "roost_nodes_messages_lost_total{dir=\"out\"}").await, 0);
    }
    assert_eq!(metric(&hosts[0], "roost_nodes_messages_total{dir=\"out\"}").await, 204);
}

#[tokio::test]
async fn one_connection_can_be_seen_told_moved_and_closed_from_any_node_and_lists_are_of_all() {
    let server = NatsServer::start().await;
    let hosts: [Host; 2] = nodes(&server).await;
    let [here, there] = &hosts;
    let mut open = sockets(&hosts, 3).await;
    let all = listed(here).await;
    let ids = of(&all, "id");
    assert_eq!(ids.len(), 6);
    assert_eq!(ids, of(&listed(there).await, "id"), "in the same order wherever one asks");
    let mut names = of(&all, "node");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(
        get(here, "/system/groups").await,
        json!({ "groups": [{ "name": "lobby", "connections": 6 }] })
    );
    let users = get(there, "/system/groups/lobby/users").await;
    assert_eq!(users, json!({ "users": [{ "id": "Ada", "connections": 6 }] }));

    // Each from both.
    for id in &ids {
        let path = format!("/system/connections/{id}");
        assert_eq!(get(here, &path).await["node"], get(there, &path).await["node"]);
        for host in &hosts {
            assert_eq!(host.api.post(&path, id.to_string()).await.status, StatusCode::ACCEPTED);
        }
    }
    for socket in &mut open {
        let (first, second) = (socket.next().await.unwrap(), socket.next().await.unwrap());
        let first = first.unwrap().into_text().unwrap();
        assert_eq!(second.unwrap().into_text().unwrap(), first);
        assert!(ids.contains(&first.as_str()));
    }
    for id in &ids[1..] {
        let path = format!("/system/groups/den/connections/{id}");
        assert_eq!(here.api.send(Method::PUT, &path, "").await.status, StatusCode::NO_CONTENT);
    }
    let path = format!("/system/groups/den/connections/{}", ids[1]);
    assert_eq!(there.api.send(Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        of(get(there, "/system/groups/den/connections").await["connections"].as_array().unwrap(), "id"),
        ids[2..]
    );
    let moved = here.api.send(Method::PUT, "/system/users/Ada/groups/hall", "").await.json();
    assert_eq!(moved, json!({ "joined": 6 }));

    // Nobody has it, and that is known as soon as all have said so.
    let asked = Instant::now();
    let nobody = here.api.post("/system/connections/AAECAwQFBgcICQoLDA0ODw", "hi").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());

    for host in [here, there] {
        let own = get(host, "/system/connections").await["connections"][0].clone();
        let path = format!("/system/connections/{}?code=4001", own["id"].as_str().unwrap());
        assert_eq!(host.api.send(Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
        eventually("its end", || async {
            (host.api.get(&path).await.status == StatusCode::NOT_FOUND).then_some(())
        })
        .await;
    }
    let closed = here.api.send(Method::DELETE, "/system/groups/lobby?code=4002", "").await.json();
    assert_eq!(closed, json!({ "closed": 4 }));
    let mut codes = Vec::new();
    for socket in &mut open {
        codes.push(socket.closed().await.0);
    }
    codes.sort_unstable();
    assert_eq!(codes, [4001, 4001, 4002, 4002, 4002, 4002]);
}

#[tokio::test]
async fn while_nats_is_away_each_node_serves_its_own_and_behind_that_they_are_one_again() {
    let mut server = NatsServer::start().await;
    let mut hosts: [Host; 2] = nodes(&server).await;
    let mut open = sockets(&hosts, 1).await;
    post(&hosts[0], "/system/groups/lobby", "before").await;
    all_hear(&mut open, "before").await;
    server.end().await;
    eventually("the loss of NATS", || async {
        (metric(&hosts[0], "roost_nodes_connected").await == 0).then_some(())
    })
    .await;
    let asked = Instant::now();
    post(&hosts[0], "/system/groups/lobby", "alone").await;
    all_hear(&mut open[..1], "alone").await;
    open[0].says("by the function").await;
    all_hear(&mut open[..1], "by the function").await;
    assert_eq!(listed(&hosts[0]).await.len(), 1);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_eq!(metric(&hosts[0], "roost_nodes_messages_lost_total{dir=\"out\"}").await, 2);

    server.start_again().await;
    for host in &hosts {
        eventually("NATS", || async { (metric(host, "roost_nodes_connected").await == 1).then_some(()) })
            .await;
        knows(host, 1).await;
    }
    eventually("lists of both", || async { (listed(&hosts[0]).await.len() == 2).then_some(()) }).await;
    post(&hosts[0], "/system/groups/lobby", "again").await;
    all_hear(&mut open, "again").await;
    open[1].says("and back").await;
    all_hear(&mut open, "and back").await;

    // One that ends says so; one that is killed is missed, until it is forgotten.
    hosts[1].kill9();
    let page = get(&hosts[0], "/system/connections").await;
    assert_eq!(page["missing"].as_array().unwrap().len(), 1);
    knows(&hosts[0], 0).await;
    assert_eq!(get(&hosts[0], "/system/connections").await["missing"], Value::Null);
    hosts[1].start_daemon().await;
    knows(&hosts[0], 1).await;
    hosts[1].terminate();
    hosts[1].ended().await;
    assert_eq!(metric(&hosts[0], "roost_nodes_known").await, 0, "it did not say that it ends");
}

#[tokio::test]
async fn sockets_that_a_node_hands_over_to_its_next_process_hear_the_other_nodes() {
    let server = NatsServer::start().await;
    let hosts = [node(&server, false).await, node(&server, true).await];
    knows(&hosts[0], 1).await;
    let mut open = sockets(&hosts, 2).await;
    let before = listed(&hosts[0]).await;
    hosts[1].hand_over().await;
    eventually("the next process", || async {
        let now = listed(&hosts[0]).await;
        let names = |all: &[Value]| of(all, "node").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        (of(&now, "id") == of(&before, "id") && names(&now) != names(&before)).then_some(())
    })
    .await;
    knows(&hosts[0], 1).await;
    for host in &hosts {
        post(host, "/system/groups/lobby", "behind").await;
        all_hear(&mut open, "behind").await;
    }
}
