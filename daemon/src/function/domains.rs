//! The hosts that are all a function's own, as a deployment says it.
//!
//! Owns the annotation `roost.domain`: its form, and that no two functions have the same. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use roost_proxy::function::FunctionKey;

use crate::function::spec::Deployment;

pub(super) const DOMAIN: &str = "roost.domain";

/// How many hosts a function may have.
const MAX_DOMAINS: usize = 32;

/// The longest name of a host, and the longest part of it, in bytes.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// By this name, and names below it, functions reach the gateway.
const GATEWAY: &str = "gateway.openfaas";

/// The hosts that a deployment's annotation names, in lower case.
///
/// # Errors
/// With what is wrong, named by the annotation.
pub fn parse(settings: &BTreeMap<&str, &str>) -> Result<Vec<String>, String> {
    let Some(value) = settings.get(DOMAIN) else { return Ok(Vec::new()) };
    let mut domains = Vec::new();
    for name in value.split(',').map(str::trim) {
        let name = self::name(name).map_err(|why| format!("{DOMAIN}: {name:?}: {why}"))?;
        if !domains.contains(&name) {
            domains.push(name);
        }
    }
    if domains.len() > MAX_DOMAINS {
        return Err(format!("{DOMAIN}: expected at most {MAX_DOMAINS} of them"));
    }
    Ok(domains)
}

/// The name of a host in the one form in which it is compared: in lower case, without a dot at its end.
///
/// # Errors
/// When it is none.
pub fn name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    check(&name)?;
    Ok(name)
}

/// Of a deployment that was accepted. What cannot be read was written by another version, and is none here.
#[must_use]
pub fn of(deployment: &Deployment) -> Vec<String> {
    parse(&deployment.settings()).unwrap_or_default()
}

/// Which of `domains` one of the others has already, and who.
pub fn taken<'a>(
    domains: &[String],
    others: impl Iterator<Item = (&'a FunctionKey, Vec<String>)>,
) -> Option<(String, &'a FunctionKey)> {
    let find = |(key, has): (&'a FunctionKey, Vec<String>)| {
        has.into_iter().find(|domain| domains.contains(domain)).map(|domain| (domain, key))
    };
    others.into_iter().find_map(find)
}

fn check(name: &str) -> Result<(), &'static str> {
    let is_label = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        letters && (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > MAX_NAME || !name.contains('.') || !name.split('.').all(is_label) {
        return Err("expected the name of a host, such as chat.example.org");
    }
    // No top-level domain is a number.
    if name.parse::<IpAddr>().is_ok() || name.rsplit('.').next().is_some_and(|top| top.parse::<u64>().is_ok())
    {
        return Err("expected a name, not an address");
    }
    if name == GATEWAY || name.strip_prefix(GATEWAY).is_some_and(|rest| rest.starts_with('.')) {
        return Err("functions reach Roost itself by this name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Vec<String>, String> {
        parse(&BTreeMap::from([(DOMAIN, value)]))
    }

    #[test]
    fn hosts_are_read_in_any_spelling_and_once_each() {
        assert_eq!(parse(&BTreeMap::new()), Ok(Vec::new()));
        assert_eq!(
            read("Chat.Example.org., a.b-c.example , chat.example.org").unwrap(),
            ["chat.example.org", "a.b-c.example"]
        );
    }

    #[test]
    fn what_is_no_host_of_its_own_is_refused_by_name() {
        let long = format!("{}.org", "a".repeat(64));
        let many = (0..33).map(|n| format!("h{n}.example")).collect::<Vec<_>>().join(",");
        for value in [
            "",
            "chat.example.org,",
            "localhost",
            "*.example.org",
            "chat.example.org:80",
            "https://chat.example.org",
            "chat..org",
            "-a.org",
            "a-.org",
            "ä.org",
            "127.0.0.1",
            "10.1",
            "gateway.openfaas",
            "gateway.openfaas.svc.cluster.local",
            &long,
            &many,
        ] {
            assert!(read(value).unwrap_err().starts_with("roost.domain: "), "{value}");
        }
    }

    #[test]
    fn of_two_functions_only_one_can_have_a_host() {
        let keys = ["chat", "shop.blue"].map(|name| FunctionKey::from_route(name).unwrap());
        let has = |name: &str| vec![format!("{name}.example.org"), "both.example.org".to_owned()];
        let others = || [(&keys[0], has("chat")), (&keys[1], has("shop"))].into_iter();
        let wanted = |name: &str| vec![name.to_owned()];
        assert_eq!(taken(&wanted("new.example.org"), others()), None);
        assert_eq!(taken(&[], others()), None);
        let found = taken(&wanted("shop.example.org"), others());
        assert_eq!(found, Some(("shop.example.org".to_owned(), &keys[1])));
    }
}
