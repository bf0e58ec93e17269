//! Whether this host holds the WebSockets of a function, and on which terms, as a deployment says it.
//!
//! Owns the annotation `roost.websocket` and those below it that mean nothing for WebSockets which are passed on. Labels of
//! these names count the same; an annotation goes before a label. Pure. Those of the dialect of AWS are in [`aws`].

mod aws;
mod signed;

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use roost_proxy::WebSocketLimits;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::codec::cloudevents::CloudEvents;
use roost_proxy::websocket::{
    Batching, Delivery, EventMode, GroupNames, History, LONGEST_RETURN, MAX_GROUP_NAME, OnError,
    Subscriptions, is_group_name,
};

use crate::function::spec::{Deployment, parse_namespace};
use crate::function::timeouts::KEEPALIVE;
use crate::secrets::SecretName;
use crate::units;
pub use signed::signed;

const MODE: &str = "roost.websocket";
const CODEC: &str = "roost.websocket.codec";
const PATH: &str = "roost.websocket.path";
const EVENTS: &str = "roost.websocket.events";
const ON_ERROR: &str = "roost.websocket.on-error";
const DELIVERY: &str = "roost.websocket.delivery";
const RETRIES: &str = "roost.websocket.retries";
const MAILBOX: &str = "roost.websocket.mailbox";
const OUTBOUND: &str = "roost.websocket.outbound";
const GROUPS: &str = "roost.websocket.groups";
const TEXT_ONLY: &str = "roost.websocket.text-only";
const COMPRESSION: &str = "roost.websocket.compression";
const AUTO_RESPONSE: &str = "roost.websocket.auto-response";
const BATCH: &str = "roost.websocket.batch";
const RENEWAL: &str = "roost.websocket.renewal";
const CLIENT_GROUPS: &str = "roost.websocket.client-groups";
const ORIGINS: &str = "roost.websocket.origins";
const HISTORY: &str = "roost.websocket.history";
const GROUP_EVENTS: &str = "roost.websocket.group-events";
const RESUME: &str = "roost.websocket.resume";
const SIGNING: &str = "roost.websocket.signing";
const VALIDATE: &str = "roost.websocket.validate";

/// All of them, but those of the dialect of AWS.
const NAMES: [&str; 22] = [
    MODE,
    CODEC,
    PATH,
    EVENTS,
    ON_ERROR,
    DELIVERY,
    RETRIES,
    MAILBOX,
    OUTBOUND,
    GROUPS,
    TEXT_ONLY,
    COMPRESSION,
    AUTO_RESPONSE,
    BATCH,
    RENEWAL,
    CLIENT_GROUPS,
    ORIGINS,
    HISTORY,
    GROUP_EVENTS,
    RESUME,
    SIGNING,
    VALIDATE,
];

/// Those that mean nothing in the dialect of AWS: its routes say what there is to be told.
const NOT_OF_AWS: [&str; 5] = [PATH, EVENTS, BATCH, SIGNING, VALIDATE];

/// The most of what can be asked for.
const MOST_RETRIES: u32 = 20;
const MOST_MESSAGES: usize = 10_000;
const MOST_GROUPS: usize = 10_000;
const MOST_OUTBOUND: u64 = 64 << 20;
const MOST_PAIRS: usize = 16;
const LONGEST_PAIR: usize = 256;
const LONGEST_PATH: usize = 1024;
const MOST_ORIGINS: usize = 64;
const MOST_KEYS: usize = 2;
const LONGEST_WINDOW: Duration = Duration::from_mins(1);
const MOST_HISTORY: usize = 10_000;
const LONGEST_HISTORY: Duration = Duration::from_hours(24);
const MOST_HISTORY_BYTES: u64 = 16 << 20;
const MOST_GROUP_NAMES: usize = 64;

/// How many bytes of the past of a group are kept, where nothing is said of that.
const HISTORY_BYTES: usize = 1 << 20;

/// The longest part of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// The dialects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Dialect {
    #[default]
    CloudEvents,
    Aws,
}

impl Dialect {
    fn read(value: &str) -> Option<Self> {
        match value {
            "cloudevents" => Some(Self::CloudEvents),
            "aws" => Some(Self::Aws),
            _ => None,
        }
    }
}

/// Is `name` a label or annotation that is read here?
#[must_use]
pub fn is_setting_name(name: &str) -> bool {
    NAMES.contains(&name) || aws::NAMES.contains(&name)
}

