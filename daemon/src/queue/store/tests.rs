use std::io;
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Request};
use proptest::prelude::*;
use redb::StorageBackend;
use roost_proxy::function::FunctionKey;

use super::super::wishes::Wishes;
use super::*;

fn call(id: &str) -> Invocation {
    call_with(id, Wishes::default())
}

fn call_with(id: &str, wishes: Wishes) -> Invocation {
    let (parts, ()) = Request::builder().uri("/x").header("a", "b").body(()).unwrap().into_parts();
    let function = FunctionKey::from_route("f").unwrap();
    let id = HeaderValue::from_str(id).unwrap();
    Invocation::new(function, "f".into(), &id, &parts, None, wishes)
}

fn inline(text: &str) -> Kept {
    Kept::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

fn store() -> (Store, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Store::open(&directory.path().join("q")).unwrap(), directory)
}

fn append(store: &mut Store, number: u64, call: &Invocation, body: &str, now: i64) -> Accepted {
    store.batch(|tables| tables.append(number, call, &inline(body), now, 100)).unwrap()
}

fn found(store: &mut Store) -> Vec<(u64, String, State)> {
    let mut all = Vec::new();
    store
        .found(|found| {
            let found = found.unwrap();
            all.push((found.number, found.call.id, found.state));
        })
        .unwrap();
    all
}

#[test]
fn what_was_appended_is_there_behind_a_new_start_as_far_as_it_was() {
    let (mut store, directory) = store();
    append(&mut store, 1, &call("one"), "body", 0);
    append(&mut store, 2, &call("two"), "", 0);
    append(&mut store, 3, &call("three"), "x", 0);
    let state = State { begun: true, attempts: 2, due: 7, answer: None };
    store.batch(|tables| tables.put_state(1, &state)).unwrap();
    store.batch(|tables| tables.remove(2)).unwrap();
    drop(store);
    let mut store = Store::open(&directory.path().join("q")).unwrap();
    assert_eq!(found(&mut store), [(1, "one".to_owned(), state), (3, "three".to_owned(), State::default())]);
    assert_eq!(store.next_number().unwrap(), 4);
    let loaded = store.batch(|tables| tables.load(1)).unwrap().unwrap();
    assert_eq!((loaded.call.asked(), loaded.body), (call("one").asked(), inline("body")));
    assert!(store.batch(|tables| tables.load(2)).unwrap().is_none());
}

#[test]
fn of_an_idempotency_key_there_is_one_call_for_as_long_as_it_is_known() {
    let (mut store, _directory) = store();
    let keyed = |id: &str| call_with(id, Wishes { idempotency_key: Some("k".into()), ..Wishes::default() });
    assert_eq!(append(&mut store, 1, &keyed("one"), "", 0), Accepted::New);
    assert_eq!(append(&mut store, 2, &keyed("two"), "", 99), Accepted::Again("one".into()));
    store.batch(|tables| tables.remove(1)).unwrap();
    assert_eq!(append(&mut store, 2, &keyed("two"), "", 99), Accepted::Again("one".into()), "it was made");
    assert_eq!(append(&mut store, 2, &keyed("two"), "", 100), Accepted::New);
    // The end of the first does not end the second.
    assert_eq!(store.batch(|tables| tables.expire(101)).unwrap(), (Vec::new(), false));
    assert_eq!(append(&mut store, 3, &keyed("three"), "", 150), Accepted::Again("two".into()));
    assert_eq!(store.batch(|tables| tables.next_end()).unwrap(), Some(200));
    store.batch(|tables| tables.expire(201)).unwrap();
    assert_eq!(store.batch(|tables| tables.next_end()).unwrap(), None);
}

#[test]
fn a_result_is_there_until_its_time_is_over() {
    let (mut store, _directory) = store();
    let answer = Answer::new(http::StatusCode::OK, &http::HeaderMap::new(), 0.5, 1);
    let name = result_name(&call("one"));
    let put = |store: &mut Store, body: Option<&Kept>, until| {
        store.batch(|tables| tables.put_result(&name, answer.clone(), body, until)).unwrap()
    };
    assert_eq!(put(&mut store, Some(&inline("r")), 50), None);
    let result = |store: &mut Store| store.batch(|tables| tables.result(&name)).unwrap();
    assert_eq!(result(&mut store), Some((answer.clone(), Some(inline("r")))));
    assert_eq!(store.batch(|tables| tables.results_of("one")).unwrap(), std::slice::from_ref(&name));
    assert!(store.batch(|tables| tables.results_of("on")).unwrap().is_empty());
    put(&mut store, None, 80);
    assert_eq!(result(&mut store), Some((answer.clone(), None)), "too large");
    store.batch(|tables| tables.expire(60)).unwrap();
    assert!(result(&mut store).is_some());
    store.batch(|tables| tables.expire(81)).unwrap();
    assert!(result(&mut store).is_none());
}

