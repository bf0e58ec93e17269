//! The clock: makes the runs of all schedules when they are due.
//!
//! Owns up to when each schedule is settled, in memory and in the store. A run is handed to the queue first and noted
//! then: should the daemon end between the two, the run is handed over again, with the same idempotency key.
//!
//! ```text
//!   now ─► plan (pure) ─► runs ─► queue ─► settled, noted ─► sleep until the next, half a minute at most
//!    ▲                                                             │
//!    └─────────────────── or a deploy, or a removal ◄──────────────┘
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use roost_proxy::function::FunctionKey;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::ahead::{Ahead, Next};
use super::figures::{self, Figures};
use super::plan::{Plan, plan, rebased};
use super::schedule::{Overlap, Schedule, Timetable};
use super::topics::CLOCK as TOPIC;
use super::wanted::Wanted;
use super::{Deliver, Refused, Tools, TriggeredCall, X_CONNECTOR, X_TOPIC};
use crate::store::{Store, path_of};

/// The clock is looked at so often at least: somebody may set it.
const LOOK: Duration = Duration::from_secs(30);

/// The pause before a run is handed over again that the queue did not take.
const AGAIN: Duration = Duration::from_secs(2);

/// How many functions' runs are handed over at once.
const AT_ONCE: usize = 16;

const CONNECTOR: HeaderValue = HeaderValue::from_static("cron-connector");
const X_SCHEDULED_FOR: &str = "x-roost-scheduled-for";

/// Up to when a function's schedules are settled, by their texts.
pub type Runs = BTreeMap<String, Settled>;

/// Up to when a schedule is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// When it was due for the last time, or was first seen.
    pub at: Timestamp,
    /// The call that was made last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

