//! Functions, from a deployment to its removal: each field is told as it was sent.

use serde_json::{Value, json};

use crate::support::{IMAGE, Table, empty, error, functions, host, json, shown};

#[tokio::test]
async fn a_function_goes_through_its_life_by_the_contract() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    let version = json!({ "release": env!("CARGO_PKG_VERSION"), "sha": "unknown", "commit_message": "" });
    let provider = json!({ "provider": "roost", "version": version, "orchestration": "containerd" });
    let info = json!({ "provider": provider, "version": version, "arch": std::env::consts::ARCH });
    t.row("GET /system/info", "", json(info)).await;
    t.row("GET /system/functions", "", json(json!([]))).await;
    t.row("GET /system/functions?namespace=openfaas-fn", "", json(json!([]))).await;
    t.row("GET /system/functions?namespace=", "", json(json!([]))).await;

    // Nothing there yet.
    let sent = json!({ "service": "echo", "image": IMAGE });
    t.row("GET /system/function/echo", "", empty(404)).await;
    t.row("GET /system/function/Bad_Name", "", empty(404)).await;
    t.row("PUT /system/functions", &sent, error(404, "function: echo.openfaas-fn not found\n")).await;
    let gone = || error(404, "function echo.openfaas-fn not found\n");
    t.row("DELETE /system/functions", json!({ "functionName": "echo" }), gone()).await;

    // It comes.
    t.row("POST /system/functions", &sent, empty(202)).await;
    let there = "function echo.openfaas-fn already exists: update it with PUT\n";
    t.row("POST /system/functions", &sent, error(400, there)).await;
    host.ready("echo").await;
    let echo = || shown("echo", &Value::Null);
    t.row("GET /system/functions", "", functions(json!([echo()]))).await;
    for query in ["", "?namespace=openfaas-fn", "?namespace=", "?namespace=openfaas-fn&other=1"] {
        t.row(&format!("GET /system/function/echo{query}"), "", functions(echo())).await;
    }
    // The last counts of what is given twice, and the path may name the namespace.
    for path in ["echo?namespace=nowhere&namespace=openfaas-fn", "echo.openfaas-fn"] {
        t.row(&format!("GET /system/function/{path}"), "", functions(echo())).await;
    }
    let other = || error(400, "namespace: expected the one in the path\n");
    t.row("GET /system/function/echo.openfaas-fn?namespace=blue", "", other()).await;
    let large = || error(413, "the body is over the limit of 4194304 bytes\n");
    t.row("PUT /system/functions", " ".repeat((4 << 20) + 1).as_str(), large()).await;
    t.row("GET /system/function/%ff", "", error(400, "name: expected UTF-8 in the path\n")).await;

    // It changes.
    let update =
        json!({ "service": "echo", "image": IMAGE, "namespace": "openfaas-fn", "envVars": { "A": "b" } });
    t.row("PUT /system/functions", &update, empty(202)).await;
    host.ready("echo").await;
    t.row("GET /system/function/echo", "", functions(shown("echo", &json!({ "envVars": { "A": "b" } }))))
        .await;

    // It goes.
    let namespaced = json!({ "functionName": "echo", "namespace": "openfaas-fn" });
    t.row("DELETE /system/functions", namespaced, empty(202)).await;
    host.assert_nothing_left().await;
    t.row("DELETE /system/functions", json!({ "functionName": "echo" }), gone()).await;
    t.row("GET /system/function/echo", "", empty(404)).await;
}

