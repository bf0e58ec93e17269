//! What a crash leaves behind is found and removed by the next process.
//!
//! The crash is made as it happens: a network is dropped at some point of an attachment's life, and another is made over the same
//! directories.

use std::collections::HashSet;
use std::fs;

use roost_cni::Network;
use serde_json::{Value, json};

use crate::support::{Host, connect, listen_inside, names_in, on_host, until_no_veth};

fn keep(ids: &[&str]) -> HashSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn network(host: &Host) -> Network {
    host.network(host.bridge("0.4.0", "10.99.0.0/24", &[json!({"type": "firewall"})]))
}

/// Rewrites a record to what it was at an earlier moment.
fn rewind(host: &Host, id: &str, change: impl FnOnce(&mut Value)) {
    let path = host.record(id);
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    fs::write(&path, record.to_string()).unwrap();
}

fn begun(record: &mut Value) {
    record["state"] = "attaching".into();
    record["added"] = 0.into();
    record["address"] = Value::Null;
    record["result"] = Value::Null;
}

fn between_the_plugins(record: &mut Value) {
    record["state"] = "attaching".into();
    record["added"] = 1.into();
    record["address"] = Value::Null;
}

fn in_detach(record: &mut Value) {
    record["state"] = "detaching".into();
}

#[test]
fn a_crash_at_any_point_is_cleaned_up() {
    on_host(|host| async move {
        for (moment, change) in [
            ("before the first plugin told its result", begun as fn(&mut Value)),
            ("between the plugins", between_the_plugins),
            ("in the middle of detach", in_detach),
            ("while attached", |_| {}),
        ] {
            network(&host).attach("a").await.unwrap();
            rewind(&host, "a", change);

            let network = network(&host);
            let collected = network.collect(&keep(&[])).await;
            assert_eq!(collected.unwrap_or_else(|e| panic!("{moment}: {e}")), ["a"], "{moment}");
            host.assert_empty("test");
        }
    });
}

#[test]
fn a_crash_before_the_namespace_was_made_is_cleaned_up() {
    on_host(|host| async move {
        network(&host).attach("a").await.unwrap();
        let record = fs::read(host.record("a")).unwrap();
        network(&host).detach("a").await.unwrap();
        fs::write(host.record("a"), record).unwrap();
        rewind(&host, "a", begun);

        assert_eq!(network(&host).collect(&keep(&[])).await.unwrap(), ["a"]);
        host.assert_empty("test");
    });
}

/// The disk remembers, the kernel does not: an empty file where the namespace was.
#[test]
fn after_a_reboot_the_addresses_come_back() {
    on_host(|host| async move {
        let before = network(&host);
        before.attach("a").await.unwrap();
        let netns = host.netns_dir().join("a");
        nix::mount::umount2(&netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
        until_no_veth().await;
        assert_eq!(host.leased("test").len(), 1);

        assert_eq!(network(&host).collect(&keep(&[])).await.unwrap(), ["a"]);
        host.assert_empty("test");
    });
}

#[test]
fn what_is_kept_is_not_touched() {
    on_host(|host| async move {
        let before = network(&host);
        let kept = before.attach("kept").await.unwrap();
        before.attach("gone-1").await.unwrap();
        before.attach("gone-2").await.unwrap();

        let network = network(&host);
        let removed = network.collect(&keep(&["kept", "unknown"])).await.unwrap();
        assert_eq!(removed, ["gone-1", "gone-2"]);
        assert_eq!(network.attachments().await.unwrap(), std::slice::from_ref(&kept));
        network.check("kept").await.unwrap();
        let _listener = listen_inside(&kept.netns);
        connect(kept.address).unwrap();
    });
}

#[test]
fn what_is_kept_but_only_half_there_is_removed() {
    on_host(|host| async move {
        network(&host).attach("a").await.unwrap();
        rewind(&host, "a", between_the_plugins);
        assert_eq!(network(&host).collect(&keep(&["a"])).await.unwrap(), ["a"]);
        host.assert_empty("test");
    });
}

#[test]
fn a_namespace_that_nothing_is_known_of_is_removed() {
    on_host(|host| async move {
        network(&host).attach("a").await.unwrap();
        let record = fs::read(host.record("a")).unwrap();
        fs::remove_file(host.record("a")).unwrap();
        fs::write(host.netns_dir().join("bare-file"), "").unwrap();

        assert_eq!(network(&host).collect(&keep(&[])).await.unwrap(), ["a", "bare-file"]);
        assert_eq!(names_in(&host.netns_dir()), [""; 0]);
        until_no_veth().await;

        // Its address is still taken: only the record knew of it.
        fs::write(host.record("a"), record).unwrap();
        network(&host).detach("a").await.unwrap();
        host.assert_empty("test");
    });
}

#[test]
fn a_record_that_cannot_be_read_is_undone_by_the_present_list() {
    on_host(|host| async move {
        network(&host).attach("a").await.unwrap();
        fs::write(host.record("a"), "{\"id\":").unwrap();
        let network = network(&host);
        assert!(network.attachments().await.unwrap().is_empty());
        assert_eq!(network.collect(&keep(&[])).await.unwrap(), ["a"]);
        host.assert_empty("test");
    });
}

#[test]
fn an_attach_after_a_crash_is_refused_until_it_is_cleaned_up() {
    on_host(|host| async move {
        network(&host).attach("a").await.unwrap();
        rewind(&host, "a", begun);
        let network = network(&host);
        assert!(network.attach("a").await.unwrap_err().to_string().contains("detach it first"));
        network.detach("a").await.unwrap();
        network.attach("a").await.unwrap();
    });
}
