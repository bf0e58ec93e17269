//! Tunnels that go on in the next process: here, in the next server of this one.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use roost_proxy::{DescriptorStore, Drained, Endpoint, Keep, Named, Storing, Timeouts, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::support::*;

const UPGRADE: &str = "GET /function/f HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Says "service restart" to a client.
const RESTART: &[u8] = b"\x88\x11\x03\xf4service restart";

/// Keeps descriptors as systemd does.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<HashMap<String, Vec<OwnedFd>>>);

impl DescriptorStore for Shelf {
    fn put<'a>(&'a self, name: &'a str, descriptors: &'a [BorrowedFd<'a>]) -> Storing<'a> {
        let copies = descriptors.iter().map(|one| one.try_clone_to_owned().unwrap());
        self.0.lock().unwrap().entry(name.to_owned()).or_default().extend(copies);
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Storing<'a> {
        self.0.lock().unwrap().remove(name);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Shelf {
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What the next process gets, in no order.
    pub(crate) fn copies(&self) -> Vec<Named> {
        let shelf = self.0.lock().unwrap();
        let of = |(name, all): (&String, &Vec<OwnedFd>)| {
            all.iter().map(|one| (name.clone(), one.try_clone().unwrap())).collect::<Vec<_>>()
        };
        shelf.iter().flat_map(of).collect()
    }
}

/// A function, and one proxy after the other before it.
struct House {
    shelf: Arc<Shelf>,
    keep: Arc<Keep>,
    function: Function,
    proxy: Proxy,
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    timeouts: Timeouts,
}

impl House {
    async fn with(capacity: usize) -> Self {
        Self::with_timeouts(capacity, Timeouts::default()).await
    }

    async fn with_timeouts(capacity: usize, timeouts: Timeouts) -> Self {
        let (shelf, function, proxy) =
            (Arc::new(Shelf::default()), Function::start().await, Proxy::start().await);
        let keep = Keep::new(capacity, Arc::<Shelf>::clone(&shelf)).unwrap();
        proxy.server.keep(Arc::clone(&keep));
        let upstream = proxy.function_with("f", &[&function], timeouts);
        let endpoint = Arc::clone(&function.endpoint);
        Self { shelf, keep, function, proxy, upstream, endpoint, timeouts }
    }

    async fn open(&self) -> (Wire, Wire) {
        let mut client = self.proxy.ask(UPGRADE).await;
        let mut wire = self.function.accept().await;
        wire.head().await;
        wire.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        (client, wire)
    }

    /// One proxy ends and the next one begins; its function has the same replica again if it is `there`.
    async fn hand_over(&mut self, there: bool) -> Drained {
        let server = self.proxy.server.clone();
        let drained = within(server.hand_over(DEADLINE)).await;
        within(server.leave()).await;
        let memory = self.keep.memory().try_clone_to_owned().unwrap();
        let (keep, inherited) =
            Keep::inherit(memory, self.shelf.copies(), 100, Arc::<Shelf>::clone(&self.shelf)).unwrap();
        let next = Proxy::start().await;
        next.server.keep(Arc::clone(&keep));
        if there {
            self.upstream = next.function_with("f", &[], self.timeouts);
        }
        next.server.resume(inherited);
        if there {
            // Only now: a tunnel waits for its replica.
            let last = &self.function.endpoint;
            self.endpoint = Endpoint::new(last.id().clone(), last.address());
            self.upstream.publish(vec![Arc::clone(&self.endpoint)]);
        }
        (self.keep, self.proxy) = (keep, next);
        drained
    }
}

/// Waits until no more bytes come to a side that does not read them: it is full, and what comes behind is with the proxy.
/// That is no event for anybody, so it is looked at now and then.
async fn stuck(wire: &Wire) {
    let waiting = || {
        let mut bytes = vec![std::mem::MaybeUninit::uninit(); 8 << 20];
        socket2::SockRef::from(&wire.stream).peek(&mut bytes).unwrap_or(0)
    };
    let mut before = 0;
    within(async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = waiting();
            if now > 0 && now == before {
                return;
            }
            before = now;
        }
    })
    .await;
}

fn frame(masked: bool, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(mask | u8::try_from(length).unwrap()),
        length => {
            bytes.push(mask | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    if masked {
        bytes.extend([0; 4]);
    }
    [bytes, payload.to_vec()].concat()
}

#[tokio::test]
async fn a_tunnel_goes_on_in_the_next_server_in_the_middle_of_a_frame_and_counts_there() {
    let mut house = House::with(100).await;
    let (mut client, mut wire) = house.open().await;
    let (to_function, to_client) = (frame(true, 0x81, b"question"), frame(false, 0x82, b"answer"));
    for half in 0..2 {
        let part = |bytes: &[u8]| bytes.chunks(bytes.len().div_ceil(2)).nth(half).unwrap().to_vec();
        client.send(part(&to_function)).await;
        assert_eq!(wire.bytes(part(&to_function).len()).await, part(&to_function));
        wire.send(part(&to_client)).await;
        assert_eq!(client.bytes(part(&to_client).len()).await, part(&to_client));
        assert_eq!(house.hand_over(true).await, Drained { cut: 0 });
        within(async {
            while house.endpoint.tunnels() != 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!((house.upstream.load().tunnels, house.upstream.load().in_flight), (1, 1));
    }
    assert_eq!((house.shelf.len(), house.keep.len()), (1, 1));

    // The frames are in step: a Close goes between two of them.
    client.send(&to_function[..3]).await;
    wire.bytes(3).await;
    wire.send(&to_client[..1]).await;
    client.bytes(1).await;
    house.endpoint.end_tunnels(Duration::ZERO);
    client.send(&to_function[3..]).await;
    wire.send(&to_client[1..]).await;
    assert_eq!(client.bytes(to_client.len() - 1).await, to_client[1..]);
    assert_eq!(client.bytes(RESTART.len()).await, RESTART);
    wire.bytes(to_function.len() - 3).await;
    assert_eq!(wire.bytes(2).await[0], 0x88);
    drop((client, wire));
    within(house.endpoint.drained()).await;
    until(|| house.shelf.len() == 0 && house.keep.is_empty()).await;
}

#[tokio::test]
async fn what_nobody_reads_waits_and_an_end_is_passed_on_by_the_next_server() {
    let mut house = House::with(100).await;
    let (mut client, mut wire) = house.open().await;
    // More than sockets hold: some of it is with the proxy.
    let much = frame(true, 0x82, &[7; 60_000]).repeat(100);
    let writing = tokio::spawn(async move {
        client.send(&much).await;
        client.stream.shutdown().await.unwrap();
        client
    });
    stuck(&wire).await;
    house.hand_over(true).await;
    let one = frame(true, 0x82, &[7; 60_000]);
    for index in 0..100 {
        if index % 30 == 0 {
            house.hand_over(true).await;
        }
        assert!(wire.bytes(one.len()).await == one, "frame {index}");
    }
    assert_eq!(wire.ended().await, b"");
    let mut client = within(writing).await.unwrap();
    house.hand_over(true).await;
    wire.send(frame(false, 0x88, b"")).await;
    drop(wire);
    assert_eq!(client.ended().await, [0x88, 0]);
    within(house.endpoint.drained()).await;
    until(|| house.shelf.len() == 0).await;
}

#[tokio::test]
async fn a_tunnel_whose_function_is_gone_is_closed_with_a_word() {
    let mut house = House::with(100).await;
    let (mut client, mut wire) = house.open().await;
    house.hand_over(false).await;
    assert_eq!(client.bytes(RESTART.len()).await, RESTART);
    assert_eq!(wire.bytes(2).await[0], 0x88);
    drop((client, wire));
    until(|| house.shelf.len() == 0 && house.keep.is_empty()).await;
}

#[tokio::test]
async fn as_many_are_kept_as_may_be_and_the_others_are_closed_with_a_word() {
    let mut house = House::with(2).await;
    // The one may be served on another thread than the other: it has its place before the next one comes.
    let mut first = house.open().await;
    until(|| house.keep.len() == 1).await;
    let mut second = house.open().await;
    until(|| house.keep.len() == 2).await;
    let mut third = house.open().await;
    let answering = tokio::spawn(async move {
        assert_eq!(third.0.bytes(RESTART.len()).await, RESTART);
        assert_eq!(third.1.bytes(2).await[0], 0x88);
        // A client that answers.
        third.0.send(frame(true, 0x88, &[3, 0xf4])).await;
        third.1.send(frame(false, 0x88, &[3, 0xf4])).await;
        third.0.closed().await;
    });
    assert_eq!(house.hand_over(true).await, Drained { cut: 0 });
    within(answering).await.unwrap();
    for (client, wire) in [&mut first, &mut second] {
        client.send(frame(true, 0x81, b"x")).await;
        wire.bytes(7).await;
    }
    drop((first, second));
    within(house.endpoint.drained()).await;
    until(|| house.shelf.len() == 0).await;
}

#[tokio::test]
async fn however_often_a_tunnel_is_handed_over_its_clocks_go_on() {
    const LIMIT: Duration = Duration::from_secs(2);
    let idle = Timeouts { tunnel_idle: Some(LIMIT), ..Timeouts::default() };
    let lifetime = Timeouts { lifetime: Some(LIMIT), ..Timeouts::default() };
    let cases = [("quiet", idle, false), ("half open", idle, true), ("too old", lifetime, false)];
    let houses = cases.map(|(what, timeouts, half_open)| async move {
        let mut house = House::with_timeouts(100, timeouts).await;
        let opened = Instant::now();
        let (mut client, mut wire) = house.open().await;
        // Its age and its silence are not the same.
        tokio::time::sleep(LIMIT / 4).await;
        let mut since = Instant::now();
        client.send(frame(true, 0x81, b"x")).await;
        wire.bytes(7).await;
        if half_open {
            client.stream.shutdown().await.unwrap();
            assert_eq!(wire.ended().await, b"");
        }
        if timeouts.lifetime.is_some() {
            since = opened;
        }
        let began = Instant::now();
        // A client that has ended gets no word.
        let hearing = tokio::spawn(async move {
            if half_open {
                assert_eq!(client.ended().await, b"");
            } else {
                assert_eq!(client.bytes(2).await[0], 0x88);
            }
        });
        while !hearing.is_finished() {
            assert!(began.elapsed() < DEADLINE, "{what}: it begins anew with each server");
            house.hand_over(true).await;
            tokio::time::sleep(LIMIT / 20).await;
        }
        assert!(since.elapsed() >= LIMIT - Duration::from_millis(2), "{what}: {:?}", since.elapsed());
        hearing.await.unwrap();
    });
    for house in houses.map(tokio::spawn) {
        house.await.unwrap();
    }
}

#[tokio::test]
async fn what_stands_for_nothing_is_let_go_and_never_taken_for_a_tunnel() {
    let mut house = House::with(100).await;
    let (mut client, mut wire) = house.open().await;
    let other = house.proxy.connect().await;
    let socket = socket2::SockRef::from(&other.stream).try_clone().unwrap();
    // Of an earlier tunnel in that slot, of no tunnel, and of nothing at all.
    let strangers = [("t0", &socket), ("t7", &socket), ("x", &socket)];
    for (name, socket) in strangers {
        let copy: OwnedFd = socket.try_clone().unwrap().into();
        house.shelf.0.lock().unwrap().entry(name.to_owned()).or_default().push(copy);
    }
    house.hand_over(true).await;
    until(|| house.shelf.len() == 1).await;
    client.send(frame(true, 0x81, b"still")).await;
    wire.bytes(11).await;
    assert_eq!(house.endpoint.tunnels(), 1);
}

#[tokio::test]
async fn bytes_behind_the_handshake_are_kept_too() {
    let mut house = House::with(100).await;
    let early = frame(true, 0x81, b"early");
    let mut client = house.proxy.connect().await;
    client.send([UPGRADE.as_bytes(), &early[..4]].concat()).await;
    let mut wire = house.function.accept().await;
    wire.head().await;
    wire.send([SWITCH.as_bytes(), &frame(false, 0x81, b"prompt")].concat()).await;
    client.head().await;
    assert_eq!(client.bytes(8).await, frame(false, 0x81, b"prompt"));
    assert_eq!(wire.bytes(4).await, early[..4]);
    house.hand_over(true).await;
    client.send(&early[4..]).await;
    assert_eq!(wire.bytes(early.len() - 4).await, early[4..]);
    house.endpoint.end_tunnels(Duration::ZERO);
    assert_eq!(client.bytes(RESTART.len()).await, RESTART);
}

/// A side of a tunnel that writes its stream in pieces, and checks what the other one writes.
async fn side(
    (mut from, mut to): (OwnedReadHalf, OwnedWriteHalf),
    says: Vec<u8>,
    hears: Vec<u8>,
    pieces: Vec<usize>,
    heard: Arc<(AtomicUsize, Notify)>,
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let write = async {
        let (mut at, mut pieces) = (0, pieces.iter().cycle());
        while at < says.len() {
            let end = says.len().min(at + pieces.next().unwrap());
            to.write_all(&says[at..end]).await.unwrap();
            at = end;
        }
    };
    let read = async {
        let (mut at, mut buffer) = (0, vec![0; 5000]);
        while at < hears.len() {
            let length = from.read(&mut buffer).await.unwrap();
            assert!(length > 0, "ended after {at} of {} bytes", hears.len());
            assert!(hears.get(at..at + length) == Some(&buffer[..length]), "other bytes behind {at}");
            at += length;
            heard.0.fetch_add(length, Ordering::SeqCst);
            heard.1.notify_one();
        }
    };
    tokio::join!(write, read);
    (from, to)
}

fn stream(masked: bool, lengths: &[usize]) -> Vec<u8> {
    let numbered = |(index, length): (usize, &usize)| {
        let payload: Vec<u8> = (0..*length).map(|at| (index * 31 + at * 7) as u8).collect();
        frame(masked, 0x82, &payload)
    };
    lengths.iter().enumerate().flat_map(numbered).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_byte_arrives_once_and_in_order_wherever_tunnels_are_handed_over(
        of_client in prop::collection::vec(prop_oneof![0_usize..200, 0_usize..40_000], 1..40),
        of_function in prop::collection::vec(prop_oneof![0_usize..200, 0_usize..40_000], 1..40),
        pieces in prop::collection::vec(prop_oneof![1_usize..200, 1_usize..30_000], 1..10),
        points in prop::collection::vec(0_usize..1000, 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = House::with(100).await;
            let (client, wire) = house.open().await;
            let (up, down) = (stream(true, &of_client), stream(false, &of_function));
            let all = up.len() + down.len();
            let heard = Arc::new((AtomicUsize::new(0), Notify::new()));
            let halves = |wire: Wire| wire.stream.into_split();
            let of = |wire, says: &[u8], hears: &[u8]| {
                let heard = Arc::clone(&heard);
                tokio::spawn(side(halves(wire), says.to_vec(), hears.to_vec(), pieces.clone(), heard))
            };
            let (client, wire) = (of(client, &up, &down), of(wire, &down, &up));
            let mut points = points;
            points.sort_unstable();
            for point in points {
                within(async {
                    while heard.0.load(Ordering::SeqCst) < all * point / 1000 {
                        heard.1.notified().await;
                    }
                })
                .await;
                assert_eq!(house.hand_over(true).await, Drained { cut: 0 });
            }
            let ((mut from, _to), _function) = (within(client).await.unwrap(), within(wire).await.unwrap());
            house.endpoint.end_tunnels(Duration::ZERO);
            let mut end = vec![0; RESTART.len()];
            within(from.read_exact(&mut end)).await.unwrap();
            assert_eq!(end, RESTART);
        });
    }
}

#[tokio::test]
async fn the_next_server_knows_when_a_clients_token_expires() {
    let mut house = House::with(100).await;
    house.upstream.set_access(crate::leases::TOKEN);
    let mut client = house
        .proxy
        .ask(&UPGRADE.replace("/function/f", "/function/f?access_token=sub%3Dada~for%3D700"))
        .await;
    let mut wire = house.function.accept().await;
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(house.hand_over(true).await, Drained { cut: 0 });
    client.send(frame(true, 0x81, b"on")).await;
    assert_eq!(wire.bytes(8).await, frame(true, 0x81, b"on"));
    let goodbye = client.bytes(17).await;
    assert_eq!(goodbye, [&[0x88, 15, 0x03, 0xf0][..], b"token expired"].concat());
}
