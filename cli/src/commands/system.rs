//! `roost system`: what the daemon keeps on its disk, and keeping less.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use crate::args::Global;
use crate::output::{Output, bytes};

const NOTES: &str = "\
Unused images go by themselves: after images.keep_unused, and earlier where the disk is fuller than images.disk_high. What was \
imported stays until 'roost image remove'.

Examples:
  roost system disk
  roost system prune --dry-run
  roost system prune";

/// Show what the daemon keeps on its disk, and take away what nothing uses
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(crate) struct SystemArgs {
    #[command(subcommand)]
    verb: SystemVerb,
}

#[derive(Debug, Subcommand)]
enum SystemVerb {
    /// Show how full the disk is, and with what
    #[command(visible_alias = "df")]
    Disk,
    /// Remove all images that were pulled and that no function uses, in all namespaces
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Only list them
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    file_systems: Vec<FileSystem>,
    images: Images,
    state: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileSystem {
    path: String,
    holds: Vec<String>,
    size: u64,
    free: u64,
    used_percent: u8,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Images {
    count: usize,
    size: u64,
    unused_count: usize,
    unused_size: u64,
    high_percent: u8,
    low_percent: u8,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    size: u64,
    limit: Option<u64>,
}

/// An image that went, or would.
#[derive(Debug, Deserialize)]
struct Pruned {
    name: String,
    namespace: String,
    digest: String,
    size: u64,
}

pub(crate) fn run(args: &SystemArgs, global: &Global, out: &mut Output) -> Result<()> {
    match &args.verb {
        SystemVerb::Disk => disk(global, out),
        SystemVerb::Prune(args) => prune(args, global, out),
    }
}

fn disk(global: &Global, out: &mut Output) -> Result<()> {
    let told: Value = super::connect(global)?.disk()?;
    if out.json {
        return out.value(&told);
    }
    let report: Report = serde_json::from_value(told).context("the answer is not understood")?;
    out.table(&file_systems(&report))?;
    out.line("")?;
    out.table(&kept(&report))?;
    let Images { high_percent, low_percent, .. } = report.images;
    out.line("")?;
    Ok(out.line(format!(
        "Over {high_percent} % unused images go, longest unused first, until it is at {low_percent} %."
    ))?)
}

fn file_systems(report: &Report) -> Vec<Vec<String>> {
    let head = ["FILE SYSTEM OF", "SIZE", "FREE", "USED", "HOLDS"].map(str::to_owned).to_vec();
    let row = |one: &FileSystem| {
        vec![
            one.path.clone(),
            bytes(one.size),
            bytes(one.free),
            format!("{} %", one.used_percent),
            one.holds.join(", "),
        ]
    };
    std::iter::once(head).chain(report.file_systems.iter().map(row)).collect()
}

fn kept(report: &Report) -> Vec<Vec<String>> {
    let images = &report.images;
    let row = |what: String, size: u64, note: String| vec![what, bytes(size), note];
    let mut rows = vec![
        ["KEPT", "SIZE", ""].map(str::to_owned).to_vec(),
        row(format!("{} images", images.count), images.size, "compressed".to_owned()),
        row(
            "  unused".to_owned(),
            images.unused_size,
            format!("{} of them: roost system prune", images.unused_count),
        ),
    ];
    rows.extend(report.state.iter().map(|entry| {
        let limit = entry.limit.map(|limit| format!("of {}", bytes(limit)));
        row(entry.name.clone(), entry.size, limit.unwrap_or_default())
    }));
    rows
}

fn prune(args: &PruneArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    out.progress("Removing what nothing uses".to_owned());
    let told = client.prune(args.dry_run);
    out.clear();
    let told = told?;
    if out.json {
        return out.value(&told);
    }
    let pruned: Vec<Pruned> =
        serde_json::from_value(Value::Array(told)).context("the answer is not understood")?;
    for Pruned { name, namespace, .. } in &pruned {
        out.line(format!("{} {name} ({namespace})", if args.dry_run { "Unused:" } else { "Removed" }))?;
    }
    let (count, size) = sum(&pruned);
    let sum = format!("{count} images, {}", bytes(size));
    Ok(out.line(match (count, args.dry_run) {
        (0, _) => "Nothing is unused.".to_owned(),
        (_, true) => format!("{sum} (compressed) would be removed"),
        (_, false) => format!("{sum} (compressed) removed"),
    })?)
}

/// Each image once in each namespace, by however many names.
fn sum(pruned: &[Pruned]) -> (usize, u64) {
    let images: BTreeMap<_, _> = pruned.iter().map(|one| ((&one.namespace, &one.digest), one.size)).collect();
    (images.len(), images.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stands_beside_what_may_be() {
        let report: Report = serde_json::from_str(
            r#"{"fileSystems":[{"path":"/var/lib","holds":["images","state"],"size":1048576,"free":524288,"usedPercent":50}],
                "images":{"count":3,"size":3072,"unusedCount":1,"unusedSize":1024,"highPercent":85,"lowPercent":80},
                "state":[{"name":"queue","size":2048,"limit":4096},{"name":"logs","size":512}]}"#,
        )
        .unwrap();
        assert_eq!(file_systems(&report)[1], ["/var/lib", "1.0 MiB", "512.0 KiB", "50 %", "images, state"]);
        let kept = kept(&report);
        assert_eq!(kept[1], ["3 images", "3.0 KiB", "compressed"]);
        assert_eq!(kept[2], ["  unused", "1.0 KiB", "1 of them: roost system prune"]);
        assert_eq!(kept[3], ["queue", "2.0 KiB", "of 4.0 KiB"]);
        assert_eq!(kept[4], ["logs", "512 B", ""]);
    }

    #[test]
    fn an_image_of_two_names_is_one() {
        let pruned: Vec<Pruned> = serde_json::from_str(
            r#"[{"name":"a:1","namespace":"n","digest":"x","size":7},{"name":"a@x","namespace":"n","digest":"x","size":7}]"#,
        )
        .unwrap();
        assert_eq!(sum(&pruned), (1, 7));
    }
}
