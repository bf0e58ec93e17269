//! What holds whatever happens.

use proptest::prelude::*;

use super::tests::{Function, policy};
use super::*;

const WINDOW: Duration = Duration::from_secs(30);

/// What is seen after so many milliseconds.
type Step = (u64, Observation);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![0..50_u64, 900..1100_u64, Just(1000), 5_000..40_000_u64];
    let in_flight = prop_oneof![3 => Just(0_u64), 2 => 0..30_u64, 1 => 0..2000_u64];
    let few = prop_oneof![6 => Just(0_u64), 1 => 1..20_u64];
    let cpu_millis = proptest::option::of(0.0..9e3_f64);
    let quiet = proptest::option::of((1..120_u64).prop_map(Duration::from_secs));
    let seen = (in_flight, 0..=100_u64, few.clone(), few.clone(), few, cpu_millis, quiet);
    let seen = seen.prop_map(|(in_flight, percent, waiting, queued, ended, cpu_millis, quiet)| Observation {
        in_flight,
        connections: in_flight * percent / 100,
        waiting,
        queued,
        started: ended,
        finished: ended,
        cpu_millis,
        quiet,
        ..Observation::default()
    });
    proptest::collection::vec((pause, seen), 1..120)
}

fn kind() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["capacity", "rps", "cpu", "queue"][..])
}

impl Function {
    /// Goes on to what is seen next, counters going up by what is new in it, and looks.
    fn step(&mut self, (pause, next): Step) -> Option<Decision> {
        let before = self.seen;
        self.millis += pause;
        self.seen = Observation {
            desired: before.desired,
            started: before.started + next.started,
            finished: before.finished + next.finished,
            ..next
        };
        self.look()
    }
}

proptest! {
    #[test]
    fn never_below_the_least_or_above_the_most(
        kind in kind(), min in 1..5_u32, more in 1..20_u32, desired in 0..60_u32, zero: bool, community: bool, all in steps()
    ) {
        let (least, most) = (min.to_string(), (min + more).to_string());
        let mut labels = vec![("min", least.as_str()), ("max", most.as_str()), ("target", "7")];
        labels.push(if zero { ("zero", "true") } else { ("zero", "false") });
        labels.push(("type", kind));
        let mut chosen = policy(&labels);
        if community {
            chosen.load.as_mut().unwrap().step = std::num::NonZeroU32::new(2);
        }
        let mut f = Function::new(chosen, desired);
        for step in all {
            let busy = step.1.waiting > 0 || step.1.queued > 0;
            let decision = f.step(step);
            let now = f.seen.desired;
            prop_assert!(now == 0 || (min..=min + more).contains(&now), "{now} after {decision:?}");
            prop_assert!(now > 0 || !busy, "somebody waits and there is none");
            prop_assert!(now > 0 || zero || desired == 0, "none, though nobody asked for that");
            prop_assert!(decision.is_none_or(|decision| decision.replicas == now));
        }
    }

    #[test]
    fn after_a_rise_nothing_falls_for_a_window_and_never_below_what_was_needed(
        kind in kind(), all in steps()
    ) {
        let mut f = Function::new(policy(&[("max", "20"), ("target", "9"), ("type", kind)]), 1);
        let mut risen: Option<Instant> = None;
        for step in all {
            let before = f.seen.desired;
            let decision = f.step(step);
            match decision {
                Some(decision) if decision.replicas > before => risen = Some(f.now()),
                Some(decision) => {
                    let calm = risen.is_none_or(|at| f.now() - at >= WINDOW);
                    prop_assert!(calm, "{before} to {} within the window", decision.replicas);
                }
                None => {}
            }
        }
    }

    /// Load that goes up and down within a window changes nothing once its peak is met.
    #[test]
    fn load_that_only_swings_moves_nothing(high in 1..200_u64, period in 1..29_u64, looks in 1..300_u64) {
        let mut f = Function::new(policy(&[("max", "50"), ("type", "capacity"), ("target", "10")]), 1);
        let mut falls = 0;
        for second in 0..looks {
            f.millis += 1000;
            f.seen.in_flight = if second % (period + 1) == 0 { high } else { 0 };
            let before = f.seen.desired;
            if f.look().is_some() {
                falls += u64::from(f.seen.desired < before);
            }
        }
        prop_assert_eq!(falls, 0);
    }

    #[test]
    fn what_is_in_use_is_never_without_replicas(desired in 1..5_u32, traffic: bool, all in steps()) {
        let idle = if traffic { "traffic" } else { "connections" };
        let labels = [("zero", "true"), ("zero-duration", "20"), ("roost.scale.idle", idle)];
        let mut f = Function::new(policy(&labels), desired);
        let mut in_use = f.now();
        for step in all {
            let seen = step.1;
            let held = if traffic { seen.in_flight - seen.connections } else { seen.in_flight };
            let moved = traffic && seen.connections > 0 && seen.quiet.is_some_and(|quiet| quiet < Duration::from_secs(20));
            let busy = held > 0 || seen.waiting > 0 || seen.queued > 0 || seen.started > 0;
            if f.step(step).is_some_and(|decision| decision.replicas == 0) {
                prop_assert!(!busy && !moved, "{seen:?}");
                prop_assert!(f.now() - in_use >= Duration::from_secs(20));
            }
            if busy {
                in_use = f.now();
            }
        }
    }

    /// Looked at once a second.
    #[test]
    fn a_step_of_load_is_met_within_two_seconds(
        kind in kind(), before in 0..20_u32, after in 0..300_u32, calm in 1..100_u32
    ) {
        let mut f = Function::new(policy(&[("max", "100"), ("target", "10"), ("type", kind)]), 1);
        let each_second = |f: &mut Function, load: u32| {
            let (count, cpu_millis) = (load.into(), Some(load.into()));
            let (in_flight, queued, started, finished) = (count, count, count, count);
            let seen = Observation::default();
            f.step((1000, Observation { in_flight, queued, started, finished, cpu_millis, ..seen }));
        };
        (0..calm).for_each(|_| each_second(&mut f, before));
        (0..2).for_each(|_| each_second(&mut f, after));
        let needed = after.max(1).div_ceil(9);
        prop_assert!(f.seen.desired >= needed, "{} of {needed}", f.seen.desired);
    }
}
