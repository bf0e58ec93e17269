//! Clients that hold a connection and send nothing, or one byte now and then: they keep nobody from being answered, take
//! little, and leave nothing. Alone in its process, whose files and memory it counts.

#![allow(clippy::unwrap_used, reason = "the support of tests is a test")]

#[path = "proxy/support.rs"]
#[allow(dead_code, reason = "shared with the other tests of the proxy")]
mod support;

use std::time::Duration;

use roost_proxy::{Limit, Settings};

use crate::support::*;

const HALF_OPEN: usize = 1000;
const SLOW: usize = 1000;

/// What a client may take, in bytes, with its own end, which is in this process, too.
const MOST_EACH: usize = 32 << 10;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn silent_and_slow_clients_keep_nobody_waiting_take_little_and_leave_nothing() {
    let settings = Settings { header_timeout: Duration::from_secs(10), ..Settings::default() };
    let proxy = Proxy::with(settings).await;
    let (endpoint, _) = Function::start().await.serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    proxy.function("f", &[]).publish(vec![endpoint]);
    let mut healthy = proxy.ask(GET).await;
    assert_eq!(healthy.answer().await.body, "hi");
    let (files, memory) = (open_files(), resident());

    let mut clients = Vec::new();
    for _ in 0..HALF_OPEN {
        clients.push(proxy.connect().await);
    }
    for _ in 0..SLOW {
        clients.push(proxy.ask("GET /function/f HTTP/1.1\r\nhost: h\r\n").await);
    }
    until(|| proxy.server.open() > HALF_OPEN + SLOW).await;
    // Each of them says a little more, and somebody else is answered meanwhile.
    for (turn, client) in clients[HALF_OPEN..].iter_mut().enumerate() {
        client.send("x: y\r\n").await;
        if turn % 10 == 0 {
            healthy.send(GET).await;
            assert_eq!(healthy.answer().await.body, "hi");
        }
    }
    let each = resident().saturating_sub(memory) / (HALF_OPEN + SLOW);
    assert!(each < MOST_EACH, "{each} bytes each");

    // They are closed, whatever they go on sending; the one that asks stays.
    until(|| proxy.server.open() == 1).await;
    let slow = proxy.server.limited().iter().find(|(limit, _)| *limit == Limit::HeadTime).unwrap().1;
    assert_eq!(slow, SLOW as u64);
    drop(clients);
    healthy.send(GET).await;
    assert_eq!(healthy.answer().await.body, "hi");
    until(|| open_files() <= files).await;
    println!("{each} bytes each");
}
