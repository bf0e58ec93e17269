//! Images against a real containerd and a real registry, both of the test's own.
//!
//! Needs root, and Debian's containerd, docker-registry, skopeo, umoci, busybox-static, apache2-utils and openssl.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod image_support;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Seek as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use roost_proxy::function::Namespace;
use roostd::image::{ImageError, Phase, Platform, Progress, PullPolicy, Reference, RegistrySettings};

use image_support::line::{Fault, Line};
use image_support::made::{self, Made, Packed, descriptor, gzip, layer, noise};
use image_support::registry::{PASSWORD, PrivateRegistry, USER};
use image_support::{DEADLINE, Host, run, until};

use PullPolicy::{Always, IfNotPresent};

fn namespace() -> Namespace {
    Namespace::default()
}

fn file_of(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

#[tokio::test]
async fn layers_are_pulled_however_they_are_packed() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let tars =
        [layer(&[("a", "lower"), ("b", "lower"), ("c", "lower")]), layer(&[("b", "upper"), (".wh.c", "")])];
    registry.push("app:plain", &Made::of_tars(&tars, Packed::Plain, "amd64")).await;
    registry.push("app:gzip", &Made::of_tars(&tars, Packed::Gzip, "amd64")).await;
    Made::of_tars(&tars, Packed::Plain, "amd64").write_layout(&registry.dir().join("layout"), Some("1"));
    let target = format!("docker://{}", registry.reference("app:zstd"));
    let zstd = ["copy", "--dest-tls-verify=false", "--dest-compress-format=zstd", "oci:layout:1", &target];
    run("skopeo", &zstd, registry.dir());
    let docker = format!("docker://{}", registry.reference("app:docker"));
    run(
        "skopeo",
        &["copy", "--dest-tls-verify=false", "--format=v2s2", "oci:layout:1", &docker],
        registry.dir(),
    );

    for tag in ["plain", "gzip", "zstd", "docker"] {
        // A containerd of its own, or the layers would be there already.
        let host = Host::new().await;
        let image = host.pull(&registry.reference(&format!("app:{tag}")), Always).await.unwrap();
        assert_eq!(image.config.cmd, ["/hello"], "{tag}");
        assert_eq!((image.config.user.as_str(), image.config.working_dir.as_str()), ("7:8", "/w"));
        let files = host.containerd.view(&image.chain_id).await;
        let seen = ["a", "b", "c"].map(|path| files.read(path));
        assert_eq!(seen, [Some("lower".to_owned()), Some("upper".to_owned()), None], "{tag}");
        assert_eq!(host.containerd.leases().await, 0, "{tag}: the lease was ended");
    }
    drop(host);
}

#[tokio::test]
async fn an_image_that_real_tools_made_is_pulled() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let umoci = |arguments: &[&str]| run("umoci", arguments, registry.dir());
    umoci(&["init", "--layout", "box"]);
    umoci(&["new", "--image", "box:1"]);
    umoci(&["insert", "--image", "box:1", "/bin/busybox", "/bin/busybox"]);
    umoci(&["config", "--image", "box:1", "--config.cmd", "/bin/busybox"]);
    let target = format!("docker://{}", registry.reference("box:1"));
    run("skopeo", &["copy", "--dest-tls-verify=false", "oci:box:1", &target], registry.dir());
    let image = host.pull(&registry.reference("box:1"), Always).await.unwrap();
    assert_eq!(image.config.cmd, ["/bin/busybox"]);
    assert_eq!(host.containerd.snapshots().await, [image.chain_id]);
}

