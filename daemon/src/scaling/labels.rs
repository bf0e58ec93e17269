//! What the labels and annotations of a function say of how it is scaled.
//!
//! Owns their names, their defaults and every rule about what is valid in them, alone and together. An annotation goes
//! before a label of the same name. Pure.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use roost_proxy::{Affinity, Placement};

use crate::function::spec::{Deployment, MAX_REPLICAS};
use crate::lambda::setting::{self as lambda, LAMBDA};
use crate::scaling::policy::{Cap, IdleBy, LoadTarget, Measure, Policy, Rest, Rung, Zero};
use crate::scaling::schedule::Schedule;
use crate::units;

pub(crate) const MIN: &str = "com.openfaas.scale.min";
pub(crate) const MAX: &str = "com.openfaas.scale.max";
pub(crate) const TYPE: &str = "com.openfaas.scale.type";
pub(crate) const TARGET: &str = "com.openfaas.scale.target";
pub(crate) const PROPORTION: &str = "com.openfaas.scale.target-proportion";
pub(crate) const WINDOW: &str = "com.openfaas.scale.down.window";
pub(crate) const FACTOR: &str = "com.openfaas.scale.factor";
pub(crate) const ZERO: &str = "com.openfaas.scale.zero";
pub(crate) const ZERO_DURATION: &str = "com.openfaas.scale.zero-duration";
pub(crate) const IDLE: &str = "roost.scale.idle";
const CAPACITY: &str = "roost.scale.capacity";
const WAIT: &str = "roost.queue.wait";
const ROLLOUT: &str = "roost.rollout";
const SINGLETON: &str = "roost.scale.singleton";
pub(crate) const KEY: &str = "roost.scale.key";
const AFFINITY: &str = "roost.affinity";
const DRAIN: &str = "roost.drain";
const REST: &str = "roost.idle.state";
const PAUSED_FOR: &str = "roost.idle.paused-for";
const CREATED_FOR: &str = "roost.idle.created-for";
const SCHEDULE: &str = "roost.scale.schedule";

/// All of them.
pub(super) const NAMES: [&str; 21] = [
    MIN,
    MAX,
    TYPE,
    TARGET,
    PROPORTION,
    WINDOW,
    FACTOR,
    ZERO,
    ZERO_DURATION,
    IDLE,
    CAPACITY,
    WAIT,
    ROLLOUT,
    SINGLETON,
    KEY,
    AFFINITY,
    DRAIN,
    REST,
    PAUSED_FOR,
    CREATED_FOR,
    SCHEDULE,
];

/// Read as [`CAPACITY`] where that is not given: watchdogs refuse what is beyond it.
const MAX_INFLIGHT: &str = "max_inflight";

/// How many keys may have a replica where [`MAX`] says nothing.
const DEFAULT_KEYS: u32 = 20;

/// The rule of the community edition, for functions that have a maximum and nothing else: requests a second for each
/// replica, and how much of the maximum is added at a time, in percent.
const COMMUNITY: (f64, u32) = (5.0, 20);

/// The load for each replica where a kind is given and no number.
pub(crate) const DEFAULT_TARGET: f64 = 50.0;

/// How much of it a replica is to carry.
const DEFAULT_PROPORTION: f64 = 0.9;

const DEFAULT_WINDOW: Duration = Duration::from_secs(30);
const LONGEST_WINDOW: Duration = Duration::from_mins(5);
const DEFAULT_ZERO: Duration = Duration::from_mins(15);
const DEFAULT_PAUSED: Duration = Duration::from_mins(5);
const DEFAULT_CREATED: Duration = Duration::from_hours(1);
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// How long a call of a Lambda function waits for a replica that works on another one, where nothing is said of that: each takes
/// one at a time.
const LAMBDA_WAIT: Duration = Duration::from_mins(1);

const LONGEST_DRAIN: Duration = Duration::from_hours(1);
const LONGEST_IDLE: Duration = Duration::from_hours(365 * 24);

/// The longest part of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// What a function is, as far as other settings depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Never two replicas at once.
    Singleton,
    /// One replica for each key.
    Keyed,
}

/// See [`Policy::parse`].
pub(super) fn read(deployment: &Deployment) -> Result<Policy, Vec<String>> {
    let mut reader = Reader { deployment, mistakes: Vec::new() };
    let key = reader.placed(KEY);
    let singleton = reader.flag(SINGLETON) == Some(true);
    let kind = match (reader.given(KEY), singleton) {
        (Some(_), _) => Kind::Keyed,
        (None, true) => Kind::Singleton,
        (None, false) => Kind::Plain,
    };
    if singleton && kind == Kind::Keyed {
        reader.refuse(SINGLETON, &format!("cannot be together with {KEY}"));
    }
    let (min, max) = reader.bounds(kind);
    let policy = Policy {
        min,
        max,
        load: reader.load(kind, min, max),
        zero: reader.zero(kind),
        cap: Cap { per_replica: reader.capacity(), wait: reader.wait() },
        placement: Placement {
            affinity: reader.affinity(kind),
            max_keys: if key.is_some() { max as usize } else { 0 },
            key,
        },
        recreate: reader.recreate(kind),
        drain: reader.up_to(DRAIN, LONGEST_DRAIN),
        rest: reader.rest(),
        schedule: reader.schedule(kind, max),
    };
    if reader.mistakes.is_empty() { Ok(policy) } else { Err(reader.mistakes) }
}

