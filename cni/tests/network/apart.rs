//! Several networks on one host, kept apart by rules and removed without a trace.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use roost_cni::{Conflist, Error, Isolation, Overrides, Segments};

use crate::support::{Host, connect, inside, listen_inside, on_host, run, until_no_veth};

/// How long a packet that is dropped is waited for.
const DROPPED: Duration = Duration::from_millis(700);

/// A second network like the shipped one.
fn second(host: &Host) -> Conflist {
    let overrides = Overrides {
        name: Some("roost-second".into()),
        bridge: Some("roost0-1".into()),
        only_subnet: Some("10.64.0.0/24".parse().unwrap()),
        ..Overrides::default()
    };
    host.shipped().with_overrides(&overrides).unwrap()
}

fn both() -> Segments {
    Segments {
        bridges: ["roost0", "roost0-1"].map(str::to_owned).into(),
        subnets: ["10.63.0.0/16", "10.64.0.0/16"].map(|subnet| subnet.parse().unwrap()).into(),
    }
}

fn reaches(netns: &Path, to: IpAddr) -> bool {
    inside(netns, move || TcpStream::connect_timeout(&SocketAddr::new(to, 8080), DROPPED).is_ok())
}

#[test]
fn attachments_of_two_networks_do_not_reach_each_other_whatever_happens_to_the_rules() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let isolation = Isolation::new("roost0");
        let (a, b) = (network.attach("a").await.unwrap(), network.attach("b").await.unwrap());
        let c = network.attach_to(&second(&host), "c").await.unwrap();
        let _listening = [&a, &b, &c].map(|attachment| listen_inside(&attachment.netns));
        assert!(reaches(&a.netns, c.address) && reaches(&c.netns, a.address), "nothing keeps them apart yet");

        isolation.set(both()).await.unwrap();
        let apart = || !reaches(&a.netns, c.address) && !reaches(&c.netns, a.address);
        assert!(apart() && reaches(&a.netns, b.address));
        connect(c.address).unwrap();

        // What a firewall's reload does.
        run("iptables", &["-t", "mangle", "-F"]);
        run("iptables", &["-t", "mangle", "-X"]);
        assert!(!apart());
        isolation.hold().await.unwrap();
        assert!(apart());
        let rules = run("iptables-save", &["-t", "mangle"]);
        isolation.hold().await.unwrap();
        let again = run("iptables-save", &["-t", "mangle"]);
        assert_eq!(rules.matches("\n-A ").count(), again.matches("\n-A ").count(), "{again}");
    });
}

#[test]
fn a_network_is_dismantled_when_nothing_is_attached_and_leaves_nothing() {
    on_host(|host| async move {
        let network = host.network(host.shipped());
        let isolation = Isolation::new("roost0");
        isolation.set(both()).await.unwrap();
        for round in 0..2 {
            network.attach_to(&second(&host), "c").await.unwrap();
            let refused = network.dismantle(&second(&host)).await.unwrap_err();
            assert!(matches!(refused, Error::InUse { .. }), "{round}: {refused}");
            network.detach("c").await.unwrap();
            network.dismantle(&second(&host)).await.unwrap();
            network.dismantle(&second(&host)).await.unwrap();
            until_no_veth().await;
            assert!(!run("ip", &["-o", "link"]).contains("roost0-1"), "{round}");
            assert!(!host.ipam_dir().join("roost-second").exists(), "{round}");
        }
        isolation.set(Segments::default()).await.unwrap();
        isolation.set(Segments::default()).await.unwrap();
        assert!(!run("iptables-save", &[]).contains("ROOST"));
        host.assert_empty("roost-second");
    });
}