#[tokio::test]
async fn from_an_index_the_image_for_this_machine_is_taken() {
    let (mut host, registry) = (Host::new().await, PrivateRegistry::start());
    let image =
        |architecture: &str| Made::of_tars(&[layer(&[("arch", architecture)])], Packed::Gzip, architecture);
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    registry.push("app:amd64", &amd64).await;
    registry.push("app:arm64", &arm64).await;
    let index = made::index(&[arm64.entry("arm64"), amd64.entry("amd64")]);
    let index_digest = registry.push_manifest("app:1", &index, made::OCI_INDEX).await;

    let resolved = host.pull(&registry.reference("app:1"), Always).await.unwrap();
    assert_eq!(resolved.digest, amd64.digest());
    assert_eq!(host.containerd.view(&resolved.chain_id).await.read("arch").unwrap(), "amd64");
    assert!(host.containerd.blobs().await.contains(&index_digest));
    assert!(!host.containerd.blobs().await.contains(&arm64.digest()));
    assert_eq!(registry.fetched(&arm64.layer_digests()), 0);
    // The index stays as long as its name does.
    host.containerd.collect_garbage().await;
    let again = host.pull(&registry.reference("app:1"), IfNotPresent).await.unwrap();
    assert_eq!(again, resolved);
    let by_digest = host.pull(&registry.reference(&format!("app@{index_digest}")), Always).await.unwrap();
    assert_eq!(by_digest.digest, amd64.digest());

    host.settings.platform = Platform { os: "linux".into(), architecture: "riscv64".into(), variant: None };
    for tag in ["app:1", "app:arm64"] {
        let error = host.pull(&registry.reference(tag), Always).await.unwrap_err();
        assert!(matches!(error, ImageError::Platform { .. }), "{error}");
        assert!(error.to_string().contains("linux/riscv64, only for linux/arm64"), "{error}");
    }
}

#[tokio::test]
async fn a_digest_pins_what_a_tag_does_not() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let (old, new) = (Made::new(&[&[("v", "old")]]), Made::new(&[&[("v", "new")]]));
    let old_digest = registry.push("app:1", &old).await;
    registry.push("app:1", &new).await;
    for reference in [format!("app@{old_digest}"), format!("app:1@{old_digest}")] {
        let resolved = host.pull(&registry.reference(&reference), Always).await.unwrap();
        assert_eq!(resolved.digest, old_digest, "{reference}");
        assert_eq!(resolved.name, registry.reference(&reference));
    }
    let port = registry.port;
    drop(registry);
    let offline = host.pull(&format!("127.0.0.1:{port}/app@{old_digest}"), Always).await.unwrap();
    assert_eq!(offline.digest, old_digest, "a digest that is here needs no registry");
}

#[tokio::test]
async fn what_is_here_is_not_fetched_again() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let base = layer(&[("base", "x")]);
    let first = Made::of_tars(&[base.clone(), layer(&[("v", "1")])], Packed::Gzip, "amd64");
    let second = Made::of_tars(&[base, layer(&[("v", "2")])], Packed::Gzip, "amd64");
    let reference = registry.reference("app:1");
    registry.push("app:1", &first).await;
    let resolved = host.pull(&reference, Always).await.unwrap();
    assert_eq!(registry.fetched(&first.layer_digests()), 2);

    // The same image: nothing is fetched, whatever the policy.
    assert_eq!(host.pull(&reference, Always).await.unwrap(), resolved);
    assert_eq!(host.pull(&reference, IfNotPresent).await.unwrap(), resolved);
    assert_eq!(registry.fetched(&first.layer_digests()), 2);

    // The tag has moved: only asking shows it, and only the new layer is fetched.
    registry.push("app:1", &second).await;
    assert_eq!(host.pull(&reference, IfNotPresent).await.unwrap(), resolved);
    let moved = host.pull(&reference, Always).await.unwrap();
    assert_eq!(moved.digest, second.digest());
    assert_eq!(registry.fetched(&first.layer_digests()), 2);
    assert_eq!(registry.fetched(&second.layer_digests()[1..]), 1);

    // What the tag meant before is still pinned, and the registry is not needed for it.
    drop(registry);
    let pinned = host.images().pinned(&namespace(), &reference, &resolved.digest).await.unwrap();
    assert_eq!(pinned, Some(resolved));
    assert_eq!(host.pull(&reference, IfNotPresent).await.unwrap(), moved);
    let error = host.pull(&reference, Always).await.unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_private_registry_wants_the_right_credentials() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start_private());
    registry.push("app:1", &Made::new(&[&[("a", "b")]])).await;
    let reference = registry.reference("app:1");
    let log_in = |password: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        let json = format!(r#"{{"auths":{{"http://127.0.0.1:{}/v2/":{{"auth":"{auth}"}}}}}}"#, registry.port);
        fs::write(&host.settings.docker_config, json).unwrap();
    };
    // One set of images throughout: a login counts without a restart.
    let images = host.images();
    let parsed: Reference = reference.parse().unwrap();
    let pull = async || images.ensure(&namespace(), &parsed, Always, &Progress::new()).await;

    let error = pull().await.unwrap_err();
    assert!(matches!(&error, ImageError::Unauthorized { with_credentials: false, .. }), "{error}");
    assert!(error.to_string().contains("config.json"), "it names the file: {error}");
    log_in("wrong");
    let error = pull().await.unwrap_err();
    assert!(matches!(&error, ImageError::Unauthorized { with_credentials: true, .. }), "{error}");
    assert!(!error.to_string().contains("wrong") && !error.is_retryable());
    fs::write(&host.settings.docker_config, r#"{"auths":{"a.io":{"auth":"?"}}}"#).unwrap();
    let error = pull().await.unwrap_err();
    assert!(matches!(&error, ImageError::Credentials { .. }), "{error}");
    log_in(PASSWORD);
    assert!(pull().await.is_ok());
}

