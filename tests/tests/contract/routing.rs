//! Which path and method lead where, and who gets in.

use roost_tests::{Api, Config};
use serde_json::json;

use crate::support::{Table, credentials, empty, error, host, host_with, json, plain};

#[tokio::test]
async fn paths_and_methods_lead_where_the_contract_says() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    t.row("GET /healthz", "", empty(200)).await;
    t.row("HEAD /healthz", "", empty(200)).await;
    t.row("GET /", "", empty(307).with("location", "/ui/")).await;
    let page = plain(200, "").with("content-type", "text/html; charset=utf-8").begins("<!doctype html>");
    let page = page.with("access-control-allow-headers", "Content-Type");
    let page = page.with("access-control-allow-methods", "GET");
    let page = page.with("access-control-allow-origin", "raw.githubusercontent.com");
    let login = format!("Basic {}", credentials(&host));
    t.header("authorization", &login).row("GET /ui/", "", page).await;
    t.header("authorization", &login).row("GET /ui/nothing", "", error(404, "404 page not found\n")).await;
    let missing = || error(404, "404 page not found\n");
    for path in ["/nothing", "/system/nothing", "/function/", "/metrics", "/healthz/", "/oauth/token"] {
        t.row(&format!("GET {path}"), "", missing()).await;
    }
    for path in ["/system/nothing", "/oauth/token"] {
        t.row(&format!("POST {path}"), "{}", missing()).await;
    }
    t.row("GET /system/telemetry", "", missing()).await;
    for (path, wrong) in [
        ("/healthz", &["POST", "PUT", "DELETE", "PATCH", "OPTIONS"][..]),
        ("/system/info", &["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        ("/system/functions", &["PATCH", "OPTIONS"]),
        ("/system/function/echo", &["POST", "PUT", "DELETE", "PATCH"]),
        ("/system/alert", &["GET", "PUT", "DELETE", "PATCH"]),
        ("/system/logs", &["POST", "PUT", "DELETE", "PATCH"]),
        ("/system/events", &["POST", "PUT", "DELETE", "PATCH"]),
        ("/system/namespaces", &["PUT", "DELETE", "PATCH"]),
    ] {
        for method in wrong {
            t.row(&format!("{method} {path}"), "", empty(405)).await;
        }
    }
    // The query stays as it is.
    for (path, clean) in [
        ("/system//functions", "/system/functions"),
        ("/system/./functions?a=%2F&b=..", "/system/functions?a=%2F&b=.."),
        ("/system/x/../functions/", "/system/functions/"),
        ("//system/functions", "/system/functions"),
        ("/../system/functions", "/system/functions"),
    ] {
        t.row(&format!("GET {path}"), "", empty(301).with("location", clean)).await;
    }
}

#[tokio::test]
async fn metrics_have_a_port_of_their_own_that_asks_nobody() {
    let host = host().await;
    let mut t = Table::of(&Api::new(host.metrics_port(), None));
    let page = plain(200, "").with("content-type", "text/plain; version=0.0.4; charset=utf-8");
    t.row("GET /metrics", "", page.begins("# HELP gateway_functions_seconds ")).await;
    t.row("GET /healthz", "", plain(200, "OK")).await;
    t.row("GET /system/functions", "", plain(404, "404 page not found\n")).await;
    t.row("POST /metrics", "", plain(405, "")).await;
}

#[tokio::test]
async fn only_those_with_the_password_get_to_the_system() {
    let host = host().await;
    let refused = || plain(401, "invalid credentials").with("www-authenticate", "Basic realm=\"Restricted\"");
    let nobody = Api::new(host.port(), None);
    let mut t = Table::of(&nobody);
    for call in [
        "GET /system/info",
        "GET /system/functions",
        "POST /system/functions",
        "PUT /system/functions",
        "DELETE /system/functions",
        "GET /system/function/echo",
        "POST /system/scale-function/echo",
        "GET /system/secrets",
        "POST /system/secrets",
        "GET /system/namespaces",
        "POST /system/namespace/",
        "GET /system/namespace/openfaas-fn",
        "GET /system/logs?name=echo",
        "GET /system/images",
        "GET /system/disk",
        "POST /system/prune",
        "GET /system/nothing",
        "GET /system/openapi.json",
        "DELETE /system/namespace/openfaas-fn",
        "GET /ui/",
        "GET /ui/nothing",
    ] {
        t.row(call, "", refused()).await;
        // A faas-cli that was never logged in: nothing behind the scheme. Go trims the blank, others do not.
        for header in
            ["Bearer ", "Bearer", "Bearer a.jwt.token", "Basic", "Basic !", "Basic YWRtaW46d3Jvbmc="]
        {
            t.header("authorization", header).row(call, "", refused()).await;
        }
    }
    t.row("GET /healthz", "", empty(200)).await;
    t.row("GET /nothing", "", error(404, "404 page not found\n")).await;
}

#[tokio::test]
async fn without_a_password_what_a_client_says_of_itself_is_ignored() {
    let host = host_with(Config { auth: false, ..Config::default() }).await;
    let nobody = Api::new(host.port(), None);
    let mut t = Table::of(&nobody);
    t.row("GET /system/functions", "", json(json!([]))).await;
    for header in ["Bearer ", "Bearer", "Bearer a.jwt.token", "Basic YWRtaW46d3Jvbmc="] {
        t.header("authorization", header).row("GET /system/functions", "", json(json!([]))).await;
    }
}
