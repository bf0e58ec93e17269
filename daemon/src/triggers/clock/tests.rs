use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::function::record::{FunctionRecord, Revision};
use crate::function::spec::Deployment;
use crate::triggers::figures::Counts;
use crate::triggers::{Delivered, schedule};

/// Takes calls, or not, and keeps what is noted at that moment.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    keys: Vec<String>,
    scheduled: Vec<String>,
    full: bool,
    open: bool,
}

impl Taken {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// For which times calls were taken since the last look.
    fn scheduled(&self) -> Vec<String> {
        std::mem::take(&mut self.state().scheduled)
    }
}

impl Deliver for Taken {
    async fn deliver(&self, _: &FunctionKey, call: TriggeredCall) -> Result<Delivered, Refused> {
        let mut state = self.state();
        if state.full {
            return Err(Refused::Later("full".into()));
        }
        state.keys.push(call.idempotency_key.unwrap());
        state.scheduled.push(call.headers[X_SCHEDULED_FOR].to_str().unwrap().to_owned());
        Ok(Delivered { call_id: state.keys.len().to_string() })
    }

    async fn is_open(&self, _: &FunctionKey, _: &str) -> bool {
        self.state().open
    }
}

fn f() -> FunctionKey {
    FunctionKey::from_route("f").unwrap()
}

fn at(text: &str) -> Timestamp {
    format!("2026-05-01T{text}Z").parse().unwrap()
}

fn timetables(annotations: &[(&str, &str)]) -> BTreeMap<FunctionKey, Timetable> {
    let all = annotations.iter().chain(&[("topic", "cron-function")]);
    let annotations = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let deployment = Deployment { annotations, ..Deployment::default() };
    BTreeMap::from([(f(), schedule::parse(&deployment).unwrap().unwrap())])
}

fn store(directory: &Path) -> Arc<Store> {
    let store = Store::open(&directory.join("roost.redb")).unwrap();
    let deployment = Deployment { service: "f".into(), image: "i".into(), ..Deployment::default() };
    store.put(&f(), &FunctionRecord::new(Revision::new(deployment))).unwrap();
    Arc::new(store)
}

fn clock(store: &Arc<Store>, deliver: &Taken, since: &str) -> Clock<Taken> {
    let out = Out { deliver: deliver.clone(), figures: Figures::default() };
    let noted = store.schedules().unwrap();
    Clock { out, store: Arc::clone(store), ahead: Ahead::default(), noted, since: at(since) }
}

#[tokio::test]
async fn a_schedule_that_is_new_has_missed_nothing_and_what_was_missed_is_known_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, taken) = (store(directory.path()), Taken::default());
    let minutes = timetables(&[("schedule", "@every 1m; TZ=UTC 30 * * * *")]);
    let mut first = clock(&store, &taken, "10:00:00");
    let sleep = first.round(&minutes, at("10:00:00.5")).await;
    assert!(taken.scheduled().is_empty() && sleep <= LOOK);
    first.round(&minutes, at("10:01:00.1")).await;
    first.round(&minutes, at("10:01:59")).await;
    assert_eq!(taken.scheduled(), ["2026-05-01T10:01:00Z"]);

    let mut second = clock(&store, &taken, "10:31:30");
    second.round(&minutes, at("10:31:30")).await;
    assert_eq!(taken.scheduled(), ["2026-05-01T10:31:00Z", "2026-05-01T10:30:00Z"]);
    let counts = Counts { fired: 2, missed: 29, failed: 0 };
    assert_eq!(second.out.figures.counts()[0].2, counts);
    // A schedule that was not there meanwhile is new.
    second.round(&BTreeMap::new(), at("10:32:30")).await;
    assert!(store.schedules().unwrap().is_empty());
    second.round(&minutes, at("11:31:30")).await;
    assert!(taken.scheduled().is_empty());
}