#[test]
fn a_file_of_another_version_is_refused_and_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    drop(Store::open(&path).unwrap());
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(SCHEMA, 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let why = Store::open(&path).unwrap_err().to_string();
    assert!(why.contains("has version 99") && why.contains("install the version"), "{why}");
}

/// What is done to a disk.
#[derive(Debug, Clone)]
enum Done {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A disk that remembers what is done to it.
#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    done: Vec<Done>,
}

#[derive(Debug, Clone, Default)]
struct Remembered(Arc<Mutex<Disk>>);

impl StorageBackend for Remembered {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = disk.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.take(Done::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.take(Done::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(Done::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Remembered {
    fn take(&self, done: Done) {
        let mut disk = self.0.lock().unwrap();
        apply(&mut disk.bytes, &done);
        disk.done.push(done);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().done.len()
    }
}

fn apply(bytes: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Write(offset, data) => {
            let from = usize::try_from(*offset).unwrap();
            bytes[from..from + data.len()].copy_from_slice(data);
        }
        Done::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Done::Sync => {}
    }
}

fn opened(disk: &Remembered) -> Database {
    prepare(Database::builder().create_with_backend(disk.clone()).unwrap(), Path::new("disk")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The power fails at some moment: of what was written behind the last sync each piece is on the disk, is not, or is torn. What
    /// was acknowledged is there, whole, and the queue goes on.
    #[test]
    fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
        when in 0.0..1.0_f64,
        fates in proptest::collection::vec(0..3_u8, 64),
        sizes in proptest::collection::vec(0..3000_usize, 12),
    ) {
        let disk = Remembered::default();
        let database = opened(&disk);
        let mut acknowledged = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let number = number as u64 + 1;
            let body = "x".repeat(*size);
            batch(&database, |tables| {
                tables.append(number, &call(&number.to_string()), &inline(&body), 0, 100)?;
                // Space is used again.
                if number.is_multiple_of(3) { tables.remove(number - 1)?; }
                Ok(())
            }).unwrap();
            acknowledged.push((disk.count(), number, *size));
        }
        let done = std::mem::take(&mut disk.0.lock().unwrap().done);
        drop(database);
        let first = acknowledged[0].0;
        let cut = first + ((done.len() - first) as f64 * when) as usize;
        let synced = done[..cut].iter().rposition(|done| matches!(done, Done::Sync)).map_or(0, |at| at + 1);
        let mut bytes = Vec::new();
        done[..synced].iter().for_each(|done| apply(&mut bytes, done));
        for (number, done) in done[synced..cut].iter().enumerate() {
            match (done, fates[number % fates.len()]) {
                (Done::Write(offset, data), 2) => {
                    let half = data.len() / 1024 * 512;
                    apply(&mut bytes, &Done::Write(*offset, data[..half].to_vec()));
                }
                (Done::Write(..), 1) => {}
                (done, _) => apply(&mut bytes, done),
            }
        }
        let left = Remembered(Arc::new(Mutex::new(Disk { bytes, done: Vec::new() })));
        let database = opened(&left);
        batch(&database, |tables| {
            let known = acknowledged.iter().filter(|(at, ..)| *at <= cut);
            let last = known.clone().next_back().map_or(0, |(_, number, _)| *number);
            for (_, number, size) in known {
                // Removed by an acknowledged batch; or perhaps by the one behind, which may be there or not.
                let removed = (number + 1).is_multiple_of(3) && number < &last;
                let maybe = (number + 1).is_multiple_of(3) && *number == last;
                match tables.load(*number)? {
                    Some(loaded) => {
                        assert!(!removed, "{number} is back");
                        assert_eq!(loaded.body.length(), *size as u64);
                        assert_eq!(loaded.call.id, number.to_string());
                    }
                    None => assert!(removed || maybe, "{number} is lost"),
                }
            }
            tables.append(1000, &call("again"), &inline("x"), 0, 100)?;
            Ok(())
        }).unwrap();
    }
}
