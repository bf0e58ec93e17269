//! The `ipam` part of a plugin's settings, as `host-local` reads it.
//!
//! Owns the reading and changing of subnet, gateway and directory. Never gives an address away itself.
//!
//! `host-local` knows two spellings: a range written straight into `ipam` (`"subnet": …`), and `ranges`, a list of lists of
//! ranges, from each of which one address is given. A range in the first spelling counts as the first of the second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::conflist::Mistake;

/// The first address of the first range that the plugin itself would take for the gateway.
pub(crate) fn gateway(config: &Map<String, Value>) -> Option<IpAddr> {
    let range = first_range(config)?;
    match range.get("gateway").and_then(Value::as_str) {
        Some(text) => text.parse().ok(),
        None => Some(after(subnet_of(range)?.network())),
    }
}

/// The first subnet.
pub(crate) fn subnet(config: &Map<String, Value>) -> Option<IpNet> {
    subnet_of(first_range(config)?)
}

/// All subnets.
pub(crate) fn subnets(config: &Map<String, Value>) -> Vec<IpNet> {
    let Some(ipam) = ipam(config) else { return Vec::new() };
    let sets = ipam.get("ranges").and_then(Value::as_array).into_iter().flatten();
    let ranges = sets.filter_map(Value::as_array).flatten().filter_map(Value::as_object);
    [ipam].into_iter().chain(ranges).filter_map(subnet_of).collect()
}

/// Checks the subnets and what must lie in them. Only `host-local` is known well enough.
pub(crate) fn validate(config: &Map<String, Value>, key: &str) -> Result<(), Mistake> {
    let Some(ipam) = ipam(config).filter(|ipam| ipam.get("type").is_some_and(|kind| kind == "host-local"))
    else {
        return Ok(());
    };
    let key = format!("{key}.ipam");
    if ipam.contains_key("subnet") {
        validate_range(ipam, &key)?;
    }
    let sets = match ipam.get("ranges") {
        None => return Ok(()),
        Some(Value::Array(sets)) => sets,
        Some(_) => return Err(Mistake::new(format!("{key}.ranges"), "expected a list of lists of ranges")),
    };
    for (i, set) in sets.iter().enumerate() {
        let key = format!("{key}.ranges[{i}]");
        let Value::Array(set) = set else { return Err(Mistake::new(key, "expected a list of ranges")) };
        for (j, range) in set.iter().enumerate() {
            let key = format!("{key}[{j}]");
            let Value::Object(range) = range else { return Err(Mistake::new(key, "expected an object")) };
            validate_range(range, &key)?;
        }
    }
    Ok(())
}

fn validate_range(range: &Map<String, Value>, key: &str) -> Result<(), Mistake> {
    let text = range.get("subnet").and_then(Value::as_str).unwrap_or_default();
    let subnet: IpNet = text.parse().map_err(|_| {
        Mistake::new(format!("{key}.subnet"), format!("{text:?} is not a subnet, as 10.63.0.0/16"))
    })?;
    if subnet.prefix_len() + 2 > subnet.max_prefix_len() {
        return Err(Mistake::new(
            format!("{key}.subnet"),
            format!("{subnet} has no room for a gateway and a function"),
        ));
    }
    for name in ["gateway", "rangeStart", "rangeEnd"] {
        let Some(value) = range.get(name) else { continue };
        let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        if !address.is_some_and(|address| subnet.contains(&address)) {
            return Err(Mistake::new(
                format!("{key}.{name}"),
                format!("{value} is not an address in {subnet}"),
            ));
        }
    }
    Ok(())
}

/// Puts `subnet` where the first one of its family is. A `gateway` or bounds outside of it are then found by validation.
pub(crate) fn set_subnet(config: &mut Map<String, Value>, key: &str, subnet: IpNet) -> Result<(), Mistake> {
    let ipam = ipam_mut(config, key)?;
    let same_family = |range: &Map<String, Value>| {
        subnet_of(range).is_some_and(|old| old.addr().is_ipv4() == subnet.addr().is_ipv4())
    };
    let range = if same_family(ipam) {
        ipam
    } else {
        ranges_mut(ipam).find(|range| same_family(range)).ok_or_else(|| {
            Mistake::new(
                format!("{key}.ipam"),
                format!("has no range of the family of {subnet} to be replaced"),
            )
        })?
    };
    range.insert("subnet".into(), subnet.trunc().to_string().into());
    Ok(())
}

/// Puts `subnet` in the place of all that is said about addresses: of other families, and of gateways and bounds. Routes of other
/// families go with them.
pub(crate) fn set_only(config: &mut Map<String, Value>, key: &str, subnet: IpNet) -> Result<(), Mistake> {
    let ipam = ipam_mut(config, key)?;
    for name in ["subnet", "gateway", "rangeStart", "rangeEnd"] {
        ipam.remove(name);
    }
    let mut range = Map::new();
    range.insert("subnet".into(), subnet.trunc().to_string().into());
    ipam.insert("ranges".into(), vec![vec![Value::Object(range)]].into());
    let same_family = |route: &Value| {
        let to = route.get("dst").and_then(Value::as_str).and_then(|to| to.parse::<IpNet>().ok());
        to.is_none_or(|to| to.addr().is_ipv4() == subnet.addr().is_ipv4())
    };
    if let Some(routes) = ipam.get_mut("routes").and_then(Value::as_array_mut) {
        routes.retain(same_family);
    }
    Ok(())
}

/// Sets the directory in which the addresses in use are noted.
pub(crate) fn set_directory(config: &mut Map<String, Value>, key: &str, dir: &Path) -> Result<(), Mistake> {
    let ipam = ipam_mut(config, key)?;
    let Some(dir) = dir.to_str() else {
        return Err(Mistake::new(format!("{key}.ipam.dataDir"), format!("{} is not UTF-8", dir.display())));
    };
    ipam.insert("dataDir".into(), dir.into());
    Ok(())
}

/// The directory in which `host-local` notes the addresses of the network `name`, if it is told.
pub(crate) fn directory(config: &Map<String, Value>, name: &str) -> Option<PathBuf> {
    let ipam = ipam(config).filter(|ipam| ipam.get("type").is_some_and(|kind| kind == "host-local"))?;
    Some(Path::new(ipam.get("dataDir")?.as_str()?).join(name))
}

fn ipam(config: &Map<String, Value>) -> Option<&Map<String, Value>> {
    config.get("ipam")?.as_object()
}

fn ipam_mut<'a>(
    config: &'a mut Map<String, Value>,
    key: &str,
) -> Result<&'a mut Map<String, Value>, Mistake> {
    config.get_mut("ipam").and_then(Value::as_object_mut).filter(|ipam| !ipam.is_empty()).ok_or_else(|| {
        Mistake::new(format!("{key}.ipam"), "is missing: subnet and ipam directory cannot be set")
    })
}

fn first_range(config: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let ipam = ipam(config)?;
    if ipam.contains_key("subnet") {
        return Some(ipam);
    }
    ipam.get("ranges")?.as_array()?.iter().filter_map(Value::as_array).flatten().find_map(Value::as_object)
}

fn ranges_mut(ipam: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    ipam.get_mut("ranges")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_array_mut)
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn subnet_of(range: &Map<String, Value>) -> Option<IpNet> {
    range.get("subnet")?.as_str()?.parse::<IpNet>().ok().map(|subnet| subnet.trunc())
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
    }
}
