//! What is counted and measured, and where it is shown.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use roost_tests::{
    Api, Clients, Host, Image, Load, Registry, Sample, body_of, clients, eventually, next_piece,
};
use serde_json::{Value, json};

/// A page of metrics, read by Prometheus' parser.
struct Page(Vec<Sample>);

impl Page {
    async fn get(host: &Host, clients: &Clients) -> Self {
        let answer = Api::new(host.metrics_port(), None).get("/metrics").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let page = Self(clients.parse_metrics(answer.text()).await);
        page.check();
        page
    }

    /// What holds for every page: a sample comes once, and histograms are whole.
    fn check(&self) {
        let mut series = BTreeMap::new();
        for sample in &self.0 {
            let last = series.insert((sample.name.as_str(), &sample.labels), sample.value);
            assert!(last.is_none(), "{sample:?} comes twice");
        }
        for count in self.0.iter().filter(|s| s.kind == "histogram" && s.name.ends_with("_count")) {
            let name = count.name.replace("_count", "_bucket");
            let of_it =
                |s: &&Sample| s.name == name && count.labels.iter().all(|(k, v)| s.labels.get(k) == Some(v));
            let buckets: Vec<f64> = self.0.iter().filter(of_it).map(|s| s.value).collect();
            assert_eq!(buckets.len(), 12, "{count:?}");
            assert!(buckets.is_sorted(), "{count:?}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&count.value), "{count:?}");
        }
    }

    /// The value of the sample with exactly these labels.
    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.0.iter().find(|sample| sample.name == name && sample.labels == labels).map(|sample| sample.value)
    }

    /// The values of a function's samples by code.
    fn by_code(&self, name: &str, function: &str) -> BTreeMap<String, f64> {
        let of_it = |s: &&Sample| s.name == name && s.labels["function_name"] == function;
        self.0.iter().filter(of_it).map(|s| (s.labels["code"].clone(), s.value)).collect()
    }

    fn mentions(&self, text: &str) -> bool {
        self.0.iter().any(|sample| sample.labels.values().any(|value| value.contains(text)))
    }
}

const ECHO: (&str, &str) = ("function_name", "echo.openfaas-fn");

fn codes(expected: &[(&str, f64)]) -> BTreeMap<String, f64> {
    expected.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
}

/// Waits until as many requests of `echo` are counted as answered: a count comes behind the last byte.
async fn counted(host: &Host, clients: &Clients, expected: &[(&str, f64)]) -> Page {
    eventually("all requests to be counted", || async {
        let page = Page::get(host, clients).await;
        (page.by_code("gateway_function_invocation_total", "echo.openfaas-fn") == codes(expected))
            .then_some(page)
    })
    .await
}

/// A handshake of a WebSocket; without a key it is refused by the function.
async fn handshake(host: &Host, key: Option<&str>) -> hyper::Response<hyper::body::Incoming> {
    let mut request = host.api.request(&Method::GET, "/function/echo");
    request = request.header("connection", "upgrade").header("upgrade", "websocket");
    request = request.header("sec-websocket-version", "13");
    if let Some(key) = key {
        request = request.header("sec-websocket-key", key);
    }
    host.api.open(request.body(body_of("")).unwrap()).await.unwrap()
}

