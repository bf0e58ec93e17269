//! What functions listen to, as the annotation `topic` says it.
//!
//! Owns the spelling of a topic: `cron-function`, `mqtt:TOPIC`, `nats:SUBJECT`, `directory:NAME`, with the name of a source
//! where there are several (`mqtt.NAME:TOPIC`), or a topic alone, as the connectors of OpenFaaS have it. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::function::spec::Deployment;

/// The annotation.
pub(crate) const TOPIC: &str = "topic";

/// The topic of functions with a schedule, as in OpenFaaS.
pub(crate) const CLOCK: &str = "cron-function";

/// How many topics a function may have.
const MAX_TOPICS: usize = 32;

/// The longest topic of MQTT, in bytes, and as much of all others.
const MAX_TOPIC: usize = 65_535;

/// The longest part of a topic that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// The source that is meant where there are several and none is named.
const DEFAULT: &str = "default";

/// What sources there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An MQTT broker.
    Mqtt,
    /// A NATS server.
    Nats,
    /// A directory.
    Directory,
}

/// A source that the settings name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// The clock: the annotation `schedule` says when.
    Clock,
    /// Of a source: the only one of its kind if none is named. Of a directory there is no pattern.
    Of {
        /// What it is.
        kind: Kind,
        /// Its name.
        source: Option<String>,
        /// Which of its messages.
        pattern: String,
    },
    /// Of the host's only broker; of a connector of OpenFaaS where there is none.
    Plain(String),
}

/// The sources that this host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// All of them.
    pub all: BTreeSet<Source>,
    /// The one that topics without a source are of.
    pub plain: Option<Source>,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Mqtt, Self::Nats, Self::Directory];

    /// What it is called in settings and annotations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Nats => "nats",
            Self::Directory => "directory",
        }
    }

    /// Can there be such a topic?
    fn check(self, pattern: &str) -> Result<(), String> {
        match self {
            Self::Mqtt => check_filter(pattern),
            Self::Nats => check_subject(pattern),
            Self::Directory => Ok(()),
        }
    }
}

impl Source {
    /// A source of this name.
    #[must_use]
    pub fn new(kind: Kind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind.as_str(), self.name)
    }
}

/// The topics of a deployment.
///
/// # Errors
/// With each that is none, named by the annotation.
pub fn parse(deployment: &Deployment) -> Result<Vec<Topic>, Vec<String>> {
    let Some(text) = deployment.annotations.get(TOPIC) else { return Ok(Vec::new()) };
    let (mut topics, mut mistakes) = (Vec::new(), Vec::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match topic(entry) {
            Ok(topic) if topics.contains(&topic) => {}
            Ok(topic) => topics.push(topic),
            Err(why) => mistakes.push(mistake(entry, &why)),
        }
    }
    if topics.len() > MAX_TOPICS {
        mistakes.push(format!("annotations.{TOPIC}: expected at most {MAX_TOPICS} of them"));
    }
    if mistakes.is_empty() { Ok(topics) } else { Err(mistakes) }
}

/// Does the deployment ask for the clock?
#[must_use]
pub fn has_clock(deployment: &Deployment) -> bool {
    parse(deployment).is_ok_and(|topics| topics.contains(&Topic::Clock))
}

fn mistake(entry: &str, why: &str) -> String {
    let shown: String = entry.chars().take(MAX_SHOWN).collect();
    format!("annotations.{TOPIC}: {shown:?}: {why}")
}

fn topic(entry: &str) -> Result<Topic, String> {
    if entry == CLOCK {
        return Ok(Topic::Clock);
    }
    if entry.len() > MAX_TOPIC || entry.chars().any(char::is_control) {
        return Err(format!("expected at most {MAX_TOPIC} bytes, and no control characters"));
    }
    let Some((kind, source, pattern)) = of_source(entry) else { return Ok(Topic::Plain(entry.to_owned())) };
    if kind == Kind::Directory {
        return match (source, pattern) {
            (None, name) if !name.is_empty() => {
                Ok(Topic::Of { kind, source: Some(name.to_owned()), pattern: String::new() })
            }
            _ => Err("expected directory:NAME, as in [triggers.directory.NAME] of the settings".to_owned()),
        };
    }
    kind.check(pattern)?;
    Ok(Topic::Of { kind, source: source.map(str::to_owned), pattern: pattern.to_owned() })
}

