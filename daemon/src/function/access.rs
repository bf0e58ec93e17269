//! What a function asks of its callers, as a deployment says it.
//!
//! Owns the annotations `roost.auth` and `roost.internal`, and that keys that are in tokens (`roost.scale.key`) ask for
//! one. Labels of these names count the same; an annotation goes before a label.

use roost_proxy::{Access, KeySource};

use crate::function::record::FunctionRecord;
use crate::function::spec::Deployment;
use crate::scaling::labels::KEY;

pub(crate) const AUTH: &str = "roost.auth";
pub(super) const INTERNAL: &str = "roost.internal";

/// What a deployment asks of callers.
///
/// # Errors
/// With all mistakes, each named by its field.
pub fn parse(deployment: &Deployment) -> Result<Access, Vec<String>> {
    let auth = read(deployment, AUTH, |value| match value {
        "none" => Ok(Access::default()),
        "basic" => Ok(Access { login: true, ..Access::default() }),
        "jwt" => Ok(Access { token: true, ..Access::default() }),
        other => Err(format!("{other:?}: expected none, basic or jwt")),
    });
    // What is wrong with it is said where the rest of scaling is read.
    let keyed = read(deployment, KEY, |value| match value.parse() {
        Ok(KeySource::Jwt(_)) if auth.as_ref().is_ok_and(|auth| auth.login) => Err(format!(
            "{value}: cannot be together with {AUTH}: basic: a request bears either a token or a password"
        )),
        Ok(KeySource::Jwt(_)) => Ok(Access { token: true, ..Access::default() }),
        _ => Ok(Access::default()),
    });
    let internal = read(deployment, INTERNAL, |value| match value {
        "true" => Ok(Access { internal: true, ..Access::default() }),
        "false" => Ok(Access::default()),
        other => Err(format!("{other:?}: expected \"true\" or \"false\"")),
    });
    match (auth, keyed, internal) {
        (Ok(auth), Ok(keyed), Ok(internal)) => Ok(auth.and(keyed).and(internal)),
        (auth, keyed, internal) => Err([auth, keyed, internal].into_iter().filter_map(Result::err).collect()),
    }
}

/// What a function asks of callers now: whatever its newest revision asks, from the moment it is accepted, and until that
/// is up with all its replicas also what any revision asked since one last was. So an update tightens at once and loosens
/// when it is through; one that fails never opens what serves on, be that a revision that never was complete itself.
///
/// What cannot be read asks for everything: it was written by another version, and nobody knows what it meant.
#[must_use]
pub fn of(record: &FunctionRecord) -> Access {
    let of_each = record.revisions().map(|revision| parse(&revision.deployment).unwrap_or(Access::STRICTEST));
    of_each.fold(record.asked, Access::and)
}

/// What an annotation or label asks for; not given is nothing.
fn read(
    deployment: &Deployment,
    name: &str,
    meaning: impl FnOnce(&str) -> Result<Access, String>,
) -> Result<Access, String> {
    let Some(value) = deployment.settings().remove(name) else { return Ok(Access::default()) };
    let kind = if deployment.annotations.contains_key(name) { "annotations" } else { "labels" };
    meaning(value.trim()).map_err(|why| format!("{kind}.{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::record::Revision;

    fn deployment(annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Deployment {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Deployment { annotations: map(annotations), labels: map(labels), ..Deployment::default() }
    }

    #[test]
    fn annotations_and_labels_say_what_is_asked() {
        let open = Access::default();
        let (internal, login) = (Access { internal: true, ..open }, Access { login: true, ..open });
        let token = Access { token: true, ..open };
        let table: [(&[_], &[_], _); 13] = [
            (&[], &[], open),
            (&[(AUTH, "none"), (INTERNAL, "false")], &[], open),
            (&[(AUTH, "basic")], &[], login),
            (&[(INTERNAL, "true")], &[], internal),
            (&[(AUTH, "basic")], &[(INTERNAL, "true")], login.and(internal)),
            (&[], &[(AUTH, "basic"), (INTERNAL, "true")], login.and(internal)),
            (&[(AUTH, "none")], &[(AUTH, "basic")], open),
            (&[(AUTH, "basic")], &[(AUTH, "none")], login),
            (&[(AUTH, "jwt")], &[], token),
            (&[(KEY, "jwt:sub")], &[(INTERNAL, "true")], token.and(internal)),
            (&[(KEY, "jwt:sub"), (AUTH, "jwt")], &[], token),
            (&[(KEY, "jwt:sub"), (AUTH, "none")], &[], token),
            (&[(KEY, "path[1]")], &[(KEY, "jwt:sub")], open),
        ];
        for (annotations, labels, access) in table {
            let parsed = parse(&deployment(annotations, labels));
            assert_eq!(parsed, Ok(access), "{annotations:?} {labels:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let table: [(&[_], &[_], &[&str]); 7] = [
            (&[(AUTH, "bearer")], &[], &["annotations.roost.auth: \"bearer\": expected none, basic or jwt"]),
            (
                &[(AUTH, "basic")],
                &[(KEY, "jwt:sub")],
                &["labels.roost.scale.key: jwt:sub: cannot be together with roost.auth: basic"],
            ),
            (&[(AUTH, "")], &[], &["annotations.roost.auth:"]),
            (&[(AUTH, "Basic")], &[], &["annotations.roost.auth:"]),
            (&[], &[(INTERNAL, "yes")], &["labels.roost.internal:"]),
            (
                &[(INTERNAL, "1"), (AUTH, "x")],
                &[],
                &["annotations.roost.auth:", "annotations.roost.internal:"],
            ),
            (&[(INTERNAL, "1")], &[(INTERNAL, "true")], &["annotations.roost.internal:"]),
        ];
        for (annotations, labels, expected) in table {
            let mistakes = parse(&deployment(annotations, labels)).unwrap_err();
            assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
            for (mistake, expected) in mistakes.iter().zip(expected) {
                assert!(mistake.starts_with(expected), "{mistake}");
            }
        }
    }

    #[test]
    fn an_update_tightens_at_once_and_loosens_when_it_is_through() {
        let revision = |annotations| Revision::new(deployment(annotations, &[]));
        let (open, login) = (Access::default(), Access { login: true, ..Access::default() });
        let first = FunctionRecord::new(revision(&[])).completed();
        assert_eq!(of(&first), open);
        let tightened = first.updated(revision(&[(AUTH, "basic")]));
        assert_eq!(of(&tightened), login);
        let loosened = tightened.completed().updated(revision(&[]));
        assert_eq!(of(&loosened), login, "what serves is still the one that asks");
        assert_eq!(of(&loosened.completed()), open);
        let never_complete = FunctionRecord::new(revision(&[(AUTH, "basic")]));
        let twice = never_complete.updated(revision(&[(INTERNAL, "true")])).updated(revision(&[]));
        assert_eq!(of(&never_complete.updated(revision(&[]))), login, "some of its replicas may serve on");
        let kept = serde_json::from_slice(&serde_json::to_vec(&twice).unwrap()).unwrap();
        assert_eq!(
            of(&kept),
            Access { internal: true, ..login },
            "all that was asked on the way, over a restart too"
        );
        assert_eq!(of(&twice.completed()), open);
        let unknown = FunctionRecord::new(revision(&[(AUTH, "of a later version")]));
        assert_eq!(of(&unknown), Access::STRICTEST);
    }
}
