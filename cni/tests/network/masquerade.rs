//! The way out of a network by one rule of the host's, with no rule of any attachment's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener};

use ipnet::IpNet;
use roost_cni::{Conflist, Held, Masquerade};

use crate::support::{Host, World, connect, inside, listen_inside, on_host, run};

/// The host, as the world sees it.
const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

fn subnets(conflist: &Conflist) -> BTreeSet<IpNet> {
    conflist.masqueraded().into_iter().collect()
}

fn nat() -> Vec<String> {
    run("iptables-save", &["-t", "nat"]).lines().filter(|line| line.contains("ROOST")).map(mask).collect()
}

fn mask(rule: &str) -> String {
    rule.split('[').next().unwrap_or_default().to_owned()
}

async fn masquerade(host: &Host) -> Masquerade {
    let masquerade = Masquerade::new("roost0");
    masquerade.set(subnets(&host.shipped())).await.unwrap();
    masquerade
}

/// Docker sets the policy of FORWARD to DROP.
#[test]
fn the_world_is_reached_by_the_hosts_address_although_the_host_forwards_nothing_by_itself() {
    on_host(|host| async move {
        run("iptables", &["-P", "FORWARD", "DROP"]);
        let world = World::new(&host);
        let listener = listen_inside(&world.netns);
        let network = host.network(host.shipped());
        let _masquerade = masquerade(&host).await;
        let a = network.attach("a").await.unwrap();
        inside(&a.netns, || connect(World::ADDRESS)).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), HOST);
    });
}

#[test]
fn talk_inside_a_subnet_and_with_its_gateway_keeps_its_addresses() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let _masquerade = masquerade(&host).await;
        let (a, b) = (network.attach("a").await.unwrap(), network.attach("b").await.unwrap());
        let gateway = host.shipped().gateway().unwrap();
        let on_host = TcpListener::bind((gateway, 8080)).unwrap();
        let in_b = listen_inside(&b.netns);
        inside(&a.netns, move || {
            connect(gateway).unwrap();
            connect(b.address).unwrap();
        });
        assert_eq!(on_host.accept().unwrap().1.ip(), a.address);
        assert_eq!(in_b.accept().unwrap().1.ip(), a.address);
        connect(b.address).unwrap();
        assert_eq!(in_b.accept().unwrap().1.ip(), gateway);
    });
}

#[test]
fn an_attachment_adds_nothing_to_the_rules_that_masquerade() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let masquerade = masquerade(&host).await;
        let before = nat();
        assert_eq!(before.len(), 4, "chain, jump, multicast, subnet: {before:?}");
        network.attach("a").await.unwrap();
        assert_eq!(nat(), before);
        masquerade.set(subnets(&host.shipped())).await.unwrap();
        assert_eq!(nat(), before);
        network.detach("a").await.unwrap();
        assert_eq!(nat(), before);
        masquerade.set(BTreeSet::new()).await.unwrap();
        masquerade.set(BTreeSet::new()).await.unwrap();
        assert_eq!(nat(), [""; 0]);
    });
}

#[test]
fn rules_that_a_firewall_cleared_away_are_back_with_the_next_look() {
    on_host(|host| async move {
        let masquerade = masquerade(&host).await;
        let before = nat();
        for _ in 0..3 {
            assert_eq!(masquerade.hold().await.unwrap(), Held::Intact);
        }
        run("iptables", &["-t", "nat", "-F"]);
        assert_eq!(masquerade.hold().await.unwrap(), Held::Restored);
        assert_eq!(masquerade.hold().await.unwrap(), Held::Intact);
        assert_eq!(nat(), before);
        // A change that is no harm.
        run("iptables", &["-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT"]);
        assert_eq!(masquerade.hold().await.unwrap(), Held::Intact);
        run("iptables", &["-t", "nat", "-D", "POSTROUTING", "-j", "ROOST-roost0"]);
        assert_eq!(masquerade.hold().await.unwrap(), Held::Restored);
        assert_eq!(nat(), before);
    });
}

#[test]
fn a_list_whose_plugins_masquerade_gets_no_rule_of_the_hosts() {
    on_host(|host| async move {
        assert_eq!(host.masqueraded_by_plugin().masqueraded(), []);
        assert_eq!(host.shipped().masqueraded(), ["10.63.0.0/16".parse().unwrap()]);
        assert_eq!(host.bridge("0.4.0", "10.99.0.0/24", &[]).masqueraded(), [], "it does not say so");
    });
}

/// An upgrade: the old list is in the record.
#[test]
fn what_was_attached_with_rules_of_its_own_loses_them_with_its_end() {
    on_host(|host| async move {
        host.network(host.masqueraded_by_plugin()).attach("a").await.unwrap();
        let chains = || run("iptables-save", &["-t", "nat"]).matches("-j CNI-").count();
        assert_eq!(chains(), 1);
        let network = host.network(host.shipped());
        let _masquerade = masquerade(&host).await;
        network.detach("a").await.unwrap();
        assert_eq!(chains(), 0);
        host.assert_empty("roost");
    });
}