/// `KIND:PATTERN` or `KIND.NAME:PATTERN`.
fn of_source(entry: &str) -> Option<(Kind, Option<&str>, &str)> {
    let (head, pattern) = entry.split_once(':')?;
    let (kind, name) = head.split_once('.').map_or((head, None), |(kind, name)| (kind, Some(name)));
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Some((kind, name, pattern))
}

/// Is it a filter of MQTT: levels between slashes, of which `+` is any and `#`, at the end, all that follow?
fn check_filter(filter: &str) -> Result<(), String> {
    let levels = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').filter(|(group, _)| !group.is_empty()).map(|(_, rest)| rest),
        None => Some(filter),
    };
    let levels = levels.filter(|levels| !levels.is_empty());
    let is_level = |(at, level): (usize, &str), last: usize| match level {
        "+" => true,
        "#" => at == last,
        level => !level.contains(['+', '#']),
    };
    let fits = levels.is_some_and(|levels| {
        let last = levels.split('/').count() - 1;
        levels.split('/').enumerate().all(|level| is_level(level, last))
    });
    if fits {
        Ok(())
    } else {
        Err("expected a topic of MQTT, such as sensors/+/temp or sensors/#".to_owned())
    }
}

/// Is it a subject of NATS: tokens between dots, of which `*` is any and `>`, at the end, all that follow?
fn check_subject(subject: &str) -> Result<(), String> {
    let last = subject.split('.').count() - 1;
    let fits = subject.split('.').enumerate().all(|(at, token)| match token {
        "*" => true,
        ">" => at == last,
        token => !token.is_empty() && !token.contains(['*', '>']) && !token.contains(char::is_whitespace),
    });
    if fits { Ok(()) } else { Err("expected a subject of NATS, such as orders.*.new or orders.>".to_owned()) }
}

impl Sources {
    /// Where a topic is of a source of this host: of which, and its pattern.
    ///
    /// # Errors
    /// When it is of one that this host does not have, or could be of several.
    pub fn resolve(&self, topic: &Topic) -> Result<Option<(Source, String)>, String> {
        let (kind, name, pattern) = match topic {
            Topic::Clock => return Ok(None),
            Topic::Plain(pattern) => {
                let Some(source) = &self.plain else { return Ok(None) };
                source.kind.check(pattern)?;
                return Ok(Some((source.clone(), pattern.clone())));
            }
            Topic::Of { kind, source, pattern } => (*kind, source.as_deref(), pattern),
        };
        let section = kind.as_str();
        let of_kind: Vec<&Source> = self.all.iter().filter(|source| source.kind == kind).collect();
        let named = |name: &str| of_kind.iter().find(|source| &*source.name == name).copied();
        let found = match (name, of_kind.as_slice()) {
            (Some(name), _) => named(name)
                .ok_or_else(|| format!("this host has no [triggers.{section}.{name}] in its settings")),
            (None, [only]) => Ok(*only),
            (None, []) => Err(format!("this host has no [triggers.{section}.NAME] in its settings")),
            (None, _) => named(DEFAULT).ok_or_else(|| {
                format!("this host has several of [triggers.{section}.NAME]: write {section}.NAME:…")
            }),
        };
        found.map(|source| Some((source.clone(), pattern.clone())))
    }

