//! A model of a function on a host where anything may happen between two decisions: what holds at every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::function::spec::Deployment;
use crate::scaling::Policy;

/// How long a replica that is to end may go on with its connections.
const DRAIN: usize = 3;

/// What may happen between two decisions.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// The controller looks, decides and acts.
    Look,
    /// A replica moves on: ready, frozen, drained, gone. Which one is chosen by the number.
    Moves(usize),
    /// A replica's process ends by itself.
    Crashes(usize),
    /// A connection is opened, or closed.
    Opens(usize),
    Closes(usize),
    /// A new revision is sent; its image arrives, or it turns out not to start.
    Deploys,
    Arrives,
    Fails,
    /// Another number of replicas is asked for.
    Wants(u32),
    /// Settings change: it is a singleton from now on, or is none any more.
    Turns,
    /// Somebody asks for a function that sleeps, or nobody does any more.
    Asks(bool),
    /// Time passes.
    Passes(usize),
    /// The daemon dies, and another one finds what runs.
    Restarts,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => Just(Happens::Look),
        6 => any::<usize>().prop_map(Happens::Moves),
        1 => any::<usize>().prop_map(Happens::Crashes),
        3 => any::<usize>().prop_map(Happens::Opens),
        2 => any::<usize>().prop_map(Happens::Closes),
        1 => Just(Happens::Deploys),
        2 => Just(Happens::Arrives),
        1 => Just(Happens::Fails),
        2 => (0_u32..=4).prop_map(Happens::Wants),
        1 => Just(Happens::Turns),
        1 => any::<bool>().prop_map(Happens::Asks),
        2 => (1..=DRAIN).prop_map(Happens::Passes),
        1 => Just(Happens::Restarts),
    ]
}

#[derive(Debug)]
struct World {
    replicas: Vec<View>,
    newest: Target,
    serving: Option<Target>,
    complete: bool,
    /// So many were asked for.
    scaled: u32,
    recreate: bool,
    asleep: bool,
    rest: Rung,
    made: usize,
    clock: usize,
    /// When those that were told to end have had their time.
    deadlines: BTreeMap<ReplicaId, usize>,
}

impl World {
    fn new(recreate: bool, rest: Rung) -> Self {
        let newest = Target { revision: "0".to_owned(), startable: false, failed: false };
        Self {
            replicas: Vec::new(),
            newest,
            serving: None,
            complete: false,
            scaled: 1,
            recreate,
            asleep: false,
            rest,
            made: 0,
            clock: 0,
            deadlines: BTreeMap::new(),
        }
    }

    /// What the policy makes of what was asked for.
    fn wanted(&self) -> usize {
        let rollout = if self.recreate { "recreate" } else { "start-first" };
        let annotations = [("roost.rollout".to_owned(), rollout.to_owned())].into();
        let policy = Policy::parse(&Deployment { annotations, ..Deployment::default() }).unwrap();
        policy.allowed(self.scaled) as usize
    }

    /// Those that hold connections and were not cut off.
    fn holding(&self) -> BTreeSet<ReplicaId> {
        let holds = |r: &&View| r.connections > 0 && r.phase != Phase::Stopping;
        self.replicas.iter().filter(holds).map(|r| r.id.clone()).collect()
    }

    /// One step, and what holds of every one: connections are cut by a crash, or when their replica has had its time.
    fn step(&mut self, what: Happens) {
        let mut cut = self.holding();
        self.happen(what);
        let held = self.holding();
        cut.retain(|id| !held.contains(id));
        if matches!(what, Happens::Crashes(_) | Happens::Fails | Happens::Closes(_)) {
            return;
        }
        for id in &cut {
            let deadline = self.deadlines.get(id);
            assert!(
                deadline.is_some_and(|at| *at <= self.clock),
                "{id} is cut off too early: {what:?} {self:?}"
            );
        }
    }

    fn happen(&mut self, what: Happens) {
        let count = self.replicas.len();
        let pick = |number: usize| (count > 0).then(|| number % count);
        match what {
            Happens::Look => self.look(),
            Happens::Moves(number) => {
                let Some(index) = pick(number) else { return };
                let replica = &mut self.replicas[index];
                let late = self.deadlines.get(&replica.id).is_some_and(|at| *at <= self.clock);
                match replica.phase {
                    Phase::Starting | Phase::Busy => replica.phase = Phase::Ready,
                    Phase::Ready if number % 3 == 0 => replica.phase = Phase::Busy,
                    Phase::Draining if replica.connections == 0 || late => {
                        (replica.phase, replica.connections) = (Phase::Stopping, 0);
                    }
                    Phase::Stopping => drop(self.replicas.remove(index)),
                    _ => {}
                }
            }
            Happens::Crashes(number) => {
                let Some(index) = pick(number) else { return };
                self.replicas[index].phase = Phase::Stopping;
                self.replicas[index].connections = 0;
            }
            Happens::Opens(number) => {
                let ready = self.replicas.iter_mut().filter(|r| r.phase == Phase::Ready);
                let mut ready: Vec<_> = ready.collect();
                if !ready.is_empty() {
                    let index = number % ready.len();
                    ready[index].connections += 1;
                }
            }
            Happens::Closes(number) => {
                if let Some(index) = pick(number) {
                    let connections = &mut self.replicas[index].connections;
                    *connections = connections.saturating_sub(1);
                }
            }
            Happens::Deploys => {
                let revision = (self.newest.revision.parse::<usize>().unwrap() + 1).to_string();
                let newest = Target { revision, startable: false, failed: false };
                let old = std::mem::replace(&mut self.newest, newest);
                if self.complete {
                    self.serving = Some(old);
                }
                self.complete = false;
            }
            Happens::Arrives => self.newest.startable = true,
            Happens::Fails => {
                for replica in self.replicas.iter_mut().filter(|r| r.revision == self.newest.revision) {
                    (replica.phase, replica.connections) = (Phase::Stopping, 0);
                }
                self.newest.failed = true;
            }
            Happens::Wants(scaled) => self.scaled = scaled,
            Happens::Turns => self.recreate = !self.recreate,
            Happens::Asks(asks) => self.asleep = !asks,
            Happens::Passes(time) => self.clock += time,
            // What started is cleared away or taken on, whatever it was told.
            Happens::Restarts => {
                self.deadlines.clear();
                self.asleep = false;
                for replica in &mut self.replicas {
                    replica.phase = match replica.phase {
                        Phase::Draining | Phase::Busy => Phase::Ready,
                        other => other,
                    };
                }
            }
        }
    }

