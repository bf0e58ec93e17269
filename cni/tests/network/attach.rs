//! Attaching and detaching with the real plugins.

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use roost_cni::{Command, Conflist, Error, Network, Options, PluginError, Settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{connect, inside, listen_inside, names_in, on_host, run, veths};

/// A plugin of the distribution whose ADD fails: the kernel has no such setting.
fn failing() -> Value {
    json!({"type": "tuning", "sysctl": {"net.core.no_such_setting": "1"}})
}

#[test]
fn what_listens_inside_is_reached_from_the_host() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let a = network.attach("echo-1").await.unwrap();
        assert_eq!(a.netns, host.netns_dir().join("echo-1"));
        assert!(host.shipped().subnet().unwrap().contains(&a.address));
        let _listener = listen_inside(&a.netns);
        connect(a.address).unwrap();

        assert_eq!(network.attachments().await.unwrap(), [a]);
        network.detach("echo-1").await.unwrap();
        host.assert_empty("roost");
        assert!(network.attachments().await.unwrap().is_empty());
    });
}

#[test]
fn who_gets_an_address_that_another_one_had_is_reached_at_once() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/29", &[]));
        // A bridge that nobody is on forgets by itself.
        network.attach("stays").await.unwrap();
        let first = network.attach("first").await.unwrap();
        let _listener = listen_inside(&first.netns);
        connect(first.address).unwrap();
        network.detach("first").await.unwrap();
        // Addresses are given out in turn.
        for turn in 0.. {
            let id = format!("next-{turn}");
            let next = network.attach(&id).await.unwrap();
            if next.address == first.address {
                let known = run("ip", &["neighbour", "show", "to", &next.address.to_string()]);
                assert!(!known.contains("lladdr"), "{known}");
                let _listener = listen_inside(&next.netns);
                connect(next.address).unwrap();
                return;
            }
            network.detach(&id).await.unwrap();
        }
    });
}

#[test]
fn the_gateway_is_the_host_and_another_function_is_reached() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let (a, b) = (network.attach("a").await.unwrap(), network.attach("b").await.unwrap());
        let gateway = host.shipped().gateway().unwrap();
        let _on_host = TcpListener::bind((gateway, 8080)).unwrap();
        let _in_b = listen_inside(&b.netns);
        let route = inside(&a.netns, move || {
            connect(gateway).unwrap();
            connect(b.address).unwrap();
            run("ip", &["route", "show", "default"])
        });
        assert!(route.contains(&format!("default via {gateway} dev eth0")), "{route}");
    });
}

#[test]
fn every_version_the_plugins_speak_works() {
    on_host(|host| async move {
        // The firewall plugin does not know 0.3.1.
        let firewall = [json!({"type": "firewall"})];
        for (version, more) in [("0.3.1", &[][..]), ("0.4.0", &firewall), ("1.0.0", &firewall)] {
            let network = host.network(host.bridge(version, "10.99.0.0/24", more));
            let a = network.attach("a").await.unwrap_or_else(|e| panic!("{version}: {e}"));
            let _listener = listen_inside(&a.netns);
            connect(a.address).unwrap();
            network.check("a").await.unwrap_or_else(|e| panic!("{version}: {e}"));
            network.detach("a").await.unwrap_or_else(|e| panic!("{version}: {e}"));
            host.assert_empty("test");
        }
    });
}

#[test]
fn detach_is_idempotent_and_leaves_no_rule() {
    on_host(|host| async move {
        let network = host.network(host.masqueraded_by_plugin());
        network.detach("never-attached").await.unwrap();
        network.attach("first").await.unwrap();
        let rules = || {
            run("iptables-save", &[])
                .lines()
                .filter(|l| !l.starts_with('#'))
                .map(mask_counters)
                .collect::<Vec<_>>()
        };
        let before = rules();
        assert!(before.iter().any(|rule| rule.contains("MASQUERADE")), "{before:?}");

        network.attach("second").await.unwrap();
        assert_ne!(rules(), before);
        network.detach("second").await.unwrap();
        network.detach("second").await.unwrap();
        assert_eq!(rules(), before);
    });
}

fn mask_counters(rule: &str) -> String {
    rule.split('[').next().unwrap_or_default().to_owned()
}

#[test]
fn a_second_plugin_that_fails_undoes_the_first() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[failing()]));
        let error = network.attach("a").await.unwrap_err();
        let Error::Plugin { id, source: PluginError::Reported { plugin, command, code, .. } } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((id.as_str(), plugin.as_str(), *command), ("a", "tuning", Command::Add));
        assert!(*code > 0 && error.to_string().contains("no_such_setting"), "{error}");
        host.assert_empty("test");
    });
}

