//! The decoder and the encoder against another implementation, however a stream is cut and handed over.

use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame as TheirClose, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Theirs, error::ProtocolError};

use super::*;
use crate::websocket::deflate::Deflate;
use crate::websocket::event::Message;

/// How a stream is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    Closed,
    Violation(u16),
}

/// What is read of, and nothing that is written.
struct Stream(Cursor<Vec<u8>>);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket(bytes: Vec<u8>, role: Role, max_message: usize) -> WebSocket<Stream> {
    let config = WebSocketConfig::default().max_message_size(Some(max_message)).max_frame_size(None);
    WebSocket::from_raw_socket(Stream(Cursor::new(bytes)), role, Some(config))
}

/// What the other implementation reads.
fn theirs(bytes: &[u8], max_message: usize) -> (Vec<Incoming>, End) {
    let mut socket = socket(bytes.to_vec(), Role::Server, max_message);
    let mut all = Vec::new();
    loop {
        all.push(match socket.read() {
            Ok(Theirs::Text(text)) => Incoming::Message(Message { text: true, data: text.into() }, 1),
            Ok(Theirs::Binary(data)) => Incoming::Message(Message { text: false, data }, 1),
            Ok(Theirs::Ping(data)) => Incoming::Ping(data),
            Ok(Theirs::Pong(data)) => Incoming::Pong(data),
            // This is how it says that the code is none that may come.
            Ok(Theirs::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                return (all, End::Violation(1002));
            }
            Ok(Theirs::Close(close)) => {
                Incoming::Close(close.map(|close| (close.code.into(), close.reason.as_str().to_owned())))
            }
            Ok(Theirs::Frame(_)) => unreachable!("only written"),
            Err(Error::ConnectionClosed) => return (all, End::Closed),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (all, End::Open),
            Err(Error::Protocol(_)) => return (all, End::Violation(1002)),
            Err(Error::Utf8(_)) => return (all, End::Violation(1007)),
            Err(Error::Capacity(_)) => return (all, End::Violation(1009)),
            Err(error) => panic!("{error}"),
        });
    }
}

/// What we read when it comes in pieces of these lengths, and each piece by another process if `hand_over`.
fn ours(bytes: &[u8], cuts: &[usize], limits: Limits, hand_over: bool) -> (Vec<Incoming>, End) {
    let (mut decoder, mut all) = (Decoder::new(limits), Vec::new());
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, behind) = rest.split_at(cuts.next().map_or(rest.len(), |cut| rest.len().min(*cut)));
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(Incoming::Close(close))) => {
                    all.push(Incoming::Close(close));
                    assert!(piece.is_empty() && ignores_all(&mut decoder, behind));
                    return (all, End::Closed);
                }
                // How many frames a message had, the other does not tell.
                Ok(Some(Incoming::Message(message, _))) => all.push(Incoming::Message(message, 1)),
                Ok(Some(incoming)) => all.push(incoming),
                Ok(None) => break,
                Err(violation) => {
                    assert!(piece.is_empty() && ignores_all(&mut decoder, behind));
                    return (all, End::Violation(violation.code));
                }
            }
        }
        assert!(piece.is_empty());
        rest = behind;
        if hand_over {
            decoder = Decoder::from_state(limits, decoder.state()).unwrap();
        }
    }
    (all, End::Open)
}

fn ignores_all(decoder: &mut Decoder, mut bytes: &[u8]) -> bool {
    *decoder = Decoder::from_state(decoder.limits, decoder.state()).unwrap();
    decoder.next(&mut bytes) == Ok(None) && bytes.is_empty() && decoder.held() == 0
}

/// A frame as it may come: not all of them are valid.
#[derive(Debug, Clone)]
struct Raw {
    first: u8,
    key: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(Opcode::Binary, self.payload.len(), false).to_vec();
        bytes[0] = self.first;
        let Some(key) = self.key else { return [bytes, self.payload.clone()].concat() };
        bytes[1] |= 0x80;
        bytes.extend(key);
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[ -~]{0,40}", "\\PC{0,40}", "[a-zäß€😀]{0,300}"].prop_map(String::into_bytes)
}

