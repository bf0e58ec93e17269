//! The decision: how many replicas, and why.
//!
//! Owns what has to be remembered from one look to the next. Pure: time is an argument.
//!
//! In this order: who waits wakes a function that has no replicas; a schedule raises it when its time comes; what was
//! idle for long enough has none; and load moves it between its bounds, up at once and down only when no more were
//! needed for a whole window. A function without load to follow stays as it was told.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::{Timestamp, Zoned};

use crate::scaling::policy::{IdleBy, LoadTarget, Measure, Policy, Zero};
use crate::scaling::recall::{Needs, Rate};
use crate::units::Spelt;

/// How often load is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Between two steps up, where replicas are added by steps.
const STEP_PAUSE: Duration = Duration::from_secs(5);

/// Into how many looks the time is divided after which an idle function has no replicas, and how long there is between
/// two of them at the most. That one began to be idle is only noticed by looking.
const IDLE_LOOKS: (u32, Duration) = (30, Duration::from_secs(30));

/// So often at least a schedule is asked: somebody may have set the clock.
const CLOCK_TICK: Duration = Duration::from_mins(1);

/// What is going on with a function, or with one key of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observation {
    /// How many replicas there are to be now.
    pub desired: u32,
    /// How many take requests.
    pub ready: u32,
    /// Requests at replicas, and open connections.
    pub in_flight: u64,
    /// Open connections alone.
    pub connections: u64,
    /// Requests that wait for a replica.
    pub waiting: u64,
    /// Deferred calls that wait.
    pub queued: u64,
    /// Requests that began, ever.
    pub started: u64,
    /// Requests that ended, ever.
    pub finished: u64,
    /// What the replicas use, in thousandths of a core; `None` if nobody looked.
    pub cpu_millis: Option<f64>,
    /// How long ago data last moved on a connection; `None` if none ever did.
    pub quiet: Option<Duration>,
}

/// A change of how many replicas there are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// So many.
    pub replicas: u32,
    /// Why.
    pub reason: Reason,
}

/// Why there are to be more or fewer replicas. Shown as text for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// Somebody waits and there is none.
    Demand,
    /// The time came at which there are to be more or fewer at least.
    Schedule,
    /// Nothing happened for so long.
    Idle(Duration),
    /// More than the replicas are to carry.
    Load {
        /// Of which kind.
        measure: Measure,
        /// How much of it there is.
        load: f64,
        /// How much a replica is to carry.
        per_replica: f64,
    },
    /// No more were needed for a while.
    Fell {
        /// So many.
        needed: u32,
        /// For so long.
        window: Duration,
    },
    /// There were fewer than the least that is asked for.
    Least(u32),
    /// There were more than the most that is allowed.
    Most(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Demand => f.write_str("a request waits"),
            Self::Schedule => f.write_str("schedule"),
            Self::Idle(time) => write!(f, "idle for {}", Spelt(time)),
            Self::Load { measure, load, per_replica } => {
                let what = match measure {
                    Measure::Capacity => "in flight",
                    Measure::Rps => "a second",
                    Measure::Cpu => "thousandths of a core",
                    Measure::Queue => "deferred calls",
                };
                write!(f, "{} {what}, {} for each", rounded(load), rounded(per_replica))
            }
            Self::Fell { needed, window } if window.is_zero() => write!(f, "load fell: {needed} needed"),
            Self::Fell { needed, window } => {
                write!(f, "load fell: {needed} needed at most in the last {}", Spelt(window))
            }
            Self::Least(min) => write!(f, "at least {min} are asked for"),
            Self::Most(max) => write!(f, "at most {max} are allowed"),
        }
    }
}

/// To two digits behind the point, as few as it takes.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// What is remembered of one function, or one key of it, between looks.
#[derive(Debug, Clone)]
pub struct Scaler {
    /// Until when it was certainly in use.
    busy: Instant,
    /// Was it in use at the last look?
    in_use: bool,
    /// How many requests had begun at the last look; `None` if there was none.
    started: Option<u64>,
    finished: Rate,
    needs: Needs,
    /// When replicas were added by a step.
    stepped: Option<Instant>,
    /// The time of the schedule that was heeded last, and the least that it led to.
    heeded: Option<(Timestamp, u32)>,
}

