//! What is said to many connections that are held here, and how many there may be.

use std::sync::Arc;

use bytes::Bytes;
use roost_proxy::function::Namespace;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::event::Message;
use roost_proxy::websocket::{EventMode, Filter, Hub};
use roost_proxy::{Settings, Upstream};
use tokio_tungstenite::tungstenite;

use crate::events::{Client, hear, try_connect};
use crate::support::*;

/// A function on two lanes whose connections are held.
struct Many {
    proxy: Proxy,
    hub: Arc<Hub>,
    namespace: Namespace,
    _upstream: Arc<Upstream>,
}

impl Many {
    async fn start(max_connections: usize) -> Self {
        let held = roost_proxy::websocket::Held::default();
        let hub = Arc::clone(&held.hub);
        let proxy = Proxy::with(Settings { held, max_connections, ..Settings::default() }).await;
        let upstream = proxy.function("f", &[]);
        upstream.set_event_mode(Some(EventMode::new(Codec::CloudEvents(CloudEvents::default()))));
        let namespace = upstream.key().namespace.clone();
        Self { proxy, hub, namespace, _upstream: upstream }
    }

    async fn connect(&self) -> Client {
        try_connect(self.proxy.address).await.unwrap()
    }
}

fn numbered(number: usize) -> Message {
    Message { text: true, data: Bytes::from(number.to_string()) }
}

#[tokio::test]
async fn what_is_said_to_all_and_to_one_between_is_heard_once_and_in_order() {
    const CLIENTS: usize = 100;
    const MESSAGES: usize = 300;
    let many = Many::start(1000).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(many.connect().await);
    }
    let members = many.hub.list(&many.namespace, &Filter::default(), None, usize::MAX);
    assert_eq!(members.len(), CLIENTS);
    for number in 0..MESSAGES {
        if number % 3 == 1 {
            members.iter().for_each(|member| {
                member.say(&numbered(number));
            });
        } else {
            let reach = many.hub.say_to_each(&many.namespace, None, &numbered(number), &[]);
            assert_eq!((reach.queued, reach.too_slow), (CLIENTS, 0));
        }
        if number % 50 == 0 {
            // In the midst of sweeps, and between them.
            tokio::task::yield_now().await;
        }
    }
    for client in &mut clients {
        for number in 0..MESSAGES {
            assert_eq!(hear(client).await, tungstenite::Message::text(number.to_string()));
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_held_takes_half_the_place_of_another() {
    let many = Many::start(2).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(within(many.connect()).await);
    }
    // Now there is room for half of one.
    let mut waits = Box::pin(many.connect());
    tokio::select! {
        biased;
        _ = &mut waits => panic!("there were more than fit"),
        () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
    }
    held.pop();
    within(waits).await;
}
