//! What is taken away when nobody needs it.

use std::process::Command;

use roost_tests::{Config, ECHO, Host, Image, Registry, echo_binary, eventually};
use serde_json::Value;

/// How many layers containerd itself has unpacked for the host's functions.
fn snapshots(host: &Host) -> usize {
    let mut list = Command::new("ctr");
    list.arg("--address").arg(host.containerd_socket());
    let told = list.args(["--namespace", "openfaas-fn", "snapshots", "list"]).output().unwrap();
    assert!(told.status.success(), "{told:?}");
    String::from_utf8(told.stdout).unwrap().lines().count() - 1
}

/// A host with a function and its image, which was pulled and imported, and an image that was pulled for a function that is gone.
async fn host(registry: &Registry, config: Config) -> Host {
    let mut host = Host::start_with(config).await;
    let echo = Image::echo();
    let used = registry.push(&echo, "used/echo", "1").await;
    let other = Image::new(&[(&echo_binary(), "/other")], &["/other"]);
    let unused = registry.push(&other, "gone/echo", "1").await;
    host.import(&echo, ECHO).await;
    host.deploy("used", &used).await;
    host.deploy("unused", &unused).await;
    host.remove("unused").await;
    // What was asked for a short while ago is not taken away under a deployment; another daemon does not know of it.
    host.restart().await;
    host.log_in().await;
    host
}

async fn names(host: &Host) -> Vec<String> {
    let images = host.api.get("/system/images").await.json();
    images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_no_function_uses_is_pruned_and_what_was_imported_stays() {
    let registry = Registry::open().await;
    let host = host(&registry, Config::default()).await;
    let before = snapshots(&host);
    let told: Value = serde_json::from_str(&host.roost_done(&["system", "disk", "--json"]).await).unwrap();
    assert_eq!(
        (&told["images"]["count"], &told["images"]["unusedCount"]),
        (&2.into(), &1.into()),
        "{told:#}"
    );
    let queue = told["state"].as_array().unwrap().iter().find(|entry| entry["name"] == "queue").unwrap();
    assert!(queue["limit"].as_u64().unwrap() > queue["size"].as_u64().unwrap(), "{queue}");
    let shown = host.roost_done(&["system", "disk"]).await;
    assert!(shown.contains("2 images") && shown.contains("1 of them: roost system prune"), "{shown}");

    let dry = host.roost_done(&["system", "prune", "--dry-run"]).await;
    assert!(dry.contains("gone/echo:1") && dry.contains("1 images"), "{dry}");
    assert_eq!(names(&host).await.len(), 3);
    let pruned = host.roost_done(&["system", "prune"]).await;
    assert!(pruned.contains("Removed") && pruned.contains("gone/echo:1"), "{pruned}");
    let left = names(&host).await;
    assert!(left.len() == 2 && !left.iter().any(|name| name.contains("gone")), "{left:?}");
    assert!(snapshots(&host) < before, "its root file system is gone, too");
    host.assert_echoes("used").await;
    assert!(host.roost_done(&["system", "prune"]).await.contains("Nothing is unused"));
}

#[tokio::test]
async fn unused_images_go_before_their_time_where_the_disk_is_full() {
    let registry = Registry::open().await;
    // Any disk is fuller than that.
    let images = "disk_high = 1\ndisk_low = 1";
    let host = host(&registry, Config { images, ..Config::default() }).await;
    eventually("one image less", || async { (names(&host).await.len() == 2).then_some(()) }).await;
    host.assert_echoes("used").await;
    eventually("a word of it", || async {
        std::fs::read_to_string(host.daemon_log()).unwrap().contains("images.disk_high").then_some(())
    })
    .await;
}
