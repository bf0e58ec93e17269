use std::collections::BTreeMap;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::*;
use crate::function::spec::Deployment;

type Pairs<'a> = &'a [(&'a str, &'a str)];

pub(super) fn policy(pairs: Pairs) -> Policy {
    let full = |name: &str| {
        if name.starts_with("roost.") { name.to_owned() } else { format!("com.openfaas.scale.{name}") }
    };
    let labels: BTreeMap<_, _> =
        pairs.iter().map(|(name, value)| (full(name), (*value).to_owned())).collect();
    Policy::parse(&Deployment { labels, ..Deployment::default() }).unwrap()
}

/// A function whose decisions are carried out at once, and its clock. It begins on a Monday at 6:00.
pub(super) struct Function {
    pub(super) policy: Policy,
    pub(super) scaler: Scaler,
    pub(super) seen: Observation,
    pub(super) start: Instant,
    pub(super) millis: u64,
}

impl Function {
    pub(super) fn new(policy: Policy, desired: u32) -> Self {
        let start = Instant::now();
        let seen = Observation { desired, ..Observation::default() };
        Self { policy, scaler: Scaler::new(start), seen, start, millis: 0 }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.millis)
    }

    pub(super) fn clock(&self) -> Zoned {
        let monday = "2026-05-11T06:00".parse::<DateTime>().unwrap().to_zoned(TimeZone::UTC).unwrap();
        monday + SignedDuration::from_millis(i64::try_from(self.millis).unwrap())
    }

    /// Looks, and does what is decided.
    pub(super) fn look(&mut self) -> Option<Decision> {
        let (now, clock) = (self.now(), self.clock());
        let decision = self.scaler.decide(&self.policy, &self.seen, now, &clock);
        if let Some(decision) = &decision {
            self.seen.desired = decision.replicas;
        }
        decision
    }

    /// A look each second, for so many. Decisions are told as text.
    fn looks(&mut self, seconds: u64) -> Vec<String> {
        let decided = (0..seconds).filter_map(|_| {
            self.millis += 1000;
            self.look().map(|decision| format!("{}: {}", decision.replicas, decision.reason))
        });
        decided.collect()
    }

    /// Goes to when it wants to be looked at.
    fn next_look(&mut self) -> Option<Duration> {
        let (now, clock) = (self.now(), self.clock());
        let next = self.scaler.next_look(&self.policy, self.seen.desired, now, &clock)?;
        let left = next.duration_since(now);
        self.millis += u64::try_from(left.as_millis()).unwrap();
        Some(left)
    }

    /// Looks when it wants to be looked at, until something is decided; with how long that took.
    fn until_decided(&mut self) -> (u64, String) {
        let before = self.millis;
        loop {
            assert!(self.next_look().is_some(), "nothing is ever decided");
            if let Some(decision) = self.look() {
                return (
                    (self.millis - before) / 1000,
                    format!("{}: {}", decision.replicas, decision.reason),
                );
            }
        }
    }
}

#[test]
fn connections_are_counted_up_at_once_and_down_after_the_window() {
    let mut f = Function::new(policy(&[("max", "10"), ("type", "capacity"), ("target", "10")]), 1);
    assert_eq!(f.looks(3), [""; 0]);
    f.seen.in_flight = 35;
    assert_eq!(f.looks(1), ["4: 35 in flight, 9 for each"]);
    f.seen.in_flight = 15;
    assert_eq!(f.looks(29), [""; 0]);
    assert_eq!(f.looks(1), ["2: load fell: 2 needed at most in the last 30s"]);
    // A peak in between holds for a window of its own.
    f.seen.in_flight = 0;
    assert_eq!(f.looks(10), [""; 0]);
    f.seen.in_flight = 18;
    assert_eq!(f.looks(1), [""; 0]);
    f.seen.in_flight = 0;
    assert_eq!(f.looks(29), [""; 0]);
    assert_eq!(f.looks(1), ["1: load fell: 1 needed at most in the last 30s"]);
    // Who waits counts like who is served, and nothing goes beyond the bounds.
    (f.seen.in_flight, f.seen.waiting) = (9, 1000);
    assert_eq!(f.looks(1), ["10: 1009 in flight, 9 for each"]);
}

