//! Which topics of MQTT a filter stands for. Pure.

/// Does the filter stand for this topic? `+` is one level, whatever it is, and `#` is all that follow, and none of them.
/// Topics that begin with `$` are the broker's: only a filter that names their first level stands for them.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    // `$share/GROUP/FILTER` is FILTER, shared with others.
    let shared = filter.strip_prefix("$share/").and_then(|shared| shared.split_once('/'));
    let filter = shared.map_or(filter, |(_, filter)| filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut levels, mut of_topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (levels.next(), of_topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(of_topic)) if level == of_topic => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_stand_for_topics_as_the_standard_says() {
        for (filter, stands_for, not_for) in [
            (
                "sport/tennis/player1",
                &["sport/tennis/player1"][..],
                &["sport/tennis/player1/", "sport/tennis"][..],
            ),
            (
                "sport/tennis/player1/#",
                &["sport/tennis/player1", "sport/tennis/player1/a/b"],
                &["sport/tennis/player2"],
            ),
            ("#", &["a", "a/b", "/"], &["$SYS/x", "$SYS"]),
            ("+", &["finance", ""], &["/finance", "a/b", "$SYS"]),
            ("+/+", &["/finance", "a/b"], &["finance", "$SYS/x"]),
            ("/+", &["/finance"], &["finance"]),
            ("sport/+", &["sport/", "sport/a"], &["sport", "sport/a/b"]),
            ("$SYS/#", &["$SYS/x", "$SYS"], &["SYS/x"]),
            ("$share/group/a/+", &["a/b"], &["group/a/b", "a"]),
            ("$share/group/#", &["a"], &["$SYS/x"]),
        ] {
            for topic in stands_for {
                assert!(matches(filter, topic), "{filter} {topic}");
            }
            for topic in not_for {
                assert!(!matches(filter, topic), "{filter} {topic}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_topic_stands_for_itself_alone_and_its_levels_may_be_any(
            levels in prop::collection::vec("[a-c]{0,2}", 1..5), other in prop::collection::vec("[a-c]{0,2}", 1..5), at in 0..5_usize,
        ) {
            let topic = levels.join("/");
            prop_assert_eq!(matches(&topic, &other.join("/")), levels == other);
            let mut any = levels.clone();
            let at = at % any.len();
            any[at] = "+".to_owned();
            prop_assert!(matches(&any.join("/"), &topic));
            any.truncate(at);
            any.push("#".to_owned());
            prop_assert!(matches(&any.join("/"), &topic));
        }
    }
}
