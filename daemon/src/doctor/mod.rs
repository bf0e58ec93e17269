//! The self-check: has this machine what Roost needs, and if not, what repairs it?
//!
//! Owns which checks there are and how they end. Facts are read once, in one place ([`facts`]); each check ([`checks`]) is a
//! pure function from them to a finding; [`report`] says it to people and programs. Changes nothing on the machine, needs no
//! daemon, and takes seconds at most: whatever is asked of others has a deadline. What cannot be read is said so.
//!
//! `install.sh` looks at a part of this before there is a program to ask: what it calls a problem is one here, too.
//!
//! ```text
//! settings, /proc, /sys, files, programs, containerd ──read──▶ Facts ──each check──▶ Finding ──▶ report, exit status
//! ```

mod checks;
mod facts;
mod report;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use self::facts::Facts;

/// What `--help` says behind the options.
pub(crate) const HELP: &str = "\
Each check ends with ok, warning or problem. A warning is what may be meant so, or could not be seen; a problem keeps \
functions from running, answering or coming back after a reboot, or leaves the machine open.

Run it as root: others see less, and are told so.

Exit codes: 0 there is no problem, 1 there is one, 2 the command line is wrong.";

/// How a check ends, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    /// One line.
    found: String,
    /// What repairs it: each a command, or what is to be written where.
    fix: Vec<String>,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, found: found.into(), fix: Vec::new() }
    }

    fn warning(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, found: found.into(), fix: vec![fix.into()] }
    }

    fn problem(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::warning(found, fix) }
    }

    /// What could not be read, and why.
    fn unknown(what: &str, why: &str) -> Self {
        Self { verdict: Verdict::Warning, found: format!("cannot tell {what}: {why}"), fix: Vec::new() }
    }

    /// Several as one. What is well is only told where all is.
    fn all(findings: Vec<Self>) -> Self {
        let verdict = findings.iter().map(|one| one.verdict).max().unwrap_or(Verdict::Ok);
        let told = findings.into_iter().filter(|one| verdict == Verdict::Ok || one.verdict != Verdict::Ok);
        let (mut found, mut fix) = (Vec::new(), Vec::new());
        for one in told {
            found.push(one.found);
            for line in one.fix {
                if !fix.contains(&line) {
                    fix.push(line);
                }
            }
        }
        Self { verdict, found: found.join("; "), fix }
    }
}

/// What decides.
type Check = fn(&Facts) -> Finding;

/// All of them, in the order in which they are told: what others build on comes first.
const CHECKS: [(&str, Check); 20] = [
    ("rights", checks::settings::rights),
    ("settings", checks::settings::settings),
    ("kernel", checks::kernel::kernel),
    ("bridge filter", checks::kernel::bridge_filter),
    ("cgroups", checks::kernel::cgroups),
    ("containerd", checks::containerd::containerd),
    ("runtime", checks::containerd::runtime),
    ("cni plugins", checks::network::plugins),
    ("subnets", checks::network::subnets),
    ("forwarding", checks::network::forwarding),
    ("firewall", checks::firewall::firewall),
    ("dns", checks::network::dns),
    ("clock", checks::machine::clock),
    ("disk", checks::machine::disk),
    ("open files", checks::machine::open_files),
    ("ports", checks::machine::ports),
    ("access", checks::secrets::access),
    ("secrets", checks::secrets::secrets),
    ("certificates", checks::secrets::certificates),
    ("service", checks::service::service),
];

/// A check with its end.
#[derive(Debug, Serialize)]
struct Checked {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

fn check(facts: &Facts) -> Vec<Checked> {
    CHECKS.into_iter().map(|(name, check)| Checked { name, finding: check(facts) }).collect()
}

/// Reads the facts, checks them and prints what was found.
#[must_use]
pub fn run(config: &Path, json: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let facts = match runtime {
        Ok(runtime) => runtime.block_on(Facts::read(config)),
        Err(error) => {
            print(&mut std::io::stderr(), &format!("roostd: cannot start an async worker: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let checked = check(&facts);
    let worst = checked.iter().map(|one| one.finding.verdict).max().unwrap_or(Verdict::Ok);
    let stdout = std::io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let text = if json { report::json(&checked, worst) } else { report::text(&checked, colour) };
    print(&mut stdout.lock(), &text);
    if worst == Verdict::Problem { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A reader that is gone has seen enough.
fn print(to: &mut impl Write, text: &str) {
    if to.write_all(text.as_bytes()).is_ok() {
        to.flush().ok();
    }
}