/// Do replicas that run see nothing of it? The dialect decides what is in their environment.
#[must_use]
pub fn is_for_the_host_alone(name: &str) -> bool {
    is_setting_name(name) && name != CODEC
}

/// What of a deployment has no effect, and why: its WebSockets are its own, or its dialect knows nothing of it.
#[must_use]
pub fn without_effect(deployment: &Deployment) -> Vec<String> {
    let settings = deployment.settings();
    let of = |name: &str| settings.get(name).map(|value| value.trim());
    let dialect = of(CODEC).and_then(Dialect::read).unwrap_or_default();
    let said = |names: Vec<&str>, why: &str| {
        let names = names.into_iter().filter(|name| settings.contains_key(name));
        names.map(|name| format!("{name}: no effect: {why}")).collect()
    };
    if of(MODE) != Some("events") {
        // The dialect counts without the mode: others' events may be routed to the function.
        let names = NAMES.into_iter().filter(|name| ![MODE, CODEC].contains(name)).chain(aws::NAMES);
        return said(names.collect(), "roost.websocket is not events");
    }
    match dialect {
        Dialect::CloudEvents => said(aws::NAMES.into(), "roost.websocket.codec is not aws"),
        Dialect::Aws => said(NOT_OF_AWS.into(), "roost.websocket.codec is aws"),
    }
}

/// What a deployment says of its WebSockets; `None` where they are the function's own.
///
/// # Errors
/// With every mistake in it, each named by its field.
pub fn parse(deployment: &Deployment) -> Result<Option<EventMode>, Vec<String>> {
    let mut reader = Reader { deployment, mistakes: Vec::new() };
    let held = reader.read(MODE, "proxy or events", |value| match value {
        "proxy" => Some(false),
        "events" => Some(true),
        _ => None,
    });
    let dialect = reader.read(CODEC, "cloudevents or aws", Dialect::read).unwrap_or_default();
    let path = reader.read(PATH, "a path such as /api/events", path);
    let batching = reader.read(BATCH, "a number of messages and a duration, such as 100/50ms", batching);
    let events = reader
        .read(EVENTS, "some of message, connect, connected, disconnected, joined and left", subscriptions)
        .unwrap_or_default();
    let (codec, events, batching) = match (dialect, own(deployment)) {
        (Dialect::Aws, Some(own)) => {
            let api = aws::read(&mut reader, &own);
            let events = aws::subscriptions(&api);
            (Codec::Aws(api), events, None)
        }
        // Without a name there is no function: that is said elsewhere.
        _ => {
            let codec = CloudEvents { batch: batching.is_some(), path, ..CloudEvents::default() };
            (Codec::CloudEvents(codec), events, batching)
        }
    };
    let expected = "one or two of the function's secrets, such as primary,secondary";
    reader.read(SIGNING, expected, |value| secrets(value, deployment));
    reader.flag(VALIDATE);
    let default = EventMode::new(codec);
    let mode = EventMode {
        events,
        on_error: reader
            .read(ON_ERROR, "close, reply or ignore", |value| match value {
                "close" => Some(OnError::Close),
                "reply" => Some(OnError::Reply),
                "ignore" => Some(OnError::Ignore),
                _ => None,
            })
            .unwrap_or_default(),
        delivery: reader
            .read(DELIVERY, "at-most-once or at-least-once", |value| match value {
                "at-most-once" => Some(Delivery::AtMostOnce),
                "at-least-once" => Some(Delivery::AtLeastOnce),
                _ => None,
            })
            .unwrap_or_default(),
        retries: reader.number(RETRIES, 0, MOST_RETRIES).unwrap_or(default.retries),
        mailbox: reader.number(MAILBOX, 1, MOST_MESSAGES).unwrap_or(default.mailbox),
        max_groups: reader.number(GROUPS, 0, MOST_GROUPS).unwrap_or(default.max_groups),
        outbound: reader
            .read(OUTBOUND, "a size up to 64Mi, such as 1Mi", |value| {
                units::memory(value).ok().filter(|size| (1..=MOST_OUTBOUND).contains(size))
            })
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(default.outbound),
        text_only: reader.flag(TEXT_ONLY).unwrap_or_default(),
        compression: reader
            .read(COMPRESSION, "deflate or off", |value| match value {
                "deflate" => Some(true),
                "off" => Some(false),
                _ => None,
            })
            .unwrap_or_default(),
        auto_response: reader
            .read(AUTO_RESPONSE, "pairs such as ping=pong, at most 16 of them", pairs)
            .unwrap_or_default(),
        renewal: reader
            .read(RENEWAL, "message or off", |value| match value {
                "message" => Some(true),
                "off" => Some(false),
                _ => None,
            })
            .unwrap_or(default.renewal),
        client_groups: reader
            .read(CLIENT_GROUPS, "message or off", |value| match value {
                "message" => Some(true),
                "off" => Some(false),
                _ => None,
            })
            .unwrap_or_default(),
        origins: reader
            .read(ORIGINS, "origins such as https://example.org, or *", origins)
            .unwrap_or_default(),
        history: reader
            .read(HISTORY, "a number of messages and an age, such as 100/1h, or off", history)
            .unwrap_or_default(),
        group_events: reader
            .read(GROUP_EVENTS, "names of groups such as lobby, team-*", group_names)
            .unwrap_or_default(),
        resume: reader
            .read(RESUME, "a duration up to 10m, such as 30s, or 0 for never", |value| {
                units::duration(value).ok().filter(|window| *window <= LONGEST_RETURN)
            })
            .filter(|window| !window.is_zero()),
        batching,
        ..default
    };
    if !reader.mistakes.is_empty() {
        return Err(reader.mistakes);
    }
    Ok(held.unwrap_or_default().then_some(mode))
}

