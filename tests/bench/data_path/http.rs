//! Requests: small ones, and bodies of 64 KiB that are echoed. wrk is the client.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::figures::{Figures, Table, shown};
use crate::peers::{Peer, Peers};

/// How many bytes a large body has.
const LARGE: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
enum Load {
    Get,
    Post,
}

/// What one proxy did with one load.
#[derive(Debug, Default)]
struct Results {
    per_second: Figures,
    micros: Figures,
    p99: Figures,
}

pub(crate) async fn measure(peers: &Peers, rounds: usize, turn: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("post.lua");
    let body = format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {LARGE})\n");
    std::fs::write(&script, body).unwrap();
    for (load, connections) in [(Load::Get, 32), (Load::Get, 128), (Load::Post, 32), (Load::Post, 128)] {
        let mut results: Vec<Results> = peers.all().iter().map(|_| Results::default()).collect();
        for peer in peers.all() {
            run(peer, load, connections, Duration::from_secs(1), &script).await;
        }
        for _ in 0..rounds {
            for (peer, results) in peers.all().iter().zip(&mut results) {
                let before = peer.cpu();
                let (requests, per_second, p99) = run(peer, load, connections, turn, &script).await;
                results.per_second.add_number(per_second);
                results.micros.add_number((peer.cpu() - before).as_secs_f64() * 1e6 / requests);
                results.p99.add_number(p99);
            }
        }
        let what = match load {
            Load::Get => "GET, small",
            Load::Post => "POST, 64 KiB, echoed",
        };
        println!("\n{what}, {connections} connections, {rounds} turns of {turn:?}\n");
        print(peers, &results);
    }
}

fn print(peers: &Peers, results: &[Results]) {
    let mut table =
        Table::new(&["", "requests/s", "CPU µs each", "least", "p99 ms", "CPU ratio", "p99 ratio"]);
    for (peer, of) in peers.all().iter().zip(results) {
        table.row(&[
            peer.name.to_owned(),
            shown(of.per_second.median()),
            shown(of.micros.median()),
            shown(of.micros.percentile(0)),
            of.p99.median().map_or_else(String::new, |p99| format!("{p99:.2}")),
            results[0].micros.ratio(of.micros.median()),
            results[0].p99.ratio(of.p99.median()),
        ]);
    }
    println!("{table}");
}

/// Requests, requests per second, and the 99th percentile of how long they took, in milliseconds.
async fn run(peer: &Peer, load: Load, connections: usize, turn: Duration, script: &Path) -> (f64, f64, f64) {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "--latency", "--timeout", "10s"]);
    wrk.arg(format!("-c{connections}")).arg(format!("-d{}s", turn.as_secs()));
    if let Load::Post = load {
        wrk.arg("-s").arg(script);
    }
    wrk.arg(format!("http://127.0.0.1:{}{}", peer.port, Peer::PATH));
    let output = wrk.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("Non-2xx"), "{}: {text}", peer.name);
    let field = |what: &str, at: usize| {
        let line = text.lines().find(|line| line.contains(what));
        let field = line.and_then(|line| line.split_whitespace().nth(at));
        field.unwrap_or_else(|| panic!("no {what} in: {text}")).to_owned()
    };
    let p99 = field("99%", 1);
    (field(" requests in ", 0).parse().unwrap(), field("Requests/sec:", 1).parse().unwrap(), millis(&p99))
}

/// wrk's way of writing a time.
fn millis(text: &str) -> f64 {
    let (number, scale) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s').unwrap(), 1000.0)
    };
    number.parse::<f64>().unwrap() * scale
}
