//! How many replicas a function has.

use serde_json::json;

use crate::support::{IMAGE, Table, empty, error, host};

#[tokio::test]
async fn a_function_is_scaled_by_the_contract() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    let mut t = Table::of(&host.api);
    let call = "POST /system/scale-function/echo";
    for body in [
        json!({ "serviceName": "echo", "replicas": 2 }),
        json!({ "service": "echo", "replicas": 3 }),
        json!({ "replicas": 1, "namespace": "openfaas-fn", "serviceName": null }),
        // With its namespace, as some clients name functions everywhere.
        json!({ "serviceName": "echo.openfaas-fn", "replicas": 2 }),
        json!({ "replicas": 0 }),
    ] {
        t.row(call, &body, empty(202)).await;
        assert_eq!(host.function("echo").await["replicas"], body["replicas"], "at once");
    }
    let unread = || error(400, "Error unmarshalling request body\n");
    for body in ["", "{", "[]", "{}", r#"{"replicas":-1}"#, r#"{"replicas":"1"}"#, r#"{"replicas":1.5}"#] {
        t.row(call, body, unread()).await;
    }
    for replicas in [501, 5_000_000_000_u64] {
        let bound = error(400, "replicas: expected a number from 0 to 500\n");
        t.row(call, json!({ "replicas": replicas }), bound).await;
    }
    for spelling in ["serviceName", "service"] {
        let other = error(400, "serviceName: expected echo, as in the path\n");
        t.row(call, json!({ "replicas": 2, spelling: "other" }), other).await;
    }
    let other = error(400, "namespace: expected the one in the path\n");
    t.row(&format!("{call}.openfaas-fn"), json!({ "replicas": 2, "namespace": "other" }), other).await;
    for name in ["nobody", "Not_A_Name"] {
        let unknown = error(404, &format!("function: {name}.openfaas-fn not found\n"));
        t.row(&format!("POST /system/scale-function/{name}"), json!({ "replicas": 1 }), unknown).await;
    }
    let nowhere = error(400, "namespace not valid: nowhere does not exist\n");
    t.row(call, json!({ "replicas": 1, "namespace": "nowhere" }), nowhere).await;
    assert_eq!(host.function("echo").await["replicas"], 0, "what is refused changes nothing");
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        t.row(&format!("{method} /system/scale-function/echo"), "", empty(405)).await;
    }
}

#[tokio::test]
async fn an_alert_adds_replicas_and_its_end_takes_them_away() {
    let host = host().await;
    let labels = json!({ "com.openfaas.scale.max": "4", "com.openfaas.scale.factor": "50" });
    let deployment = json!({ "service": "echo", "image": IMAGE, "labels": labels });
    let mut t = Table::of(&host.api);
    t.row("POST /system/functions", &deployment, empty(202)).await;
    let alert = |status: &str, name: &str| {
        json!({
            "receiver": "scale-up", "status": status, "version": "4",
            "alerts": [{ "status": status, "labels": { "alertname": "APIHighInvocationRate", "function_name": name } }]
        })
    };
    for (status, replicas) in [("firing", 3), ("firing", 4), ("firing", 4), ("resolved", 1)] {
        t.row("POST /system/alert", alert(status, "echo.openfaas-fn"), empty(200)).await;
        assert_eq!(host.function("echo").await["replicas"], replicas, "{status}");
    }
    // What is wrong with one is not for the others to suffer.
    let mut several = alert("firing", "echo");
    let good = several["alerts"][0].clone();
    several["alerts"] = json!([{ "status": "firing", "labels": { "alertname": "host" } }, good, {}, 7]);
    let wrong = "[0] labels: missing field `function_name`\n[2] missing field `status`\n\
        [3] invalid type: integer `7`, expected struct Alert\n";
    t.row("POST /system/alert", several, error(400, wrong)).await;
    assert_eq!(host.function("echo").await["replicas"], 3, "the good one is acted on");
    for body in ["", "{", "{}", r#"{"alerts":{}}"#] {
        t.row("POST /system/alert", body, error(400, "Unable to parse alert, bad format.\n")).await;
    }
    let unknown = error(404, "[0] function: nobody.openfaas-fn not found\n");
    t.row("POST /system/alert", alert("firing", "nobody"), unknown).await;
    t.row("GET /system/alert", "", empty(405)).await;
}