#[tokio::test]
async fn a_run_that_was_handed_over_and_not_noted_is_handed_over_again_with_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let (store, taken) = (store(directory.path()), Taken::default());
    let minutes = timetables(&[("schedule", "@every 1m")]);
    let mut first = clock(&store, &taken, "10:00:00");
    first.round(&minutes, at("10:00:00")).await;
    let noted = store.schedules().unwrap().remove(&path_of(&f())).unwrap();
    first.round(&minutes, at("10:01:00")).await;
    // As if the daemon had ended before the note.
    store.put_schedules(&[(f(), noted)]).unwrap();
    clock(&store, &taken, "10:01:05").round(&minutes, at("10:01:05")).await;
    let key = "cron:f.openfaas-fn:@every 1m:2026-05-01T10:01:00Z";
    assert_eq!(taken.state().keys, [key, key]);
}

#[tokio::test]
async fn a_run_that_the_queue_does_not_take_is_handed_over_again_and_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let (store, taken) = (store(directory.path()), Taken::default());
    let minutes = timetables(&[("schedule", "@every 1m"), ("roost.schedule.missed", "all")]);
    let mut clock = clock(&store, &taken, "10:00:00");
    clock.round(&minutes, at("10:00:00")).await;
    taken.state().full = true;
    assert_eq!(clock.round(&minutes, at("10:02:00")).await, AGAIN);
    clock.round(&minutes, at("10:02:02")).await;
    taken.state().full = false;
    clock.round(&minutes, at("10:02:04")).await;
    assert_eq!(taken.scheduled(), ["2026-05-01T10:01:00Z", "2026-05-01T10:02:00Z"]);
    assert_eq!(clock.out.figures.counts()[0].2, Counts { fired: 2, ..Counts::default() });
}

#[tokio::test]
async fn where_runs_must_not_overlap_none_is_made_while_the_last_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (store, taken) = (store(directory.path()), Taken::default());
    for (overlap, expected) in [("skip", 2), ("allow", 3)] {
        let minutes = timetables(&[("schedule", "@every 1m"), ("roost.schedule.overlap", overlap)]);
        let mut clock = clock(&store, &taken, "10:00:00");
        clock.noted.clear();
        for (now, open) in [("10:00:00", false), ("10:01:00", true), ("10:02:00", true), ("10:03:00", false)]
        {
            taken.state().open = open;
            clock.round(&minutes, at(now)).await;
        }
        assert_eq!(taken.scheduled().len(), expected, "{overlap}");
        let counts = Counts { fired: expected as u64, missed: 3 - expected as u64, failed: 0 };
        assert_eq!(clock.out.figures.counts()[0].2, counts);
    }
}

#[tokio::test]
async fn what_comes_next_is_told_for_each_schedule_and_no_more_when_the_function_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let (store, taken) = (store(directory.path()), Taken::default());
    let annotations = [("schedule", "@every 90s; 30 * * * *; @every 1h"), ("roost.schedule.timezone", "UTC")];
    let timetables = timetables(&annotations);
    let mut clock = clock(&store, &taken, "10:00:00");
    let ahead = clock.ahead.clone();
    assert_eq!(ahead.of(&f()), []);
    let told = || {
        let all = ahead.of(&f()).into_iter();
        all.map(|next| (next.schedule, next.next.unwrap())).collect::<Vec<_>>()
    };
    let expected = |times: [&str; 3]| {
        let texts = ["CRON_TZ=UTC @every 90s", "CRON_TZ=UTC 30 * * * *", "CRON_TZ=UTC @every 1h"];
        texts.map(str::to_owned).into_iter().zip(times.map(at)).collect::<Vec<_>>()
    };
    clock.round(&timetables, at("10:00:00.5")).await;
    assert_eq!(told(), expected(["10:01:30", "10:30:00", "11:00:00"]));
    clock.round(&timetables, at("10:01:31")).await;
    assert_eq!(told(), expected(["10:03:00", "10:30:00", "11:00:00"]));
    // A run that the queue does not take is still to come.
    taken.state().full = true;
    clock.round(&timetables, at("10:04:00")).await;
    assert_eq!(told(), expected(["10:03:00", "10:30:00", "11:00:00"]));
    clock.round(&BTreeMap::new(), at("10:05:00")).await;
    assert_eq!(ahead.of(&f()), []);
}
