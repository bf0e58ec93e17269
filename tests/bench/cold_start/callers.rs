//! Many callers at once of a function that has no replicas.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use roost_tests::{Config, ECHO, Host, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::figures::Figures;

pub(crate) async fn measure(callers: usize) {
    let host = Host::with_echo(Config::default()).await;
    let events = host.watch("echo").await;
    let annotations = json!({ "roost.idle.state": "stopped" });
    host.deployed(&json!({ "service": "echo", "image": ECHO, "annotations": annotations })).await;
    host.scale("echo", 0).await;
    host.idle("echo").await;
    eventually("the end of its replica", || async { host.processes().is_empty().then_some(()) }).await;
    let before = events.seen();

    // All are connected before the first one asks.
    let barrier = Arc::new(Barrier::new(callers));
    let call = |_| tokio::spawn(call(host.port(), Arc::clone(&barrier)));
    let answers = join_all((0..callers).map(call)).await;
    let mut figures = Figures::default();
    let mut refused = Vec::new();
    for answer in answers {
        match answer.unwrap() {
            Ok(took) => figures.add(took),
            Err(what) => refused.push(what),
        }
    }
    host.ready("echo").await;
    let seen = events.seen();
    let made = seen.made - before.made;
    let answered = callers - refused.len();
    let met = if refused.is_empty() && made == 1 { "met" } else { "not met" };
    println!(
        "{callers} callers at once of a function at zero: {answered} answered 200, {made} containers made ({met})"
    );
    println!("until the first byte: median {} ms, last {} ms\n", figures.shown(50), figures.shown(100));
    if let Some(first) = refused.first() {
        println!("the others, such as: {first}\n");
    }
}

async fn call(port: u16, barrier: Arc<Barrier>) -> Result<std::time::Duration, String> {
    let connected = TcpStream::connect(("127.0.0.1", port)).await;
    barrier.wait().await;
    let mut stream = connected.map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let request = b"GET /function/echo/headers HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut head = [0; 12];
    let read = tokio::time::timeout(roost_tests::PATIENCE, stream.read_exact(&mut head)).await;
    read.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let took = begun.elapsed();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map_err(|error| error.to_string())?;
    match &head {
        b"HTTP/1.1 200" => Ok(took),
        _ => Err(format!("{}{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(&rest))),
    }
}
