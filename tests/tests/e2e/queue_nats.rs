//! The queue that nodes share, in JetStream: what holds of the one of a single host holds here.

use hyper::Method;
use roost_tests::{Config, Host, NatsServer, eventually};
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

#[tokio::test]
async fn results_dead_letters_and_the_right_to_end_a_call_are_those_of_all_nodes() {
    let (_server, config) = shared(Config::default()).await;
    let (_first_registry, first) = queue::host(config.clone(), json!({})).await;
    let (_second_registry, second) = queue::host(config, json!({})).await;

    let kept = queue::taken(&first, "/call/1", &[("X-Roost-Keep-Result", "1h")]).await;
    let path = format!("/async-function/{kept}");
    for host in [&second, &first] {
        eventually("the result", || async { (host.api.get(&path).await.status == 200).then_some(()) }).await;
    }

    let waiting = queue::taken(&second, "/call/2", &[("X-Roost-Delay", "1h")]).await;
    let path = format!("/async-function/{waiting}");
    assert_eq!(first.api.get(&path).await.status, 202, "it waits");
    assert_eq!(first.api.send(Method::DELETE, &path, "").await.status, 202);
    assert_eq!(second.api.get(&path).await.status, 404, "it is ended");

    // With a body that is no message, and another one.
    let large = "x".repeat(400 << 10);
    for body in [&large, "small"] {
        let answer = queue::hand_over(&first.api, "/call/99", body, &[]).await.unwrap();
        assert_eq!(answer.status, 202);
    }
    let shown = async |host: &Host| {
        let letters = queue::letters(host).await;
        letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let both = async |count: usize| {
        eventually("the same letters on both", || async {
            let (here, there) = (shown(&first).await, shown(&second).await);
            (here == there && here.len() == count).then_some(here)
        })
        .await
    };
    let ids = both(2).await;
    let sizes = async |host: &Host| {
        let letters = queue::letters(host).await;
        let mut sizes: Vec<_> = letters.iter().map(|letter| letter["size"].as_u64().unwrap()).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!((sizes(&first).await, sizes(&second).await), (vec![5, 400 << 10], vec![5, 400 << 10]));
    let removed = second.api.send(Method::DELETE, &format!("/system/deadletters/{}", ids[0]), "").await;
    assert!(removed.status.is_success(), "{}", removed.text());
    assert_eq!(both(1).await, ids[1..]);
}
