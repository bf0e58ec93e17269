//! Namespaces, and functions in them.

use serde_json::{Value, json};

use crate::support::{Table, empty, error, functions, host, invoked, json, shown};

#[tokio::test]
async fn a_namespace_goes_through_its_life_by_the_contract() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    let default = || json(json!(["openfaas-fn"]));
    t.row("GET /system/namespaces", "", default()).await;
    let shown = |labels: Value| json(json!({ "name": "blue", "labels": labels }));
    t.row("GET /system/namespace/blue", "", error(404, "namespace blue not found\n")).await;
    let sent = json!({ "name": "blue", "labels": { "openfaas": "1" } });
    t.row("PUT /system/namespace/blue", &sent, error(404, "namespace blue not found\n")).await;
    t.row("DELETE /system/namespace/blue", &sent, error(404, "namespace blue not found\n")).await;

    t.row("POST /system/namespace/", &sent, empty(201)).await;
    t.row("POST /system/namespace/", &sent, error(409, "namespace blue already exists\n")).await;
    t.row("GET /system/namespaces", "", json(json!(["blue", "openfaas-fn"]))).await;
    t.row("GET /system/namespace/blue", "", shown(json!({ "openfaas": "1" }))).await;
    // The whole set is replaced; the label that official providers ask for is implied.
    let update = json!({ "name": "blue", "labels": { "team": "two" }, "annotations": null });
    t.row("PUT /system/namespace/blue", &update, empty(202)).await;
    t.row("GET /system/namespace/blue", "", shown(json!({ "openfaas": "1", "team": "two" }))).await;
    let annotated = json!({ "annotations": { "openfaas": "1", "note": "a\nb" } });
    t.row("PUT /system/namespace/blue", &annotated, empty(202)).await;
    let known = json!({
        "name": "blue", "labels": { "openfaas": "1" }, "annotations": { "openfaas": "1", "note": "a\nb" },
    });
    t.row("GET /system/namespace/blue", "", json(known)).await;

    let other = || error(400, "name: \"green\": expected \"blue\", as in the path\n");
    t.row("PUT /system/namespace/blue", json!({ "name": "green" }), other()).await;
    t.row("DELETE /system/namespace/blue", json!({ "name": "green" }), other()).await;
    let no_json = || error(400, "bad JSON: EOF while parsing an object at line 1 column 1\n");
    for call in ["POST /system/namespace/", "PUT /system/namespace/blue", "DELETE /system/namespace/blue"] {
        t.row(call, "{", no_json()).await;
    }
    let nameless = || error(400, "name: is required\n");
    t.row("POST /system/namespace/", "{}", nameless()).await;
    for method in ["GET", "PUT", "DELETE"] {
        t.row(&format!("{method} /system/namespace/"), "", nameless()).await;
    }

    // Only an empty one goes, and the one that is always there never.
    let secret = json!({ "name": "token", "namespace": "blue", "value": "x" });
    t.row("POST /system/secrets", &secret, empty(202)).await;
    let full = error(409, "namespace blue is not empty: remove its secrets token first\n");
    t.row("DELETE /system/namespace/blue", &sent, full).await;
    t.row("DELETE /system/secrets", &secret, empty(202)).await;
    t.row("DELETE /system/namespace/blue", &sent, empty(202)).await;
    t.row("GET /system/namespaces", "", default()).await;
}

#[tokio::test]
async fn functions_of_a_namespace_are_shown_called_scaled_and_removed_there() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    t.row("POST /system/namespace/", json!({ "name": "blue" }), empty(201)).await;
    let archive = roost_tests::Image::echo().archive("blue:1");
    let answer = host.api.post("/system/images?name=blue:1&namespace=blue", archive).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = json!({ "service": "echo", "image": "blue:1", "namespace": "blue" });
    t.row("POST /system/functions?wait=60s", &sent, empty(202)).await;
    let more = json!({ "namespace": "blue", "image": "blue:1" });
    let echo = || shown("echo", &more);
    t.row("GET /system/functions?namespace=blue", "", functions(json!([echo()]))).await;
    t.row("GET /system/function/echo?namespace=blue", "", functions(echo())).await;
    t.row("GET /system/functions", "", json(json!([]))).await;
    t.row("GET /system/function/echo", "", empty(404)).await;
    t.row("POST /function/echo.blue", "hi", invoked(200, "text/plain", "hi")).await;
    let scale = "POST /system/scale-function/echo";
    t.row(scale, json!({ "replicas": 0 }), error(404, "function: echo.openfaas-fn not found\n")).await;
    for (query, body) in [
        ("", json!({ "serviceName": "echo", "replicas": 2, "namespace": "blue" })),
        ("?namespace=blue", json!({ "service": "echo", "replicas": 3 })),
        ("?namespace=blue", json!({ "replicas": 0 })),
    ] {
        t.row(&format!("{scale}{query}"), &body, empty(202)).await;
        let function = host.api.get("/system/function/echo?namespace=blue").await.json();
        assert_eq!(function["replicas"], body["replicas"], "at once");
    }
    for query in ["?tail=1&name=echo&namespace=blue", "?name=echo&tail=1&namespace=blue&namespace=blue"] {
        let answer = host.api.get(&format!("/system/logs{query}")).await;
        let record: Value = serde_json::from_str(answer.text().trim()).unwrap();
        assert_eq!((&record["name"], &record["namespace"]), (&json!("echo"), &json!("blue")), "{query}");
    }
    t.row(
        "DELETE /system/functions",
        json!({ "functionName": "echo" }),
        error(404, "function echo.openfaas-fn not found\n"),
    )
    .await;
    t.row("DELETE /system/functions?namespace=blue", json!({ "functionName": "echo" }), empty(202)).await;
}
