//! The network of a host's functions with the real plugins: slots, their ends, and what they must not change. Needs root; each test
//! has a host of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why it is skipped"
)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use roost_cni::{Attachment, Conflist, Network, Overrides};
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};
use roostd::network::HostNetwork;
use tokio::task::JoinHandle;

use host::{Host, PLUGIN_DIRS, World, connect, inside, listen_inside, names_in, on_host, run, until_no_veth};

#[path = "../../cni/tests/network/support.rs"]
#[allow(dead_code, reason = "this crate needs less of it than its own")]
mod host;

/// How long anything may take. Generous: other work shares the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many slots the tests keep ready.
const SLOTS: usize = 2;

/// A daemon's network: ended with it, as the process would end it.
struct Daemon {
    network: HostNetwork,
    filling: JoinHandle<()>,
}

impl Daemon {
    /// As a starting daemon goes about it: with the replicas that it adopts, and `blue` beside the default namespace.
    async fn start(host: &Host, slots: usize, keep: &[&str]) -> Self {
        Self::start_with(host, shipped(host), slots, keep).await
    }

    async fn start_with(host: &Host, conflist: Conflist, slots: usize, keep: &[&str]) -> Self {
        let network = Self::open(host, conflist, slots).await;
        let keep: HashSet<String> = keep.iter().map(|id| (*id).to_owned()).collect();
        network.collect(&keep).await.unwrap();
        let filler = network.clone();
        Self { network, filling: tokio::spawn(async move { filler.keep_slots().await }) }
    }

    /// One that makes no slots.
    async fn open(host: &Host, conflist: Conflist, slots: usize) -> HostNetwork {
        let dirs = PLUGIN_DIRS.map(PathBuf::from).to_vec();
        let namespaces = "10.64.0.0/20".parse().unwrap();
        let dns = vec!["192.0.2.53".parse().unwrap()];
        let network =
            HostNetwork::new(conflist, dirs, &host.dir().join("run"), namespaces, dns, slots).unwrap();
        network.open([(blue(), 1)]).await.unwrap();
        network
    }

    /// Ends at once, wherever it is.
    async fn crash(self) {
        self.filling.abort();
        assert!(self.filling.await.unwrap_err().is_cancelled());
    }

    async fn attach(&self, id: &str, namespace: &Namespace) -> Attachment {
        self.network.attach(&replica(id), &key(namespace)).await.unwrap()
    }

    async fn detach(&self, id: &str) {
        self.network.detach(&replica(id)).await.unwrap();
    }

    /// Waits until so many are ready.
    async fn ready(&self, namespace: &Namespace, slots: usize) {
        let began = Instant::now();
        while self.network.ready_slots().get(namespace) != Some(&slots) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.network.ready_slots());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn shipped(host: &Host) -> Conflist {
    let ipam_dir = Some(host.dir().join("run/ipam"));
    host.shipped().with_overrides(&Overrides { ipam_dir, ..Overrides::default() }).unwrap()
}

fn usual() -> Namespace {
    Namespace::default()
}

fn blue() -> Namespace {
    "blue".parse().unwrap()
}

fn key(namespace: &Namespace) -> FunctionKey {
    FunctionKey::new(namespace.clone(), "f".parse().unwrap())
}

fn replica(id: &str) -> ReplicaId {
    id.parse().unwrap()
}

fn is_slot(attachment: &Attachment) -> bool {
    attachment.id.starts_with("slot_")
}

/// The network namespaces that are there.
fn namespaces(host: &Host) -> Vec<String> {
    names_in(&host.dir().join("run/netns"))
}

async fn assert_empty(host: &Host) {
    for kind in ["netns", "cni", "slots", "hosts"] {
        assert_eq!(names_in(&host.dir().join("run").join(kind)), [""; 0], "{kind}");
    }
    for network in ["roost", "roost-blue"] {
        let mut noted = names_in(&host.dir().join("run/ipam").join(network));
        noted.retain(|name| name.starts_with("10."));
        assert_eq!(noted, [""; 0], "{network}");
    }
    until_no_veth().await;
}

fn answers(netns: &Path, at: std::net::IpAddr) -> bool {
    let at = std::net::SocketAddr::new(at, 8080);
    inside(netns, move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(700)).is_ok())
}

#[test]
fn a_replica_takes_a_slot_which_works_as_a_network_made_for_it() {
    on_host(|host| async move {
        let world = World::new(&host);
        let _outside = listen_inside(&world.netns);
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;

        let (a, b) = (daemon.attach("a", &usual()).await, daemon.attach("b", &usual()).await);
        let c = daemon.attach("c", &usual()).await;
        assert!(is_slot(&a) && is_slot(&b) && !is_slot(&c), "{a:?} {b:?} {c:?}");
        assert_ne!(a.id, b.id);
        let hosts = fs::read_to_string(host.dir().join("run/hosts/a")).unwrap();
        assert!(hosts.contains(&format!("{}\tf\n", a.address)), "{hosts}");

        let all = [&a, &b, &c];
        let _listening = all.map(|each| listen_inside(&each.netns));
        for from in all {
            connect(from.address).unwrap();
            assert!(answers(&from.netns, World::ADDRESS), "{from:?} reaches what is outside");
            assert!(all.iter().all(|to| answers(&from.netns, to.address)), "{from:?} reaches the others");
        }
    });
}