#[tokio::test]
async fn a_registry_behind_a_private_ca_is_trusted_when_told_to() {
    let (mut host, registry) = (Host::new().await, PrivateRegistry::start_tls());
    registry.push("app:1", &Made::new(&[&[("a", "b")]])).await;
    let reference = registry.reference("app:1");
    let key = format!("127.0.0.1:{}", registry.port);
    host.settings.registries.insert(key.clone(), RegistrySettings { plain_http: Some(false), ca_file: None });
    let error = host.pull(&reference, Always).await.unwrap_err();
    assert!(matches!(error, ImageError::Tls { .. }) && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("ca_file"), "{error}");
    let ca_file = Some(registry.dir().join("ca.pem"));
    host.settings.registries.insert(key, RegistrySettings { plain_http: Some(false), ca_file });
    assert!(host.pull(&reference, Always).await.is_ok());
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_missing() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    registry.push("app:1", &Made::new(&[&[("a", "b")]])).await;
    let absent = format!("app@sha256:{}", "0".repeat(64));
    for name in ["app:2", "nothing:1", &absent] {
        let error = host.pull(&registry.reference(name), Always).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }) && !error.is_retryable(), "{name}: {error}");
    }
    assert_eq!(host.containerd.leases().await, 0);
}

#[tokio::test]
async fn ten_who_want_the_same_image_fetch_it_once() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", noise(1 << 20, 1).as_str())], &[("b", noise(1 << 20, 2).as_str())]]);
    registry.push("app:1", &image).await;
    registry.push("other:1", &image).await;
    let images = host.images();
    let mut pulls = tokio::task::JoinSet::new();
    for at in 0..10 {
        let images = images.clone();
        // Two names for one image share its layers all the same.
        let name = if at % 2 == 0 { "app:1" } else { "other:1" };
        let reference: Reference = registry.reference(name).parse().unwrap();
        pulls.spawn(async move { images.ensure(&namespace(), &reference, Always, &Progress::new()).await });
    }
    let digests: BTreeSet<_> =
        pulls.join_all().await.into_iter().map(|pulled| pulled.unwrap().digest).collect();
    assert_eq!(digests.len(), 1);
    assert_eq!(registry.fetched(&image.layer_digests()), 2, "each layer once");
}