impl Scaler {
    /// Knows nothing yet, and takes the function for busy until its first look.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            busy: now,
            in_use: false,
            started: None,
            finished: Rate::default(),
            needs: Needs::default(),
            stepped: None,
            heeded: None,
        }
    }

    /// Somebody asked for `replicas`: it is as if so many were needed, and in use, now.
    pub fn told(&mut self, replicas: u32, now: Instant) {
        self.needs.note(replicas, now);
        self.busy = self.busy.max(now);
    }

    /// What the schedule says now was heeded before this began, and whoever runs the host has decided otherwise since.
    pub fn heed(&mut self, policy: &Policy, clock: &Zoned) {
        self.heeded = Bounds::of(policy, clock).heeded();
    }

    /// Decides; `None` if there are to be as many as there are. `clock` is the time on the host's wall.
    ///
    /// May be called as often as there is reason to: what is measured over time stays right.
    pub fn decide(
        &mut self,
        policy: &Policy,
        seen: &Observation,
        now: Instant,
        clock: &Zoned,
    ) -> Option<Decision> {
        self.observe(policy, seen, now);
        let bounds = Bounds::of(policy, clock);
        let times_up = bounds.since != self.heeded.map(|(since, _)| since);
        let was_least = self.heeded.map(|(_, least)| least);
        self.heeded = bounds.heeded();

        let decision = if seen.desired == 0 {
            from_none(seen, &bounds, times_up)
        } else if let Some(idle) = self.idle(policy.zero, &bounds, now) {
            Some(Decision { replicas: 0, reason: Reason::Idle(idle) })
        } else if let Some(target) = &policy.load {
            self.by_load(target, seen, &bounds, now)
        } else {
            let raised = seen.desired < bounds.least;
            let lowered = was_least == Some(seen.desired) && bounds.least < seen.desired;
            (times_up && (raised || lowered))
                .then_some(Decision { replicas: bounds.least, reason: Reason::Schedule })
        };
        decision.filter(|decision| decision.replicas != seen.desired)
    }

    /// When to look again even if nothing is heard; `None`: never.
    #[must_use]
    pub fn next_look(&self, policy: &Policy, desired: u32, now: Instant, clock: &Zoned) -> Option<Instant> {
        let load = (desired > 0 && policy.load.is_some()).then_some(TICK);
        let idle = policy.zero.filter(|_| desired > 0).map(|zero| {
            let (looks, most) = IDLE_LOOKS;
            let tick = (zero.after / looks).clamp(TICK, most);
            let left = zero.after.saturating_sub(now.saturating_duration_since(self.busy));
            // What stays in use, or is kept by a schedule, is looked at again all the same.
            if left.is_zero() { tick } else { tick.min(left) }
        });
        let schedule = policy.schedule.next(clock).map(|next| {
            let left = Duration::try_from(clock.duration_until(&next)).unwrap_or_default();
            left.min(CLOCK_TICK)
        });
        [load, idle, schedule].into_iter().flatten().min().map(|left| now + left)
    }

    /// Takes down what is seen.
    fn observe(&mut self, policy: &Policy, seen: &Observation, now: Instant) {
        let traffic = policy.zero.is_some_and(|zero| zero.by == IdleBy::Traffic);
        let held = if traffic { seen.in_flight.saturating_sub(seen.connections) } else { seen.in_flight };
        let in_use = held > 0 || seen.waiting > 0 || seen.queued > 0;
        let since = self.started != Some(seen.started);
        // When between two looks it began to be idle nobody knows: the later it is, the safer.
        if in_use || self.in_use || since {
            self.busy = now;
        } else if let Some(moved) = seen.quiet.filter(|_| traffic).and_then(|quiet| now.checked_sub(quiet)) {
            self.busy = self.busy.max(moved);
        }
        self.in_use = in_use;
        self.started = Some(seen.started);
        if policy.load.as_ref().is_some_and(|target| target.measure == Measure::Rps) {
            self.finished.note(seen.finished, now);
        }
        if policy.load.is_none() || seen.desired == 0 {
            // A window begins when there is load to be followed.
            self.needs = Needs::default();
        }
    }

    /// For how long it was idle, if that is long enough and nothing says that there are to be replicas.
    fn idle(&self, zero: Option<Zero>, bounds: &Bounds, now: Instant) -> Option<Duration> {
        let idle = now.saturating_duration_since(self.busy);
        let Zero { after, .. } = zero?;
        (!self.in_use && !bounds.scheduled && idle >= after).then_some(after)
    }

    fn by_load(
        &mut self,
        target: &LoadTarget,
        seen: &Observation,
        bounds: &Bounds,
        now: Instant,
    ) -> Option<Decision> {
        let load = self.load(target.measure, seen);
        let needed = load.map_or(seen.desired, |load| replicas_for(load, target.per_replica));
        let needed = needed.clamp(bounds.least, bounds.most);
        // Of what was needed before the first look nothing is known but what there is.
        if self.needs.is_empty() {
            self.needs.note(seen.desired, now);
        }
        self.needs.note(needed, now);
        self.needs.forget(now, target.down_window);

        if seen.desired < bounds.least && needed == bounds.least {
            return Some(Decision { replicas: needed, reason: bounds.why_least() });
        }
        if needed > seen.desired {
            let replicas = match target.step {
                Some(_) if self.stepped.is_some_and(|at| now.saturating_duration_since(at) < STEP_PAUSE) => {
                    bounds.least.max(seen.desired)
                }
                Some(step) => needed.min(seen.desired.saturating_add(step.get())).max(bounds.least),
                None => needed,
            };
            if replicas > seen.desired {
                self.stepped = Some(now);
            }
            let reason = Reason::Load {
                measure: target.measure,
                load: load.unwrap_or_default(),
                per_replica: target.per_replica,
            };
            return Some(Decision { replicas, reason });
        }
        let highest = self.needs.highest().unwrap_or(needed).clamp(needed, bounds.most);
        let reason = if seen.desired > bounds.most && highest == bounds.most {
            Reason::Most(bounds.most)
        } else {
            Reason::Fell { needed: highest, window: target.down_window }
        };
        (highest < seen.desired).then_some(Decision { replicas: highest, reason })
    }

    /// How much load there is; `None` if that is not known yet.
    fn load(&self, measure: Measure, seen: &Observation) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 requests at a time")]
        let count = |count: u64| count as f64;
        match measure {
            Measure::Capacity => Some(count(seen.in_flight.saturating_add(seen.waiting))),
            Measure::Rps => self.finished.per_second(),
            Measure::Cpu => seen.cpu_millis,
            Measure::Queue => Some(count(seen.queued)),
        }
    }
}

