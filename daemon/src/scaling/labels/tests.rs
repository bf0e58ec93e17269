use std::collections::BTreeMap;

use roost_proxy::KeySource;

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn map(pairs: Pairs) -> BTreeMap<String, String> {
    let full = |name: &str| {
        if name.starts_with("roost.") { name.to_owned() } else { format!("com.openfaas.scale.{name}") }
    };
    pairs.iter().map(|(name, value)| (full(name), (*value).to_owned())).collect()
}

fn labelled(pairs: Pairs) -> Result<Policy, Vec<String>> {
    Policy::parse(&Deployment { labels: map(pairs), ..Deployment::default() })
}

/// As one text, without what each begins with.
fn refused(pairs: Pairs) -> String {
    labelled(pairs).unwrap_err().join("\n")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_function_that_says_nothing_has_one_replica_for_ever() {
    let expected = Policy {
        min: 1,
        max: 1,
        load: None,
        zero: None,
        cap: Cap::default(),
        placement: Placement::default(),
        recreate: false,
        drain: None,
        rest: Rest { state: None, paused_for: seconds(300), created_for: seconds(3600) },
        schedule: Schedule::default(),
    };
    assert_eq!(Policy::parse(&Deployment::default()), Ok(expected));
}

#[test]
fn bounds_are_what_is_written_and_one_where_nothing_is() {
    for (pairs, expected) in [
        (&[("min", "3")][..], (3, 3)),
        (&[("max", "4")], (1, 4)),
        (&[("min", "2"), ("max", "2")], (2, 2)),
        (&[("min", "500"), ("max", " 500 ")], (500, 500)),
        (&[("roost.scale.singleton", "true")], (1, 1)),
        (&[("roost.scale.singleton", "true"), ("min", "1"), ("max", "1")], (1, 1)),
        (&[("roost.scale.singleton", "false"), ("max", "3")], (1, 3)),
        (&[("roost.scale.key", "path[1]")], (0, 20)),
        (&[("roost.scale.key", "path[1]"), ("min", "1"), ("max", "3")], (0, 3)),
    ] {
        let policy = labelled(pairs).unwrap();
        assert_eq!((policy.min, policy.max), expected, "{pairs:?}");
    }
}

#[test]
fn load_is_followed_by_what_is_asked_for_or_by_the_rule_of_the_community() {
    let target = |measure, per_replica, step, window| {
        Some(LoadTarget { measure, per_replica, step: NonZeroU32::new(step), down_window: seconds(window) })
    };
    for (pairs, expected) in [
        (&[("max", "4")][..], target(Measure::Rps, 5.0, 1, 30)),
        (&[("max", "11")], target(Measure::Rps, 5.0, 3, 30)),
        (&[("max", "20"), ("factor", "100")], target(Measure::Rps, 5.0, 20, 30)),
        (&[("max", "2"), ("factor", "1"), ("down.window", "1m")], target(Measure::Rps, 5.0, 1, 60)),
        (&[("max", "20"), ("factor", "0")], None),
        // A kind or a target says that load is to be followed, whatever the factor.
        (&[("max", "4"), ("type", "capacity"), ("target", "10")], target(Measure::Capacity, 9.0, 0, 30)),
        (&[("max", "4"), ("target", "10"), ("factor", "0")], target(Measure::Rps, 9.0, 0, 30)),
        (&[("max", "4"), ("type", "rps")], target(Measure::Rps, 45.0, 0, 30)),
        (
            &[("max", "4"), ("type", "cpu"), ("target", "500"), ("target-proportion", "1")],
            target(Measure::Cpu, 500.0, 0, 30),
        ),
        (
            &[("max", "4"), ("type", "queue"), ("target", "0.5"), ("target-proportion", "0.5")],
            target(Measure::Queue, 0.25, 0, 30),
        ),
        (&[("max", "4"), ("type", "rps"), ("down.window", "off")], target(Measure::Rps, 45.0, 0, 0)),
        (&[("max", "4"), ("type", "rps"), ("down.window", "300")], target(Measure::Rps, 45.0, 0, 300)),
        // As few as many: nothing to follow.
        (&[("type", "capacity"), ("target", "10")], None),
        (&[("min", "3"), ("max", "3"), ("type", "capacity")], None),
        (&[("roost.scale.key", "path[1]")], None),
    ] {
        assert_eq!(labelled(pairs).unwrap().load, expected, "{pairs:?}");
    }
}

#[test]
fn none_at_all_is_for_those_that_ask_for_it_and_for_keys() {
    let zero = |after, by| Some(Zero { after: seconds(after), by });
    for (pairs, expected) in [
        (&[("zero", "true")][..], zero(900, IdleBy::Connections)),
        (&[("zero", "1"), ("zero-duration", "1m30s")], zero(90, IdleBy::Connections)),
        (&[("zero", "true"), ("roost.scale.idle", "traffic")], zero(900, IdleBy::Traffic)),
        (&[("zero", "true"), ("roost.scale.idle", "connections")], zero(900, IdleBy::Connections)),
        (&[("zero", "false")], None),
        (&[("zero", "0"), ("zero-duration", "5m")], None),
        (&[("zero-duration", "5m")], None),
        (&[("roost.scale.singleton", "1"), ("zero", "true")], zero(900, IdleBy::Connections)),
        (&[("roost.scale.key", "query:room")], zero(900, IdleBy::Connections)),
        (
            &[("roost.scale.key", "query:room"), ("zero", "true"), ("zero-duration", "60")],
            zero(60, IdleBy::Connections),
        ),
    ] {
        assert_eq!(labelled(pairs).unwrap().zero, expected, "{pairs:?}");
    }
}

#[test]
fn the_cap_is_the_annotations_or_else_that_of_the_watchdog() {
    for (annotation, variable, expected) in [
        (None, None, None),
        (Some("5"), None, Some(5)),
        (None, Some("7"), Some(7)),
        (Some("5"), Some("7"), Some(5)),
        (Some("5"), Some("0"), Some(5)),
        (None, Some("0"), None),
        (None, Some(""), None),
        (None, Some(" 3 "), Some(3)),
    ] {
        let deployment = Deployment {
            annotations: annotation.map(|n| (CAPACITY.to_owned(), n.to_owned())).into_iter().collect(),
            env_vars: variable.map(|n| (MAX_INFLIGHT.to_owned(), n.to_owned())).into_iter().collect(),
            ..Deployment::default()
        };
        let cap = Policy::parse(&deployment).unwrap().cap;
        assert_eq!(cap.per_replica.map(NonZeroU32::get), expected, "{annotation:?} {variable:?}");
        assert_eq!(cap.wait, Duration::ZERO);
    }
    for text in ["many", "-1", "1.5"] {
        let env_vars = [(MAX_INFLIGHT.to_owned(), text.to_owned())].into();
        let why = Policy::parse(&Deployment { env_vars, ..Deployment::default() }).unwrap_err();
        assert_eq!(why, ["envVars.max_inflight: expected a number of requests, or 0 for any number"]);
    }
    assert_eq!(labelled(&[("roost.queue.wait", "1h")]).unwrap().cap.wait, seconds(3600));
}

#[test]
fn replicas_are_replaced_and_placed_as_asked() {
    for (pairs, recreate, drain) in [
        (&[("roost.rollout", "start-first")][..], false, None),
        (&[("roost.rollout", "recreate"), ("roost.drain", "0")], true, Some(0)),
        (&[("roost.scale.singleton", "true"), ("roost.drain", "1h")], true, Some(3600)),
        (&[("roost.scale.key", "path[2]"), ("roost.drain", "30")], true, Some(30)),
        (&[("roost.scale.key", "path[2]"), ("roost.rollout", "recreate")], true, None),
    ] {
        let policy = labelled(pairs).unwrap();
        assert_eq!((policy.recreate, policy.drain), (recreate, drain.map(seconds)), "{pairs:?}");
    }
    let keyed = labelled(&[("roost.scale.key", "header:X-Room"), ("max", "7")]).unwrap().placement;
    let key = Some(KeySource::Header(http::HeaderName::from_static("x-room")));
    assert_eq!(keyed, Placement { affinity: None, key, max_keys: 7 });
    let sticky = labelled(&[("roost.affinity", "cookie"), ("max", "7")]).unwrap().placement;
    assert_eq!(sticky, Placement { affinity: Some(Affinity::Cookie), key: None, max_keys: 0 });
}

#[test]
fn what_is_kept_of_an_idle_function_can_be_chosen() {
    let rest =
        |state, paused, created| Rest { state, paused_for: seconds(paused), created_for: seconds(created) };
    for (pairs, expected) in [
        (&[("roost.idle.state", "paused")][..], rest(Some(Rung::Paused), 300, 3600)),
        (
            &[("roost.idle.state", "created"), ("roost.idle.created-for", "8760h")],
            rest(Some(Rung::Created), 300, 31_536_000),
        ),
        (
            &[("roost.idle.state", "stopped"), ("roost.idle.paused-for", "0")],
            rest(Some(Rung::Stopped), 0, 3600),
        ),
    ] {
        assert_eq!(labelled(pairs).unwrap().rest, expected, "{pairs:?}");
    }
}

#[test]
fn a_schedule_stays_within_the_most() {
    let pairs = |schedule| [("max", "3"), ("roost.scale.schedule", schedule)];
    let policy = labelled(&pairs("0 8 * * *=3; 0 20 * * *=0")).unwrap();
    assert_eq!(policy.schedule, Schedule::parse("0 8 * * *=3; 0 20 * * *=0", 3).unwrap());
    assert!(
        refused(&pairs("0 8 * * *=4"))
            .contains("labels.roost.scale.schedule: \"0 8 * * *=4\": expected behind =")
    );
    assert!(refused(&[("roost.scale.schedule", "0 8 * * *=2")]).contains("from 0 to 1"));
}

#[test]
fn what_is_no_value_is_refused_by_its_name() {
    for (name, values, expected) in [
        ("min", &["0", "-1", "501", "many", "", "1.5"][..], "expected a number from 1 to 500"),
        ("max", &["0", "501", "1e2"], "expected a number from 1 to 500"),
        ("type", &["latency", "RPS", ""], "expected rps, capacity, cpu or queue"),
        ("target", &["0", "-5", "inf", "nan", "many", ""], "expected a number from 0.001 to 1000000000"),
        ("target-proportion", &["0", "1.1", "90%"], "expected a number from 0.001 to 1"),
        ("factor", &["101", "-1", "some"], "expected a number from 0 to 100"),
        ("down.window", &["5m1s", "never", "-1s"], "expected a duration such as 90s or 1m30s, at most 5m"),
        ("zero", &["yes", "TRUE", ""], "expected true or false"),
        ("zero-duration", &["0", "0s", "long", "8761h"], "more than 0 and at most 8760h"),
        ("roost.scale.idle", &["sockets"], "expected connections or traffic"),
        ("roost.scale.capacity", &["0", "-1", "many", ""], "expected a number of requests, 1 or more"),
        ("roost.queue.wait", &["61m", "a while"], "at most 1h"),
        ("roost.rollout", &["stop-first"], "expected start-first or recreate"),
        ("roost.scale.singleton", &["yes"], "expected true or false"),
        ("roost.scale.key", &["path", "path[0]", "cookie:x"], "expected path[N]"),
        ("roost.scale.key", &["jwt", "jwt:"], "header:NAME or jwt:CLAIM"),
        ("roost.affinity", &["session", "header:"], "expected cookie, ip, header:NAME or query:NAME"),
        ("roost.drain", &["61m", "inf"], "at most 1h"),
        ("roost.idle.state", &["frozen"], "expected paused, created or stopped"),
        ("roost.idle.paused-for", &["forever", "99999999999999"], "at most 8760h"),
        ("roost.idle.created-for", &["forever", "8761h"], "at most 8760h"),
        ("roost.scale.schedule", &["", "daily=1", "@daily=2"], "expected"),
    ] {
        for value in values {
            let pairs = map(&[(name, value)]);
            let full = pairs.keys().next().unwrap().clone();
            let labels = Deployment { labels: pairs.clone(), ..Deployment::default() };
            let annotations = Deployment { annotations: pairs, ..Deployment::default() };
            for (place, deployment) in [("labels", labels), ("annotations", annotations)] {
                let why = Policy::parse(&deployment).expect_err(&format!("{name}={value}"));
                assert_eq!(why.len(), 1, "{name}={value}: {why:?}");
                assert!(why[0].starts_with(&format!("{place}.{full}: ")), "{why:?}");
                assert!(why[0].contains(expected), "{name}={value}: {why:?}");
            }
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let key = ("roost.scale.key", "path[1]");
    let singleton = ("roost.scale.singleton", "true");
    for (pairs, name, expected) in [
        (&[("min", "3"), ("max", "2")][..], "com.openfaas.scale.max", "expected at least 3"),
        (&[singleton, ("min", "2")], "com.openfaas.scale.min", "expected 1, as roost.scale.singleton"),
        (&[singleton, ("max", "2")], "com.openfaas.scale.max", "expected 1, as roost.scale.singleton"),
        (&[singleton, ("roost.rollout", "start-first")], "roost.rollout", "expected recreate"),
        (&[key, ("roost.rollout", "start-first")], "roost.rollout", "expected recreate"),
        (&[key, singleton], "roost.scale.singleton", "cannot be together with roost.scale.key"),
        (&[key, ("roost.affinity", "ip")], "roost.affinity", "cannot be together with roost.scale.key"),
        (&[key, ("min", "2")], "com.openfaas.scale.min", "expected at most 1"),
        (&[key, ("zero", "false")], "com.openfaas.scale.zero", "expected true"),
        (&[key, ("type", "rps")], "com.openfaas.scale.type", "cannot be together"),
        (&[key, ("target", "5")], "com.openfaas.scale.target", "cannot be together"),
        (&[key, ("target-proportion", "1")], "com.openfaas.scale.target-proportion", "cannot be together"),
        (&[key, ("factor", "20")], "com.openfaas.scale.factor", "cannot be together"),
        (&[key, ("down.window", "off")], "com.openfaas.scale.down.window", "cannot be together"),
        (&[key, ("roost.scale.schedule", "@daily=1")], "roost.scale.schedule", "cannot be together"),
    ] {
        let why = labelled(pairs).expect_err(&format!("{pairs:?}"));
        assert_eq!(why.len(), 1, "{pairs:?}: {why:?}");
        assert!(why[0].starts_with(&format!("labels.{name}: ")) && why[0].contains(expected), "{why:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_each_where_it_stands() {
    let deployment = Deployment {
        labels: map(&[("min", "0"), ("type", "x"), ("max", "none"), ("zero", "maybe")]),
        annotations: map(&[("zero", "perhaps"), ("roost.drain", "x"), ("roost.scale.schedule", "@daily=9")]),
        ..Deployment::default()
    };
    let why = Policy::parse(&deployment).unwrap_err();
    let mut fields: Vec<_> = why.iter().map(|text| text.split_once(": ").unwrap().0).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "annotations.com.openfaas.scale.zero",
            "annotations.roost.drain",
            "labels.com.openfaas.scale.max",
            "labels.com.openfaas.scale.min",
            "labels.com.openfaas.scale.type",
        ]
    );
}

#[test]
fn an_annotation_goes_before_a_label_and_no_error_is_long() {
    let deployment = Deployment {
        labels: map(&[("max", "none")]),
        annotations: map(&[("max", "4")]),
        ..Deployment::default()
    };
    assert_eq!(Policy::parse(&deployment).unwrap().max, 4);
    for name in ["min", "roost.affinity", "roost.scale.key", "roost.scale.schedule"] {
        assert!(refused(&[(name, &"9".repeat(60_000))]).len() < 300, "{name}");
    }
}

#[test]
fn a_replica_of_a_lambda_function_takes_one_call_at_a_time_and_the_others_wait() {
    let lambda = |settings: &[(&str, &str)]| {
        let mut annotations = map(settings);
        annotations.insert("roost.lambda".to_owned(), "runtime-api".to_owned());
        let env_vars = [("max_inflight".to_owned(), "9".to_owned())].into();
        Policy::parse(&Deployment { annotations, env_vars, ..Deployment::default() })
    };
    let cap = |settings: &[(&str, &str)]| {
        let cap = lambda(settings).unwrap().cap;
        (cap.per_replica.map(NonZeroU32::get), cap.wait)
    };
    assert_eq!(cap(&[]), (Some(1), Duration::from_mins(1)));
    assert_eq!(cap(&[("roost.scale.capacity", "1"), ("roost.queue.wait", "0")]), (Some(1), Duration::ZERO));
    let why = lambda(&[("roost.scale.capacity", "2")]).unwrap_err();
    assert_eq!(why, ["annotations.roost.scale.capacity: expected 1, as roost.lambda asks for"]);
}

#[test]
fn names_of_settings_are_known() {
    for (name, known) in [
        ("com.openfaas.scale.min", true),
        ("com.openfaas.scale.down.window", true),
        ("roost.scale.key", true),
        ("roost.idle.created-for", true),
        ("roost.auth", false),
        ("max_inflight", false),
        ("com.openfaas.health.http.path", false),
    ] {
        assert_eq!(Policy::is_setting_name(name), known, "{name}");
    }
}