/// What a deployment that was accepted says, with what it asks of all WebSockets: how long a message may be, and how often a
/// client is asked whether it still is there. What cannot be read was written by another version, and asks for nothing.
#[must_use]
pub fn of(deployment: &Deployment, limits: &WebSocketLimits) -> Option<EventMode> {
    let asked = deployment.settings().contains_key(KEEPALIVE);
    parse(deployment).ok().flatten().map(|mode| within(mode, limits, asked))
}

fn within(mode: EventMode, limits: &WebSocketLimits, asked: bool) -> EventMode {
    let max_message =
        limits.max_message.map_or(mode.max_message, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let ping_interval = if asked { limits.keepalive } else { mode.ping_interval };
    EventMode { max_message, ping_interval, ..mode }
}

/// The names of the secrets with which a function's events are signed, if it asks for that.
fn signing(deployment: &Deployment) -> Vec<SecretName> {
    let settings = deployment.settings();
    settings.get(SIGNING).and_then(|value| secrets(value, deployment)).unwrap_or_default()
}

/// Is it to be asked if it takes events of this host?
fn is_asked(deployment: &Deployment) -> bool {
    let mut reader = Reader { deployment, mistakes: Vec::new() };
    reader.flag(VALIDATE).unwrap_or_default()
}

fn own(deployment: &Deployment) -> Option<FunctionKey> {
    let namespace = parse_namespace(&deployment.namespace).ok()?;
    deployment.service.parse().ok().map(|name| FunctionKey::new(namespace, name))
}

/// Reads settings, and notes what is wrong with them.
struct Reader<'a> {
    deployment: &'a Deployment,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn read<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.deployment.settings().remove(name)?.trim();
        let read = read(value);
        if read.is_none() {
            let of_annotation = self.deployment.annotations.contains_key(name);
            let kind = if of_annotation { "annotations" } else { "labels" };
            let shown: String = value.chars().take(MAX_SHOWN).collect();
            self.mistakes.push(format!("{kind}.{name}: {shown:?}: expected {expected}"));
        }
        read
    }

    fn number<T>(&mut self, name: &str, least: T, most: T) -> Option<T>
    where
        T: Copy + std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let expected = format!("a number from {least} to {most}");
        self.read(name, &expected, |value| {
            value.parse().ok().filter(|number| least <= *number && *number <= most)
        })
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, "true or false", |value| match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }
}

fn subscriptions(value: &str) -> Option<Subscriptions> {
    let mut events = Subscriptions { no_messages: true, ..Subscriptions::default() };
    for name in value.split(',').map(str::trim) {
        match name {
            "message" => events.no_messages = false,
            "connect" => events.connect = true,
            "connected" => events.connected = true,
            "disconnected" => events.disconnected = true,
            "joined" => events.joined = true,
            "left" => events.left = true,
            _ => return None,
        }
    }
    Some(events)
}

fn path(value: &str) -> Option<PathAndQuery> {
    let fits = value.starts_with('/') && value.len() <= LONGEST_PATH;
    fits.then(|| value.parse().ok()).flatten()
}