/// What may be said in a text or in bytes.
fn any_payload() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), prop_oneof![0_usize..70_000, 120_usize..130, 65_530_usize..65_540])
            .prop_map(|(byte, size)| vec![byte; size]),
    ];
    prop_oneof![
        4 => any_text().prop_map(|text| (true, text)),
        4 => bytes.prop_map(|bytes| (false, bytes)),
        // Not all that comes as text is.
        1 => prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| (true, bytes)),
    ]
}

fn any_control() -> impl Strategy<Value = Raw> {
    let payload = prop::collection::vec(any::<u8>(), 0..=125);
    (prop_oneof![Just(0x89_u8), Just(0x8a)], any::<[u8; 4]>(), payload)
        .prop_map(|(first, key, payload)| Raw { first, key: Some(key), payload })
}

fn any_close() -> impl Strategy<Value = Raw> {
    let code = prop_oneof![
        Just(1000_u16),
        Just(1001),
        990_u16..1014,
        1015_u16..1020,
        2990_u16..3010,
        4990_u16..5010
    ];
    let said = (code, any_text()).prop_map(|(code, reason)| {
        let payload = [&code.to_be_bytes()[..], &reason].concat();
        payload[..payload.len().min(125)].to_vec()
    });
    (any::<[u8; 4]>(), prop_oneof![6 => said, 1 => Just(Vec::new()), 1 => Just(vec![3])])
        .prop_map(|(key, payload)| Raw { first: 0x88, key: Some(key), payload })
}

/// A message in several frames, with control frames between them.
fn any_message() -> impl Strategy<Value = Vec<Raw>> {
    let cuts = prop::collection::vec(
        (any::<Index>(), any::<[u8; 4]>(), prop::option::weighted(0.2, any_control())),
        0..5,
    );
    (any_payload(), any::<[u8; 4]>(), cuts).prop_map(|((text, payload), key, cuts)| {
        let mut at: Vec<usize> = cuts.iter().map(|(index, ..)| index.index(payload.len() + 1)).collect();
        at.sort_unstable();
        at.push(payload.len());
        let opcode = if text { 1 } else { 2 };
        let first = if cuts.is_empty() { 0x80 } else { 0 };
        let mut frames =
            vec![Raw { first: first | opcode, key: Some(key), payload: payload[..at[0]].to_vec() }];
        for (number, (_, key, control)) in cuts.into_iter().enumerate() {
            frames.extend(control);
            let first = if number + 2 == at.len() { 0x80 } else { 0 };
            frames.push(Raw { first, key: Some(key), payload: payload[at[number]..at[number + 1]].to_vec() });
        }
        frames
    })
}

/// Any frame anywhere, and mostly one that must not be there.
fn any_frame() -> impl Strategy<Value = Raw> {
    let first =
        prop_oneof![any::<u8>(), (0_u8..3, any::<bool>()).prop_map(|(op, last)| op | u8::from(last) << 7)];
    (first, prop::option::weighted(0.9, any::<[u8; 4]>()), prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(first, key, payload)| Raw { first, key, payload })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        12 => any_message(),
        3 => any_control().prop_map(|frame| vec![frame]),
        1 => any_close().prop_map(|frame| vec![frame]),
        1 => any_frame().prop_map(|frame| vec![frame]),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.iter().flatten().flat_map(Raw::bytes).collect())
}

fn any_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1_usize..20, 1_usize..10_000], 1..20)
}

