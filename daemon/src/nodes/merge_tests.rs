use proptest::prelude::*;
use roost_proxy::function::Namespace;
use roost_proxy::websocket::CannotJoin;
use serde_json::json;

use super::super::question::Id;
use super::*;

/// One with this id, on this node.
fn view(id: ConnectionId, node: &str) -> ConnectionView {
    let view = json!({
        "id": id.to_string(), "function": "chat", "namespace": "openfaas-fn", "groups": [], "peer": "192.0.2.1",
        "path": "/", "since": "2026-01-01T00:00:00Z", "lastActive": null, "state": "open",
        "messages": { "in": 1, "out": 2 }, "bytes": { "in": 3, "out": 4 }, "unsentBytes": 5, "node": node
    });
    serde_json::from_value(view).unwrap()
}

fn named(counts: &[(&str, usize)]) -> Answer {
    Answer::Named { counts: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() }
}

fn counted(count: usize, refused: Option<CannotJoin>) -> Answer {
    Answer::Counted { count, refused }
}

#[test]
fn answers_of_two_nodes_are_one_answer() {
    let shown = Answer::Shown { connection: Box::new(view(ConnectionId::random(), "a")) };
    let full = Some(CannotJoin::TooMany(3));
    for (one, other, both) in [
        (Answer::Nobody, Answer::Nobody, Answer::Nobody),
        (Answer::Nobody, shown.clone(), shown.clone()),
        (Answer::Nobody, Answer::TooSlow, Answer::TooSlow),
        (Answer::Done, Answer::Nobody, Answer::Done),
        (counted(2, None), counted(3, full), counted(5, full)),
        (counted(2, None), Answer::Nobody, counted(2, None)),
        (
            named(&[("a", 1), ("c", 2)]),
            named(&[("b", 3), ("c", 4), ("d", 5)]),
            named(&[("a", 1), ("b", 3), ("c", 6)]),
        ),
        (named(&[("a", 1)]), Answer::Done, named(&[("a", 1)])),
    ] {
        assert_eq!(one.clone().and(other.clone(), 3), both, "{one:?} and {other:?}");
    }
}

#[test]
fn answers_go_from_node_to_node_as_they_are() {
    for answer in [
        Answer::Nobody,
        Answer::Done,
        Answer::TooSlow,
        Answer::Refused { why: CannotJoin::TooMany(3) },
        Answer::Refused { why: CannotJoin::Name },
        Answer::Shown { connection: Box::new(view(ConnectionId::random(), "a")) },
        Answer::Connections { connections: vec![view(ConnectionId::random(), "a")] },
        named(&[("a", 1)]),
        counted(2, Some(CannotJoin::Gone)),
    ] {
        let bytes = serde_json::to_vec(&answer).unwrap();
        assert_eq!(serde_json::from_slice::<Answer>(&bytes).unwrap(), answer);
    }
    assert!(serde_json::from_str::<Answer>(r#"{"is":"later"}"#).is_err());
}

#[test]
fn a_message_goes_beside_its_question() {
    let act = |data: &'static [u8]| Act::Say { text: true, data: data.into() };
    let question = |data| {
        let id = Id(ConnectionId::parse("AAECAwQFBgcICQoLDA0ODw").unwrap());
        Question::One { namespace: Some(Namespace::default()), id, act: act(data) }
    };
    assert_eq!(question(b"hi").data(), "hi");
    assert_eq!(question(b"").with("hi".into()), Some(question(b"hi")));
    assert_eq!(question(b"").with(b"\xff"[..].into()), None);
}

/// What a node answers that has these: in order, those behind `after`, and no more than `limit`.
fn page<K: Ord + Clone, V: Clone>(all: &BTreeMap<K, V>, after: Option<&K>, limit: usize) -> Vec<(K, V)> {
    let behind = all.iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
    behind.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
}

proptest! {
    #[test]
    fn pages_of_several_nodes_show_each_name_once_with_its_whole_count(
        nodes in prop::collection::vec(prop::collection::btree_map("[a-e]{1,2}", 1_usize..9, 0..12), 1..4),
        limit in 1_usize..6,
    ) {
        let mut expected = BTreeMap::<String, usize>::new();
        for (name, count) in nodes.iter().flatten() {
            *expected.entry(name.clone()).or_default() += count;
        }
        let (mut shown, mut after) = (Vec::new(), None);
        loop {
            let mut pages = nodes.iter().map(|all| Answer::Named { counts: page(all, after.as_ref(), limit + 1) });
            let first = pages.next().unwrap();
            let Answer::Named { mut counts } = pages.fold(first, |all, one| all.and(one, limit + 1)) else { unreachable!() };
            let more = counts.len() > limit;
            counts.truncate(limit);
            after = counts.last().map(|(name, _)| name.clone());
            shown.append(&mut counts);
            if !more {
                break;
            }
        }
        prop_assert_eq!(shown, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn pages_of_several_nodes_show_each_connection_once_in_the_order_of_ids(
        sizes in prop::collection::vec(0_usize..12, 1..4),
        limit in 1_usize..6,
    ) {
        let nodes: Vec<BTreeMap<ConnectionId, ()>> =
            sizes.iter().map(|size| (0..*size).map(|_| (ConnectionId::random(), ())).collect()).collect();
        let mut expected: Vec<String> = nodes.iter().flat_map(BTreeMap::keys).map(ToString::to_string).collect();
        expected.sort_by_key(|id| ConnectionId::parse(id));
        let (mut shown, mut after) = (Vec::new(), None);
        loop {
            let mut pages = nodes.iter().map(|all| {
                let connections = page(all, after.as_ref(), limit + 1).into_iter().map(|(id, ())| view(id, "n")).collect();
                Answer::Connections { connections }
            });
            let first = pages.next().unwrap();
            let answer = pages.fold(first, |all, one| all.and(one, limit + 1));
            let Answer::Connections { mut connections } = answer else { unreachable!() };
            let more = connections.len() > limit;
            connections.truncate(limit);
            after = connections.last().and_then(|of| ConnectionId::parse(&of.id));
            shown.extend(connections.into_iter().map(|of| of.id));
            if !more {
                break;
            }
        }
        prop_assert_eq!(shown, expected);
    }
}