/// Makes all runs, for ever.
pub async fn run<D: Deliver>(tools: Tools<D>, mut wanted: watch::Receiver<Arc<Wanted>>) {
    let store = Arc::clone(&tools.store);
    let noted = tokio::task::spawn_blocking(move || store.schedules()).await;
    let noted = match noted {
        Ok(Ok(noted)) => noted,
        Ok(Err(error)) => {
            warn!("what was noted of schedules cannot be read, and they begin anew: {error}");
            HashMap::new()
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let Tools { deliver, store, figures, ahead, .. } = tools;
    let mut clock = Clock { out: Out { deliver, figures }, store, ahead, noted, since: Timestamp::now() };
    loop {
        let now_wanted = Arc::clone(&wanted.borrow_and_update());
        let sleep = clock.round(&now_wanted.timetables, Timestamp::now()).await;
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

struct Clock<D> {
    out: Out<D>,
    store: Arc<Store>,
    ahead: Ahead,
    /// As in the store, by `namespace/name`.
    noted: HashMap<String, Runs>,
    /// When the daemon began.
    since: Timestamp,
}

/// Where runs go, and where they are counted.
struct Out<D> {
    deliver: D,
    figures: Figures,
}

/// The runs of one function in one round.
struct Round<'a> {
    function: &'a FunctionKey,
    timetable: &'a Timetable,
    runs: Runs,
    /// The queue has not taken one of them.
    refused: bool,
}

impl<D: Deliver> Clock<D> {
    /// Makes what is due, and tells how long there is nothing to do.
    async fn round(&mut self, timetables: &BTreeMap<FunctionKey, Timetable>, now: Timestamp) -> Duration {
        let (mut rounds, mut making) = (Vec::with_capacity(timetables.len()), FuturesUnordered::new());
        for (function, timetable) in timetables {
            if making.len() == AT_ONCE {
                rounds.extend(making.next().await);
            }
            let noted = self.noted.get(&path_of(function));
            let round = Round { function, timetable, runs: begun(timetable, noted, now), refused: false };
            making.push(round.make(&self.out, self.since, now));
        }
        while let Some(round) = making.next().await {
            rounds.push(round);
        }
        drop(making);
        self.ahead.tell(rounds.iter().map(|round| (round.function.clone(), round.ahead())).collect());
        let mut changed: Vec<(FunctionKey, Runs)> = Vec::new();
        for round in &rounds {
            let key = path_of(round.function);
            if self.noted.get(&key) != Some(&round.runs) {
                changed.push((round.function.clone(), round.runs.clone()));
                self.noted.insert(key, round.runs.clone());
            }
        }
        self.forget(timetables, &mut changed);
        self.note(changed).await;
        let next = rounds.iter().filter(|round| !round.refused).flat_map(Round::ahead);
        let next = next.filter_map(|ahead| ahead.next).min();
        let again = rounds.iter().any(|round| round.refused).then_some(AGAIN);
        let sleep = next.map(|next| until(next, Timestamp::now()));
        sleep.into_iter().chain(again).chain([LOOK]).min().unwrap_or(LOOK)
    }

    /// Forgets functions that have no schedule any more.
    fn forget(
        &mut self,
        timetables: &BTreeMap<FunctionKey, Timetable>,
        changed: &mut Vec<(FunctionKey, Runs)>,
    ) {
        let has: HashSet<String> = timetables.keys().map(path_of).collect();
        self.noted.retain(|path, _| {
            let keep = has.contains(path);
            if !keep && let Some(function) = function_of(path) {
                changed.push((function, Runs::new()));
            }
            keep
        });
    }

    async fn note(&self, changed: Vec<(FunctionKey, Runs)>) {
        if changed.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.put_schedules(&changed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(
                    "runs of schedules cannot be noted, and may be made once more after a restart: {error}"
                );
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// What is known of the schedules of a timetable: of one that is new, that it is settled up to now.
fn begun(timetable: &Timetable, noted: Option<&Runs>, now: Timestamp) -> Runs {
    let known = |schedule: &Schedule| noted.and_then(|noted| noted.get(&schedule.text)).cloned();
    let schedules = timetable.schedules.iter().map(|schedule| {
        let settled = known(schedule).unwrap_or(Settled { at: whole_second(now), call: None });
        (schedule.text.clone(), Settled { at: rebased(settled.at, now), ..settled })
    });
    schedules.collect()
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn until(next: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn function_of(path: &str) -> Option<FunctionKey> {
    let (namespace, name) = path.split_once('/')?;
    Some(FunctionKey::new(namespace.parse().ok()?, name.parse().ok()?))
}

impl Round<'_> {
    /// When its schedules are due next.
    fn ahead(&self) -> Vec<Next> {
        let settled = |schedule: &Schedule| self.runs.get(&schedule.text).map(|settled| settled.at);
        let next = |schedule: &Schedule| Next {
            schedule: schedule.text.clone(),
            next: settled(schedule).and_then(|settled| schedule.next(settled)),
        };
        self.timetable.schedules.iter().map(next).collect()
    }

    async fn make<D: Deliver>(mut self, out: &Out<D>, since: Timestamp, now: Timestamp) -> Self {
        for schedule in &self.timetable.schedules {
            let Some(settled) = self.runs.get_mut(&schedule.text) else { continue };
            let before = settled.at;
            let plan = plan(schedule, self.timetable.missed, before, since, now);
            let overlap = self.timetable.overlap;
            if let Err(why) = make(out, self.function, schedule, overlap, &plan, settled).await {
                debug!(function = %self.function, "{}: a run of {:?} waits: {why}", self.function, schedule.text);
                self.refused = true;
            }
            // Of runs that are handed over again it was told before.
            if plan.missed > 0 && settled.at != before {
                info!(function = %self.function, "{}: {} runs of {:?} were missed", self.function, plan.missed, schedule.text);
                out.figures.missed(self.function, figures::CLOCK, plan.missed);
            }
        }
        self
    }
}

/// Makes the runs of a plan, one after the other, as far as the queue takes them.
async fn make<D: Deliver>(
    out: &Out<D>,
    function: &FunctionKey,
    schedule: &Schedule,
    overlap: Overlap,
    plan: &Plan,
    settled: &mut Settled,
) -> Result<(), String> {
    for at in &plan.runs {
        let goes_on = match &settled.call {
            Some(call) => out.deliver.is_open(function, call).await,
            None => false,
        };
        if overlap == Overlap::Skip && goes_on {
            info!(%function, "{function}: no run of {:?} for {at}: the last one goes on", schedule.text);
            out.figures.missed(function, figures::CLOCK, 1);
        } else {
            match out.deliver.deliver(function, call(function, schedule, *at)).await {
                Ok(delivered) => {
                    debug!(%function, call_id = delivered.call_id, "{function}: the run of {:?} for {at}", schedule.text);
                    out.figures.fired(function, figures::CLOCK);
                    settled.call = Some(delivered.call_id);
                }
                Err(Refused::Later(why)) => return Err(why),
                Err(why) => {
                    warn!(%function, "{function}: no run of {:?} for {at}: {why}", schedule.text);
                    out.figures.failed(function, figures::CLOCK);
                }
            }
        }
        settled.at = *at;
    }
    settled.at = plan.settled;
    Ok(())
}

fn call(function: &FunctionKey, schedule: &Schedule, at: Timestamp) -> TriggeredCall {
    let scheduled_for = HeaderValue::try_from(at.to_string()).expect("a time is a header");
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(X_CONNECTOR, CONNECTOR);
    headers.insert(X_TOPIC, HeaderValue::from_static(TOPIC));
    headers.insert(X_SCHEDULED_FOR, scheduled_for);
    TriggeredCall {
        headers,
        idempotency_key: Some(format!("cron:{function}:{}:{at}", schedule.text)),
        ..TriggeredCall::default()
    }
}

#[cfg(test)]
mod tests;