    fn look(&mut self) {
        let wish = Wish {
            newest: &self.newest,
            serving: self.serving.as_ref(),
            replicas: self.wanted(),
            recreate: self.recreate,
            asleep: self.asleep,
            rest: self.rest,
        };
        let plan = plan(&wish, &self.replicas);
        self.check(&plan);
        for (id, step) in &plan.steps {
            let replica =
                self.replicas.iter_mut().find(|r| r.id == *id).expect("steps are for those that are there");
            if *step == Step::End {
                let told = self.deadlines.insert(id.clone(), self.clock + DRAIN);
                assert_eq!(told, None, "its time would begin anew: {id}");
            }
            replica.phase = match step {
                Step::Run => Phase::Starting,
                Step::Pause => Phase::Paused,
                Step::End => Phase::Draining,
            };
        }
        for start in plan.start {
            self.made += 1;
            self.replicas.push(View {
                id: format!("r-{}", self.made).parse().unwrap(),
                revision: start.revision,
                phase: if start.stand { Phase::Created } else { Phase::Starting },
                connections: 0,
            });
        }
        if plan.complete {
            (self.complete, self.serving) = (true, None);
        }
    }

    /// What holds of a decision.
    fn check(&self, plan: &Plan) {
        if self.recreate && !plan.start.is_empty() {
            assert!(
                self.replicas.is_empty() && plan.start.len() == 1,
                "one that is not alone is started: {self:?} {plan:?}"
            );
        }
        let ended = |id: &ReplicaId| plan.steps.contains(&(id.clone(), Step::End));
        for one in self.replicas.iter().filter(|r| r.phase.is_live() && ended(&r.id)) {
            for other in self.replicas.iter().filter(|r| r.phase.is_live() && !ended(&r.id)) {
                let alike = one.phase == other.phase || one.phase.works() && other.phase.works();
                let comparable = one.revision == other.revision && alike && self.wanted() > 0;
                assert!(
                    !comparable || one.connections <= other.connections,
                    "{one:?} goes and {other:?} stays"
                );
            }
        }
        let answers = |r: &&View| r.phase == Phase::Ready && !ended(&r.id);
        let before = self.replicas.iter().filter(|r| r.phase == Phase::Ready).count();
        if !self.recreate && self.wanted() > 0 && before > 0 {
            assert!(
                self.replicas.iter().any(|r| answers(&r) || r.phase == Phase::Busy && !ended(&r.id)),
                "the last one that answers goes: {self:?} {plan:?}"
            );
        }
        let mut twice: Vec<_> = plan.steps.iter().map(|(id, _)| id).collect();
        twice.sort();
        twice.dedup();
        assert_eq!(twice.len(), plan.steps.len(), "one step for each: {plan:?}");
    }
}

fn rests() -> impl Strategy<Value = Rung> {
    prop_oneof![Just(Rung::Stopped), Just(Rung::Created), Just(Rung::Paused)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_singleton_is_never_there_twice(rest in rests(), story in vec(happens(), 1..80)) {
        let mut world = World::new(true, rest);
        for what in story.into_iter().filter(|what| !matches!(what, Happens::Turns)) {
            world.step(what);
            prop_assert!(world.replicas.len() <= 1, "{what:?}: {world:?}");
        }
    }

    #[test]
    fn whatever_happens_there_are_as_many_as_are_wanted_once_it_is_quiet(
        recreate in any::<bool>(), rest in rests(), story in vec(happens(), 0..60)
    ) {
        let mut world = World::new(recreate, rest);
        for what in story {
            world.step(what);
        }
        (world.newest.startable, world.asleep) = (true, false);
        if let Some(serving) = &mut world.serving {
            (serving.startable, serving.failed) = (true, false);
        }
        for _ in 0..40 {
            world.step(Happens::Look);
            world.step(Happens::Passes(1));
            for number in 0..world.replicas.len() {
                // Whoever has not had enough takes requests: nobody has in the end.
                if world.replicas.get(number).is_some_and(|r| r.phase != Phase::Ready) {
                    world.step(Happens::Moves(number));
                }
            }
        }
        let ready = world.replicas.iter().filter(|r| r.phase == Phase::Ready).count();
        let others = world.replicas.len() - ready;
        let wanted = world.wanted();
        prop_assert_eq!(ready, wanted, "{:?}", world);
        let kept = usize::from(wanted == 0 && world.rest != Rung::Stopped && !world.newest.failed);
        prop_assert!(others <= kept.max(usize::from(wanted == 0)), "{:?}", world);
    }
}