#[test]
fn taking_a_slot_runs_no_program() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        // The look behind the last one is over when rules can be changed without the first to come noticing.
        let began = Instant::now();
        let mut fastest = Duration::MAX;
        while began.elapsed() < PATIENCE && fastest > Duration::from_millis(1) {
            let before = Instant::now();
            let attached = daemon.attach("a", &usual()).await;
            fastest = fastest.min(before.elapsed());
            assert!(is_slot(&attached));
            daemon.detach("a").await;
            daemon.ready(&usual(), SLOTS).await;
        }
        assert!(fastest <= Duration::from_millis(1), "{fastest:?}");
    });
}

#[test]
fn a_pool_that_is_emptied_is_filled_again_and_none_is_given_twice() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        let mut seen = HashSet::new();
        for round in 0..3 {
            daemon.ready(&usual(), SLOTS).await;
            for n in 0..SLOTS {
                let id = format!("r{n}");
                let attached = daemon.attach(&id, &usual()).await;
                assert!(is_slot(&attached) && seen.insert(attached.id.clone()), "{round}: {attached:?}");
                daemon.detach(&id).await;
                assert!(!attached.netns.exists());
            }
        }
    });
}

#[test]
fn slots_of_another_namespace_come_with_its_first_replica_and_go_with_it() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        assert_eq!(daemon.network.ready_slots().get(&blue()), None);
        let first = daemon.attach("first", &blue()).await;
        assert!(!is_slot(&first));
        daemon.ready(&blue(), SLOTS).await;
        let second = daemon.attach("second", &blue()).await;
        assert!(is_slot(&second));
        daemon.ready(&blue(), SLOTS).await;

        // Kept apart, as any of its namespace.
        let other = daemon.attach("other", &usual()).await;
        assert!(is_slot(&other));
        let _listening = [&first, &second, &other].map(|each| listen_inside(&each.netns));
        assert!(answers(&first.netns, second.address) && answers(&second.netns, first.address));
        assert!(!answers(&other.netns, second.address) && !answers(&second.netns, other.address));

        daemon.detach("first").await;
        daemon.detach("second").await;
        daemon.network.close(&blue()).await.unwrap();
        assert!(!run("ip", &["-o", "link"]).contains("roost0-1"));
        assert!(!host.dir().join("run/ipam/roost-blue").exists());
        let rules = run("iptables-save", &[]);
        assert!(!rules.contains("10.64.") && rules.contains("10.63.0.0/16"), "{rules}");
        assert_eq!(daemon.network.ready_slots().get(&blue()), None);
    });
}

#[test]
fn the_next_daemon_finds_who_has_which_slot_and_adopts_those_that_nobody_has() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        let kept = daemon.attach("kept", &usual()).await;
        let stray = daemon.attach("stray", &usual()).await;
        daemon.attach("blue", &blue()).await;
        daemon.ready(&usual(), SLOTS).await;
        daemon.ready(&blue(), SLOTS).await;
        let before: HashSet<String> = namespaces(&host).into_iter().collect();
        daemon.crash().await;

        let daemon = Daemon::start(&host, SLOTS, &["kept", "blue"]).await;
        assert_eq!(daemon.network.ready_slots()[&usual()], 0, "not before they are checked");
        daemon.ready(&usual(), SLOTS).await;
        daemon.ready(&blue(), SLOTS).await;
        let after: HashSet<String> = namespaces(&host).into_iter().collect();
        assert_eq!(before.difference(&after).collect::<Vec<_>>(), [&stray.id], "the others are the same");
        assert!(after.is_subset(&before));
        let _listening = listen_inside(&kept.netns);
        connect(kept.address).unwrap();
        let next = daemon.attach("next", &usual()).await;
        assert!(is_slot(&next) && next.id != kept.id && next.id != stray.id);

        daemon.detach("kept").await;
        assert!(!kept.netns.exists());
        daemon.crash().await;
        Daemon::open(&host, shipped(&host), 0).await.collect(&HashSet::new()).await.unwrap();
        assert_empty(&host).await;
    });
}