#[tokio::test]
async fn every_field_is_told_as_it_was_sent() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    let note = "{\n  \"json\": \"ä \\\" \u{1f980}\"\n}";
    for (name, more, back) in [
        // What was not set is not there; maps that clients look into always are.
        ("nothing", json!({}), json!({})),
        (
            "nulls",
            json!({
                "labels": null, "annotations": null, "envVars": null, "secrets": null, "constraints": null,
                "limits": null, "requests": null, "namespace": null, "envProcess": null, "readOnlyRootFilesystem": null,
            }),
            json!({}),
        ),
        (
            "empties",
            json!({
                "labels": {}, "annotations": {}, "envVars": {}, "secrets": [], "constraints": [], "namespace": "",
                "envProcess": "", "readOnlyRootFilesystem": false,
            }),
            json!({}),
        ),
        (
            "unknown",
            json!({ "network": "func_functions", "registryAuth": "", "whatever": { "a": 1 } }),
            json!({}),
        ),
        (
            "all",
            json!({
                "namespace": "openfaas-fn", "envProcess": "cat",
                "envVars": { "GREETING": "a=b = c", "EMPTY": "", "fprocess": "sort", "ÄÖ": "\n" },
                "labels": { "team": "one", "com.openfaas.scale.min": "1" },
                "annotations": { "topic": "a,b", "note": note, "com.openfaas.profile": "x" },
                "constraints": ["z", "a", "z"],
                "limits": { "memory": "64Mi", "cpu": "100m" },
                "requests": { "memory": "5Mi", "cpu": "0.05" },
                "readOnlyRootFilesystem": true,
            }),
            json!({
                "envProcess": "cat",
                "envVars": { "GREETING": "a=b = c", "EMPTY": "", "fprocess": "sort", "ÄÖ": "\n" },
                "labels": { "team": "one", "com.openfaas.scale.min": "1", "faas_function": "all" },
                "annotations": { "topic": "a,b", "note": note, "com.openfaas.profile": "x" },
                "constraints": ["z", "a", "z"],
                "limits": { "memory": "64Mi", "cpu": "100m" },
                "requests": { "memory": "5Mi", "cpu": "0.05" },
                "readOnlyRootFilesystem": true,
            }),
        ),
        ("half", json!({ "limits": { "cpu": "0.5" } }), json!({ "limits": { "cpu": "0.5" } })),
        (
            "gpu",
            json!({ "requests": { "nvidia.com/gpu": "1" } }),
            json!({ "requests": { "nvidia.com/gpu": "1" } }),
        ),
        // Refused by the kernel, maybe; accepted here, as the least that anybody asks for.
        ("small", json!({ "limits": { "memory": "5Mi" } }), json!({ "limits": { "memory": "5Mi" } })),
    ] {
        let mut sent = json!({ "service": name, "image": IMAGE });
        for (key, value) in more.as_object().unwrap() {
            sent[key] = value.clone();
        }
        t.row("POST /system/functions", &sent, empty(202)).await;
        if name != "small" {
            host.ready(name).await;
            t.row(&format!("GET /system/function/{name}"), "", functions(shown(name, &back))).await;
        } else {
            assert_eq!(host.function(name).await["limits"], back["limits"]);
        }
        host.remove(name).await;
    }
}

#[tokio::test]
async fn what_makes_no_function_is_refused_with_the_field() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    let f = |more: Value| {
        let mut sent = json!({ "service": "f", "image": IMAGE });
        for (key, value) in more.as_object().unwrap() {
            sent[key] = value.clone();
        }
        sent.to_string()
    };
    let label =
        "expected at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit";
    let rows = [
        (String::new(), "bad JSON: EOF while parsing a value at line 1 column 0\n".to_owned()),
        ("{".to_owned(), "bad JSON: EOF while parsing an object at line 1 column 1\n".to_owned()),
        (f(json!({})) + "x", "bad JSON: trailing characters at line 1 column 51\n".to_owned()),
        ("{}".to_owned(), "service: is required; image: is required\n".to_owned()),
        (f(json!({ "image": "" })), "image: is required\n".to_owned()),
        (f(json!({ "service": "" })), "service: is required\n".to_owned()),
        (
            f(json!({ "service": "Bad_Name" })),
            format!("service: function name \"Bad_Name\" is not valid: {label}\n"),
        ),
        (f(json!({ "namespace": "nowhere" })), "namespace not valid: nowhere does not exist\n".to_owned()),
        (f(json!({ "secrets": ["absent"] })), "unable to find secret: absent\n".to_owned()),
    ];
    for (body, why) in &rows {
        t.row("POST /system/functions", body, error(400, why)).await;
    }
    host.deploy("f", IMAGE).await;
    for (body, why) in &rows {
        t.row("PUT /system/functions", body, error(400, why)).await;
    }
    let mut here = host.function("f").await;
    assert_eq!(here["status"].take()["phase"], "Ready", "a refused update changes nothing");

    let json_error = |why: &str| error(400, &format!("bad JSON: {why}\n"));
    t.row("DELETE /system/functions", "", json_error("EOF while parsing a value at line 1 column 0")).await;
    t.row("DELETE /system/functions", "{", json_error("EOF while parsing an object at line 1 column 1"))
        .await;
    t.row("DELETE /system/functions", "{}", error(400, "functionName: is required\n")).await;
    let nowhere = || error(400, "namespace not valid: nowhere does not exist\n");
    t.row("DELETE /system/functions", json!({ "functionName": "f", "namespace": "nowhere" }), nowhere())
        .await;
    t.row("DELETE /system/functions?namespace=nowhere", json!({ "functionName": "f" }), nowhere()).await;
    t.row("GET /system/functions?namespace=nowhere", "", nowhere()).await;
    t.row("GET /system/function/f?namespace=nowhere", "", nowhere()).await;
    t.row("POST /system/functions?namespace=nowhere", f(json!({})), error(400, &rows[7].1)).await;
    // The body goes before the query.
    let body = json!({ "functionName": "f", "namespace": "openfaas-fn" });
    t.row("DELETE /system/functions?namespace=nowhere", body, empty(202)).await;
}
