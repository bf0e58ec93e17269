//! The queue that nodes share, in JetStream: what holds of the one of a single host holds here.

use roost_tests::{Config, NatsServer};
use serde_json::json;

use crate::queue;

/// How many calls the crash test makes.
const CALLS: usize = 1000;

async fn shared(config: Config) -> (NatsServer, Config) {
    let server = NatsServer::start().await;
    let triggers = format!("[nats]\nurl = '{}'\n", server.url());
    let queue: &'static str = Box::leak(format!("engine = 'nats'\n{}", config.queue).into_boxed_str());
    (server, Config { triggers, queue, ..config })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accepted_call_is_lost_while_the_daemon_is_killed_and_the_function_fails() {
    let (_server, config) = shared(Config::default()).await;
    queue::no_accepted_call_is_lost(config, CALLS).await;
}

#[tokio::test]
async fn a_call_is_made_again_as_its_function_says_and_is_a_dead_letter_that_can_be_sent_again() {
    let (_server, config) = shared(Config::default()).await;
    queue::a_call_is_made_again(config).await;
}

#[tokio::test]
async fn calls_wait_and_go_before_others_and_behind_each_other_and_once_as_their_clients_wish() {
    let (_server, config) = shared(Config { queue: "concurrency = 1", ..Config::default() }).await;
    queue::calls_wait_and_go_before_others(config).await;
}

#[tokio::test]
async fn a_result_is_kept_for_who_asks_and_a_large_body_goes_by_the_server() {
    let (_server, config) = shared(Config::default()).await;
    queue::a_result_is_kept(config).await;
}

#[tokio::test]
async fn calls_of_a_host_that_had_a_queue_of_its_own_are_those_of_the_nodes_when_it_shares_one() {
    let (_server, shared) = shared(Config::default()).await;
    let (_registry, mut host) = queue::host(Config::default(), json!({})).await;
    queue::taken(&host, "/call/later", &[("X-Roost-Delay", "8s")]).await;
    host.terminate();
    host.ended().await;
    host.config = shared;
    host.start_daemon().await;
    queue::done(&host, &["/call/later"]).await;
    host.terminate();
    host.ended().await;
    host.config = Config::default();
    host.start_daemon().await;
    assert_eq!(host.api.get("/system/queue").await.json(), json!([]), "nothing is left here");
}