#[test]
fn a_target_is_met_to_the_last_bit() {
    for (load, target, expected) in [(63, "7", 10), (64, "7", 11), (27, "3", 10), (1, "0.1", 12), (0, "5", 1)]
    {
        let mut f = Function::new(policy(&[("max", "20"), ("type", "capacity"), ("target", target)]), 1);
        f.seen.in_flight = load;
        f.look();
        assert_eq!(f.seen.desired, expected, "{load} at {target}");
    }
}

#[test]
fn each_kind_of_load_is_followed() {
    let mut f = Function::new(policy(&[("max", "10"), ("type", "queue"), ("target", "5")]), 1);
    f.seen.queued = 10;
    assert_eq!(f.looks(1), ["3: 10 deferred calls, 4.5 for each"]);
    let mut f = Function::new(policy(&[("max", "10"), ("type", "cpu"), ("target", "500")]), 2);
    assert_eq!(f.looks(60), [""; 0], "nobody looked at the processor");
    f.seen.cpu_millis = Some(1801.234);
    assert_eq!(f.looks(1), ["5: 1801.23 thousandths of a core, 450 for each"]);
    let mut f = Function::new(policy(&[("max", "10"), ("type", "rps"), ("target", "10")]), 1);
    let answered = |f: &mut Function, each: u64, seconds| {
        let decided = (0..seconds).flat_map(|_| {
            (f.seen.started, f.seen.finished) = (f.seen.started + each, f.seen.finished + each);
            f.looks(1)
        });
        decided.collect::<Vec<_>>()
    };
    f.look();
    assert_eq!(answered(&mut f, 9, 5), [""; 0]);
    assert_eq!(answered(&mut f, 36, 2), ["3: 22.5 a second, 9 for each", "4: 36 a second, 9 for each"]);
    assert_eq!(answered(&mut f, 0, 29), [""; 0]);
    assert_eq!(
        answered(&mut f, 0, 10),
        ["2: load fell: 2 needed at most in the last 30s", "1: load fell: 1 needed at most in the last 30s"]
    );
}

#[test]
fn the_rule_of_the_community_goes_by_steps() {
    let mut f = Function::new(policy(&[("max", "10")]), 1);
    f.look();
    let mut decided = Vec::new();
    for second in 1..=12 {
        f.seen.finished += 40;
        decided.extend(f.looks(1).into_iter().map(|decision| format!("{second} {decision}")));
    }
    assert_eq!(
        decided,
        ["1 3: 40 a second, 5 for each", "6 5: 40 a second, 5 for each", "11 7: 40 a second, 5 for each"]
    );
}

#[test]
fn bounds_are_kept_where_load_is_followed_and_left_alone_where_not() {
    let pairs: Pairs = &[("min", "2"), ("max", "4"), ("type", "capacity")];
    for (pairs, desired, expected) in [
        (pairs, 1, &["2: at least 2 are asked for"][..]),
        (pairs, 9, &["4: at most 4 are allowed"]),
        (pairs, 0, &[]),
        (&[("min", "2")], 1, &[]),
        (&[("min", "2")], 9, &[]),
        (&[("min", "2"), ("max", "4"), ("factor", "0")], 9, &[]),
    ] {
        assert_eq!(Function::new(policy(pairs), desired).looks(20), expected, "{pairs:?} {desired}");
    }
}

#[test]
fn a_daemon_that_begins_takes_nothing_away_for_a_window() {
    let mut f = Function::new(policy(&[("max", "9"), ("type", "capacity")]), 7);
    assert_eq!(f.looks(30), [""; 0]);
    assert_eq!(f.looks(1), ["1: load fell: 1 needed at most in the last 30s"]);
    // And neither does an update that begins to follow load, or a hand.
    let mut f = Function::new(policy(&[("min", "7")]), 7);
    f.looks(100);
    f.policy = policy(&[("max", "9"), ("type", "capacity")]);
    assert_eq!(f.looks(30), [""; 0]);
    assert_eq!(f.looks(1), ["1: load fell: 1 needed at most in the last 30s"]);
    f.seen.desired = 5;
    f.scaler.told(5, f.now());
    assert_eq!(f.looks(29), [""; 0]);
    assert_eq!(f.looks(1), ["1: load fell: 1 needed at most in the last 30s"]);
    let mut f = Function::new(policy(&[("max", "9"), ("type", "capacity"), ("down.window", "off")]), 7);
    assert_eq!(f.looks(1), ["1: load fell: 1 needed"]);
}