#[tokio::test]
async fn requests_replicas_and_the_host_are_counted_as_they_are() {
    let (registry, clients) = (Registry::open().await, clients().await);
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    let labels = json!({ "com.openfaas.scale.min": "2", "com.openfaas.scale.type": "capacity", "com.openfaas.scale.target": "12" });
    host.post_function(&json!({ "service": "echo", "image": image, "labels": labels })).await;
    // It is not ready yet: this one waits.
    host.assert_echoes("echo").await;
    host.status("echo", "two replicas", |status| status["phase"] == "Ready").await;

    for _ in 0..9 {
        host.assert_echoes("echo").await;
    }
    for _ in 0..3 {
        assert_eq!(handshake(&host, None).await.status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(
        host.api.send(Method::TRACE, "/function/echo", "").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(host.call("nobody", "hi").await.status, StatusCode::NOT_FOUND);
    let page = counted(&host, &clients, &[("200", 10.0), ("400", 3.0)]).await;
    let durations = page.by_code("gateway_functions_seconds_count", "echo.openfaas-fn");
    assert_eq!(durations, codes(&[("200", 10.0), ("400", 3.0)]));
    let sums = page.by_code("gateway_functions_seconds_sum", "echo.openfaas-fn");
    let cold = page.find("roost_cold_start_seconds_sum", &[ECHO]).unwrap();
    assert!(cold > 0.0 && sums["200"] > cold && sums["200"] < 60.0, "{cold} {sums:?}");
    for (name, value) in [
        ("gateway_function_invocation_started", 13.0),
        ("gateway_function_invocation_inflight", 0.0),
        ("gateway_service_count", 2.0),
        ("gateway_service_ready_count", 2.0),
        ("gateway_service_min", 2.0),
        ("roost_cold_starts_total", 1.0),
        ("roost_cold_start_seconds_count", 1.0),
        ("roost_waiting_requests", 0.0),
        ("roost_open_tunnels", 0.0),
        ("roost_replica_restarts_total", 0.0),
        ("roost_oom_kills_total", 0.0),
    ] {
        assert_eq!(page.find(name, &[ECHO]), Some(value), "{name}");
    }
    assert_eq!(page.find("gateway_service_target_load", &[ECHO, ("scaling_type", "capacity")]), Some(12.0));
    assert!(page.find("roost_response_bytes_total", &[ECHO]) >= Some(20.0));
    let in_namespace = [ECHO, ("namespace", "openfaas-fn")];
    assert!(page.find("pod_memory_working_set_bytes", &in_namespace) > Some(100_000.0));
    assert!(page.find("pod_cpu_usage_seconds_total", &in_namespace) > Some(0.0));
    assert!(!page.mentions("nobody"), "a caller's words are no label");
    let kind =
        |name: &str| page.0.iter().find(|sample| sample.name == name).map(|sample| sample.kind.as_str());
    assert_eq!(kind("gateway_function_invocation_started"), Some("counter"));
    assert_eq!(kind("gateway_service_count"), Some("gauge"));

    open_ones_are_in_flight(&host, &clients).await;
    the_api_and_containerd_are_counted(&host, &clients).await;
    a_function_that_cannot_run_refuses(&host, &clients).await;
    clients_that_hang_do_not_matter(&host, &clients).await;

    host.remove("echo").await;
    eventually("the end of its samples", || async {
        (!Page::get(&host, &clients).await.mentions("echo.openfaas-fn")).then_some(())
    })
    .await;
}

async fn open_ones_are_in_flight(host: &Host, clients: &Clients) {
    let request = host.api.request(&Method::GET, "/function/echo/sse").body(body_of("")).unwrap();
    let mut events = host.api.open(request).await.unwrap().into_body();
    next_piece(&mut events).await.unwrap().unwrap();
    let socket = handshake(host, Some("dGhlIHNhbXBsZSBub25jZQ==")).await;
    assert_eq!(socket.status(), StatusCode::SWITCHING_PROTOCOLS);
    // The socket is counted when it opens, the stream when it ends.
    let page = counted(host, clients, &[("101", 1.0), ("200", 10.0), ("400", 3.0)]).await;
    assert_eq!(page.find("gateway_function_invocation_inflight", &[ECHO]), Some(2.0));
    assert_eq!(page.find("gateway_function_invocation_started", &[ECHO]), Some(15.0));
    assert_eq!(page.find("roost_open_tunnels", &[ECHO]), Some(1.0));
    drop((events, socket));
    eventually("the end of both", || async {
        let page = counted(host, clients, &[("101", 1.0), ("200", 11.0), ("400", 3.0)]).await;
        let open = page.find("roost_open_tunnels", &[ECHO]);
        let in_flight = page.find("gateway_function_invocation_inflight", &[ECHO]);
        ((open, in_flight) == (Some(0.0), Some(0.0))).then_some(())
    })
    .await;
}

async fn the_api_and_containerd_are_counted(host: &Host, clients: &Clients) {
    let stranger = Api::new(host.port(), None);
    assert_eq!(stranger.get("/system/functions").await.status, StatusCode::UNAUTHORIZED);
    for _ in 0..2 {
        assert_eq!(host.api.get("/system/function/nobody").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(host.api.get("/system/made-up/nobody").await.status, StatusCode::NOT_FOUND);
    let brew = Method::from_bytes(b"BREW").unwrap();
    assert_eq!(host.api.send(brew, "/system/info", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    for (method, call, status) in [
        (Method::POST, "echo", StatusCode::ACCEPTED),
        (Method::PUT, "nobody/x", StatusCode::NOT_FOUND),
        (Method::DELETE, "nobody", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(host.api.send(method, &format!("/async-function/{call}"), "").await.status, status);
    }
    let page = Page::get(host, clients).await;
    for (method, status) in [("POST", "202"), ("PUT", "404"), ("DELETE", "404")] {
        let labels = [("method", method), ("path", "/async-function"), ("status", status)];
        assert_eq!(page.find("http_requests_total", &labels), Some(1.0), "{labels:?}");
    }
    for (method, path, status, value) in [
        ("POST", "/system/functions", "202", 1.0),
        ("GET", "/system/functions", "401", 1.0),
        ("GET", "/system/function", "404", 2.0),
        ("GET", "/system", "404", 1.0),
        ("OTHER", "/system/info", "405", 1.0),
    ] {
        let labels = [("method", method), ("path", path), ("status", status)];
        assert_eq!(page.find("http_requests_total", &labels), Some(value), "{labels:?}");
        assert_eq!(page.find("http_request_duration_seconds_count", &labels), Some(value), "{labels:?}");
        let labels = [("method", method), ("path", path), ("code", status)];
        assert_eq!(page.find("provider_http_requests_total", &labels), Some(value), "{labels:?}");
        assert_eq!(
            page.find("provider_http_request_duration_seconds_count", &labels),
            Some(value),
            "{labels:?}"
        );
    }
    assert!(!page.mentions("nobody") && !page.mentions("made-up") && !page.mentions("healthz"));

    let tasks = ("service", "containerd.services.tasks.v1.Tasks");
    let created = [tasks, ("method", "Create"), ("code", "OK")];
    assert_eq!(page.find("roost_containerd_calls_total", &created), Some(2.0));
    assert_eq!(page.find("roost_containerd_call_seconds_count", &[tasks, ("method", "Create")]), Some(2.0));
    assert_eq!(page.0.iter().filter(|sample| sample.name == "roost_build_info").count(), 1);
    let resident = page.find("process_resident_memory_bytes", &[]).unwrap();
    assert!(resident > 1e6 && resident < 1e9, "{resident}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let began = page.find("process_start_time_seconds", &[]).unwrap();
    assert!(began < now + 1.0 && began > now - 600.0, "{began} is not shortly before {now}");
    assert!(page.find("process_open_fds", &[]).unwrap() < page.find("process_max_fds", &[]).unwrap());
    assert!(page.find("process_cpu_seconds_total", &[]) > Some(0.0));

    let metrics = Api::new(host.metrics_port(), None);
    let health = metrics.get("/healthz").await;
    assert_eq!((health.status, health.text()), (StatusCode::OK, "OK"));
    assert_eq!(metrics.get("/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(metrics.get("/system/functions").await.status, StatusCode::NOT_FOUND);
    assert_eq!(metrics.get("/function/echo").await.status, StatusCode::NOT_FOUND);
    assert_eq!(metrics.post("/metrics", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(host.api.get("/metrics").await.status, StatusCode::NOT_FOUND, "not where functions answer");
}

async fn a_function_that_cannot_run_refuses(host: &Host, clients: &Clients) {
    // Nobody listens there.
    host.post_function(&json!({ "service": "broken", "image": "127.0.0.1:1/none:1" })).await;
    host.status("broken", "its failure", |status| status["phase"] == "Failed").await;
    assert_eq!(host.call("broken", "hi").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let name = ("function_name", "broken.openfaas-fn");
    let page = eventually("its request to be counted", || async {
        let page = Page::get(host, clients).await;
        page.find("gateway_function_invocation_total", &[name, ("code", "503")]).is_some().then_some(page)
    })
    .await;
    assert_eq!(page.find("roost_waiting_refused_total", &[name, ("reason", "unavailable")]), Some(1.0));
    assert_eq!(page.find("roost_waiting_refused_total", &[name, ("reason", "full")]), Some(0.0));
    assert_eq!(page.find("gateway_service_ready_count", &[name]), Some(0.0));
    assert_eq!(page.find("gateway_service_count", &[name]), Some(1.0));
    assert_eq!(page.find("gateway_service_target_load", &[name, ("scaling_type", "rps")]), Some(50.0));
}

async fn clients_that_hang_do_not_matter(host: &Host, clients: &Clients) {
    let mut hanging = Vec::new();
    for _ in 0..100 {
        hanging.push(tokio::net::TcpStream::connect(("127.0.0.1", host.metrics_port())).await.unwrap());
    }
    Page::get(host, clients).await;
}

fn invocations(function: &Value) -> u64 {
    function["invocationCount"].as_u64().unwrap_or(0)
}

/// The function as the list tells of it.
async fn listed(host: &Host, query: &str) -> Value {
    let list = host.api.get(&format!("/system/functions{query}")).await.json();
    list.as_array().unwrap().iter().find(|function| function["name"] == "echo").unwrap().clone()
}

async fn invoked(host: &Host, expected: u64) {
    eventually("the count of invocations", || async {
        (invocations(&host.function("echo").await) == expected).then_some(())
    })
    .await;
    assert_eq!(invocations(&listed(host, "").await), expected, "in the list, too");
}

#[tokio::test]
async fn invocations_are_counted_over_restarts_and_usage_is_told_when_asked_for() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let mut host = Host::start().await;
    host.deploy("echo", &image).await;
    invoked(&host, 0).await;
    for _ in 0..5 {
        host.assert_echoes("echo").await;
    }
    invoked(&host, 5).await;

    assert!(host.function("echo").await.get("usage").is_none(), "only when asked for");
    assert!(host.api.get("/system/function/echo?usage=0").await.json().get("usage").is_none());
    let used = |function: &Value| {
        let number = |field: &str| {
            function["usage"][field].as_f64().unwrap_or_else(|| panic!("{field} in {function:#}"))
        };
        (number("cpu"), number("totalMemoryBytes"))
    };
    // The first time: since its start.
    let (cpu, memory) = used(&host.api.get("/system/function/echo?usage=1").await.json());
    assert!(cpu > 0.0 && cpu < 2000.0 && memory > 100_000.0, "{cpu} {memory}");

    host.restart().await;
    host.ready("echo").await;
    invoked(&host, 5).await;
    // The daemon is new, the replica is not: its whole life counts, not the moment since it was adopted.
    let (cpu, _) = used(&listed(&host, "?usage=true").await);
    assert!(cpu > 0.0 && cpu < 2000.0, "{cpu}");
    let load = Load::start(&host.api, "/function/echo", 4);
    let busy = || async {
        let (cpu, memory) = used(&listed(&host, "?usage=t").await);
        (cpu > 20.0 && memory > 100_000.0).then_some(())
    };
    eventually("a busy function", busy).await;
    let report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new());
    invoked(&host, 5 + report.answered as u64).await;

    host.remove("echo").await;
    host.deploy("echo", &image).await;
    invoked(&host, 0).await;
    host.assert_echoes("echo").await;
    invoked(&host, 1).await;
    host.restart().await;
    invoked(&host, 1).await;
}
