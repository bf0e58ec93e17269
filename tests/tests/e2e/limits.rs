//! Limits of a function: said with it, heeded, counted, and lifted without a new replica.

use hyper::{Method, StatusCode};
use roost_tests::{Api, Config, ECHO, Host, eventually};
use serde_json::{Value, json};

async fn metrics(host: &Host) -> String {
    Api::new(host.metrics_port(), None).get("/metrics").await.text().to_owned()
}

#[tokio::test]
async fn a_function_has_the_limits_it_was_deployed_with_until_an_update_lifts_them() {
    let host = Host::with_echo(Config::default()).await;
    let wrong = json!({ "service": "echo", "image": ECHO, "annotations":
        { "roost.limit.body": "much", "roost.limit.requests": "fast", "roost.limit.connections": "0" } });
    let answer = host.api.post("/system/functions", wrong.to_string()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    for name in ["roost.limit.body", "roost.limit.requests", "roost.limit.connections"] {
        assert!(answer.text().contains(&format!("annotations.{name}: ")), "{}", answer.text());
    }

    let with = |annotations: Value| json!({ "service": "echo", "image": ECHO, "annotations": annotations });
    let deployed = host
        .deployed(&with(json!({ "roost.limit.body": "1Ki", "roost.limit.requests": "1/h burst 3" })))
        .await;
    assert_eq!(deployed["status"]["warnings"], Value::Null, "{deployed:#}");
    let mut statuses = Vec::new();
    for length in [1024, 1025, 0, 0] {
        let answer = host.api.send(Method::POST, "/function/echo", "x".repeat(length)).await;
        assert_eq!(answer.headers.contains_key("retry-after"), answer.status == 429, "{answer:?}");
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [200, 413, 200, 429]);
    let page = metrics(&host).await;
    for line in [
        r#"roost_function_limited_total{function_name="echo.openfaas-fn",limit="body"} 1"#,
        r#"roost_function_limited_total{function_name="echo.openfaas-fn",limit="requests"} 1"#,
        r#"roost_limited_total{limit="malformed"} 0"#,
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }

    let replica = |function: &Value| function["status"]["replicas"][0]["id"].clone();
    assert!(replica(&deployed).is_string(), "{deployed:#}");
    host.put_function(&with(json!({ "roost.limit.body": "off" }))).await;
    eventually("an answer without a limit", || async {
        let answer = host.api.send(Method::POST, "/function/echo", "x".repeat(4096)).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(replica(&host.ready("echo").await), replica(&deployed));
}
