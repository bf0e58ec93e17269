//! A model of a function on a host where anything may happen between two decisions: what holds at every step.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

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
    /// Another number of replicas is wanted.
    Wants(usize),
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
        2 => (0_usize..=4).prop_map(Happens::Wants),
        1 => Just(Happens::Restarts),
    ]
}

#[derive(Debug)]
struct World {
    replicas: Vec<View>,
    newest: Target,
    serving: Option<Target>,
    complete: bool,
    wanted: usize,
    recreate: bool,
    rest: Rung,
    made: usize,
}

impl World {
    fn new(recreate: bool, rest: Rung) -> Self {
        let newest = Target { revision: "0".to_owned(), startable: false, failed: false };
        Self {
            replicas: Vec::new(),
            newest,
            serving: None,
            complete: false,
            wanted: 1,
            recreate,
            rest,
            made: 0,
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
                match replica.phase {
                    Phase::Starting | Phase::Busy => replica.phase = Phase::Ready,
                    Phase::Draining if replica.connections == 0 => replica.phase = Phase::Stopping,
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
            Happens::Wants(wanted) => self.wanted = if self.recreate { wanted.min(1) } else { wanted },
            // What started is cleared away or taken on, whatever it was told.
            Happens::Restarts => {
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
            replicas: self.wanted,
            recreate: self.recreate,
            rest: self.rest,
        };
        let plan = plan(&wish, &self.replicas);
        self.check(&plan);
        for (id, step) in &plan.steps {
            let replica =
                self.replicas.iter_mut().find(|r| r.id == *id).expect("steps are for those that are there");
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
        let ended = |id: &ReplicaId| plan.steps.contains(&(id.clone(), Step::End));
        for one in self.replicas.iter().filter(|r| r.phase.is_live() && ended(&r.id)) {
            for other in self.replicas.iter().filter(|r| r.phase.is_live() && !ended(&r.id)) {
                let comparable =
                    one.revision == other.revision && one.phase == other.phase && self.wanted > 0;
                assert!(
                    !comparable || one.connections <= other.connections,
                    "{one:?} goes and {other:?} stays"
                );
            }
        }
        let answers = |r: &&View| r.phase == Phase::Ready && !ended(&r.id);
        let before = self.replicas.iter().filter(|r| r.phase == Phase::Ready).count();
        if !self.recreate && self.wanted > 0 && before > 0 {
            assert!(
                self.replicas.iter().any(|r| answers(&r)),
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
        for what in story {
            world.happen(what);
            prop_assert!(world.replicas.len() <= 1, "{what:?}: {world:?}");
        }
    }

    #[test]
    fn whatever_happens_there_are_as_many_as_are_wanted_once_it_is_quiet(
        recreate in any::<bool>(), rest in rests(), story in vec(happens(), 0..60)
    ) {
        let mut world = World::new(recreate, rest);
        for what in story {
            world.happen(what);
        }
        world.newest.startable = true;
        if let Some(serving) = &mut world.serving {
            (serving.startable, serving.failed) = (true, false);
        }
        for round in 0..40 {
            world.happen(Happens::Look);
            for number in 0..world.replicas.len() {
                world.happen(Happens::Closes(number));
                world.happen(Happens::Moves(number));
            }
            if round < 8 {
                for number in 0..world.replicas.len() {
                    (0..80).for_each(|_| world.happen(Happens::Closes(number)));
                }
            }
        }
        let ready = world.replicas.iter().filter(|r| r.phase == Phase::Ready).count();
        let others = world.replicas.len() - ready;
        prop_assert_eq!(ready, world.wanted, "{:?}", world);
        let kept = usize::from(world.wanted == 0 && world.rest != Rung::Stopped && !world.newest.failed);
        prop_assert!(others <= kept.max(usize::from(world.wanted == 0)), "{:?}", world);
    }
}