#[tokio::test]
async fn one_who_gives_up_does_not_stop_the_others() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", noise(4 << 20, 3).as_str())]]);
    registry.push("app:1", &image).await;
    let line = Line::to(registry.port, Fault::CutAfter(1 << 20)).await;
    let reference: Reference = line.reference("app:1").parse().unwrap();
    let images = host.images();
    let start = |progress: Progress| {
        let (images, reference) = (images.clone(), reference.clone());
        tokio::spawn(async move { images.ensure(&namespace(), &reference, Always, &progress).await })
    };
    let (first_seen, second_seen) = (Progress::new(), Progress::new());
    let first = start(first_seen.clone());
    until("the first fetches", async || first_seen.done_bytes() > 0).await;
    let second = start(second_seen.clone());
    until("the second sees the same", async || second_seen.total_bytes() == first_seen.total_bytes()).await;
    first.abort();
    let resolved = tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap().unwrap();
    assert_eq!(resolved.digest, image.digest());
    assert_eq!((second_seen.phase(), second_seen.done_bytes()), (Phase::Done, second_seen.total_bytes()));
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_broke() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", noise(4 << 20, 4).as_str())]]);
    registry.push("app:1", &image).await;
    let line = Line::to(registry.port, Fault::CutAfter(2 << 20)).await;
    let resolved = host.pull(&line.reference("app:1"), Always).await.unwrap();
    let ranges = line.ranges();
    let [range] = ranges.as_slice() else { panic!("{ranges:?}") };
    let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(from > 1 << 20 && from < 3 << 20, "it went on at {from}");
    assert_eq!(host.containerd.view(&resolved.chain_id).await.read("a").unwrap(), noise(4 << 20, 4));
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_resumed_by_the_next() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", noise(4 << 20, 5).as_str())]]);
    registry.push("app:1", &image).await;
    let line = Line::to(registry.port, Fault::HoldAfter(2 << 20)).await;
    let reference: Reference = line.reference("app:1").parse().unwrap();
    let progress = Progress::new();
    {
        let images = host.images();
        let namespace = namespace();
        let stuck = images.ensure(&namespace, &reference, Always, &progress);
        let half = until("half of it has come", async || progress.done_bytes() > 1 << 20);
        tokio::select! { _ = stuck => panic!("the line is held"), () = half => {} }
    }
    host.containerd.collect_garbage().await;
    assert_eq!(host.containerd.ingests().await.len(), 1, "the lease keeps what came");
    host.pull(&line.reference("app:1"), Always).await.unwrap();
    // More than one request if containerd had not yet noticed that the first writer was gone; each asks for the rest of
    // what containerd has stored, which is less than what had come: up to two messages were on their way to it.
    let ranges = line.ranges();
    let begins =
        |range: &String| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
    assert!(!ranges.is_empty() && ranges.iter().all(|range| begins(range) > 0), "it was resumed: {ranges:?}");
    assert_eq!(host.containerd.leases().await, 0, "also the lease of the first is gone");
    assert!(host.containerd.ingests().await.is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_fetched() {
    let (mut host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", noise(100_000, 6).as_str())], &[("b", noise(100_000, 7).as_str())]]);
    registry.push("app:1", &image).await;
    host.settings.max_image_bytes = 150_000;
    let error = host.pull(&registry.reference("app:1"), Always).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 150_000, .. }), "{error}");
    host.settings.max_image_bytes = 1 << 20;
    host.settings.max_layer_bytes = 50_000;
    let error = host.pull(&registry.reference("app:1"), Always).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 50_000, .. }), "{error}");
    assert_eq!(registry.fetched(&image.layer_digests()), 0);
}

#[tokio::test]
async fn an_image_that_lies_is_refused_and_leaves_nothing() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = || Made::new(&[&[("a", "b")]]);
    let size = format!("\"size\":{}", image().layers[0].len());
    let diff_id = made::digest(&image().layers[0]);
    let lies = [
        ("more bytes than said", image().with_manifest(&size, "\"size\":100")),
        ("fewer bytes than said", image().with_manifest(&size, "\"size\":9000000")),
        ("another content than said", image().with_config(&diff_id, &made::digest(b"another"))),
        ("one layer too few", Made { manifest: two_layers(&image()), ..image() }),
        ("no tar at all", Made::of_tars(&[b"no tar at all".repeat(100)], Packed::Plain, "amd64")),
    ];
    for (at, (what, lie)) in lies.iter().enumerate() {
        let name = format!("lie:{at}");
        registry.push(&name, lie).await;
        let error = host.pull(&registry.reference(&name), Always).await.expect_err(what);
        assert!(
            matches!(error, ImageError::Invalid { .. } | ImageError::Containerd { .. }),
            "{what}: {error}"
        );
        assert!(!error.is_retryable(), "{what}: {error}");
        assert_eq!(host.containerd.leases().await, 0, "{what}");
    }
    assert!(host.images().list(&namespace()).await.unwrap().is_empty());
    host.containerd.collect_garbage().await;
    assert!(host.containerd.blobs().await.is_empty() && host.containerd.snapshots().await.is_empty());
}

fn two_layers(image: &Made) -> Vec<u8> {
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let layer = manifest["layers"][0].clone();
    manifest["layers"].as_array_mut().unwrap().push(layer);
    manifest.to_string().into_bytes()
}

