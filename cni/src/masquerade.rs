//! The way out: what leaves a network of ours gets the address of the host.
//!
//! Owns one chain of its own in iptables' `nat` table and the jump to it: one rule for each subnet, made once, where plugins make a
//! chain for each attachment, of which two thirds of the time of an attachment are spent. Which subnets want it is said by their
//! conflist. Only for addresses of version 4.
//!
//! ```text
//! nat POSTROUTING ─▶ ROOST-bridge:  to a multicast address → RETURN
//!                                   from a subnet of ours, to elsewhere → MASQUERADE
//! ```

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::Error;
use crate::iptables::Failure;
use crate::rules::{Held, Rules, Wanted};

/// The addresses of version 4 that are nobody's own.
const MULTICAST: &str = "224.0.0.0/4";

/// The subnets of a host that reach what is outside by the host's address.
#[derive(Debug)]
pub struct Masquerade {
    rules: Rules<Subnets>,
}

#[derive(Debug, Default)]
struct Subnets(BTreeSet<IpNet>);

impl Wanted for Subnets {
    const TABLE: &'static str = "nat";
    const HOOK: &'static str = "POSTROUTING";
    // Behind what others have there, as plugins put theirs.
    const JUMP: &'static str = "-A POSTROUTING";

    fn rules(&self, chain: &str) -> Vec<String> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let out = |subnet| format!("-A {chain} -s {subnet} ! -d {subnet} -j MASQUERADE");
        let multicast = format!("-A {chain} -d {MULTICAST} -j RETURN");
        [multicast].into_iter().chain(self.0.iter().map(out)).collect()
    }
}

impl Masquerade {
    /// Masquerades nothing yet. `name` makes the chain's name, and is the host's own: at most 15 bytes, such as the main bridge's.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { rules: Rules::new(name) }
    }

    /// Masquerades what comes from these subnets, and from no others. Those that are not of version 4 are left out.
    ///
    /// # Errors
    /// When the rules cannot be read or written; then those that were there still hold, and the next call tries again.
    pub async fn set(&self, subnets: BTreeSet<IpNet>) -> Result<(), Error> {
        let subnets = subnets.into_iter().filter(|subnet| subnet.addr().is_ipv4());
        self.rules.set(Subnets(subnets.map(|subnet| subnet.trunc()).collect())).await.map_err(failed)
    }

    /// Sees to it that the rules are still there: others may have cleared all rules away. One look serves all who wait for one.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub async fn hold(&self) -> Result<Held, Error> {
        self.rules.hold().await.map_err(failed)
    }
}

fn failed(Failure { program, problem, .. }: Failure) -> Error {
    Error::Masquerade { program, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::script;

    fn subnets(subnets: &[&str]) -> Subnets {
        Subnets(subnets.iter().map(|subnet| subnet.parse().unwrap()).collect())
    }

    #[test]
    fn what_leaves_a_subnet_is_masqueraded_and_nothing_else() {
        let two = subnets(&["10.1.0.0/16", "10.2.3.0/24"]);
        let first = script("C", &two, "*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n").unwrap();
        assert_eq!(
            first,
            "*nat\n:C - [0:0]\n-A C -d 224.0.0.0/4 -j RETURN\n\
             -A C -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE\n\
             -A C -s 10.2.3.0/24 ! -d 10.2.3.0/24 -j MASQUERADE\n\
             -A POSTROUTING -j C\nCOMMIT\n"
        );
        assert_eq!(script("C", &two, &first), None);
    }

    #[test]
    fn the_rule_of_a_subnet_that_is_gone_goes_and_with_the_last_the_chain() {
        let two = subnets(&["10.1.0.0/16", "10.2.3.0/24"]);
        let present = script("C", &two, "").unwrap();
        let one = script("C", &subnets(&["10.1.0.0/16"]), &present).unwrap();
        assert!(one.contains("10.1.0.0/16") && !one.contains("10.2.3.0/24"), "{one}");
        assert!(!one.contains("POSTROUTING"), "{one}");
        let none = script("C", &subnets(&[]), &present).unwrap();
        assert_eq!(none, "*nat\n:C - [0:0]\n-D POSTROUTING -j C\n-X C\nCOMMIT\n");
    }
}
