//! From an image in a registry, or in a file, to a function that answers; and away again.

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

#[tokio::test]
async fn who_waits_for_a_deploy_is_told_how_it_turned_out() {
    let registry = Registry::open().await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let broken = registry.push(&Image::script("exit 7"), "broken", "1").await;
    let slow = registry.push(&Image::script("busybox sleep 600"), "slow", "1").await;
    let host = Host::start().await;
    let send = |method: Method, query: &str, deployment: Value| {
        let path = format!("/system/functions{query}");
        let host = &host;
        async move {
            let answer = host.api.send(method, &path, deployment.to_string()).await;
            (answer.status.as_u16(), answer.text().to_owned())
        }
    };
    let of = |name: &str, image: &str| json!({ "service": name, "image": image });

    for wait in ["", "soon", "0", "-1s", "2h", "true"] {
        let (status, text) = send(Method::POST, &format!("?wait={wait}"), of("echo", &image)).await;
        assert_eq!(status, 400, "{wait}: {text}");
        assert!(text.starts_with("wait: "), "{wait}: {text}");
    }
    assert_eq!(host.api.get("/system/functions").await.json(), json!([]), "refused before anything was done");

    let sent = json!({
        "service": "echo", "image": image, "network": "old", "constraints": ["a"], "requests": { "cpu": "1" },
        "annotations": { "com.openfaas.profile": "fast", "long": "x".repeat(64 << 10), "nul": "a\u{0}b" },
        "labels": { "long": "y\n".repeat(32 << 10) },
    });
    assert_eq!(
        send(Method::POST, "?wait=50s&namespace=openfaas-fn", sent.clone()).await,
        (202, String::new())
    );
    let function = host.function("echo").await;
    assert_eq!((&function["status"]["phase"], &function["availableReplicas"]), (&json!("Ready"), &json!(1)));
    host.assert_echoes("echo").await;
    assert_eq!(function["image"], image.as_str(), "as it was sent");
    let digest = function["status"]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert_eq!(function["annotations"], sent["annotations"]);
    assert_eq!(function["labels"]["long"], sent["labels"]["long"]);
    assert_eq!(function.get("network"), None, "no field of a function");
    let warnings = function["status"]["warnings"].as_array().unwrap();
    let told: Vec<_> =
        warnings.iter().map(|text| text.as_str().unwrap().split(':').next().unwrap()).collect();
    assert_eq!(told, ["network", "constraints", "requests", "com.openfaas.profile"]);

    // What fails says why, and the old revision serves on.
    let (status, text) = send(Method::PUT, "?wait=50s", of("echo", &broken)).await;
    assert_eq!(status, 422, "{text}");
    assert!(text.starts_with("echo.openfaas-fn: ") && text.contains("code 7"), "{text}");
    host.assert_echoes("echo").await;
    let nowhere = format!("{}/nothing:1", registry.host());
    let (status, text) = send(Method::PUT, "?wait=50", of("echo", &nowhere)).await;
    assert_eq!(status, 422, "{text}");
    assert!(text.contains(&registry.host()), "{text}");
    host.assert_echoes("echo").await;
    assert_eq!(send(Method::PUT, "?wait=50s", of("nobody", &image)).await.0, 404);

    // What takes longer is still tried, until it is overtaken.
    let (status, text) = send(Method::POST, "?wait=100ms", of("slow", &slow)).await;
    assert_eq!((status, text.contains("not ready after 0.1 s")), (504, true), "{text}");
    let before = host.function("slow").await["status"]["revision"].clone();
    let overtaken =
        send(Method::PUT, "?wait=50s", json!({ "service": "slow", "image": slow, "envProcess": "x" }));
    let overtake = async {
        host.status("slow", "a newer revision", |status| status["revision"] != before).await;
        send(Method::PUT, "?wait=50s", of("slow", &image)).await
    };
    let (overtaken, overtake) = tokio::join!(overtaken, overtake);
    assert_eq!((overtaken.0, overtake), (409, (202, String::new())), "{}", overtaken.1);
}
