//! How what was found is said: a line for each check, and below it what repairs it; or JSON.

use serde_json::json;

use super::{Checked, Verdict};

/// For people.
pub(super) fn text(checked: &[Checked], colour: bool) -> String {
    let width = checked.iter().map(|one| one.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Checked { name, finding } in checked {
        let (on, off) = if colour { (paint(finding.verdict), "\x1b[0m") } else { ("", "") };
        let (verdict, found) = (word(finding.verdict), &finding.found);
        text.push_str(&format!("{on}{verdict:7}{off}  {name:width$}  {found}\n"));
        for fix in &finding.fix {
            text.push_str(&format!("{:7}  {:width$}  fix: {fix}\n", "", ""));
        }
    }
    text.push_str(&sum(checked));
    text
}

/// For programs.
pub(super) fn json(checked: &[Checked], worst: Verdict) -> String {
    let report = json!({ "version": env!("CARGO_PKG_VERSION"), "verdict": worst, "checks": checked });
    format!("{report:#}\n")
}

fn sum(checked: &[Checked]) -> String {
    let count = |verdict| checked.iter().filter(|one| one.finding.verdict == verdict).count();
    let some = |count: usize, what: &str| match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let (problems, warnings) =
        (some(count(Verdict::Problem), "problem"), some(count(Verdict::Warning), "warning"));
    format!("\n{} checks: {problems}, {warnings}\n", checked.len())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Problem => "problem",
    }
}

fn paint(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "\x1b[32m",
        Verdict::Warning => "\x1b[33m",
        Verdict::Problem => "\x1b[1;31m",
    }
}
