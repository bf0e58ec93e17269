//! What is decided about replicas can be watched, and what goes on at a function can be seen.

use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, ECHO, Host, PATIENCE, Socket, body_of, eventually, next_piece};
use serde_json::{Value, json};

/// A watch on `/system/events`.
struct Watch {
    body: Incoming,
    text: String,
}

impl Watch {
    async fn open(api: &Api, query: &str) -> Self {
        let request = api.request(&Method::GET, &format!("/system/events{query}"));
        let response = api.open(request.body(body_of("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event: its id and its data. `None` at the end.
    async fn next(&mut self) -> Option<(u64, Value)> {
        // Heartbeats come all the time.
        tokio::time::timeout(PATIENCE, self.event()).await.expect("an event, or the end")
    }

    async fn event(&mut self) -> Option<(u64, Value)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                // All others are heartbeats.
                if let Some(lines) = event.strip_prefix("event: scaled\nid: ") {
                    let (id, data) = lines.split_once("\ndata: ").unwrap();
                    return Some((id.parse().unwrap(), serde_json::from_str(data).unwrap()));
                }
            }
            let piece = next_piece(&mut self.body).await.unwrap()?;
            self.text.push_str(str::from_utf8(&piece).unwrap());
        }
    }
}

/// An echo that has no replicas when it was idle for two seconds.
fn idles(name: &str) -> Value {
    let labels = json!({ "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "2s" });
    json!({ "service": name, "image": ECHO, "labels": labels, "annotations": { "roost.idle.state": "stopped" } })
}

async fn counted(host: &Host, direction: &str) -> u64 {
    let name = "roost_scaling_decisions_total";
    let sample = format!("{name}{{function_name=\"echo.openfaas-fn\",direction=\"{direction}\"}} ");
    let page = Api::new(host.metrics_port(), None).get("/metrics").await;
    let line = page.text().lines().find_map(|line| line.strip_prefix(&sample).map(str::to_owned));
    line.expect("a sample").parse().unwrap()
}

#[tokio::test]
async fn decisions_are_told_as_they_are_made_with_their_reason_to_whoever_may_look() {
    let mut host = Host::with_echo(Config::default()).await;
    for (api, query, status) in [
        (&Api::new(host.port(), None), "", StatusCode::UNAUTHORIZED),
        (&host.api, "?function=nobody", StatusCode::NOT_FOUND),
        (&host.api, "?function=No%20Name", StatusCode::NOT_FOUND),
        (&host.api, "?namespace=nowhere", StatusCode::BAD_REQUEST),
        (&host.api, "?function=echo.a&namespace=b", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(api.get(&format!("/system/events{query}")).await.status, status, "{query}");
    }
    let added = host.roost_as_root(&["auth", "add", "bert", "--read-only", "--password-stdin"], "b").await;
    assert_eq!(added.code, Some(0), "{added:?}");
    let bert = Api::new(host.port(), Some(("bert", "b")));
    eventually("a user that was added", || async {
        (bert.get("/system/functions").await.status == StatusCode::OK).then_some(())
    })
    .await;

    let mut all = Watch::open(&bert, "").await;
    host.post_function(&idles("other")).await;
    let of_other = all.next().await.unwrap();
    assert_eq!(of_other.1["function"], "other");
    // Nothing is decided of it before it is watched, and a function that is not there cannot be.
    host.deployed(&json!({ "service": "echo", "image": ECHO })).await;
    let mut one = Watch::open(&host.api, "?function=echo").await;
    let mut of_namespace = Watch::open(&host.api, "?namespace=openfaas-fn").await;
    host.put_function(&idles("echo")).await;

    let (first, idle) = one.next().await.unwrap();
    assert!(first > of_other.0);
    assert_eq!(idle["reason"], "idle for 2s");
    host.idle("echo").await;
    host.assert_echoes("echo").await;
    let (second, woken) = one.next().await.unwrap();
    assert!(second > first);
    let told = |event: &Value, from: u64, to: u64| {
        assert_eq!((&event["function"], &event["namespace"]), (&json!("echo"), &json!("openfaas-fn")));
        assert_eq!((&event["from"], &event["to"]), (&json!(from), &json!(to)), "{event}");
        assert!(event.get("key").is_none(), "{event}");
    };
    told(&idle, 1, 0);
    told(&woken, 0, 1);
    assert_eq!(woken["reason"], "a request waits");
    // Others hear the same, among all else.
    for watch in [&mut all, &mut of_namespace] {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.extend(watch.next().await.filter(|(_, event)| event["function"] == "echo"));
        }
        assert_eq!(heard, [(first, idle.clone()), (second, woken.clone())]);
    }

    let scaling = host.function("echo").await["status"]["scaling"].clone();
    let (at, reason) = (&scaling["lastDecision"]["at"], &scaling["lastDecision"]["reason"]);
    // It may be idle again by now.
    assert!(
        at.as_str() >= woken["at"].as_str() && (reason == "a request waits" || reason == "idle for 2s"),
        "{scaling}"
    );
    assert!(counted(&host, "up").await >= 1 && counted(&host, "down").await >= 1);

    // A watch on a function ends with it, and all end with the daemon.
    host.remove("echo").await;
    while one.next().await.is_some() {}
    host.terminate();
    while all.next().await.is_some() {}
    host.ended().await;
}

#[tokio::test]
async fn what_goes_on_at_a_function_is_seen_in_its_status_and_by_roost_top() {
    let host = Host::with_echo(Config::default()).await;
    host.log_in().await;
    let labels = json!({ "com.openfaas.scale.min": "2" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "labels": labels })).await;
    let before = host.has_ready("echo", 2).await;
    let none =
        json!({ "inFlight": 0, "connections": 0, "waiting": 0, "queued": 0, "started": 0, "finished": 0 });
    assert_eq!((&before["status"]["load"], &before["status"]["scaling"]), (&none, &json!({ "desired": 2 })));
    host.assert_echoes("echo").await;
    let socket = Socket::open(&host, "/function/echo").await;

    let open = |status: &Value| {
        let load = json!({ "inFlight": 1, "connections": 1, "waiting": 0, "queued": 0, "started": 2, "finished": 2 });
        status["load"] == load
    };
    let function = host.status("echo", "an open connection", open).await;
    let replicas = function["status"]["replicas"].as_array().unwrap().iter();
    let mut counts: Vec<_> =
        replicas.map(|r| (r["connections"].as_u64().unwrap(), r["inFlight"].as_u64().unwrap())).collect();
    counts.sort_unstable();
    assert_eq!(counts, [(0, 0), (1, 1)]);
    let table = host.roost_done(&["top", "--once", "--interval", "100ms"]).await;
    let row: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(row[..8], ["echo", "Ready", "2/2", "0.0", "1", "1", "0", "0"], "{table}");
    let rows: Value = serde_json::from_str(&host.roost_done(&["top", "--once", "--json"]).await).unwrap();
    assert_eq!((&rows[0]["connections"], &rows[0]["desired"]), (&json!(1), &json!(2)));
    assert!(rows[0]["memoryBytes"].as_f64() > Some(100_000.0), "{rows}");
    let described = host.roost_done(&["describe", "echo"]).await;
    assert!(described.contains("1 in flight, 1 of them connections; 0 waiting"), "{described}");

    socket.leave().await;
    let closed = |status: &Value| status["load"]["connections"] == 0 && status["load"]["inFlight"] == 0;
    let function = host.status("echo", "its end", closed).await;
    assert_eq!(function["status"]["load"]["started"], function["status"]["load"]["finished"]);
}
