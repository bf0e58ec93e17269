//! From an image in a registry, or in a file, to a function that answers; and away again.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use hyper::{Method, StatusCode};
use roost_tests::{Config, Host, Image, Registry};
use serde_json::{Value, json};

#[tokio::test]
async fn an_image_of_an_open_registry_answers_and_its_removal_leaves_nothing() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "test/echo", "1").await;
    let host = Host::start().await;
    host.deploy("echo", &image).await;
    host.assert_echoes("echo").await;
    host.assert_echoes("echo.openfaas-fn").await;

    let function = host.function("echo").await;
    assert_eq!(function["name"], "echo");
    assert_eq!(function["image"], image.as_str(), "as it was sent");
    assert_eq!((&function["replicas"], &function["availableReplicas"]), (&json!(1), &json!(1)));
    for unset in ["envVars", "limits", "requests", "secrets", "constraints"] {
        assert_eq!(function.get(unset), None, "{unset} was not sent: {function:#}");
    }
    let listed = host.api.get("/system/functions").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);

    host.remove("echo").await;
    assert_eq!(host.call("echo", "hi").await.status, StatusCode::NOT_FOUND);
    assert_eq!(host.api.get("/system/functions").await.json(), json!([]));
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn what_was_deployed_is_told_as_it_was_sent() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    let sent = json!({
        "service": "echo",
        "image": image,
        "namespace": "openfaas-fn",
        "envVars": { "GREETING": "a=b = c", "EMPTY": "" },
        "labels": { "team": "one" },
        "annotations": { "note": "{\n  \"json\": true\n}" },
        "constraints": ["b", "a"],
        "limits": { "memory": "64Mi", "cpu": "500m" },
        "requests": { "memory": "5Mi" },
        "readOnlyRootFilesystem": true,
    });
    host.post_function(&sent).await;
    let function = host.ready("echo").await;
    for field in [
        "image",
        "namespace",
        "envVars",
        "annotations",
        "constraints",
        "limits",
        "requests",
        "readOnlyRootFilesystem",
    ] {
        assert_eq!(function[field], sent[field], "{field}");
    }
    assert_eq!(function["labels"]["team"], "one");
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn null_maps_and_unknown_fields_are_accepted() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    let sent = json!({
        "service": "echo", "image": image, "labels": null, "annotations": null, "envVars": null, "secrets": null,
        "constraints": null, "limits": null, "requests": null, "network": "func_functions", "registryAuth": "",
    });
    host.post_function(&sent).await;
    let function = host.ready("echo").await;
    assert!(function["labels"].is_object() && function["annotations"].is_object(), "{function:#}");
}

fn login(registry: &Registry, user: &str, password: &str) -> Value {
    use base64::Engine;
    let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    json!({ "auths": { registry.host(): { "auth": auth } } })
}

#[tokio::test]
async fn an_image_behind_a_password_is_pulled_with_it() {
    let registry = Registry::behind("puller", "right").await;
    let image = registry.push(&Image::echo(), "private/echo", "1").await;
    let docker_config = login(&registry, "puller", "right");
    let host = Host::start_with(Config { docker_config, ..Config::default() }).await;
    host.deploy("echo", &image).await;
    host.assert_echoes("echo").await;
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_told_in_the_status_and_work_once_they_are_right() {
    let registry = Registry::behind("puller", "right").await;
    let image = registry.push(&Image::echo(), "private/echo", "1").await;
    for docker_config in [login(&registry, "puller", "wrong"), json!({})] {
        let mut host = Host::start_with(Config { docker_config, ..Config::default() }).await;
        host.post_function(&json!({ "service": "echo", "image": image })).await;
        let failed = host.status("echo", "Failed", |status| status["phase"] == "Failed").await;
        let message = failed["status"]["message"].as_str().unwrap();
        assert!(message.contains(&registry.host()), "names the registry: {message}");
        assert!(!message.contains("wrong"), "tells no password: {message}");
        assert_eq!(failed.get("availableReplicas").and_then(Value::as_u64).unwrap_or(0), 0);

        host.config.docker_config = login(&registry, "puller", "right");
        host.restart().await;
        host.ready("echo").await;
        host.assert_echoes("echo").await;
    }
}

#[tokio::test]
async fn an_image_from_a_file_needs_no_registry() {
    let host = Host::start_with(Config { pull_policy: "IfNotPresent", ..Config::default() }).await;
    let archive = Image::echo().archive("docker.io/library/offline:1");
    let answer = host.api.post("/system/images?name=offline:1", archive).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    host.deploy("echo", "offline:1").await;
    host.assert_echoes("echo").await;

    let images = host.api.get("/system/images").await.json();
    assert_eq!(images[0]["inUse"], true, "{images:#}");
    let name = images[0]["name"].as_str().unwrap();
    let path = format!("/system/images?name={name}");
    assert_eq!(host.api.send(Method::DELETE, &path, "").await.status, StatusCode::CONFLICT);
    host.remove("echo").await;
    assert_eq!(host.api.send(Method::DELETE, &path, "").await.status, StatusCode::ACCEPTED);
    assert_eq!(host.api.send(Method::DELETE, &path, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_damaged_archive_is_refused() {
    let host = Host::start().await;
    let archive = Image::echo().archive("broken:1");
    for (what, bytes) in [
        ("no archive", b"this is no archive".to_vec()),
        ("half an archive", archive[..archive.len() / 2].to_vec()),
        ("nothing", Vec::new()),
    ] {
        let answer = host.api.post("/system/images?name=broken:1", bytes).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {}", answer.text());
    }
    assert_eq!(host.api.get("/system/images").await.json(), json!([]));
}

#[tokio::test]
async fn two_functions_of_one_image_and_one_namespace_live_side_by_side() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let host = Host::start().await;
    for name in ["one", "two"] {
        host.post_function(&json!({ "service": name, "image": image })).await;
    }
    for name in ["one", "two"] {
        host.ready(name).await;
        host.assert_echoes(name).await;
    }
    host.remove("one").await;
    host.assert_echoes("two").await;
}
