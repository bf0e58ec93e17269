//! The verbs about functions, run as a person runs them: what is asked of the daemon, what is shown, how it ends.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use support::{BASIC, Daemon, Home, Request, static_program};

const READY: &str = r#"{"name":"echo","image":"i","availableReplicas":1,"status":{"phase":"Ready"}}"#;

/// Accepts every change; tells of every function that it is ready.
fn willing(request: &Request) -> (u16, String) {
    match request.method.as_str() {
        "GET" => (200, READY.into()),
        _ => (202, String::new()),
    }
}

#[test]
fn deploy_sends_what_was_typed_and_waits_until_it_is_ready() {
    let daemon = Daemon::new(willing);
    let ran = Home::of(&daemon.url).run(&[
        "deploy",
        "echo",
        "--image",
        "r/echo:1",
        "-e",
        "A=b=c",
        "-l",
        "x=y",
        "--annotation",
        "topic=t",
        "--secret",
        "s",
        "--fprocess",
        "cat",
        "--memory",
        "64Mi",
        "--cpu",
        "100m",
        "--readonly",
        "--replicas",
        "2",
        "-n",
        "dev",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, format!("Deployed echo.dev: {}/function/echo.dev\n", daemon.url));
    let requests = daemon.requests();
    assert_eq!(requests[0].line(), "PUT /system/functions");
    assert_eq!(requests[0].header("authorization"), Some(BASIC));
    let expected = json!({
        "service": "echo", "image": "r/echo:1", "namespace": "dev", "envProcess": "cat", "envVars": {"A": "b=c"},
        "secrets": ["s"], "labels": {"x": "y", "com.openfaas.scale.min": "2"}, "annotations": {"topic": "t"},
        "limits": {"memory": "64Mi", "cpu": "100m"}, "readOnlyRootFilesystem": true,
    });
    assert_eq!(requests[0].json(), expected);
    assert_eq!(requests[1].line(), "GET /system/function/echo?usage=1&namespace=dev");
}

#[test]
fn what_is_not_known_yet_is_created() {
    let daemon = Daemon::new(|r| match r.method.as_str() {
        "PUT" => (404, "function: a.openfaas-fn not found\n".into()),
        _ => (202, String::new()),
    });
    let ran = Home::of(&daemon.url).run(&["deploy", "--name", "a", "--image", "i", "--no-wait", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(daemon.lines(), ["PUT /system/functions", "POST /system/functions"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&shown[0]["name"], &shown[0]["ready"]), (&"a".into(), &false.into()));
}

#[test]
fn the_phases_are_told_and_a_failure_ends_with_its_reason() {
    let looks = AtomicUsize::new(0);
    let daemon = Daemon::new(move |r| match (r.method.as_str(), looks.fetch_add(1, Ordering::SeqCst)) {
        ("PUT", _) => (202, String::new()),
        (_, ..3) => (200, r#"{"name":"a","status":{"phase":"Pulling","image":{"done":1,"total":2}}}"#.into()),
        _ => (200, r#"{"name":"a","status":{"phase":"Failed","message":"no such image: i"}}"#.into()),
    });
    let ran = Home::of(&daemon.url).run(&["deploy", "a", "--image", "i"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, "a: Pulling\nroost: a: no such image: i\nWhat it wrote: roost logs a\n");
}

#[test]
fn waiting_ends_at_its_limit() {
    let daemon = Daemon::new(|r| match r.method.as_str() {
        "PUT" => (202, String::new()),
        _ => (200, r#"{"name":"a","status":{"phase":"Starting"}}"#.into()),
    });
    let ran = Home::of(&daemon.url).run(&["deploy", "a", "--image", "i", "--timeout", "1s"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("not ready after 1s (Starting)"), "{}", ran.stderr);
}

#[test]
fn a_stack_file_deploys_and_removes_all_its_functions() {
    let daemon =
        Daemon::new(|r| match (r.method.as_str(), String::from_utf8_lossy(&r.body).contains("\"bad\"")) {
            ("GET", _) => (200, READY.into()),
            (_, true) => (400, "image: not a reference\n".into()),
            _ => (202, String::new()),
        });
    let home = Home::of("http://127.0.0.1:1");
    home.file("env.yml", "environment:\n  FROM_FILE: yes\n");
    let stack = format!(
        "provider:\n  name: openfaas\n  gateway: {}\nfunctions:\n  good:\n    lang: go\n    image: i:${{TAG:-7}}\n    \
         environment_file: [env.yml]\n  bad:\n    image: x\n",
        daemon.url
    );
    home.file("stack.yaml", stack);

    let ran = home.run(&["deploy", "-f", "stack.yaml", "-e", "A=1"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stdout, format!("Deployed good: {}/function/good\n", daemon.url));
    assert_eq!(ran.stderr, "roost: bad: image: not a reference\nroost: 1 of 2 failed\n");
    let good =
        daemon.requests().into_iter().find(|r| r.method == "PUT" && r.json()["service"] == "good").unwrap();
    assert_eq!(good.json()["image"], "i:7");
    assert_eq!(good.json()["envVars"], json!({"A": "1", "FROM_FILE": "yes"}));
    // The password of this host's daemon is not for the gateway in the file.
    assert_eq!(good.header("authorization"), None);

    let ran = home.run(&["deploy", "-f", "stack.yaml", "good", "--no-wait"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = home.run(&["rm", "-f", "stack.yaml"]);
    assert_eq!(ran.stdout, "Removing good\n");
}

#[test]
fn a_binary_is_imported_under_a_name_of_its_content_and_deployed() {
    let daemon = Daemon::new(|r| match r.target.split('?').next() {
        Some("/system/images") => (200, r#"[{"name":"n","digest":"sha256:0"}]"#.into()),
        _ => willing(r),
    });
    let home = Home::of(&daemon.url);
    home.file("hello", static_program());
    let ran = home.run(&["deploy", "hello", "--binary", "hello"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let requests = daemon.requests();
    assert!(
        requests[0].line().starts_with("POST /system/images?name=roost.local%2Fhello%3A"),
        "{}",
        requests[0].line()
    );
    assert_eq!(requests[0].header("content-length"), Some(requests[0].body.len().to_string().as_str()));
    let image = requests[1].json()["image"].as_str().unwrap().to_owned();
    assert_eq!(
        requests[0].target,
        format!("/system/images?name={}", image.replace('/', "%2F").replace(':', "%3A"))
    );
}

#[test]
fn list_shows_a_table_or_the_daemons_own_json() {
    let body = r#"[{"name":"b","image":"i2","replicas":1,"createdAt":""},{"name":"a","image":"i1","availableReplicas":1,"replicas":1,"invocationCount":3,"status":{"phase":"Ready"},"extra":1}]"#;
    let daemon = Daemon::new(move |_| (200, body.into()));
    let home = Home::of(&daemon.url);
    let ran = home.run(&["ls"]);
    assert_eq!(
        ran.stdout,
        "NAME  PHASE     REPLICAS  CALLS  AGE  IMAGE\na     Ready     1/1       3           i1\nb     Starting  0/1       0           i2\n"
    );
    let ran = home.run(&["list", "--json", "-n", "dev"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(shown[1]["extra"], 1);
    assert_eq!(home.run(&["list", "-q"]).stdout, "a\nb\n");
    assert_eq!(daemon.lines()[1], "GET /system/functions?namespace=dev");
}

#[test]
fn describe_tells_of_one_function_or_that_there_is_none() {
    let daemon =
        Daemon::new(|r| if r.target.contains("/echo?") { (200, READY.into()) } else { (404, String::new()) });
    let home = Home::of(&daemon.url);
    let ran = home.run(&["describe", "echo.dev"]);
    assert!(ran.stdout.starts_with("Name:      echo\nPhase:     Ready\n"), "{}", ran.stdout);
    let ran = home.run(&["describe", "gone"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, "roost: there is no function gone; see what there is: roost list\n");
}

#[test]
fn remove_names_the_function_in_the_body() {
    let daemon = Daemon::new(|r| match r.json()["functionName"].as_str() {
        Some("a") => (202, String::new()),
        name => (404, format!("function {}.openfaas-fn not found\n", name.unwrap_or(""))),
    });
    let home = Home::of(&daemon.url);
    let ran = home.run(&["remove", "a.dev", "b"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "Removing a.dev\n"));
    assert_eq!(ran.stderr, "roost: b: function b.openfaas-fn not found\nroost: 1 of 2 failed\n");
    let requests = daemon.requests();
    assert_eq!(requests[0].line(), "DELETE /system/functions");
    assert_eq!(requests[0].json(), json!({"functionName": "a", "namespace": "dev"}));
}

#[test]
fn invoke_streams_both_ways_without_the_password() {
    let daemon = Daemon::new(|r| (200, format!("{}:{}", r.method, String::from_utf8_lossy(&r.body))));
    let home = Home::of(&daemon.url);
    assert_eq!(home.run(&["invoke", "echo", "-d", "hi"]).stdout, "POST:hi");
    assert_eq!(home.run_with(&["invoke", "echo"], b"from stdin").stdout, "POST:from stdin");
    assert_eq!(home.run(&["invoke", "echo"]).stdout, "POST:");
    let ran =
        home.run(&["invoke", "echo.dev", "-X", "get", "-H", "X-A: b", "--query", "q=1", "--path", "/p"]);
    assert_eq!(ran.stdout, "GET:");
    let requests = daemon.requests();
    assert!(requests.iter().all(|r| r.header("authorization").is_none()));
    assert_eq!(requests[0].header("content-length"), Some("2"));
    assert_eq!(requests[1].header("transfer-encoding"), Some("chunked"));
    assert_eq!(requests[2].header("content-length"), Some("0"));
    assert_eq!(requests[3].line(), "GET /function/echo.dev/p?q=1");
    assert_eq!(requests[3].header("x-a"), Some("b"));
}

#[test]
fn a_function_that_refuses_is_a_failure_that_shows_its_body() {
    let daemon = Daemon::new(|_| (503, "busy\n".into()));
    let ran = Home::of(&daemon.url).run(&["invoke", "echo", "-d", "x"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "busy\n"));
    assert_eq!(ran.stderr, "roost: echo answered 503 Service Unavailable\n");
}

#[test]
fn logs_are_asked_for_as_the_contract_says() {
    let body = "{\"name\":\"a\",\"namespace\":\"n\",\"instance\":\"a-1\",\"timestamp\":\"T\",\"text\":\"one\"}\n\
                {\"name\":\"a\",\"namespace\":\"n\",\"instance\":\"a-1\",\"timestamp\":\"U\",\"text\":\"two\"}\n";
    let daemon = Daemon::new(move |_| (200, body.into()));
    let home = Home::of(&daemon.url);
    assert_eq!(home.run(&["logs", "a"]).stdout, "T one\nU two\n");
    assert_eq!(home.run(&["logs", "a", "--no-timestamps", "--show-instance"]).stdout, "a-1 one\na-1 two\n");
    assert_eq!(home.run(&["logs", "a", "--json"]).stdout, body);
    let since = "2026-01-31T12:00:00Z";
    home.run(&["logs", "a.dev", "-f", "--tail", "5", "--since", since, "--instance", "a-1"]);
    let lines = daemon.lines();
    assert_eq!(lines[0], "GET /system/logs?name=a&follow=false&tail=-1");
    assert_eq!(
        lines[3],
        "GET /system/logs?name=a&follow=true&tail=5&namespace=dev&instance=a-1&since=2026-01-31T12%3A00%3A00Z"
    );
}