fn batching(value: &str) -> Option<Batching> {
    let (count, window) = value.split_once('/')?;
    let count = count.trim().parse().ok().filter(|count| (1..=MOST_MESSAGES).contains(count))?;
    let window = units::duration(window.trim()).ok().filter(|window| *window <= LONGEST_WINDOW)?;
    Some(Batching { count, window })
}

/// `100/1h`, with a third part for a bound on bytes. `Some(None)` is none.
fn history(value: &str) -> Option<Option<History>> {
    if value == "off" {
        return Some(None);
    }
    let mut parts = value.split('/').map(str::trim);
    let (count, age, bytes, more) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    let count = count.parse().ok().filter(|count| (1..=MOST_HISTORY).contains(count))?;
    let age = units::duration(age).ok().filter(|age| !age.is_zero() && *age <= LONGEST_HISTORY)?;
    let bytes = match bytes {
        Some(size) => {
            let size = units::memory(size).ok().filter(|size| (1..=MOST_HISTORY_BYTES).contains(size))?;
            usize::try_from(size).ok()?
        }
        None => HISTORY_BYTES,
    };
    more.is_none().then_some(Some(History { count, age, bytes }))
}

/// Names of groups, of which the end may be a `*`.
fn group_names(value: &str) -> Option<GroupNames> {
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    let is_one = |name: &&str| {
        let whole = name.strip_suffix('*').unwrap_or(name);
        !whole.contains('*') && name.len() <= MAX_GROUP_NAME && is_group_name(name)
    };
    (names.len() <= MOST_GROUP_NAMES && names.iter().all(is_one)).then(|| names.into_iter().collect())
}

fn pairs(value: &str) -> Option<Vec<(Bytes, Bytes)>> {
    let part = |text: &str| {
        let text = text.trim();
        (1..=LONGEST_PAIR).contains(&text.len()).then(|| Bytes::copy_from_slice(text.as_bytes()))
    };
    let pairs = value.split(',').map(|pair| {
        let (asked, answer) = pair.split_once('=')?;
        part(asked).zip(part(answer))
    });
    pairs.collect::<Option<Vec<_>>>().filter(|pairs| pairs.len() <= MOST_PAIRS)
}

/// Names of secrets that the function has: so they are there, and stay as long as it does.
fn secrets(value: &str, deployment: &Deployment) -> Option<Vec<SecretName>> {
    let names = value.split(',').map(str::trim);
    let names = names.map(|name| {
        let has = deployment.secrets.iter().any(|secret| secret == name);
        has.then(|| name.parse().ok()).flatten()
    });
    names.collect::<Option<Vec<_>>>().filter(|names| names.len() <= MOST_KEYS)
}

fn origins(value: &str) -> Option<Vec<String>> {
    let is_origin = |origin: &str| {
        origin == "*"
            || origin.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains(['/', ' ', '?', '#', '@'])
            })
    };
    let origins: Vec<String> = value.split(',').map(|origin| origin.trim().to_owned()).collect();
    (origins.len() <= MOST_ORIGINS && origins.iter().all(|origin| is_origin(origin))).then_some(origins)
}

#[cfg(test)]
mod tests {
    use roost_proxy::websocket::codec::aws::{Binary, Transport};

    use super::*;

    fn deployment(settings: &[(&str, &str)]) -> Deployment {
        let annotations =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Deployment { service: "chat".to_owned(), annotations, ..Deployment::default() }
    }

    fn mode(settings: &[(&str, &str)]) -> EventMode {
        let all = [&[(MODE, "events")], settings].concat();
        parse(&deployment(&all)).unwrap().expect("events")
    }

    #[test]
    fn a_function_holds_its_own_websockets_unless_it_says_otherwise() {
        assert!(parse(&deployment(&[])).unwrap().is_none());
        assert!(parse(&deployment(&[(MODE, "proxy"), (EVENTS, "message")])).unwrap().is_none());
        let unasked = mode(&[]);
        assert_eq!(unasked.events, Subscriptions::default());
        assert!(unasked.batching.is_none() && unasked.origins.is_empty() && !unasked.compression);
    }