proptest! {
    #[test]
    fn a_stream_says_the_same_to_both_however_it_is_cut_and_handed_over(
        bytes in any_stream(),
        cuts in any_cuts(),
        max_message in prop_oneof![Just(1_usize << 20), 0_usize..500],
    ) {
        let limits = Limits { max_message, ..Limits::default() };
        let expected = theirs(&bytes, max_message);
        prop_assert_eq!(&ours(&bytes, &[], limits, false), &expected);
        prop_assert_eq!(&ours(&bytes, &cuts, limits, false), &expected);
        prop_assert_eq!(&ours(&bytes, &cuts, limits, true), &expected);
    }

    #[test]
    fn what_the_other_one_sends_is_read(messages in prop::collection::vec(any_payload(), 0..10)) {
        let mut sent = Vec::new();
        let mut bytes = Vec::new();
        for (text, data) in messages {
            let text = text && str::from_utf8(&data).is_ok();
            // It writes with a key of its own.
            let mut header = FrameHeader { opcode: if text { 1 } else { 2 }.into(), ..FrameHeader::default() };
            header.mask = Some(*b"mask");
            header.format(data.len() as u64, &mut bytes).unwrap();
            let start = bytes.len();
            bytes.extend(&data);
            mask::apply(&mut bytes[start..], *b"mask");
            sent.push(Incoming::Message(Message { text, data: data.into() }, 1));
        }
        prop_assert_eq!(ours(&bytes, &[], Limits::default(), false), (sent, End::Open));
    }

    #[test]
    fn what_we_send_is_read_by_the_other_one(
        messages in prop::collection::vec(any_payload(), 0..10),
        probe in prop::collection::vec(any::<u8>(), 0..=125),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (text, data) in messages {
            let text = text && str::from_utf8(&data).is_ok();
            let data = Bytes::from(data);
            expected.push(if text {
                Theirs::Text(data.clone().try_into().unwrap())
            } else {
                Theirs::Binary(data.clone())
            });
            bytes.extend(message(&Message { text, data }, None));
        }
        bytes.extend(encode(Opcode::Ping, &probe, false));
        bytes.extend(encode(Opcode::Pong, &probe, false));
        bytes.extend(close(&CloseFrame::new(4001, "done")));
        expected.extend([Theirs::Ping(probe.clone().into()), Theirs::Pong(probe.into())]);
        expected.push(Theirs::Close(Some(TheirClose { code: CloseCode::from(4001), reason: "done".into() })));
        let mut client = socket(bytes, Role::Client, 1 << 20);
        for message in expected {
            prop_assert_eq!(client.read().unwrap(), message);
        }
        // Nothing more came: not even a part of a frame.
        prop_assert!(client.read().is_err());
    }

    #[test]
    fn compressed_messages_come_as_they_were_in_any_number_of_frames(
        payload in any_payload(),
        keys in prop::collection::vec(any::<[u8; 4]>(), 1..5),
        cuts in any_cuts(),
        said in any_control(),
    ) {
        let limits = Limits { deflate: true, ..Limits::default() };
        let (text, data) = payload;
        prop_assume!(!text || str::from_utf8(&data).is_ok());
        let Some(compressed) = Deflate::of_window(15).unwrap().compress(&data) else { return Ok(()) };
        let size = compressed.len().div_ceil(keys.len());
        let parts: Vec<&[u8]> = compressed.chunks(size).collect();
        let mut bytes = Vec::new();
        for (number, (payload, key)) in parts.iter().zip(&keys).enumerate() {
            let begin = if number > 0 { 0 } else if text { 0x41 } else { 0x42 };
            let last = if number + 1 == parts.len() { 0x80 } else { 0 };
            bytes.extend(Raw { first: begin | last, key: Some(*key), payload: payload.to_vec() }.bytes());
            if last == 0 {
                bytes.extend(said.bytes());
            }
        }
        let (mut all, end) = ours(&bytes, &cuts, limits, true);
        prop_assert_eq!(all.pop(), Some(Incoming::Message(Message { text, data: data.into() }, 1)));
        prop_assert_eq!((all.len(), end), (parts.len() - 1, End::Open));
        // Where nothing was agreed upon they must not come.
        prop_assert_eq!(ours(&bytes, &cuts, Limits::default(), true), (vec![], End::Violation(1002)));
    }

    #[test]
    fn any_numbers_are_a_state_that_can_go_on_or_none(
        words in prop_oneof![any::<[u64; 3]>(), prop::array::uniform3(0_u64..300)],
        place in 0_u64..4,
        bytes in prop::collection::vec(any::<u8>(), 0..50),
        mut input in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let [first, second, third] = words;
        let words = [first, second & 0x0f0f_ffff_ffff | place << 48, third];
        let limits = Limits { max_message: 1000, ..Limits::default() };
        if let Some(mut decoder) = Decoder::from_state(limits, State { words, bytes }) {
            let again = Decoder::from_state(limits, decoder.state());
            prop_assert_eq!(again.map(|again| again.state()), Some(decoder.state()));
            input.push(0);
            let mut rest = &input[..];
            while let Ok(Some(_)) = decoder.next(&mut rest) {}
            prop_assert!(rest.is_empty() && decoder.held() <= 2000 + 125);
        }
    }
}
