//! Messages of MQTT brokers are calls: with a real Mosquitto, in TLS, with a login.

use std::collections::BTreeSet;

use roost_tests::{Host, Mosquitto, eventually};
use serde_json::json;

use crate::triggers::{Seen, counted, deploy, deployment, eventually_seen, host, seen};

async fn with_broker() -> (Mosquitto, Host) {
    let broker = Mosquitto::start().await;
    let host = host(format!("[triggers.mqtt.lan]\n{}", broker.section("mqtt-password"))).await;
    let secret = json!({ "name": "mqtt-password", "value": Mosquitto::USER.1 });
    let answer = host.api.post("/system/secrets", secret.to_string()).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    (broker, host)
}

fn of(topic: &str, body: &str) -> Seen {
    Seen { connector: "mqtt-connector".into(), topic: topic.into(), about: String::new(), body: body.into() }
}

/// Waits until the broker knows what the functions listen to: until a message comes.
async fn listens(host: &Host, broker: &Mosquitto, function: &str, topic: &str) {
    eventually("a first message", || async {
        broker.publish(topic, "hello?");
        seen(host, function).await.iter().any(|seen| seen.body == "hello?").then_some(())
    })
    .await;
}

/// The bodies that a function has seen, but for the first greetings.
async fn bodies(host: &Host, function: &str, count: usize) -> Vec<String> {
    let of = |seen: &[Seen]| -> Vec<String> {
        seen.iter().map(|seen| seen.body.clone()).filter(|body| body != "hello?").collect()
    };
    eventually_seen(host, function, "messages", |seen| Some(of(seen)).filter(|all| all.len() >= count)).await
}

#[tokio::test]
async fn messages_are_calls_of_all_who_listen_to_their_topic() {
    let (broker, host) = with_broker().await;
    broker.retain("sensors/attic/temp", "retained");
    deploy(&host, "temp", &json!({ "topic": "mqtt:sensors/+/temp" })).await;
    let first = eventually_seen(&host, "temp", "what was retained", |seen| seen.first().cloned()).await;
    assert_eq!(first, of("sensors/attic/temp", "retained"));
    // A topic without a source is of the only broker.
    deploy(&host, "all", &json!({ "topic": "sensors/#" })).await;
    listens(&host, &broker, "all", "sensors/x").await;
    broker.publish("sensors/cellar/temp", "12.5");
    broker.publish("sensors/cellar/light", "on");
    assert_eq!(bodies(&host, "temp", 2).await, ["retained", "12.5"]);
    assert_eq!(bodies(&host, "all", 3).await, ["retained", "12.5", "on"]);

    // An update changes what a function listens to, and the others go on.
    host.put_function(&deployment("temp", &json!({ "topic": "mqtt.lan:other" }))).await;
    listens(&host, &broker, "temp", "other").await;
    broker.publish("sensors/cellar/temp", "13");
    broker.publish("other", "last");
    assert_eq!(bodies(&host, "temp", 3).await, ["retained", "12.5", "last"]);
    assert_eq!(bodies(&host, "all", 4).await.last().unwrap(), "13");
    let fired = counted(&host, "roost_trigger_fired_total", "temp", "mqtt.lan").await;
    assert_eq!(fired as usize, seen(&host, "temp").await.len());
}

#[tokio::test]
async fn what_is_published_while_the_daemon_or_the_broker_is_down_comes_later_and_nothing_is_lost() {
    let (mut broker, mut host) = with_broker().await;
    deploy(&host, "keeper", &json!({ "topic": "mqtt:t" })).await;
    listens(&host, &broker, "keeper", "t").await;
    host.restart().await;
    listens(&host, &broker, "keeper", "t").await;

    host.kill9();
    broker.publish("t", "while it was down");
    host.start_daemon().await;
    assert_eq!(bodies(&host, "keeper", 1).await, ["while it was down"]);

    broker.end().await;
    broker.start_again().await;
    broker.publish("t", "after the broker");
    assert_eq!(bodies(&host, "keeper", 2).await.last().unwrap(), "after the broker");

    // Both, in the middle of many: each comes once at least.
    let lines: Vec<String> = (0..300).map(|number| format!("m{number}")).collect();
    broker.publish_lines("t", &lines[..100]);
    broker.end().await;
    broker.start_again().await;
    broker.publish_lines("t", &lines[100..200]);
    bodies(&host, "keeper", 120).await;
    broker.end().await;
    broker.start_again().await;
    broker.publish_lines("t", &lines[200..]);
    eventually("all of them", || async {
        let seen: BTreeSet<String> = seen(&host, "keeper").await.into_iter().map(|seen| seen.body).collect();
        lines.iter().all(|line| seen.contains(line)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_stops_the_broker_and_nothing_is_lost() {
    let (broker, host) = with_broker().await;
    let mut slow = deployment("slow", &json!({ "topic": "mqtt:t" }));
    slow["envVars"] = json!({ "HOLD": "0.05" });
    host.post_function(&slow).await;
    host.ready("slow").await;
    listens(&host, &broker, "slow", "t").await;
    let large = "x".repeat(200 << 10);
    // Far more than the queue may hold of one function.
    let lines: Vec<String> = (0..150).map(|number| format!("{number}-{large}")).collect();
    broker.publish_lines("t", &lines);
    eventually("all of them", || async {
        (counted(&host, "roost_trigger_fired_total", "slow", "mqtt.lan").await > 150).then_some(())
    })
    .await;
    assert_eq!(counted(&host, "roost_trigger_failed_total", "slow", "mqtt.lan").await, 0);
}