#[tokio::test]
async fn what_is_named_is_kept_and_what_is_not_is_freed() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", "1")], &[("b", "2")]]);
    registry.push("app:1", &image).await;
    let entry = image.entry("amd64");
    registry.push_manifest("app:2", &made::index(&[entry]), made::OCI_INDEX).await;
    let (one, two) = (registry.reference("app:1"), registry.reference("app:2"));
    host.pull(&one, Always).await.unwrap();
    host.pull(&two, Always).await.unwrap();
    host.containerd.collect_garbage().await;
    assert_eq!(host.containerd.blobs().await.len(), 5, "index, manifest, configuration, two layers");
    assert_eq!(host.containerd.snapshots().await.len(), 2);

    let images = host.images();
    let listed = images.list(&namespace()).await.unwrap();
    assert_eq!(listed.iter().map(|i| i.name.clone()).collect::<Vec<_>>(), [one.clone(), two.clone()]);
    assert!(listed.iter().all(|i| i.digest == image.digest() && i.size > 0 && !i.imported));

    images.remove(&namespace(), &two.parse().unwrap()).await.unwrap();
    host.containerd.collect_garbage().await;
    assert_eq!(host.containerd.blobs().await.len(), 4, "only the index went");
    assert_eq!(host.pull(&one, IfNotPresent).await.unwrap().digest, image.digest());
    images.remove(&namespace(), &one.parse().unwrap()).await.unwrap();
    assert!(host.containerd.blobs().await.is_empty(), "all is freed when the call returns");
    assert!(host.containerd.snapshots().await.is_empty());
    let error = images.remove(&namespace(), &one.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ImageError::Absent { .. }), "{error}");
}

#[tokio::test]
async fn unused_images_are_collected_and_imported_ones_are_not() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let (used, unused) = (Made::new(&[&[("a", "used")]]), Made::new(&[&[("a", "unused")]]));
    registry.push("used:1", &used).await;
    registry.push("unused:1", &unused).await;
    for name in ["used:1", "unused:1"] {
        host.pull(&registry.reference(name), Always).await.unwrap();
    }
    let layout = registry.dir().join("layout");
    Made::new(&[&[("a", "imported")]]).write_layout(&layout, Some("local/imported:1"));
    let images = host.images();
    images.import(&namespace(), file_of(&made::tar_of_dir(&layout)), None).await.unwrap();

    let in_use = HashSet::from([used.digest()]);
    let hour = Duration::from_secs(3600);
    let collect = async |keep| images.collect(&namespace(), &in_use, keep).await.unwrap();
    assert!(collect(hour).await.is_empty(), "kept for a while");
    let mut removed = collect(Duration::ZERO).await;
    removed.sort();
    let pin = registry.reference(&format!("unused@{}", unused.digest()));
    assert_eq!(removed, [registry.reference("unused:1"), pin]);
    host.containerd.collect_garbage().await;
    assert!(!host.containerd.blobs().await.contains(&unused.digest()));
    let names: Vec<_> = images.list(&namespace()).await.unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(names, [registry.reference("used:1"), "docker.io/local/imported:1".to_owned()]);
    assert!(collect(Duration::ZERO).await.is_empty());
}

#[tokio::test]
async fn a_pinned_image_is_unpacked_again_without_the_network() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", "1")], &[("b", "2")]]);
    registry.push("app:1", &image).await;
    let name = registry.reference("app:1");
    let resolved = host.pull(&name, Always).await.unwrap();
    drop(registry);
    let images = host.images();
    host.containerd.remove_snapshot(&resolved.chain_id).await;
    let again = images.pinned(&namespace(), &name, &resolved.digest).await.unwrap();
    assert_eq!(again.as_ref(), Some(&resolved));
    assert_eq!(host.containerd.view(&resolved.chain_id).await.read("b").unwrap(), "2");

    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(images.pinned(&namespace(), &name, &other).await.unwrap(), None);
    let elsewhere: Namespace = "elsewhere".parse().unwrap();
    assert_eq!(images.pinned(&elsewhere, &name, &resolved.digest).await.unwrap(), None);
    host.containerd.delete_blob(&image.digest()).await;
    assert_eq!(images.pinned(&namespace(), &name, &resolved.digest).await.unwrap(), None);
}