/// Reads settings, and notes what is wrong with them.
struct Reader<'a> {
    deployment: &'a Deployment,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn given(&self, name: &str) -> Option<&'a str> {
        let Deployment { annotations, labels, .. } = self.deployment;
        annotations.get(name).or_else(|| labels.get(name)).map(|value| value.trim())
    }

    fn refuse(&mut self, name: &str, why: &str) {
        let place = if self.deployment.annotations.contains_key(name) { "annotations" } else { "labels" };
        self.mistakes.push(format!("{place}.{name}: {why}"));
    }

    fn refuse_beside_key(&mut self, name: &str, why: &str) {
        if self.given(name).is_some() {
            self.refuse(name, &format!("cannot be together with {KEY}: {why}"));
        }
    }

    /// What a setting means; `None` if it is not given, or means nothing and was refused.
    fn read<T>(&mut self, name: &str, expected: &str, meaning: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.given(name)?;
        let meant = meaning(value);
        if meant.is_none() {
            let shown: String = value.chars().take(MAX_SHOWN).collect();
            self.refuse(name, &format!("{shown:?}: expected {expected}"));
        }
        meant
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, "true or false", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.read(name, &expected, |value| value.parse().ok().filter(|count| range.contains(count)))
    }

    /// A number of more than nothing.
    fn amount(&mut self, name: &str, most: f64) -> Option<f64> {
        let expected = format!("a number from 0.001 to {most}");
        self.read(name, &expected, |value| value.parse().ok().filter(|n| (0.001..=most).contains(n)))
    }

    fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let expected = if range.start().is_zero() {
            format!("a duration such as 90s or 1m30s, at most {}", units::Spelt(*range.end()))
        } else {
            format!("a duration such as 90s or 1m30s, more than 0 and at most {}", units::Spelt(*range.end()))
        };
        self.read(name, &expected, |value| units::duration(value).ok().filter(|time| range.contains(time)))
    }

    fn up_to(&mut self, name: &str, most: Duration) -> Option<Duration> {
        self.duration(name, Duration::ZERO..=most)
    }

    /// A setting whose spelling is the proxy's.
    fn placed<T: std::str::FromStr<Err = roost_proxy::InvalidPlacement>>(&mut self, name: &str) -> Option<T> {
        let value = self.given(name)?;
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        value.parse().map_err(|why| self.refuse(name, &format!("{shown:?}: {why}"))).ok()
    }

    fn affinity(&mut self, kind: Kind) -> Option<Affinity> {
        if kind == Kind::Keyed {
            self.refuse_beside_key(AFFINITY, "the key says which replica it is");
        }
        self.placed(AFFINITY)
    }

    /// The fewest and the most replicas; with keys, none and the most keys.
    fn bounds(&mut self, kind: Kind) -> (u32, u32) {
        let [min, max] = [MIN, MAX].map(|name| (name, self.count(name, 1..=MAX_REPLICAS)));
        match kind {
            Kind::Plain => {
                let least = min.1.unwrap_or(1);
                // Of what was refused nothing else is to be said.
                let most =
                    if max.1.is_none() && self.given(MAX).is_some() { Some(MAX_REPLICAS) } else { max.1 };
                let most = most.unwrap_or(least);
                if most < least {
                    self.refuse(MAX, &format!("\"{most}\": expected at least {least}, as {MIN} asks for"));
                }
                (least, most)
            }
            Kind::Singleton => {
                for (name, count) in [min, max] {
                    if count.is_some_and(|count| count != 1) {
                        self.refuse(name, &format!("expected 1, as {SINGLETON} asks for"));
                    }
                }
                (1, 1)
            }
            Kind::Keyed => {
                if min.1.is_some_and(|count| count > 1) {
                    self.refuse(
                        MIN,
                        &format!("expected at most 1: with {KEY} there is one replica for each key"),
                    );
                }
                (0, max.1.unwrap_or(DEFAULT_KEYS))
            }
        }
    }

    fn load(&mut self, kind: Kind, min: u32, max: u32) -> Option<LoadTarget> {
        let measure = self.read(TYPE, "rps, capacity, cpu or queue", Measure::named);
        let target = self.amount(TARGET, 1e9);
        let proportion = self.amount(PROPORTION, 1.0);
        let factor = self.count(FACTOR, 0..=100);
        let off = self.given(WINDOW) == Some("off");
        let window = if off { Some(Duration::ZERO) } else { self.up_to(WINDOW, LONGEST_WINDOW) };
        if kind == Kind::Keyed {
            for name in [TYPE, TARGET, PROPORTION, FACTOR, WINDOW] {
                self.refuse_beside_key(name, "there is one replica for each key");
            }
        }
        if kind == Kind::Keyed || max <= min {
            return None;
        }
        let down_window = window.unwrap_or(DEFAULT_WINDOW);
        if self.given(TYPE).is_none() && self.given(TARGET).is_none() {
            let (per_replica, percent) = COMMUNITY;
            let step = NonZeroU32::new((max * factor.unwrap_or(percent)).div_ceil(100))?;
            return Some(LoadTarget { measure: Measure::Rps, per_replica, step: Some(step), down_window });
        }
        Some(LoadTarget {
            measure: measure.unwrap_or(Measure::Rps),
            per_replica: target.unwrap_or(DEFAULT_TARGET) * proportion.unwrap_or(DEFAULT_PROPORTION),
            step: None,
            down_window,
        })
    }

    fn zero(&mut self, kind: Kind) -> Option<Zero> {
        let zero = self.flag(ZERO);
        let after = self.duration(ZERO_DURATION, Duration::from_nanos(1)..=LONGEST_IDLE);
        let by = self.read(IDLE, "connections or traffic", |value| match value {
            "connections" => Some(IdleBy::Connections),
            "traffic" => Some(IdleBy::Traffic),
            _ => None,
        });
        if kind == Kind::Keyed && zero == Some(false) {
            self.refuse(
                ZERO,
                &format!("expected true: with {KEY} the replica of a key goes when it is idle"),
            );
        }
        (kind == Kind::Keyed || zero == Some(true))
            .then(|| Zero { after: after.unwrap_or(DEFAULT_ZERO), by: by.unwrap_or(IdleBy::Connections) })
    }

    fn capacity(&mut self) -> Option<NonZeroU32> {
        let expected = "a number of requests, 1 or more";
        let annotated = self.read(CAPACITY, expected, |value| value.parse().ok());
        let inflight = self.deployment.env_vars.get(MAX_INFLIGHT).map_or("", |value| value.trim());
        let inflight = if inflight.is_empty() { Ok(0) } else { inflight.parse() };
        if inflight.is_err() {
            let why = "expected a number of requests, or 0 for any number";
            self.mistakes.push(format!("envVars.{MAX_INFLIGHT}: {why}"));
        }
        if lambda::is_asked_for(self.deployment) {
            if annotated.is_some_and(|most| most != NonZeroU32::MIN) {
                self.refuse(CAPACITY, &format!("expected 1, as {LAMBDA} asks for"));
            }
            return Some(NonZeroU32::MIN);
        }
        annotated.or_else(|| NonZeroU32::new(inflight.unwrap_or(0)))
    }

    fn wait(&mut self) -> Duration {
        let wait = self.up_to(WAIT, LONGEST_WAIT);
        wait.unwrap_or(if lambda::is_asked_for(self.deployment) { LAMBDA_WAIT } else { Duration::ZERO })
    }

    fn recreate(&mut self, kind: Kind) -> bool {
        let recreate = self.read(ROLLOUT, "start-first or recreate", |value| match value {
            "start-first" => Some(false),
            "recreate" => Some(true),
            _ => None,
        });
        let asks = match kind {
            Kind::Plain => return recreate == Some(true),
            Kind::Singleton => SINGLETON,
            Kind::Keyed => KEY,
        };
        if recreate == Some(false) {
            self.refuse(ROLLOUT, &format!("expected recreate, as {asks} asks for"));
        }
        true
    }

    fn rest(&mut self) -> Rest {
        Rest {
            state: self.read(REST, "paused, created or stopped", |value| match value {
                "paused" => Some(Rung::Paused),
                "created" => Some(Rung::Created),
                "stopped" => Some(Rung::Stopped),
                _ => None,
            }),
            paused_for: self.up_to(PAUSED_FOR, LONGEST_IDLE).unwrap_or(DEFAULT_PAUSED),
            created_for: self.up_to(CREATED_FOR, LONGEST_IDLE).unwrap_or(DEFAULT_CREATED),
        }
    }

    fn schedule(&mut self, kind: Kind, max: u32) -> Schedule {
        let Some(value) = self.given(SCHEDULE) else { return Schedule::default() };
        if kind == Kind::Keyed {
            self.refuse_beside_key(SCHEDULE, "replicas start when their key is asked for");
        }
        Schedule::parse(value, max).unwrap_or_else(|why| {
            self.refuse(SCHEDULE, &why);
            Schedule::default()
        })
    }
}

#[cfg(test)]
mod tests;
