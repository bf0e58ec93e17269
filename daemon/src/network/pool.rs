//! The networks of further namespaces, cut from what the settings give for them.
//!
//! Owns the arithmetic: which index has which subnet, bridge and network name. Pure; makes nothing.

use ipnet::{IpNet, Ipv4Net};
use roost_cni::{Conflist, Overrides};
use roost_proxy::function::Namespace;

/// How much longer than the pool's prefix a namespace's is: the pool has room for 256.
const CUT: u8 = 8;

/// The longest prefix of a namespace's subnet: 13 addresses for replicas.
pub(crate) const LONGEST_PREFIX: u8 = 28;

/// The longest name of a bridge that an index fits behind.
const LONGEST_BRIDGE: usize = 11;

/// What the networks of further namespaces are cut from.
#[derive(Debug)]
pub(super) struct Pool {
    conflist: Conflist,
    bridge: String,
    subnets: Vec<Ipv4Net>,
}

impl Pool {
    /// Networks like `conflist`'s, with subnets from `whole`.
    ///
    /// # Errors
    /// With what there is to change before there can be any.
    pub(super) fn new(conflist: &Conflist, whole: IpNet) -> Result<Self, String> {
        let IpNet::V4(whole) = whole else {
            return Err(format!("network.namespaces = {whole}: expected a subnet of IPv4"));
        };
        let bridge =
            conflist.bridge().ok_or("the conflist names no bridge: only bridges can be kept apart")?;
        if bridge.len() > LONGEST_BRIDGE {
            return Err(format!(
                "the name of the bridge {bridge} is too long to derive others from: at most {LONGEST_BRIDGE} bytes"
            ));
        }
        if let Some(IpNet::V4(subnet)) = conflist.subnet()
            && (subnet.contains(&whole) || whole.contains(&subnet))
        {
            return Err(format!("network.namespaces = {whole} overlaps {subnet}, the subnet of openfaas-fn"));
        }
        let prefix = (whole.prefix_len() + CUT).min(LONGEST_PREFIX);
        let subnets = whole.subnets(prefix).map_err(|_| {
            format!("network.namespaces = {whole}: expected a prefix of at most /{LONGEST_PREFIX}")
        })?;
        let subnets = subnets.take(1 << CUT).collect();
        Ok(Self { conflist: conflist.clone(), bridge: bridge.to_owned(), subnets })
    }

    /// The last index; the first is 1.
    pub(super) fn last(&self) -> u32 {
        u32::try_from(self.subnets.len()).unwrap_or(u32::MAX)
    }

    /// The network of `namespace`, which has `index`.
    ///
    /// # Errors
    /// When there is no such index, or no such conflist.
    pub(super) fn network(&self, namespace: &Namespace, index: u32) -> Result<Conflist, String> {
        let place = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
        let subnet = place.and_then(|place| self.subnets.get(place)).ok_or_else(|| {
            format!("network.namespaces has no subnet number {index} for {namespace}: it has {}", self.last())
        })?;
        let overrides = Overrides {
            name: Some(format!("{}-{namespace}", self.conflist.name())),
            bridge: Some(format!("{}-{index}", self.bridge)),
            only_subnet: Some(IpNet::V4(*subnet)),
            ..Overrides::default()
        };
        self.conflist.clone().with_overrides(&overrides).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(bridge: &str, subnet: &str, whole: &str) -> Result<Pool, String> {
        let conflist = serde_json::json!({"cniVersion": "0.4.0", "name": "roost", "plugins": [{
            "type": "bridge", "bridge": bridge,
            "ipam": {"type": "host-local", "dataDir": "/d", "ranges": [[{"subnet": subnet}]]}
        }]});
        Pool::new(&Conflist::parse(conflist.to_string().as_bytes()).unwrap(), whole.parse().unwrap())
    }

    #[test]
    fn each_index_has_a_subnet_and_a_bridge_of_its_own() {
        for (whole, index, subnet, gateway, last) in [
            ("10.64.0.0/16", 1, "10.64.0.0/24", "10.64.0.1", 256),
            ("10.64.0.0/16", 256, "10.64.255.0/24", "10.64.255.1", 256),
            ("10.9.9.128/25", 8, "10.9.9.240/28", "10.9.9.241", 8),
            ("10.9.9.16/28", 1, "10.9.9.16/28", "10.9.9.17", 1),
            ("10.0.0.0/9", 2, "10.0.128.0/17", "10.0.128.1", 256),
        ] {
            let pool = pool("roost0", "192.168.0.0/16", whole).unwrap();
            let network = pool.network(&"blue".parse().unwrap(), index).unwrap();
            assert_eq!(network.subnet(), Some(subnet.parse().unwrap()), "{whole}");
            assert_eq!(network.gateway(), Some(gateway.parse().unwrap()), "{whole}");
            assert_eq!((network.name(), network.bridge()), ("roost-blue", Some(&*format!("roost0-{index}"))));
            assert_eq!(pool.last(), last, "{whole}");
            for out in [0, last + 1] {
                assert!(pool.network(&"blue".parse().unwrap(), out).is_err(), "{whole} {out}");
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_what_to_change() {
        for (bridge, subnet, whole, why) in [
            ("roost0", "10.63.0.0/16", "10.63.128.0/17", "overlaps"),
            ("roost0", "10.64.3.0/24", "10.64.0.0/16", "overlaps"),
            ("roost0", "10.63.0.0/16", "10.64.0.0/29", "prefix"),
            ("roost0", "10.63.0.0/16", "fd00::/48", "IPv4"),
            ("a-long-bridge", "10.63.0.0/16", "10.64.0.0/16", "too long"),
        ] {
            let refused = pool(bridge, subnet, whole).unwrap_err();
            assert!(refused.contains(why), "{whole}: {refused}");
        }
    }
}
