//! The network of functions and what else the machine has of one: routes, rules, resolvers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::Ipv4Net;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;
use tokio::net::UdpSocket;

use super::{Known, programs, text, v4};
use crate::app;
use crate::config::Config;

/// How long a resolver may take.
const ANSWER: Duration = Duration::from_millis(1500);

/// A question for the servers of the root, which each resolver knows: a header, then the name of the root, type NS, class IN.
const QUESTION: [u8; 17] = *b"rd\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";

/// What the settings and the conflist make of the network.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct NetworkFacts {
    pub(in crate::doctor) bridge: Option<String>,
    /// Those that functions get addresses from, each with the key that sets it.
    pub(in crate::doctor) subnets: Vec<(&'static str, Ipv4Net)>,
    /// The plugins' programs, and where each is.
    pub(in crate::doctor) programs: Vec<(String, Option<PathBuf>)>,
}

/// Where packets for a subnet go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::doctor) struct Route {
    pub(in crate::doctor) subnet: Ipv4Net,
    pub(in crate::doctor) interface: String,
}

/// The rules of the machine.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Firewall {
    /// The tables of iptables that Roost writes to, as `iptables-save` shows them.
    pub(in crate::doctor) tables: Known<String>,
    /// Has the other back end of iptables rules as well?
    pub(in crate::doctor) two_back_ends: bool,
    /// The rules of nftables, where its program is installed.
    pub(in crate::doctor) nftables: Option<Known<String>>,
    /// The zone of firewalld that lets everything in, where it has one.
    pub(in crate::doctor) trusted_zone: String,
}

/// A resolver that functions are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::doctor) struct Resolver {
    pub(in crate::doctor) address: IpAddr,
    pub(in crate::doctor) answers: bool,
}

pub(super) fn network(config: &Config) -> Known<NetworkFacts> {
    let conflist = app::conflist(config).map_err(|error| error.to_string())?;
    let find = |program: &str| {
        let places = config.network.plugin_dirs.iter().map(|dir| dir.join(program));
        let mut runs = places.filter(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok());
        (program.to_owned(), runs.next())
    };
    let subnets = [
        conflist.subnet().and_then(v4).map(|subnet| ("network.subnet", subnet)),
        v4(config.network.namespaces).map(|subnet| ("network.namespaces", subnet)),
    ];
    Ok(NetworkFacts {
        bridge: conflist.bridge().map(str::to_owned),
        subnets: subnets.into_iter().flatten().collect(),
        programs: conflist.programs().map(find).collect(),
    })
}

pub(super) fn routes() -> Known<Vec<Route>> {
    Ok(read_routes(&text("/proc/net/route")?))
}

/// All but the way to everywhere, of what `/proc/net/route` shows.
fn read_routes(text: &str) -> Vec<Route> {
    let address =
        |hex: &str| u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from(bits.to_ne_bytes()));
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (interface, to, mask) = (words.first()?, address(words.get(1)?)?, address(words.get(7)?)?);
        let subnet = Ipv4Net::with_netmask(to, mask).ok()?;
        (subnet.prefix_len() > 0).then(|| Route { subnet, interface: (*interface).to_owned() })
    };
    text.lines().filter_map(route).collect()
}

/// What Docker's settings say of addresses.
pub(super) fn docker_pools() -> Vec<Ipv4Net> {
    read_pools(&text("/etc/docker/daemon.json").unwrap_or_default())
}

fn read_pools(text: &str) -> Vec<Ipv4Net> {
    let settings: Value = serde_json::from_str(text).unwrap_or_default();
    let pools = settings["default-address-pools"].as_array().into_iter().flatten().map(|pool| &pool["base"]);
    let all = pools.chain([&settings["bip"], &settings["fixed-cidr"]]);
    all.filter_map(|subnet| subnet.as_str()?.parse::<Ipv4Net>().ok()).map(|subnet| subnet.trunc()).collect()
}

pub(super) fn forwards() -> Known<bool> {
    Ok(text("/proc/sys/net/ipv4/ip_forward")?.trim() == "1")
}

pub(super) async fn firewall() -> Firewall {
    let mut tables = Ok(String::new());
    let mut two_back_ends = false;
    for table in ["filter", "nat", "mangle"] {
        let shown = programs::output("iptables-save", &["-t", table]).await;
        two_back_ends |= shown.as_ref().is_ok_and(|shown| shown.stderr.contains("legacy tables present"));
        tables = tables.and_then(|all| Ok(all + &shown?.stdout));
    }
    let nftables = match programs::find("nft") {
        Some(_) => Some(programs::output("nft", &["list", "ruleset"]).await.map(|shown| shown.stdout)),
        None => None,
    };
    let trusted_zone = text("/etc/firewalld/zones/trusted.xml").unwrap_or_default();
    Firewall { tables, two_back_ends, nftables, trusted_zone }
}

pub(super) async fn resolvers(addresses: Vec<IpAddr>) -> Vec<Resolver> {
    let ask = |address| async move { Resolver { address, answers: answers(address).await } };
    join_all(addresses.into_iter().map(ask)).await
}

async fn answers(address: IpAddr) -> bool {
    let asked = async {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(SocketAddr::new(address, 53)).await?;
        socket.send(&QUESTION).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        // An answer has the number of its question. What it says does not matter.
        Ok::<_, std::io::Error>(answer[..length].starts_with(&QUESTION[..2]))
    };
    tokio::time::timeout(ANSWER, asked).await.is_ok_and(|answered| answered.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_shows_them() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            roost0\t00003F0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let expected = Route { subnet: "10.63.0.0/16".parse().unwrap(), interface: "roost0".into() };
        assert_eq!(read_routes(text), [expected]);
        assert_eq!(read_routes("nothing\tof\tthe kind\n"), []);
    }

    #[test]
    fn docker_may_be_told_which_addresses_it_gives() {
        let text =
            r#"{"bip": "10.63.0.1/24", "default-address-pools": [{"base": "10.64.0.0/12", "size": 24}]}"#;
        let pools: Vec<String> = read_pools(text).iter().map(ToString::to_string).collect();
        assert_eq!(pools, ["10.64.0.0/12", "10.63.0.0/24"]);
        for nothing in ["", "{}", "[1]", r#"{"bip": 7}"#] {
            assert_eq!(read_pools(nothing), []);
        }
    }

    #[tokio::test]
    async fn a_resolver_that_nobody_is_does_not_answer() {
        assert!(!answers("127.255.255.254".parse().unwrap()).await);
    }
}