    #[test]
    fn each_setting_is_read() {
        let all = mode(&[
            (EVENTS, "connect, disconnected, joined"),
            (ON_ERROR, "ignore"),
            (DELIVERY, "at-least-once"),
            (RETRIES, "0"),
            (MAILBOX, "7"),
            (OUTBOUND, "2Mi"),
            (GROUPS, "3"),
            (TEXT_ONLY, "true"),
            (COMPRESSION, "deflate"),
            (AUTO_RESPONSE, "ping=pong, hb = ok"),
            (BATCH, "100/50ms"),
            (RENEWAL, "off"),
            (CLIENT_GROUPS, "message"),
            (ORIGINS, "https://a.example, http://b:8080"),
            (PATH, "/api/webpubsub/hubs/chat/"),
            (HISTORY, "100/1h/64Ki"),
            (GROUP_EVENTS, "lobby, team-*"),
            (RESUME, "30s"),
        ]);
        let events = Subscriptions {
            connect: true,
            disconnected: true,
            no_messages: true,
            joined: true,
            ..Subscriptions::default()
        };
        assert_eq!(all.events, events);
        assert_eq!((all.on_error, all.delivery, all.retries), (OnError::Ignore, Delivery::AtLeastOnce, 0));
        assert_eq!((all.mailbox, all.outbound, all.max_groups), (7, 2 << 20, 3));
        assert!(all.text_only && all.compression && !all.renewal && all.client_groups);
        assert_eq!(all.auto_response, [("ping".into(), "pong".into()), ("hb".into(), "ok".into())]);
        assert_eq!(all.batching, Some(Batching { count: 100, window: Duration::from_millis(50) }));
        let Codec::CloudEvents(codec) = &all.codec else { panic!("{:?}", all.codec) };
        assert!(codec.batch && codec.path.as_ref().is_some_and(|path| path == "/api/webpubsub/hubs/chat/"));
        assert_eq!(all.origins, ["https://a.example", "http://b:8080"]);
        let history = History { count: 100, age: Duration::from_hours(1), bytes: 64 << 10 };
        assert_eq!((all.history, all.resume), (Some(history), Some(Duration::from_secs(30))));
        for (group, may) in [("lobby", true), ("lobby2", false), ("team-7", true), ("team", false)] {
            assert_eq!(all.group_events.contains(group), may, "{group}");
        }
        let history = mode(&[(HISTORY, "7/30s"), (GROUP_EVENTS, "*")]);
        assert_eq!(history.history.unwrap().bytes, 1 << 20);
        assert!(history.group_events.contains("anything"));
        assert!(mode(&[(HISTORY, "off")]).history.is_none());
    }

    #[test]
    fn events_are_signed_with_secrets_that_the_function_has() {
        let signed = |value: &str| {
            let secrets = ["primary", "secondary", "third"].map(str::to_owned).into();
            let deployment = Deployment { secrets, ..deployment(&[(MODE, "events"), (SIGNING, value)]) };
            let names = signing(&deployment).iter().map(ToString::to_string).collect::<Vec<_>>();
            parse(&deployment).map(|_| names)
        };
        assert_eq!(signed("primary").unwrap(), ["primary"]);
        assert_eq!(signed(" secondary, primary ").unwrap(), ["secondary", "primary"]);
        assert!(signing(&deployment(&[(MODE, "events")])).is_empty());
        for value in ["", "other", "primary,", "primary,secondary,third"] {
            let [why] = &*signed(value).unwrap_err() else { panic!("{value}: one mistake") };
            assert!(why.contains("expected one or two of the function's secrets"), "{why}");
        }
    }