    /// Has this host all that a deployment listens to?
    ///
    /// # Errors
    /// With the first topic that it has not, named by the annotation.
    pub fn admit(&self, deployment: &Deployment) -> Result<(), String> {
        for topic in parse(deployment).unwrap_or_default() {
            self.resolve(&topic).map_err(|why| mistake(&topic.to_string(), &why))?;
        }
        Ok(())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock => f.write_str(CLOCK),
            Self::Plain(topic) => f.write_str(topic),
            Self::Of { kind: Kind::Directory, source, .. } => {
                write!(f, "directory:{}", source.as_deref().unwrap_or_default())
            }
            Self::Of { kind, source: None, pattern } => write!(f, "{}:{pattern}", kind.as_str()),
            Self::Of { kind, source: Some(name), pattern } => {
                write!(f, "{}.{name}:{pattern}", kind.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(topic: &str) -> Deployment {
        let annotations = [(TOPIC.to_owned(), topic.to_owned())].into();
        Deployment { annotations, ..Deployment::default() }
    }

    fn read(topic: &str) -> Result<Vec<Topic>, Vec<String>> {
        parse(&deployment(topic))
    }

    fn of(kind: Kind, source: Option<&str>, pattern: &str) -> Topic {
        Topic::Of { kind, source: source.map(str::to_owned), pattern: pattern.to_owned() }
    }

    #[test]
    fn topics_are_a_list_of_the_clock_of_sources_and_of_plain_ones() {
        assert_eq!(parse(&Deployment::default()), Ok(Vec::new()));
        assert_eq!(read(" , "), Ok(Vec::new()));
        let topics = read(
            "cron-function, mqtt:a/+/b,mqtt.lan:#, nats:orders.>, directory:inbox, sensors/a, http://x, cron-function",
        );
        let expected = [
            Topic::Clock,
            of(Kind::Mqtt, None, "a/+/b"),
            of(Kind::Mqtt, Some("lan"), "#"),
            of(Kind::Nats, None, "orders.>"),
            of(Kind::Directory, Some("inbox"), ""),
            Topic::Plain("sensors/a".into()),
            Topic::Plain("http://x".into()),
        ];
        assert_eq!(topics.unwrap(), expected);
        for topic in &expected {
            assert_eq!(read(&topic.to_string()).unwrap(), std::slice::from_ref(topic));
        }
    }

    #[test]
    fn what_is_no_topic_is_refused_by_the_annotation() {
        let many = (0..33).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
        for (text, expected) in [
            ("mqtt:", "\"mqtt:\": expected a topic of MQTT"),
            ("mqtt:a/#/b", "expected a topic of MQTT"),
            ("mqtt:a/b#", "expected a topic of MQTT"),
            ("mqtt:a+/b", "expected a topic of MQTT"),
            ("mqtt:$share/g", "expected a topic of MQTT"),
            ("mqtt:$share//t", "expected a topic of MQTT"),
            ("nats:", "expected a subject of NATS"),
            ("nats:a..b", "expected a subject of NATS"),
            ("nats:a.>.b", "expected a subject of NATS"),
            ("nats:a b", "expected a subject of NATS"),
            ("directory:", "expected directory:NAME"),
            ("directory.inbox:x", "expected directory:NAME"),
            ("a\u{1}", "no control characters"),
            (&many, "at most 32"),
        ] {
            let mistakes = read(text).unwrap_err().join("\n");
            assert!(
                mistakes.starts_with("annotations.topic: ") && mistakes.contains(expected),
                "{text}: {mistakes}"
            );
        }
        for text in ["mqtt:+", "mqtt:/", "mqtt:a//b", "mqtt:$share/g/a/#", "nats:*.b", "nats:>"] {
            assert!(read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_topic_is_of_the_source_that_is_named_or_of_the_only_one() {
        let [lan, wan, local] = [(Kind::Mqtt, "lan"), (Kind::Mqtt, "wan"), (Kind::Nats, "local")]
            .map(|(kind, name)| Source::new(kind, name));
        let one = Sources { all: [lan.clone(), local.clone()].into(), plain: Some(local.clone()) };
        let resolve = |sources: &Sources, topic: &str| sources.resolve(&read(topic).unwrap()[0]);
        assert_eq!(resolve(&one, "mqtt:a"), Ok(Some((lan.clone(), "a".into()))));
        assert_eq!(resolve(&one, "mqtt.lan:a"), Ok(Some((lan.clone(), "a".into()))));
        assert_eq!(resolve(&one, "a.b"), Ok(Some((local, "a.b".into()))));
        assert_eq!(resolve(&one, "cron-function"), Ok(None));
        for (topic, expected) in [
            (
                "mqtt.wan:a",
                "annotations.topic: \"mqtt.wan:a\": this host has no [triggers.mqtt.wan] in its settings",
            ),
            ("directory:inbox", "this host has no [triggers.directory.inbox]"),
            ("a..b", "annotations.topic: \"a..b\": expected a subject of NATS"),
        ] {
            let why = one.admit(&deployment(topic)).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
        let two = Sources { all: [lan, wan.clone()].into(), plain: None };
        assert!(resolve(&two, "mqtt:a").unwrap_err().contains("write mqtt.NAME:"));
        assert!(resolve(&two, "nats:a").unwrap_err().contains("no [triggers.nats.NAME]"));
        assert_eq!(resolve(&two, "kafka-topic"), Ok(None), "it is a connector's");
        let usual = Source::new(Kind::Mqtt, DEFAULT);
        let three = Sources { all: [wan, usual.clone()].into(), plain: None };
        assert_eq!(resolve(&three, "mqtt:a"), Ok(Some((usual, "a".into()))));
    }
}
