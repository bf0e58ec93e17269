//! `roost`, as a person types it.

use roost_tests::{Host, Image, Output, echo_binary};
use serde_json::Value;

/// A host, and a login to it.
async fn host() -> Host {
    let host = Host::start().await;
    host.log_in().await;
    host
}

async fn failed(host: &Host, args: &[&str]) -> Output {
    let output = host.roost(args).await;
    assert_ne!(output.code, Some(0), "roost {args:?}: {output:?}");
    assert!(!output.stderr.is_empty(), "roost {args:?} says nothing");
    output
}

#[tokio::test]
async fn from_a_binary_to_a_function_and_away() {
    let host = host().await;
    let binary = echo_binary();
    host.roost_done(&["deploy", "hello", "--binary", binary.to_str().unwrap(), "--env", "A=b"]).await;
    assert_eq!(host.roost_done(&["invoke", "hello", "-d", "hi"]).await, "hi");
    let piped = host.roost_with(&["invoke", "hello"], "from stdin").await;
    assert_eq!((piped.code, piped.stdout.as_str()), (Some(0), "from stdin"));

    let table = host.roost_done(&["list"]).await;
    assert!(table.contains("hello") && table.contains("1/1"), "{table}");
    let json: Value = serde_json::from_str(&host.roost_done(&["list", "--json"]).await).unwrap();
    assert_eq!(json[0]["name"], "hello");
    let described = host.roost_done(&["describe", "hello"]).await;
    assert!(described.contains("hello") && described.contains("Ready"), "{described}");
    let logs = host.roost_done(&["logs", "hello"]).await;
    assert!(logs.contains("listening on"), "{logs}");
    let version = host.roost_done(&["version"]).await;
    assert!(version.contains(&host.url()), "{version}");
    let images = host.roost_done(&["image", "list"]).await;
    assert!(images.contains("hello"), "{images}");

    host.roost_done(&["remove", "hello"]).await;
    failed(&host, &["remove", "nobody"]).await;
    failed(&host, &["describe", "nobody"]).await;
    failed(&host, &["invoke", "nobody", "-d", "hi"]).await;
}

#[tokio::test]
async fn an_image_comes_from_a_file_or_is_built_here() {
    let host = host().await;
    let archive = host.dir().join("echo.tar");
    std::fs::write(&archive, Image::echo().archive("docker.io/library/carried:1")).unwrap();
    host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
    let binary = echo_binary();
    host.roost_done(&["image", "build", binary.to_str().unwrap(), "-t", "built:1"]).await;
    let images = host.roost_done(&["image", "list"]).await;
    assert!(images.contains("carried") && images.contains("built"), "{images}");
    for image in ["carried:1", "built:1"] {
        host.roost_done(&["deploy", "echo", "--image", image]).await;
        assert_eq!(host.roost_done(&["invoke", "echo", "-d", image]).await, image);
    }
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_an_exit_code() {
    let host = host().await;
    let wrong = host.roost_with(&["login", "--gateway", &host.url(), "--password-stdin"], "wrong").await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    let usage = failed(&host, &["deploy"]).await;
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let image = failed(&host, &["deploy", "echo", "--image", "127.0.0.1:1/missing:1"]).await;
    assert!(image.stderr.contains("127.0.0.1:1"), "{image:?}");
}
