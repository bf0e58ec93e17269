//! Clients that do things with groups by themselves, as far as their roles go.

use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::Message;

use crate::events::*;
use crate::leases::{self, TOKEN};
use crate::support::until;

pub(crate) const JOIN: &str = r#"{"type":"joinGroup","group":"room","ackId":1}"#;
pub(crate) const SEND: &str =
    r#"{"type":"sendToGroup","group":"room","dataType":"text","data":"hi","ackId":2}"#;
pub(crate) const DONE: &str = r#"{"ackId":2,"success":true,"type":"ack"}"#;

/// An answer to `connect`.
pub(crate) fn gives(roles: &str) -> String {
    let body = format!(r#"{{"roles":[{roles}]}}"#);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// A client, to whom the function gives these roles, beside those of its token.
async fn connect(held: &mut Held, token: &str, roles: &str) -> Client {
    let answer = gives(roles);
    let asking = async { held.function.asked().await.answer(answer) };
    let (client, ()) = tokio::join!(leases::connect_to(held.proxy.address, token), asking);
    client.unwrap()
}

async fn says(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.unwrap();
}

#[tokio::test]
async fn roles_that_the_function_gives_decide_as_those_of_a_token_do_and_nothing_else_lets_a_client_in() {
    let mut held = Held::start(|mode| {
        mode.client_groups = true;
        mode.events.connect = true;
    })
    .await;
    held.upstream.set_access(TOKEN);
    // One may all by its function, one by its token, one half by each, and one nothing.
    let both = r#""webpubsub.joinLeaveGroup.room","roost.send.r*""#;
    let mut ada = connect(&mut held, "sub=ada", both).await;
    let mut bob = connect(&mut held, "sub=bob~role=roost.join~role=webpubsub.sendToGroup", "").await;
    let mut eve = connect(&mut held, "sub=eve~role=roost.join.room", r#""webpubsub.sendToGroup.room""#).await;
    let mut mal = connect(&mut held, "sub=mal~role=roost.join.hall", r#""roost.send.hall""#).await;
    for client in [&mut ada, &mut bob, &mut eve] {
        says(client, JOIN).await;
        assert_eq!(hear(client).await, Message::text(r#"{"ackId":1,"success":true,"type":"ack"}"#));
    }
    assert_eq!(held.hub.group_figures(), [1, 3]);
    says(&mut mal, JOIN).await;
    says(&mut mal, SEND).await;
    for number in [1, 2] {
        let Message::Text(refused) = hear(&mut mal).await else { panic!("expected a text") };
        let word = format!(
            r#"{{"ackId":{number},"error":{{"message":"no role of this client allows it","name":"Forbidden"}},"#
        );
        assert!(refused.starts_with(&word), "{refused}");
    }
    // What it was refused, nobody has heard: this is the first that comes.
    says(&mut ada, SEND).await;
    for client in [&mut bob, &mut eve] {
        assert_eq!(hear(client).await, Message::text("hi"));
    }
    assert_eq!(hear(&mut ada).await, Message::text("hi"));
    assert_eq!(hear(&mut ada).await, Message::text(DONE));
    says(&mut eve, r#"{"type":"sendToGroup","group":"room","data":{"a":1},"noEcho":true}"#).await;
    says(&mut eve, r#"{"type":"leaveGroup","group":"room","ackId":3}"#).await;
    assert_eq!(hear(&mut eve).await, Message::text(r#"{"ackId":3,"success":true,"type":"ack"}"#));
    for client in [&mut ada, &mut bob] {
        assert_eq!(hear(client).await, Message::text(r#"{"a":1}"#));
    }
    assert_eq!(held.hub.group_figures(), [1, 2]);
    // A name that no group has, and what is no such word: that is the function's.
    says(&mut bob, r#"{"type":"joinGroup","group":"a,b","ackId":4}"#).await;
    let Message::Text(refused) = hear(&mut bob).await else { panic!("expected a text") };
    assert!(refused.contains("expected the name of a group"), "{refused}");
    says(&mut bob, r#"{"type":"joinGroups"}"#).await;
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), r#"{"type":"joinGroups"}"#);
    asked.answer(NOTHING);
    // And the function was told of nothing else.
    until(|| held.upstream.totals().events.events[2] == [1, 0, 0]).await;
}

#[tokio::test]
async fn unless_the_function_asks_for_it_such_messages_are_its_own() {
    let mut held = Held::start(|_| {}).await;
    let mut client = held.connect().await;
    says(&mut client, JOIN).await;
    let asked = held.function.asked().await;
    assert_eq!(asked.text(), JOIN);
    asked.answer(NOTHING);
    assert_eq!(held.hub.group_figures(), [0, 0]);
}
