//! What functions take that do nothing: at zero in the daemon, and with a replica each in all that belongs to them.

use std::time::Duration;

use roost_tests::{Config, ECHO, Host, Memory, Pages};
use serde_json::{Value, json};

use crate::figures::Table;

/// How many functions are at zero, and what they may take of the daemon together, in KiB.
const AT_ZERO: usize = 100;
const AT_ZERO_BAR: u64 = 40 * 1000 * 1000 / 1024;
/// How many have a replica that does nothing, and what all may take, in KiB.
const IDLE: usize = 30;
const IDLE_BAR: u64 = 512 * 1000 * 1000 / 1024;
/// So many are deployed at a time.
const AT_A_TIME: usize = 5;

pub(crate) async fn measure() {
    at_zero().await;
    with_a_replica().await;
}

fn met(figure: u64, bar: u64) -> &'static str {
    if figure <= bar { "met" } else { "not met" }
}

/// Deploys so many functions as anybody does, without a word of what is to be kept of them.
async fn deploy(host: &Host, count: usize, then_zero: bool) {
    let names: Vec<_> = (0..count).map(|n| format!("idle-{n}")).collect();
    for some in names.chunks(AT_A_TIME) {
        for name in some {
            host.post_function(&json!({ "service": name, "image": ECHO })).await;
        }
        for name in some {
            host.ready(name).await;
            host.assert_echoes(name).await;
        }
        for name in some.iter().filter(|_| then_zero) {
            host.scale(name, 0).await;
            host.status(name, "at rest", rests).await;
        }
    }
}

/// Is there nothing but what is kept of a function at zero?
fn rests(status: &Value) -> bool {
    let replicas = status["replicas"].as_array().into_iter().flatten();
    status["phase"] == "Idle"
        && replicas.map(|replica| &replica["phase"]).all(|phase| phase == "created" || phase == "paused")
}

/// The least of what was seen in a while: threads and buffers of what was just done go by and by.
async fn settled(host: &Host) -> Vec<Memory> {
    let mut least: Option<Vec<Memory>> = None;
    for _ in 0..15 {
        let now = host.memory();
        if least.as_ref().is_none_or(|least| sum(&now).pss < sum(least).pss) {
            least = Some(now);
        }
        // Nothing tells that memory was given back.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    least.unwrap()
}

fn sum(memory: &[Memory]) -> Pages {
    memory.iter().fold(Pages::default(), |sum, one| sum + one.pages)
}

fn of<'a>(memory: &'a [Memory], what: &'a str) -> Vec<Memory> {
    memory.iter().filter(|one| one.what == what).cloned().collect()
}

async fn at_zero() {
    let host = Host::with_echo(Config::default()).await;
    // What the first function costs, all have in common.
    deploy(&host, 1, true).await;
    host.remove("idle-0").await;
    let without = settled(&host).await;
    deploy(&host, AT_ZERO, true).await;
    let with = settled(&host).await;
    let kinds = ["roostd", "shim", "log driver", "function"];
    println!("no functions\n\n{}", table(&without, &kinds));
    println!("{AT_ZERO} functions at zero\n\n{}", table(&with, &kinds));
    let of_daemon = |memory| sum(&of(memory, "roostd")).rss;
    let more = of_daemon(&with).saturating_sub(of_daemon(&without));
    println!(
        "{AT_ZERO} functions at zero: {more} KiB more of roostd, bar {AT_ZERO_BAR} KiB ({})\n",
        met(more, AT_ZERO_BAR)
    );
}

fn table(memory: &[Memory], kinds: &[&str]) -> Table {
    let mut table = Table::new(&["KiB", "processes", "resident", "proportional"]);
    for what in kinds {
        let some = of(memory, what);
        let Pages { rss, pss } = sum(&some);
        table.row(&[(*what).to_owned(), some.len().to_string(), rss.to_string(), pss.to_string()]);
    }
    table
}

async fn with_a_replica() {
    let host = Host::with_echo(Config::default()).await;
    deploy(&host, IDLE, false).await;
    let memory = settled(&host).await;
    let all = sum(&memory).pss;
    let without = all - sum(&of(&memory, "containerd")).pss;
    println!("{}", table(&memory, &["roostd", "shim", "log driver", "function", "containerd"]));
    println!(
        "{IDLE} functions with an idle replica: {without} KiB, with containerd {all} KiB, bar {IDLE_BAR} KiB ({})\n",
        met(all, IDLE_BAR)
    );
}