/// Between how many and how many, now.
struct Bounds {
    least: u32,
    most: u32,
    /// Is it the schedule that asks for as many, or for any at all?
    scheduled: bool,
    by_schedule: bool,
    /// Since when the schedule says what it says.
    since: Option<Timestamp>,
}

impl Bounds {
    fn of(policy: &Policy, clock: &Zoned) -> Self {
        let in_force = policy.schedule.in_force(clock);
        let scheduled = in_force.map_or(0, |(_, replicas)| replicas);
        // Of a key there is one.
        let most = if policy.placement.key.is_some() { 1 } else { policy.max.max(1) };
        Self {
            least: policy.min.max(scheduled).clamp(1, most),
            most,
            scheduled: scheduled > 0,
            by_schedule: scheduled > policy.min,
            since: in_force.map(|(since, _)| since),
        }
    }

    fn heeded(&self) -> Option<(Timestamp, u32)> {
        self.since.map(|since| (since, self.least))
    }

    fn why_least(&self) -> Reason {
        if self.by_schedule { Reason::Schedule } else { Reason::Least(self.least) }
    }
}

/// There are none: some, if somebody waits or their time has come.
fn from_none(seen: &Observation, bounds: &Bounds, times_up: bool) -> Option<Decision> {
    let reason = if seen.waiting > 0 || seen.queued > 0 {
        Reason::Demand
    } else if times_up && bounds.scheduled {
        Reason::Schedule
    } else {
        return None;
    };
    Some(Decision { replicas: bounds.least, reason })
}

/// How many replicas carry `load`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast to an integer saturates")]
fn replicas_for(load: f64, per_replica: f64) -> u32 {
    // 6.3 is not ten times 0.63 to the last bit.
    (load / per_replica - 1e-9).ceil() as u32
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
