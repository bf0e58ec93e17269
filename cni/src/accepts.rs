//! The rules by which the firewall plugin lets attached addresses through: have they been cleared away?
//!
//! Owns the look. Never writes a rule: one that is gone is made again by the plugin, with a new attachment. An address
//! without such rules is none that lost them: not every chain of plugins makes any, and not in the same place.

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::sync::{Mutex, OnceCell};

use crate::Error;
use crate::iptables::{self, Failure};
use crate::ruleset;

/// What was seen of the firewall plugin's rules.
#[derive(Debug, Default)]
pub struct Accepts {
    seen: Mutex<Seen>,
    /// Does the kernel's number tell of rules that plugins write?
    numbered: OnceCell<bool>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Whether each address had its rules.
    rules: HashMap<IpAddr, bool>,
    /// The generation of the host's rules in which that was so.
    generation: Option<u32>,
}

impl Accepts {
    /// Has any of these addresses lost its rules since it was last asked about? What was not asked about before has lost
    /// nothing. While nobody changes any of the host's rules, this takes microseconds.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub async fn are_lost(&self, addresses: &[IpAddr]) -> Result<bool, Error> {
        let mut seen = self.seen.lock().await;
        let known = addresses.iter().all(|address| seen.rules.contains_key(address));
        if known
            && (addresses.is_empty() || seen.generation.is_some() && seen.generation == ruleset::generation())
        {
            return Ok(false);
        }
        let numbered = *self.numbered.get_or_try_init(iptables::are_nftables).await.map_err(failed)?;
        // Asked before the look: what is changed during it counts as not seen.
        let generation = if numbered { ruleset::generation() } else { None };
        let table = iptables::read("filter").await.map_err(failed)?;
        let rules = accepted(&table, addresses);
        let lost = rules.iter().any(|(address, is)| !is && seen.rules.get(address) == Some(&true));
        *seen = Seen { rules, generation };
        Ok(lost)
    }
}

/// Which of these addresses are let through, where `iptables-save` shows this table.
fn accepted(table: &str, addresses: &[IpAddr]) -> HashMap<IpAddr, bool> {
    let asked = table.lines().any(|line| line.starts_with("-A FORWARD ") && line.ends_with("-j CNI-FORWARD"));
    let is_accepted = |address: &IpAddr| {
        let rule = format!("-A CNI-FORWARD -s {address}/32 -j ACCEPT");
        asked && table.lines().any(|line| line == rule)
    };
    addresses.iter().map(|address| (*address, is_accepted(address))).collect()
}

fn failed(Failure { program, problem, .. }: Failure) -> Error {
    Error::Accepts { program, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
*filter
:FORWARD DROP [0:0]
:CNI-FORWARD - [0:0]
-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD
-A CNI-FORWARD -d 10.63.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.63.0.5/32 -j ACCEPT
COMMIT
";

    #[test]
    fn an_address_is_let_through_by_its_rule_and_the_way_to_it() {
        let addresses: [IpAddr; 2] = [[10, 63, 0, 5].into(), [10, 63, 0, 50].into()];
        let found = |table: &str| addresses.map(|address| accepted(table, &addresses)[&address]);
        assert_eq!(found(TABLE), [true, false]);
        assert_eq!(found(&TABLE.replace("-s 10.63.0.5/32", "-s 10.63.0.5/31")), [false, false]);
        assert_eq!(found(&TABLE.replace("-A FORWARD ", "-A INPUT ")), [false, false]);
        assert_eq!(found(""), [false, false]);
    }
}