#[tokio::test]
async fn another_namespace_shares_the_bytes_and_not_the_names() {
    let (host, registry) = (Host::new().await, PrivateRegistry::start());
    let image = Made::new(&[&[("a", "1")]]);
    registry.push("app:1", &image).await;
    let reference: Reference = registry.reference("app:1").parse().unwrap();
    let elsewhere: Namespace = "elsewhere".parse().unwrap();
    let images = host.images();
    for namespace in [namespace(), elsewhere.clone()] {
        let pulled = images.ensure(&namespace, &reference, Always, &Progress::new()).await.unwrap();
        assert_eq!(pulled.digest, image.digest());
    }
    assert_eq!(registry.fetched(&image.layer_digests()), 1, "containerd has the bytes already");
    images.remove(&namespace(), &reference).await.unwrap();
    assert_eq!(images.list(&elsewhere).await.unwrap().len(), 1);
    let pulled = images.ensure(&elsewhere, &reference, IfNotPresent, &Progress::new()).await.unwrap();
    assert_eq!(pulled.digest, image.digest());
}

#[tokio::test]
async fn archives_of_each_kind_are_imported() {
    let host = Host::new().await;
    let images = host.images();
    let work = tempfile::tempdir().unwrap();
    let tars = [layer(&[("a", "lower")]), layer(&[("b", "upper")])];
    let image = Made::of_tars(&tars, Packed::Gzip, "amd64");
    image.write_layout(&work.path().join("layout"), Some("registry.lan/app:1"));
    let oci = made::tar_of_dir(&work.path().join("layout"));

    let [resolved] = images.import(&namespace(), file_of(&oci), None).await.unwrap().try_into().unwrap();
    assert_eq!((resolved.name.as_str(), &resolved.digest), ("registry.lan/app:1", &image.digest()));
    let renamed: Reference = "app:renamed".parse().unwrap();
    let [named] =
        images.import(&namespace(), file_of(&gzip(&oci)), Some(&renamed)).await.unwrap().try_into().unwrap();
    assert_eq!((named.name.as_str(), &named.chain_id), ("docker.io/library/app:renamed", &resolved.chain_id));

    let source = "oci:layout:registry.lan/app:1";
    run("skopeo", &["copy", source, "docker-archive:saved.tar:saved.lan/app:1"], work.path());
    let saved = fs::File::open(work.path().join("saved.tar")).unwrap();
    let [saved] = images.import(&namespace(), saved, None).await.unwrap().try_into().unwrap();
    assert_eq!(saved.name, "saved.lan/app:1");
    assert_eq!(saved.config.cmd, ["/hello"]);
    assert_eq!(saved.chain_id, resolved.chain_id, "the same files, whatever brought them");

    host.containerd.collect_garbage().await;
    let files = host.containerd.view(&saved.chain_id).await;
    assert_eq!((files.read("a").unwrap(), files.read("b").unwrap()), ("lower".into(), "upper".into()));
    drop(files);
    // An imported image has no registry that could be asked.
    assert_eq!(host.pull("registry.lan/app:1", Always).await.unwrap(), resolved);
    let listed = images.list(&namespace()).await.unwrap();
    assert!(listed.len() == 3 && listed.iter().all(|image| image.imported), "{listed:?}");
    for image in listed {
        images.remove(&namespace(), &image.name.parse().unwrap()).await.unwrap();
    }
    assert!(host.containerd.blobs().await.is_empty() && host.containerd.snapshots().await.is_empty());
}

