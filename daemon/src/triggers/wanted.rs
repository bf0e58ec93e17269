//! Who wants what: of all functions, what the clock and each source are to do for them.
//!
//! Owns how the annotations of all functions come together. Pure but for the look at the registry.

use std::collections::{BTreeMap, BTreeSet};

use roost_proxy::function::FunctionKey;
use tracing::warn;

use super::schedule::{self, Timetable};
use super::topics::{self, Source, Sources};
use crate::function::registry::Registry;
use crate::function::spec::Deployment;

/// What all functions want.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Of the clock.
    pub timetables: BTreeMap<FunctionKey, Timetable>,
    /// Of each source that somebody listens to: patterns, and who listens.
    pub topics: BTreeMap<Source, Topics>,
}

/// The patterns of one source, and the functions that listen to them.
pub type Topics = BTreeMap<String, BTreeSet<FunctionKey>>;

impl Wanted {
    /// Of the functions that there are now.
    #[must_use]
    pub fn of(registry: &Registry, sources: &Sources) -> Self {
        let mut wanted = Self::default();
        registry.each_deployment(|function, deployment| {
            if deployment.annotations.contains_key(topics::TOPIC) {
                wanted.add(function, deployment, sources);
            }
        });
        wanted
    }

    /// What was let through once and cannot be read now, or is of a source that is gone from the settings, is left out.
    fn add(&mut self, function: &FunctionKey, deployment: &Deployment, sources: &Sources) {
        let left_out = |why: &str| warn!(%function, "{function}: left out: {why}");
        match schedule::parse(deployment) {
            Ok(Some(timetable)) => drop(self.timetables.insert(function.clone(), timetable)),
            Ok(None) => {}
            Err(mistakes) => left_out(&mistakes.join("; ")),
        }
        let topics = topics::parse(deployment).unwrap_or_else(|mistakes| {
            left_out(&mistakes.join("; "));
            Vec::new()
        });
        for topic in topics {
            match sources.resolve(&topic) {
                Ok(Some((source, pattern))) => {
                    let topics = self.topics.entry(source).or_default();
                    topics.entry(pattern).or_default().insert(function.clone());
                }
                Ok(None) => {}
                Err(why) => left_out(&format!("{topic}: {why}")),
            }
        }
    }

    /// Those of one source.
    #[must_use]
    pub fn of_source(&self, source: &Source) -> Topics {
        self.topics.get(source).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triggers::topics::Kind;

    fn deployment(annotations: &[(&str, &str)]) -> Deployment {
        let annotations =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Deployment { annotations, ..Deployment::default() }
    }

    #[test]
    fn what_functions_want_comes_together_by_source_and_pattern_and_what_cannot_be_is_left_out() {
        let lan = Source::new(Kind::Mqtt, "lan");
        let sources = Sources { all: [lan.clone()].into(), plain: Some(lan.clone()) };
        let [f, g] = ["f", "g"].map(|name| FunctionKey::from_route(name).unwrap());
        let mut wanted = Wanted::default();
        wanted.add(
            &f,
            &deployment(&[("topic", "cron-function,a/#,mqtt:b"), ("schedule", "@daily")]),
            &sources,
        );
        wanted.add(
            &g,
            &deployment(&[("topic", "cron-function,mqtt.lan:a/#,nats:x"), ("schedule", "no")]),
            &sources,
        );
        assert_eq!(wanted.timetables.keys().collect::<Vec<_>>(), [&f]);
        let topics = wanted.of_source(&lan);
        assert_eq!(topics["a/#"], [f.clone(), g].into());
        assert_eq!(topics["b"], [f].into());
        assert_eq!(wanted.topics.len(), 1);
        assert!(wanted.of_source(&Source::new(Kind::Nats, "x")).is_empty());
    }
}
