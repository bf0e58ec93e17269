//! Events that are signed: from the first one on, and all of them.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, Message, Socket};
use serde_json::json;
use sha2::Sha256;

const SECRET: &str = "between us";

/// The deployment of a function that tells what it was told.
fn deployment(name: &str) -> serde_json::Value {
    let annotations = json!({ "roost.websocket": "events", "roost.websocket.signing": "primary" });
    json!({ "service": name, "image": ECHO, "annotations": annotations, "secrets": ["primary"] })
}

/// Says something. What comes back are the headers of the event, which has to be signed.
async fn is_signed(socket: &mut Socket) {
    socket.says("who is there").await;
    let Some(Ok(Message::Text(headers))) = socket.next().await else { panic!("expected the headers") };
    let of = |name: &str| {
        let line = headers.lines().find_map(|line| line.split_once(": ").filter(|(of, _)| *of == name));
        line.map_or_else(|| panic!("no {name} in {headers}"), |(_, value)| value.to_owned())
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(of("ce-connectionid").as_bytes());
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(of("ce-signature"), format!("sha256={expected}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_unsigned_neither_the_first_of_a_function_nor_any_behind_a_restart() {
    let host = Host::with_echo(Config { supervised: true, ..Config::default() }).await;
    let secret = json!({ "name": "primary", "value": SECRET }).to_string();
    assert_eq!(host.api.post("/system/secrets", secret).await.status, StatusCode::ACCEPTED);
    let mut sockets = Vec::new();
    for round in 0..8 {
        let name = format!("signed-{round}");
        let path = format!("/function/{name}/headers");
        // Whoever asks all the time is there as soon as there is a function.
        let first = async {
            loop {
                match Socket::try_open(&host, &path, &[]).await {
                    Ok(mut socket) => {
                        is_signed(&mut socket).await;
                        return socket;
                    }
                    Err(status) => assert_eq!(status, StatusCode::NOT_FOUND),
                }
            }
        };
        let deployed = host.api.post("/system/functions", deployment(&name).to_string());
        let (answer, socket) = tokio::join!(deployed, first);
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        sockets.push(socket);
    }
    for _ in 0..3 {
        let talking = async {
            for _ in 0..20 {
                for socket in &mut sockets {
                    is_signed(socket).await;
                }
            }
        };
        tokio::join!(host.hand_over(), talking);
    }
    for socket in &mut sockets {
        is_signed(socket).await;
    }
}
