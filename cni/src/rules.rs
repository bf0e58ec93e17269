//! A chain of ours in one of iptables' tables, kept as it is wanted whatever others do to the host's rules.
//!
//! Owns the look at the table and the one transaction that puts right what is not as wanted. Never touches a rule of anybody else;
//! leaves neither chain nor jump when no rule is wanted. What the rules say is told by [`Wanted`].
//!
//! A look runs programs, which takes milliseconds, and is asked for at each start of a replica. So the kernel is asked first
//! whether any rule was changed since the last look that found all well ([`ruleset`]): that takes microseconds.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, OnceCell};

use crate::iptables::{self, Failure};
use crate::ruleset;

/// What a chain is to say, and from where it is asked.
pub(crate) trait Wanted: Default {
    /// The table.
    const TABLE: &'static str;
    /// The chain of the kernel's that asks ours.
    const HOOK: &'static str;
    /// How the jump gets in there: `-I HOOK 1` or `-A HOOK`.
    const JUMP: &'static str;

    /// The rules of `chain`, spelled as `iptables-save` spells them. None, and there is no chain.
    fn rules(&self, chain: &str) -> Vec<String>;
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All was as it should be.
    Intact,
    /// Somebody had cleared rules away; ours are back. Those that plugins made may be gone too.
    Restored,
}

/// A chain and what it is to say.
#[derive(Debug)]
pub(crate) struct Rules<W> {
    chain: String,
    kept: Mutex<Kept<W>>,
    /// Does the kernel's number tell of rules that our programs write?
    numbered: OnceCell<bool>,
    /// How many have asked for a look so far.
    asked: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept<W> {
    wanted: W,
    /// How many of those that asked are served: a look that begins later than they asked tells them what they want to know.
    served: u64,
    /// What that look told.
    found: Option<Held>,
    /// The generation of the host's rules in which all was as it should be.
    intact_in: Option<u32>,
}

impl<W: Wanted> Rules<W> {
    /// Wants nothing yet. `name` makes the chain's name, and is the host's own: at most 15 bytes.
    pub(crate) fn new(name: &str) -> Self {
        let (kept, numbered, asked) = Default::default();
        Self { chain: format!("ROOST-{name}"), kept, numbered, asked }
    }

    /// Wants this, and nothing else. When it fails, what was there still holds, and the next call tries again.
    pub(crate) async fn set(&self, wanted: W) -> Result<(), Failure> {
        let mut kept = self.kept.lock().await;
        kept.wanted = wanted;
        self.look(&mut kept).await.map(drop)
    }

    /// Sees to it that what is wanted is still there. One look serves all who wait for one.
    pub(crate) async fn hold(&self) -> Result<Held, Failure> {
        let mine = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut kept = self.kept.lock().await;
        if kept.wanted.rules(&self.chain).is_empty() {
            return Ok(Held::Intact);
        }
        if let Some(found) = kept.found.filter(|_| kept.served >= mine) {
            return Ok(found);
        }
        if kept.intact_in.is_some() && kept.intact_in == ruleset::generation() {
            return Ok(Held::Intact);
        }
        self.look(&mut kept).await
    }

    async fn look(&self, kept: &mut Kept<W>) -> Result<Held, Failure> {
        let waiting = self.asked.load(Ordering::Relaxed);
        kept.intact_in = None;
        // Asked before the look: what is changed during it counts as not seen.
        let numbered = *self.numbered.get_or_try_init(iptables::are_nftables).await?;
        let generation = if numbered { ruleset::generation() } else { None };
        let (wanted, chain) = (&kept.wanted, &self.chain);
        let changed = iptables::change(W::TABLE, |present| script(chain, wanted, present)).await?;
        let found = if changed { Held::Restored } else { Held::Intact };
        // What has just been written is in a generation that was not there to be asked about.
        kept.intact_in = generation.filter(|_| found == Held::Intact);
        (kept.served, kept.found) = (waiting, Some(found));
        Ok(found)
    }
}

/// What `iptables-restore` is to do so that there is what is `wanted`, where `iptables-save` shows what is `present`. Nothing if
/// there is.
pub(crate) fn script<W: Wanted>(chain: &str, wanted: &W, present: &str) -> Option<String> {
    let jump = format!("-A {} -j {chain}", W::HOOK);
    let of_chain = format!("-A {chain} ");
    let jumps = present.lines().filter(|line| *line == jump).count();
    let declared = present.lines().any(|line| line.starts_with(&format!(":{chain} ")));
    let rules = wanted.rules(chain);
    let mut script = format!("*{}\n:{chain} - [0:0]\n", W::TABLE);
    if rules.is_empty() {
        if !declared {
            return None;
        }
        script.push_str(&format!("-D {} -j {chain}\n", W::HOOK).repeat(jumps));
        script.push_str(&format!("-X {chain}\n"));
    } else {
        let as_wanted = present.lines().filter(|line| line.starts_with(&of_chain)).eq(rules.iter());
        if as_wanted && jumps > 0 {
            return None;
        }
        script.push_str(&rules.join("\n"));
        script.push('\n');
        if jumps == 0 {
            script.push_str(&format!("{} -j {chain}\n", W::JUMP));
        }
    }
    script.push_str("COMMIT\n");
    Some(script)
}