#[test]
fn what_is_idle_has_none_and_who_waits_wakes_it() {
    let mut f = Function::new(policy(&[("min", "2"), ("zero", "true"), ("zero-duration", "60")]), 3);
    f.look();
    assert_eq!(f.until_decided(), (60, "0: idle for 1m".into()));
    assert_eq!(f.next_look(), None, "at zero there is nothing to look at");
    f.millis += 10_000_000;
    f.seen.waiting = 1;
    assert_eq!(f.looks(1), ["2: a request waits"]);
    (f.seen.waiting, f.seen.in_flight, f.seen.started) = (0, 1, 1);
    assert_eq!(f.looks(600), [""; 0]);
    f.seen.in_flight = 0;
    f.look();
    assert_eq!(f.until_decided(), (60, "0: idle for 1m".into()));
    f.seen.queued = 1;
    assert_eq!(f.looks(1), ["2: a request waits"]);
    assert_eq!(f.looks(600), [""; 0], "what is queued is yet to be done");
}

#[test]
fn a_request_between_two_looks_is_noticed() {
    let mut f = Function::new(policy(&[("zero", "true")]), 1);
    f.look();
    for _ in 0..100 {
        f.seen.started += 1;
        f.seen.finished += 1;
        f.millis += 899_999;
        assert_eq!(f.look(), None);
    }
    assert_eq!(f.until_decided(), (900, "0: idle for 15m".into()));
}

#[test]
fn a_silent_connection_holds_it_unless_only_traffic_counts() {
    let silent = |idle| {
        let mut f = Function::new(
            policy(&[("zero", "true"), ("zero-duration", "60"), ("roost.scale.idle", idle)]),
            1,
        );
        (f.seen.in_flight, f.seen.connections, f.seen.started) = (1, 1, 1);
        f.look();
        f
    };
    assert_eq!(silent("connections").looks(3600), [""; 0]);
    assert_eq!(silent("traffic").looks(61), ["0: idle for 1m"], "nothing ever moved on it");

    let mut f = silent("traffic");
    for _ in 0..600 {
        f.seen.quiet = Some(Duration::from_secs(59));
        assert_eq!(f.looks(1), [""; 0]);
    }
    f.seen.quiet = Some(Duration::from_secs(60));
    assert_eq!(f.looks(1), ["0: idle for 1m"]);
    // A request beside it is in use.
    let mut f = silent("traffic");
    f.seen.in_flight = 2;
    assert_eq!(f.looks(3600), [""; 0]);
}

#[test]
fn an_idle_function_is_looked_at_seldom_and_yet_gone_in_time() {
    for (after, most_looks) in [("15m", 40), ("1m", 40), ("24h", 3000), ("1s", 2)] {
        let mut f = Function::new(policy(&[("zero", "true"), ("zero-duration", after)]), 1);
        let (mut looks, after) = (0, crate::units::duration(after).unwrap());
        while f.look().is_none() {
            f.next_look().unwrap();
            looks += 1;
        }
        assert_eq!(
            (Duration::from_millis(f.millis), looks <= most_looks),
            (after, true),
            "{looks} in {after:?}"
        );
    }
    let mut f = Function::new(policy(&[("min", "3")]), 3);
    f.look();
    assert_eq!(f.next_look(), None, "it never changes by itself");
    let mut f = Function::new(policy(&[("max", "3")]), 1);
    f.look();
    assert_eq!(f.next_look(), Some(TICK));
}

