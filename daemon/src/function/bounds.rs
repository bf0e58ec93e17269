//! What a function lets be sent to it, as a deployment says it.
//!
//! Owns the annotations that begin with `roost.limit.`. Labels of these names count the same; an annotation goes before a
//! label. What a function does not say is as the daemon's settings have it.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use roost_proxy::{Bounds, Rate};

use crate::config::limits::{count, rate, size, time};
use crate::function::spec::Deployment;

const BODY: &str = "roost.limit.body";
const BODY_TIME: &str = "roost.limit.body-time";
const CONNECTIONS: &str = "roost.limit.connections";
const REQUESTS: &str = "roost.limit.requests";
const HANDSHAKES: &str = "roost.limit.handshakes";

/// All of them.
pub(super) const NAMES: [&str; 5] = [BODY, BODY_TIME, CONNECTIONS, REQUESTS, HANDSHAKES];

/// The longest part of a value that a mistake repeats, in characters.
const MAX_SHOWN: usize = 64;

/// What a function says of its limits. The outer `None` of each is that it says nothing, the inner one that there is
/// none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    body: Option<Option<u64>>,
    body_time: Option<Option<Duration>>,
    connections: Option<Option<NonZeroUsize>>,
    requests: Option<Option<Rate>>,
    handshakes: Option<Option<Rate>>,
}

impl Said {
    /// Reads what a deployment says.
    ///
    /// # Errors
    /// With all mistakes, each named by its field.
    pub fn parse(deployment: &Deployment) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let said = Self {
            body: read(deployment, BODY, size, &mut mistakes),
            body_time: read(deployment, BODY_TIME, time, &mut mistakes),
            connections: read(deployment, CONNECTIONS, count, &mut mistakes),
            requests: read(deployment, REQUESTS, rate, &mut mistakes),
            handshakes: read(deployment, HANDSHAKES, rate, &mut mistakes),
        };
        if mistakes.is_empty() { Ok(said) } else { Err(mistakes) }
    }

    /// The limits of a function that says this, where those that say nothing have `usual`.
    #[must_use]
    pub fn over(self, usual: Bounds) -> Bounds {
        Bounds {
            body: self.body.unwrap_or(usual.body),
            body_time: self.body_time.unwrap_or(usual.body_time),
            connections: self.connections.unwrap_or(usual.connections),
            requests: self.requests.unwrap_or(usual.requests),
            handshakes: self.handshakes.unwrap_or(usual.handshakes),
        }
    }
}

fn read<T, E: fmt::Display>(
    deployment: &Deployment,
    name: &str,
    meaning: impl FnOnce(&str) -> Result<T, E>,
    mistakes: &mut Vec<String>,
) -> Option<T> {
    let value = deployment.settings().remove(name)?.trim();
    let place = if deployment.annotations.contains_key(name) { "annotations" } else { "labels" };
    let shown: String = value.chars().take(MAX_SHOWN).collect();
    meaning(value).map_err(|why| mistakes.push(format!("{place}.{name}: {shown:?}: {why}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Deployment {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Deployment { annotations: map(annotations), labels: map(labels), ..Deployment::default() }
    }

    #[test]
    fn what_a_function_says_goes_before_the_settings_and_it_can_say_that_there_is_no_limit() {
        let usual = Bounds {
            body: Some(1),
            body_time: Some(Duration::from_secs(1)),
            connections: NonZeroUsize::new(1),
            requests: "1/s".parse().ok(),
            handshakes: "2/s".parse().ok(),
        };
        assert_eq!(Said::parse(&deployment(&[], &[])).unwrap().over(usual), usual);
        let said = deployment(
            &[(BODY, "10MiB"), (BODY_TIME, "1m"), (REQUESTS, "off"), (HANDSHAKES, "5/m burst 3")],
            &[(BODY, "1Ki"), (CONNECTIONS, " 20 ")],
        );
        let expected = Bounds {
            body: Some(10 << 20),
            body_time: Some(Duration::from_secs(60)),
            connections: NonZeroUsize::new(20),
            requests: None,
            handshakes: "5/m burst 3".parse().ok(),
        };
        assert_eq!(Said::parse(&said).unwrap().over(usual), expected);
        let none: Vec<_> = NAMES.iter().map(|name| (*name, "off")).collect();
        assert_eq!(Said::parse(&deployment(&none, &[])).unwrap().over(usual), Bounds::default());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name_all_at_once() {
        let wrong: Vec<_> = NAMES.iter().map(|name| (*name, "much")).collect();
        let mistakes = Said::parse(&deployment(&wrong, &[])).unwrap_err();
        assert_eq!(mistakes.len(), NAMES.len());
        for (mistake, name) in mistakes.iter().zip(NAMES) {
            let named = format!("annotations.{name}: \"much\": expected ");
            assert!(mistake.starts_with(&named) && mistake.contains("off"), "{mistake}");
        }
        for (name, value) in [(CONNECTIONS, "0"), (BODY, "-1"), (REQUESTS, "10"), (BODY_TIME, "soon")] {
            let mistakes = Said::parse(&deployment(&[], &[(name, value)])).unwrap_err();
            assert!(mistakes[0].starts_with(&format!("labels.{name}: ")), "{mistakes:?}");
        }
    }
}