#[tokio::test]
async fn an_archive_may_hold_several_images_and_platforms() {
    let host = Host::new().await;
    let images = host.images();
    let image =
        |architecture: &str, text: &str| Made::of_tars(&[layer(&[("a", text)])], Packed::Plain, architecture);
    let (one, two, arm) = (image("amd64", "1"), image("amd64", "2"), image("arm64", "1"));
    let index = made::index(&[arm.entry("arm64"), one.entry("amd64")]);
    let mut first = descriptor(made::OCI_INDEX, &index);
    first["annotations"] = serde_json::json!({"io.containerd.image.name": "docker.io/library/one:1"});
    let mut second = two.entry("amd64");
    second["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "two:1"});
    let dir = tempfile::tempdir().unwrap();
    made::write_layout(dir.path(), &[first, second], &[&one, &two, &arm]);
    fs::write(dir.path().join("blobs/sha256").join(&made::digest(&index)["sha256:".len()..]), &index)
        .unwrap();
    let archive = made::tar_of_dir(dir.path());

    let imported = images.import(&namespace(), file_of(&archive), None).await.unwrap();
    let seen: Vec<_> = imported.iter().map(|i| (i.name.as_str(), i.digest.clone())).collect();
    assert_eq!(seen, [("docker.io/library/one:1", one.digest()), ("docker.io/library/two:1", two.digest())]);
    host.containerd.collect_garbage().await;
    assert_eq!(host.pull("one:1", Always).await.unwrap().digest, one.digest(), "its index is kept");
    let name: Reference = "three:1".parse().unwrap();
    let error = images.import(&namespace(), file_of(&archive), Some(&name)).await.unwrap_err();
    assert!(error.to_string().contains("several images"), "{error}");
}

#[tokio::test]
async fn a_bad_archive_is_refused_and_leaves_nothing() {
    let mut host = Host::new().await;
    host.settings.max_image_bytes = 1 << 20;
    let images = host.images();
    let archive = |change: &dyn Fn(&std::path::Path)| {
        let dir = tempfile::tempdir().unwrap();
        Made::new(&[&[("a", "b")]]).write_layout(dir.path(), Some("app:1"));
        change(dir.path());
        made::tar_of_dir(dir.path())
    };
    let image = Made::new(&[&[("a", "b")]]);
    let blob = |of: &str| format!("blobs/sha256/{}", &of["sha256:".len()..]);
    let good = archive(&|_| {});
    let forged_layer = image.layers[0].iter().rev().copied().collect::<Vec<u8>>();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no archive", b"hello".repeat(500), "tar"),
        ("cut off", good[..good.len() / 2].to_vec(), "archive cannot be used"),
        ("cut off gzip", gzip(&good)[..300].to_vec(), "broken"),
        ("empty tar", layer(&[]), "neither"),
        ("no image", layer(&[("index.json", "{}")]), "index.json"),
        ("no name", archive(&|dir| image.write_layout(dir, None)), "give a name"),
        ("only a tag", archive(&|dir| image.write_layout(dir, Some("1"))), "give a name"),
        ("bad name", archive(&|dir| image.write_layout(dir, Some("App:1"))), "lower case"),
        (
            "a layer is missing",
            archive(&|dir| fs::remove_file(dir.join(blob(&made::digest(&image.layers[0])))).unwrap()),
            "missing",
        ),
        (
            "a layer was changed",
            archive(&|dir| {
                fs::write(dir.join(blob(&made::digest(&image.layers[0]))), &forged_layer).unwrap();
            }),
            "digest",
        ),
        (
            "the manifest was changed",
            archive(&|dir| {
                let manifest = String::from_utf8(image.manifest.clone()).unwrap();
                let forged = manifest.replace("\"schemaVersion\":2", "\"schemaVersion\":3");
                fs::write(dir.join(blob(&image.digest())), forged).unwrap();
            }),
            "digest",
        ),
        ("a bomb", gzip(&vec![0; 8 << 20]), "too large"),
        (
            "docker save without its layer",
            layer(&[
                ("manifest.json", r#"[{"Config":"c","RepoTags":["a:1"],"Layers":["../../etc/passwd"]}]"#),
                ("c", "{}"),
            ]),
            "missing",
        ),
        ("docker save of nothing", layer(&[("manifest.json", "[]")]), "0 images"),
    ];
    for (what, bytes, reason) in table {
        let error = images.import(&namespace(), file_of(&bytes), None).await.expect_err(what);
        assert!(error.to_string().contains(reason), "{what}: {error}");
        assert!(!error.is_retryable(), "{what}");
    }
    host.containerd.collect_garbage().await;
    assert!(host.containerd.blobs().await.is_empty() && host.containerd.ingests().await.is_empty());
    assert!(images.list(&namespace()).await.unwrap().is_empty());
    assert!(images.import(&namespace(), file_of(&good), None).await.is_ok());
}

#[tokio::test]
async fn without_containerd_the_error_says_so() {
    let host = Host::new().await;
    let images = host.images();
    drop(host);
    let reference: Reference = "localhost/app:1".parse().unwrap();
    let error = images.ensure(&namespace(), &reference, Always, &Progress::new()).await.unwrap_err();
    assert!(matches!(error, ImageError::Containerd { .. }) && error.is_retryable(), "{error}");
}