#[test]
fn a_first_plugin_that_fails_leaves_nothing() {
    on_host(|host| async move {
        // The name of the bridge is taken by something else.
        run("ip", &["link", "add", "test0", "type", "veth", "peer", "name", "test1"]);
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[]));
        let error = network.attach("a").await.unwrap_err().to_string();
        assert!(error.starts_with("a: CNI plugin \"bridge\" failed on ADD"), "{error}");
        host.assert_empty("test");
    });
}

#[test]
fn an_id_that_is_attached_is_not_attached_again() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[]));
        let a = network.attach("a").await.unwrap();
        assert!(matches!(network.attach("a").await, Err(Error::AlreadyAttached { .. })));
        let _listener = listen_inside(&a.netns);
        connect(a.address).expect("the first one still works");
    });
}

#[test]
fn an_id_that_is_no_file_name_is_refused_everywhere() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[]));
        for id in ["../a", "", ".", "a/b"] {
            assert!(matches!(network.attach(id).await, Err(Error::InvalidId { .. })));
            assert!(matches!(network.detach(id).await, Err(Error::InvalidId { .. })));
            assert!(matches!(network.check(id).await, Err(Error::InvalidId { .. })));
        }
    });
}

#[test]
fn a_plugin_that_is_not_installed_is_named_at_the_start() {
    on_host(|host| async move {
        let missing = |conflist: Conflist| match Network::new(host.settings(conflist)) {
            Err(error @ Error::PluginMissing { .. }) => error.to_string(),
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("a network without its plugins"),
        };
        let message = missing(host.bridge("0.4.0", "10.99.0.0/24", &[json!({"type": "no-such-plugin"})]));
        assert!(
            message.contains("plugins[1].type: the CNI plugin \"no-such-plugin\" is in none of /usr/lib/cni"),
            "{message}"
        );

        let list = json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "no-such-ipam"}}]});
        let message = missing(Conflist::parse(list.to_string().as_bytes()).unwrap());
        assert!(message.starts_with("plugins[0].ipam.type: the CNI plugin \"no-such-ipam\""), "{message}");
    });
}

#[test]
fn check_tells_what_is_no_longer_as_it_was_made() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        assert!(matches!(network.check("a").await, Err(Error::NotAttached { .. })));
        let a = network.attach("a").await.unwrap();
        network.check("a").await.unwrap();

        inside(&a.netns, || run("ip", &["addr", "flush", "dev", "eth0"]));
        let error = network.check("a").await.unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Plugin { source: PluginError::Reported { command: Command::Check, .. }, .. }
            ),
            "{error}"
        );
        network.detach("a").await.unwrap();
        assert_eq!(host.leased("roost"), [""; 0]);
    });
}

#[test]
fn what_is_attached_by_a_list_is_known_to_be_while_it_is_complete_and_its_namespace_there() {
    on_host(|host| async move {
        let list = host.bridge("0.4.0", "10.99.0.0/24", &[]);
        let network = host.network(list.clone());
        assert!(!network.is_attached_by(&list, "a").await.unwrap());
        let a = network.attach("a").await.unwrap();
        assert!(network.is_attached_by(&list, "a").await.unwrap());
        let other = host.bridge("0.4.0", "10.98.0.0/24", &[]);
        assert!(!network.is_attached_by(&other, "a").await.unwrap());
        nix::mount::umount2(&a.netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(!network.is_attached_by(&list, "a").await.unwrap());
    });
}

#[test]
fn check_asks_nobody_if_the_list_disables_it() {
    on_host(|host| async move {
        let mut list = serde_json::to_value(host.shipped()).unwrap();
        list["disableCheck"] = true.into();
        let network = host.network(serde_json::from_value(list).unwrap());
        let a = network.attach("a").await.unwrap();
        inside(&a.netns, || run("ip", &["addr", "flush", "dev", "eth0"]));
        network.check("a").await.unwrap();
    });
}

#[test]
fn runtime_settings_and_arguments_reach_the_plugins() {
    on_host(|host| async move {
        let mac = "02:00:00:00:be:ef";
        let tuning = json!({"type": "tuning", "capabilities": {"mac": true}});
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[tuning]));
        let options = Options {
            capabilities: json!({"mac": mac}).as_object().unwrap().clone(),
            args: vec![("IgnoreUnknown".into(), "1".into()), ("IP".into(), "10.99.0.77".into())],
        };
        let a = network.attach_with("a", options).await.unwrap();
        assert_eq!(a.address.to_string(), "10.99.0.77");
        let link = inside(&a.netns, || run("ip", &["link", "show", "eth0"]));
        assert!(link.contains(mac), "{link}");
        network.detach("a").await.unwrap();
        host.assert_empty("test");

        let unsafe_args = Options { args: vec![("A".into(), "1;IP=10.0.0.1".into())], ..Options::default() };
        assert!(matches!(network.attach_with("a", unsafe_args).await, Err(Error::InvalidArgument { .. })));
    });
}

