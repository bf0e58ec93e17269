use proptest::prelude::*;

use super::super::question::{Act, Close};
use super::*;

const ID: &str = "AAECAwQFBgcICQoLDA0ODw";

fn id() -> Id {
    Id(ConnectionId::parse(ID).unwrap())
}

fn say(to: To, text: bool, except: Vec<Id>) -> What {
    What::Say(Say { namespace: Namespace::default(), to, text, except })
}

fn heads() -> Vec<(What, &'static str)> {
    let ask = |ask| What::Ask { id: 7, ask };
    let one = |act| Question::One { namespace: Some(Namespace::default()), id: id(), act };
    vec![
        (What::Here { new: true }, r#"{"do":"here","new":true}"#),
        (What::Bye, r#"{"do":"bye"}"#),
        (
            say(To::Group("room".into()), true, vec![id()]),
            r#"{"do":"say","namespace":"openfaas-fn","to":{"group":"room"},"text":true,"except":["AAECAwQFBgcICQoLDA0ODw"]}"#,
        ),
        (
            say(To::User("ada".into()), false, vec![]),
            r#"{"do":"say","namespace":"openfaas-fn","to":{"user":"ada"},"text":false}"#,
        ),
        (
            say(To::Function(FunctionKey::from_route("chat").unwrap()), true, vec![]),
            r#"{"do":"say","namespace":"openfaas-fn","to":{"function":{"namespace":"openfaas-fn","name":"chat"}},"text":true}"#,
        ),
        (say(To::All, true, vec![]), r#"{"do":"say","namespace":"openfaas-fn","to":"all","text":true}"#),
        (
            ask(one(Act::Say { text: true, data: Bytes::new() })),
            r#"{"do":"ask","id":7,"ask":{"about":"one","namespace":"openfaas-fn","id":"AAECAwQFBgcICQoLDA0ODw","act":{"act":"say","text":true}}}"#,
        ),
        (
            ask(one(Act::End { close: Close::new(4000, "enough") })),
            r#"{"do":"ask","id":7,"ask":{"about":"one","namespace":"openfaas-fn","id":"AAECAwQFBgcICQoLDA0ODw","act":{"act":"end","close":{"code":4000,"reason":"enough"}}}}"#,
        ),
        (
            ask(Question::Groups { namespace: Namespace::default(), after: None, limit: 3 }),
            r#"{"do":"ask","id":7,"ask":{"about":"groups","namespace":"openfaas-fn","after":null,"limit":3}}"#,
        ),
        (What::Answer { id: 7 }, r#"{"do":"answer","id":7}"#),
    ]
}

/// All frames of something, as they are read.
fn said(number: u64, what: What, data: &[u8], most: usize) -> Vec<(Head, Bytes)> {
    let frames = frames("node-a", number, what, &Bytes::copy_from_slice(data), most).unwrap();
    assert!(frames.iter().all(|frame| frame.len() <= most), "a frame is longer than {most} bytes");
    frames.into_iter().map(|frame| read(frame).unwrap()).collect()
}

#[test]
fn what_is_said_stands_in_a_frame_in_these_words_and_is_read_as_it_was() {
    for (what, json) in heads() {
        let frames = frames("node-a", 3, what.clone(), &Bytes::from_static(b"\xff raw"), 4096).unwrap();
        let head = format!(r#"{{"from":"node-a","number":3,"what":{json}}}"#);
        let length = u32::try_from(head.len()).unwrap().to_be_bytes();
        let expected = [&[1], &length[..], head.as_bytes(), b"\xff raw"].concat();
        assert_eq!(frames, [Bytes::from(expected)], "{json}");
        let (head, data) = read(frames[0].clone()).unwrap();
        assert_eq!((head.what, &data[..]), (Some(what), &b"\xff raw"[..]), "{json}");
    }
}

#[test]
fn what_is_not_understood_is_not_read() {
    let frame = |version: u8, length: u32, head: &str| {
        Bytes::from([&[version], &length.to_be_bytes()[..], head.as_bytes()].concat())
    };
    let good = r#"{"from":"a","number":0,"what":{"do":"bye"}}"#;
    let length = u32::try_from(good.len()).unwrap();
    assert!(read(frame(1, length, good)).is_some());
    for (version, length, head) in [
        (2, length, good),
        (1, length + 1, good),
        (1, u32::MAX, good),
        (1, length - 1, good),
        (1, 0, ""),
        (1, 32, r#"{"from":"A.b","number":0,"what":{}}"#),
    ] {
        assert!(read(frame(version, length, head)).is_none(), "{version} {length} {head}");
    }
    assert!(read(Bytes::from_static(&[1, 0, 0])).is_none());
    let later = r#"{"from":"a","number":0,"new":1,"what":{"do":"dance","how":"well"}}"#;
    let (head, _) = read(frame(1, u32::try_from(later.len()).unwrap(), later)).unwrap();
    assert_eq!(head.what, Some(What::Unknown), "what later versions say is skipped");
}

#[test]
fn what_is_too_long_is_not_said() {
    let data = |length: usize| Bytes::from(vec![0; length]);
    assert!(frames("a", 0, What::Bye, &data(MAX_DATA), 1 << 20).is_some());
    assert!(frames("a", 0, What::Bye, &data(MAX_DATA + 1), 1 << 20).is_none());
    assert!(frames("a", 0, What::Bye, &data(1), 40).is_none(), "there is room for no data");
    let except = vec![id(); MAX_HEAD / 20];
    assert!(frames("a", 0, say(To::All, true, except), &data(0), 1 << 20).is_none());
}

#[test]
fn a_text_that_is_none_is_not_said() {
    let heard = |text: bool, data: &'static [u8]| {
        let mut heard = false;
        let What::Say(say) = say(To::All, text, vec![id()]) else { unreachable!() };
        say.said(data.into(), |saying| {
            heard = saying.message.data == data && saying.except == [id().0] && saying.to == Many::All;
        });
        heard
    };
    assert!(heard(true, b"hi") && heard(false, b"\xff"));
    assert!(!heard(true, b"\xff"));
}

#[test]
fn the_name_of_a_node_can_be_a_part_of_a_subject() {
    for (host, expected) in [
        ("pi-4\n", "pi-4-0a1b"),
        ("Edge.example", "edge-example-0a1b"),
        ("", "roost-0a1b"),
        ("ünder_*.>", "-nder-----0a1b"),
    ] {
        assert_eq!(name_on(host, "0a1b"), expected, "{host}");
    }
    assert!(is_name(&name_on(&"x".repeat(300), "0a1b2c3d")));
}

/// The frames of messages of these lengths, the first and the last of which are one frame each.
fn stream(lengths: &[usize], most: usize) -> Vec<Vec<(Head, Bytes)>> {
    let inner = lengths.iter().copied();
    let all = std::iter::once(0).chain(inner).chain([0]);
    (0..)
        .zip(all)
        .map(|(number, length)| said(number, What::Answer { id: number }, &vec![7; length], most))
        .collect()
}

proptest! {
    #[test]
    fn what_is_whole_comes_as_it_was_said_and_everything_else_is_counted_as_lost(
        lengths in prop::collection::vec(0_usize..2000, 0..12),
        most in 100_usize..400,
        drops in prop::collection::vec(any::<bool>(), 300),
    ) {
        let stream = stream(&lengths, most);
        let last = stream.len() - 1;
        let (mut joining, mut drops) = (Joining::default(), drops.into_iter().cycle());
        let (mut whole, mut expected, mut lost) = (Vec::new(), Vec::new(), 0);
        for (number, frames) in stream.into_iter().enumerate() {
            let length: usize = frames.iter().map(|(_, data)| data.len()).sum();
            let is_edge = number == 0 || number == last;
            let mut is_whole = true;
            for (head, data) in frames {
                if !is_edge && drops.next().unwrap() {
                    is_whole = false;
                    continue;
                }
                let heard = joining.take(head, data);
                lost += heard.lost;
                whole.extend(heard.whole.map(|(what, data)| (what, data.len())));
            }
            if is_whole {
                expected.push((What::Answer { id: number as u64 }, length));
            }
        }
        prop_assert_eq!(lost as usize, last + 1 - expected.len());
        prop_assert_eq!(whole, expected);
    }

    #[test]
    fn whatever_comes_is_read_or_not_but_never_breaks_anything(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let framed = [&[VERSION, 0, 0, 0], &frame[..]].concat();
        for frame in [frame, framed] {
            if let Some((head, data)) = read(frame.into()) {
                Joining::default().take(head, data);
            }
        }
    }
}

#[test]
fn whoever_hears_the_rest_of_something_first_has_missed_nothing() {
    let mut joining = Joining::default();
    let long = said(4, What::Bye, &[0; 500], 200);
    for (head, data) in long.into_iter().skip(1) {
        assert_eq!(joining.take(head, data), Heard::default());
    }
    let (head, data) = said(5, What::Bye, b"", 200).remove(0);
    assert_eq!(joining.take(head, data), Heard { whole: Some((What::Bye, Bytes::new())), lost: 0 });
    let (head, data) = said(5, What::Bye, b"", 200).remove(0);
    assert_eq!(joining.take(head, data), Heard::default(), "what came already comes no second time");
}