#[test]
fn a_schedule_raises_and_lowers_at_its_times() {
    let schedule = ("roost.scale.schedule", "0 8 * * *=3; 0 20 * * *=0");
    let hour = |n: u64| n * 3600;
    // From none, and back to none when it is idle.
    let mut f = Function::new(policy(&[("max", "3"), ("factor", "0"), ("zero", "true"), schedule]), 1);
    f.look();
    assert_eq!(f.until_decided(), (900, "0: idle for 15m".into()));
    assert_eq!(f.until_decided(), (hour(2) - 900, "3: schedule".into()));
    f.seen.started = 1;
    assert_eq!(f.until_decided(), (hour(12), "0: idle for 15m".into()));
    // Without zero it goes back to the least.
    let mut f = Function::new(policy(&[("max", "3"), ("factor", "0"), schedule]), 1);
    f.look();
    assert_eq!(f.until_decided(), (hour(2), "3: schedule".into()));
    assert_eq!(f.until_decided(), (hour(12), "1: schedule".into()));
    // What a hand did in between stays.
    assert_eq!(f.until_decided(), (hour(12), "3: schedule".into()));
    f.seen.desired = 2;
    f.scaler.told(2, f.now());
    assert_eq!(f.look(), None);
    assert_eq!(f.until_decided(), (hour(24), "3: schedule".into()));
    f.seen.desired = 0;
    assert_eq!(f.look(), None);
    f.seen.waiting = 1;
    assert_eq!(f.looks(1), ["3: a request waits"]);
    // Load goes on above it.
    let mut f = Function::new(policy(&[("max", "5"), ("type", "capacity"), ("target", "10"), schedule]), 1);
    f.seen.in_flight = 12;
    assert_eq!(f.looks(1), ["2: 12 in flight, 9 for each"]);
    assert_eq!(f.until_decided(), (hour(2) - 1, "3: schedule".into()));
    f.seen.in_flight = 40;
    assert_eq!(f.looks(1), ["5: 40 in flight, 9 for each"]);
    f.seen.in_flight = 0;
    assert_eq!(f.until_decided().1, "3: load fell: 3 needed at most in the last 30s");
    assert_eq!(f.until_decided().1, "1: load fell: 1 needed at most in the last 30s");
    assert_eq!(f.clock().datetime().to_string(), "2026-05-11T20:00:29");
}

#[test]
fn what_was_put_to_none_by_hand_is_not_raised_by_a_time_that_was_heeded_before() {
    let schedule = ("roost.scale.schedule", "0 5 * * *=3; 0 8 * * *=2");
    let mut f = Function::new(policy(&[("max", "3"), schedule]), 0);
    let mut other = Function::new(policy(&[("max", "3"), schedule]), 0);
    // It begins at 6:00, an hour behind the first time.
    f.scaler.heed(&f.policy, &f.clock());
    assert_eq!((f.look(), other.looks(1)), (None, vec!["3: schedule".to_owned()]));
    assert_eq!(f.until_decided(), (2 * 3600, "2: schedule".into()));
}

#[test]
fn a_clock_that_is_set_is_noticed_within_a_minute() {
    let f = Function::new(policy(&[("max", "3"), ("roost.scale.schedule", "0 8 1 * *=3")]), 0);
    let next = f.scaler.next_look(&f.policy, 0, f.now(), &f.clock());
    assert_eq!(next, Some(f.now() + CLOCK_TICK));
}

#[test]
fn a_key_has_one_replica_or_none() {
    let mut f = Function::new(policy(&[("roost.scale.key", "path[1]"), ("zero-duration", "60")]), 0);
    assert_eq!(f.looks(100), [""; 0]);
    f.seen.waiting = 50;
    assert_eq!(f.looks(1), ["1: a request waits"]);
    (f.seen.waiting, f.seen.in_flight) = (10, 40);
    assert_eq!(f.looks(600), [""; 0]);
    (f.seen.waiting, f.seen.in_flight) = (0, 0);
    f.look();
    assert_eq!(f.until_decided(), (60, "0: idle for 1m".into()));
    assert_eq!(f.next_look(), None);
}