/// Each moment in which a daemon can end: what the next one finds then.
#[test]
fn a_crash_at_any_point_leaves_nothing_and_gives_no_slot_twice() {
    on_host(|host| async move {
        let links = host.dir().join("run/slots");
        for moment in ["taken, no container yet", "detached, the link still there", "being made", "broken"] {
            let daemon = Daemon::start(&host, SLOTS, &[]).await;
            daemon.ready(&usual(), SLOTS).await;
            let taken = daemon.attach("a", &usual()).await;
            daemon.crash().await;
            let slot = taken.id.clone();
            match moment {
                "taken, no container yet" => {}
                "detached, the link still there" => {
                    let cni = bare(&host);
                    cni.detach(&slot).await.unwrap();
                }
                "being made" => {
                    // As if nobody had it, and the last plugin had not come to its end.
                    fs::remove_file(links.join("a")).unwrap();
                    let path = host.dir().join("run/cni").join(format!("{slot}.json"));
                    let mut record: serde_json::Value =
                        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                    record["state"] = "attaching".into();
                    record["added"] = 1.into();
                    fs::write(&path, record.to_string()).unwrap();
                }
                _ => {
                    fs::remove_file(links.join("a")).unwrap();
                    umount2(&taken.netns, MntFlags::MNT_DETACH).unwrap();
                }
            }
            let daemon = Daemon::start(&host, SLOTS, &[]).await;
            assert_eq!(names_in(&links), [""; 0], "{moment}");
            assert!(!namespaces(&host).contains(&slot), "{moment}");
            daemon.ready(&usual(), SLOTS).await;
            assert_ne!(daemon.attach("b", &usual()).await.id, slot, "{moment}");
            daemon.detach("b").await;
            daemon.crash().await;
        }
        Daemon::open(&host, shipped(&host), 0).await.collect(&HashSet::new()).await.unwrap();
        assert_empty(&host).await;
    });
}

/// The crate below, on the same directories.
fn bare(host: &Host) -> Network {
    let run = host.dir().join("run");
    let settings = host.settings(shipped(host));
    Network::new(roost_cni::Settings { cache_dir: run.join("cni"), netns_dir: run.join("netns"), ..settings })
        .unwrap()
}

#[test]
fn slots_made_by_another_list_and_those_that_are_no_good_are_not_adopted() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        daemon.crash().await;
        let old = namespaces(&host);
        let mut list = serde_json::to_value(shipped(&host)).unwrap();
        list["plugins"][0]["mtu"] = 1400.into();
        let other: Conflist = serde_json::from_value(list).unwrap();
        let daemon = Daemon::start_with(&host, other.clone(), SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        let made = namespaces(&host);
        assert!(made.len() == SLOTS && made.iter().all(|name| !old.contains(name)), "{old:?} {made:?}");
        daemon.crash().await;

        let spoilt = host.dir().join("run/netns").join(&made[0]);
        inside(&spoilt, || run("ip", &["addr", "flush", "dev", "eth0"]));
        let daemon = Daemon::start_with(&host, other, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        let now = namespaces(&host);
        assert!(!now.contains(&made[0]) && now.contains(&made[1]), "{made:?} {now:?}");
    });
}

#[test]
fn slots_give_way_to_replicas_when_there_are_no_more_addresses() {
    on_host(|host| async move {
        let subnet = Some("10.63.0.0/28".parse().unwrap());
        let small = shipped(&host).with_overrides(&Overrides { subnet, ..Overrides::default() }).unwrap();
        let daemon = Daemon::start_with(&host, small.clone(), 10, &[]).await;
        daemon.ready(&usual(), 10).await;
        // Doubtful ones, whose addresses a burst needs before they are checked.
        daemon.crash().await;
        let daemon = Daemon::start_with(&host, small, 10, &[]).await;
        let ids: Vec<String> = (0..13).map(|n| format!("r{n}")).collect();
        let mut addresses = HashSet::new();
        for id in &ids {
            addresses.insert(daemon.attach(id, &usual()).await.address);
        }
        assert_eq!(addresses.len(), 13);
        let full = daemon.network.attach(&replica("one-more"), &key(&usual())).await.unwrap_err();
        assert!(full.to_string().contains("no IP addresses"), "{full}");
        daemon.network.detach(&replica("one-more")).await.unwrap();
        for id in &ids {
            daemon.detach(id).await;
        }
        daemon.ready(&usual(), 10).await;
    });
}

#[test]
fn slots_are_checked_when_a_firewall_has_cleared_rules_away() {
    for tables in [&["nat", "filter"][..], &["filter"]] {
        slots_are_checked_without(tables);
    }
}

fn slots_are_checked_without(tables: &'static [&'static str]) {
    on_host(move |host| async move {
        run("iptables", &["-P", "FORWARD", "DROP"]);
        let world = World::new(&host);
        let _outside = listen_inside(&world.netns);
        let daemon = Daemon::start(&host, SLOTS, &[]).await;
        daemon.ready(&usual(), SLOTS).await;
        let old = namespaces(&host);
        for table in tables {
            run("iptables", &["-t", table, "-F"]);
        }
        let first = daemon.attach("first", &usual()).await;
        assert!(!is_slot(&first) && answers(&first.netns, World::ADDRESS));
        daemon.ready(&usual(), SLOTS).await;
        assert!(namespaces(&host).iter().all(|name| !old.contains(name)), "{old:?} {:?}", namespaces(&host));
        let second = daemon.attach("second", &usual()).await;
        assert!(is_slot(&second) && answers(&second.netns, World::ADDRESS));
    });
}

#[test]
fn without_slots_each_replica_waits_for_its_own() {
    on_host(|host| async move {
        let daemon = Daemon::start(&host, 0, &[]).await;
        assert!(!is_slot(&daemon.attach("a", &usual()).await));
        daemon.detach("a").await;
        daemon.filling.await.unwrap();
        assert_empty(&host).await;
    });
}
