//! Networks kept apart: what comes in by one bridge of ours does not go out by another.
//!
//! Owns one chain of its own in iptables' `mangle` table and the jump to it. That table is asked before `filter`, so no rule
//! that accepts, in whatever order others put theirs, is asked first. There is none when there is nothing to keep apart.
//!
//! ```text
//! mangle FORWARD ─▶ ROOST-bridge:  in by b, out by b → RETURN      (only with br_netfilter: talk on one bridge)
//!                                  in by b, to an address of any network of ours → DROP
//! ```

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::Error;
use crate::iptables::Failure;
use crate::rules::{Held, Rules, Wanted};

/// What is to be apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    /// The interface names of the bridges.
    pub bridges: BTreeSet<String>,
    /// Where the addresses behind all of them are: few, because each bridge has a rule for each.
    pub subnets: Vec<IpNet>,
}

/// The bridges of a host, kept apart. Only for addresses of version 4.
#[derive(Debug)]
pub struct Isolation {
    rules: Rules<Segments>,
}

impl Wanted for Segments {
    const TABLE: &'static str = "mangle";
    const HOOK: &'static str = "FORWARD";
    const JUMP: &'static str = "-I FORWARD 1";

    /// Fewer than two bridges need nothing.
    fn rules(&self, chain: &str) -> Vec<String> {
        if self.bridges.len() < 2 {
            return Vec::new();
        }
        let mut rules = Vec::new();
        for bridge in &self.bridges {
            rules.push(format!("-A {chain} -i {bridge} -o {bridge} -j RETURN"));
            let to_ours =
                self.subnets.iter().map(|subnet| format!("-A {chain} -d {subnet} -i {bridge} -j DROP"));
            rules.extend(to_ours);
        }
        rules
    }
}

impl Isolation {
    /// Keeps nothing apart yet. `name` makes the chain's name, and is the host's own: at most 15 bytes, such as the main bridge's.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { rules: Rules::new(name) }
    }

    /// Keeps these apart, and no others. Fewer than two bridges need nothing.
    ///
    /// # Errors
    /// When the rules cannot be read or written; then those that were there still hold, and the next call tries again.
    pub async fn set(&self, segments: Segments) -> Result<(), Error> {
        self.rules.set(segments).await.map_err(failed)
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
    Error::Isolation { program, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::script;

    fn segments(bridges: &[&str]) -> Segments {
        Segments {
            bridges: bridges.iter().map(|bridge| (*bridge).to_owned()).collect(),
            subnets: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        }
    }

    #[test]
    fn neighbours_are_dropped_and_a_bridges_own_talk_and_the_way_out_are_not() {
        let two = segments(&["b0", "b0-1"]);
        let script = script("C", &two, "*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n").unwrap();
        assert_eq!(
            script,
            "*mangle\n:C - [0:0]\n\
             -A C -i b0 -o b0 -j RETURN\n-A C -d 10.1.0.0/16 -i b0 -j DROP\n-A C -d 10.2.0.0/16 -i b0 -j DROP\n\
             -A C -i b0-1 -o b0-1 -j RETURN\n-A C -d 10.1.0.0/16 -i b0-1 -j DROP\n-A C -d 10.2.0.0/16 -i b0-1 -j DROP\n\
             -I FORWARD 1 -j C\nCOMMIT\n"
        );
    }

    #[test]
    fn rules_that_are_there_are_left_alone_and_those_that_are_not_are_put_back() {
        let two = segments(&["b0", "b0-1"]);
        let chain = two.rules("C").join("\n");
        let whole = format!("*mangle\n:C - [0:0]\n-A FORWARD -j C\n{chain}\nCOMMIT\n");
        assert_eq!(script("C", &two, &whole), None);
        let jumpless = whole.replace("-A FORWARD -j C\n", "");
        assert!(script("C", &two, &jumpless).unwrap().contains("-I FORWARD 1 -j C\n"));
        let emptied = whole.replace(&chain, "");
        assert!(!script("C", &two, &emptied).unwrap().contains("-I FORWARD"));
    }

    #[test]
    fn a_bridge_alone_needs_no_rules_and_old_ones_go() {
        let one = segments(&["b0"]);
        assert_eq!(script("C", &one, ":C2 - [0:0]\n-A FORWARD -j C2\n"), None);
        let old = ":C - [0:0]\n-A FORWARD -j C\n-A FORWARD -j C\n-A C -i x -o x -j RETURN\n";
        let script = script("C", &one, old).unwrap();
        assert_eq!(script, "*mangle\n:C - [0:0]\n-D FORWARD -j C\n-D FORWARD -j C\n-X C\nCOMMIT\n");
    }
}