    #[test]
    fn the_dialect_of_aws_has_routes_and_is_told_of_what_they_name() {
        let Codec::Aws(api) = mode(&[(CODEC, "aws")]).codec else { panic!("aws") };
        assert_eq!(api.routes.keys().collect::<Vec<_>>(), ["$connect", "$default", "$disconnect"]);
        assert!(api.routes.values().all(|to| to.function.name.as_str() == "chat" && !to.two_way));
        assert_eq!((&*api.api_id, &*api.stage, &*api.domain_name), ("chat", "prod", "gateway:8080"));
        assert_eq!((api.transport, api.binary), (Transport::Http, Binary::Encoded));
        assert_eq!(api.selection.to_string(), "$request.body.action");

        let all = mode(&[
            (CODEC, "aws"),
            ("roost.websocket.aws.selection", "${request.body.type}"),
            ("roost.websocket.aws.routes", "$connect,$default=other;two-way"),
            ("roost.websocket.aws.transport", "emulator"),
            ("roost.websocket.aws.binary", "refused"),
            ("roost.websocket.aws.stage", "dev"),
            ("roost.websocket.aws.domain", "roost.example"),
            (EVENTS, "connected"),
            (BATCH, "10/1s"),
        ]);
        assert_eq!(all.events, Subscriptions { connect: true, ..Subscriptions::default() });
        assert!(all.batching.is_none());
        let Codec::Aws(api) = all.codec else { panic!("aws") };
        assert_eq!(api.routes.keys().collect::<Vec<_>>(), ["$connect", "$default"]);
        assert_eq!((api.transport, api.binary), (Transport::Emulator, Binary::Refused));
        assert_eq!((&*api.stage, &*api.domain_name), ("dev", "roost.example"));
        assert_eq!(api.selection.to_string(), "$request.body.type");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name_all_of_it_at_once() {
        let bad = [
            (MODE, "event"),
            (EVENTS, "message,opened"),
            (RETRIES, "21"),
            (OUTBOUND, "1Gi"),
            (AUTO_RESPONSE, "ping"),
            (BATCH, "100"),
            (ORIGINS, "example.org"),
            (HISTORY, "100/25h"),
            (GROUP_EVENTS, "a*b"),
            (RESUME, "11m"),
            (PATH, "events"),
            (VALIDATE, "yes"),
            (CLIENT_GROUPS, "on"),
            (CODEC, "aws"),
            ("roost.websocket.aws.selection", "action"),
            ("roost.websocket.aws.routes", "$connect;two-way"),
            ("roost.websocket.aws.transport", "runtime"),
            ("roost.websocket.aws.binary", "yes"),
            ("roost.websocket.aws.stage", "a/b"),
            ("roost.websocket.aws.domain", "https://a"),
        ];
        let mistakes = parse(&deployment(&bad)).unwrap_err();
        assert_eq!(mistakes.len(), bad.len() - 1);
        for (name, value) in bad.into_iter().filter(|(name, _)| *name != CODEC) {
            let begins = format!("annotations.{name}: {value:?}: expected ");
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(&begins)), "{name}: {mistakes:?}");
        }
        let mistakes = parse(&deployment(&[(CODEC, "azure")])).unwrap_err();
        assert_eq!(mistakes, [format!("annotations.{CODEC}: \"azure\": expected cloudevents or aws")]);
    }

    #[test]
    fn settings_without_the_mode_have_no_effect_and_that_is_said() {
        let without = |settings: &[(&str, &str)]| without_effect(&deployment(settings));
        let not = |name: &str, why: &str| format!("{name}: no effect: {why}");
        let (selection, no_mode) = ("roost.websocket.aws.selection", "roost.websocket is not events");
        assert_eq!(
            without(&[(EVENTS, "connect"), (BATCH, "1/1s"), (selection, "$request.body.a")]),
            [not(EVENTS, no_mode), not(BATCH, no_mode), not(selection, no_mode)]
        );
        assert!(without(&[(MODE, "events"), (EVENTS, "connect")]).is_empty());
        // Its replicas are told how to speak to connections, whoever routes events to it.
        assert!(without(&[(CODEC, "aws")]).is_empty());
        let no_aws = "roost.websocket.codec is not aws";
        assert_eq!(without(&[(MODE, "events"), (selection, "x")]), [not(selection, no_aws)]);
        let aws = "roost.websocket.codec is aws";
        assert_eq!(
            without(&[(MODE, "events"), (CODEC, "aws"), (BATCH, "1/1s"), (PATH, "/"), (VALIDATE, "1")]),
            [not(PATH, aws), not(BATCH, aws), not(VALIDATE, aws)]
        );
    }

    #[test]
    fn the_dialect_alone_is_seen_by_replicas() {
        assert!(is_setting_name(CODEC) && !is_for_the_host_alone(CODEC));
        assert!(is_for_the_host_alone(MODE) && is_for_the_host_alone("roost.websocket.aws.routes"));
        assert!(!is_for_the_host_alone("roost.websocket.aws.nothing"));
    }

    #[test]
    fn what_is_asked_of_all_websockets_counts_for_those_that_are_held() {
        let limits = WebSocketLimits { max_message: Some(10), keepalive: None };
        let held = within(mode(&[]), &limits, true);
        assert_eq!((held.max_message, held.ping_interval), (10, None));
        let held = within(mode(&[]), &WebSocketLimits::default(), false);
        assert_eq!((held.max_message, held.ping_interval), (1 << 20, Some(Duration::from_secs(25))));
    }
}