#[test]
fn many_attached_at_once_on_a_fresh_host_each_get_their_own_address() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let ids: Vec<String> = (0..12).map(|i| format!("echo-{i}")).collect();
        let mut attaching = JoinSet::new();
        for id in ids.clone() {
            let network = network.clone();
            attaching.spawn(async move { network.attach(&id).await.unwrap() });
        }
        let attached = attaching.join_all().await;
        let addresses: HashSet<_> = attached.iter().map(|a| a.address).collect();
        assert_eq!(addresses.len(), ids.len());
        for a in &attached {
            let _listener = listen_inside(&a.netns);
            connect(a.address).unwrap();
        }
        let mut detaching = JoinSet::new();
        for id in ids {
            let network = network.clone();
            detaching.spawn(async move { network.detach(&id).await.unwrap() });
        }
        detaching.join_all().await;
        host.assert_empty("roost");
    });
}

#[test]
fn a_caller_that_gives_up_leaves_an_attachment_that_can_be_detached() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[]));
        assert!(timeout(Duration::ZERO, network.attach("a")).await.is_err());
        // Waits for the attach that nobody waits for any more.
        network.detach("a").await.unwrap();
        host.assert_empty("test");
    });
}

/// The plugin sees to it; without, the address would be the lowest of the ports', and every other namespace would send to an old one
/// for half a minute whenever the port it was taken from goes.
#[test]
fn the_hardware_address_of_the_bridge_stays_when_others_come_and_go() {
    on_host(|host| async move {
        let network = host.network(host.bridge("0.4.0", "10.99.0.0/24", &[]));
        let address = || fs::read_to_string("/sys/class/net/test0/address").unwrap();
        network.attach("first").await.unwrap();
        let before = address();
        for i in 0..10 {
            network.attach(&format!("echo-{i}")).await.unwrap();
            assert_eq!(address(), before);
        }
        network.detach("first").await.unwrap();
        assert_eq!(address(), before);
    });
}

#[test]
fn an_attachment_is_undone_by_the_list_it_was_made_with() {
    on_host(|host| async move {
        host.network(host.bridge("0.4.0", "10.99.0.0/24", &[])).attach("a").await.unwrap();
        // The administrator has chosen another network since.
        let network = host.network(host.shipped());
        network.detach("a").await.unwrap();
        host.assert_empty("test");
    });
}

#[test]
fn a_plugin_that_cannot_undo_is_tried_again_and_the_others_are_undone() {
    on_host(|host| async move {
        let plugins = host.netns_dir().with_file_name("plugins");
        fs::create_dir(&plugins).unwrap();
        let vanishing = plugins.join("vanishing");
        fs::copy("/usr/lib/cni/tuning", &vanishing).unwrap();
        let list = host.bridge("0.4.0", "10.99.0.0/24", &[json!({"type": "vanishing"})]);
        let mut settings: Settings = host.settings(list);
        settings.plugin_dirs.push(plugins);
        let network = Network::new(settings).unwrap();

        network.attach("a").await.unwrap();
        let hidden = vanishing.with_file_name("hidden");
        fs::rename(&vanishing, &hidden).unwrap();
        let error = network.detach("a").await.unwrap_err();
        assert!(matches!(&error, Error::Detach { failures, .. } if failures.len() == 1), "{error}");
        assert!(error.to_string().contains("\"vanishing\""), "{error}");
        assert_eq!((host.leased("test"), veths()), (vec![], vec![]), "the bridge was undone");
        assert_eq!(names_in(&host.cache_dir()), ["a.json"]);
        assert!(network.attachments().await.unwrap().is_empty(), "it is no complete attachment any more");

        fs::rename(&hidden, &vanishing).unwrap();
        assert_eq!(network.collect(&HashSet::new()).await.unwrap(), ["a"]);
        host.assert_empty("test");
    });
}
