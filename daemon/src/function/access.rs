//! What a function asks of its callers, as a deployment says it.
//!
//! Owns the annotations `roost.auth` and `roost.internal`. Labels of these names count the same; an annotation goes
//! before a label.

use roost_proxy::Access;

use crate::function::record::FunctionRecord;
use crate::function::spec::Deployment;

pub(super) const AUTH: &str = "roost.auth";
pub(super) const INTERNAL: &str = "roost.internal";

/// What a deployment asks of callers.
///
/// # Errors
/// With all mistakes, each named by its field.
pub fn parse(deployment: &Deployment) -> Result<Access, Vec<String>> {
    let login = read(deployment, AUTH, |value| match value {
        "none" => Ok(false),
        "basic" => Ok(true),
        "jwt" => Err("jwt is not available in this version: expected none or basic".to_owned()),
        other => Err(format!("{other:?}: expected none or basic")),
    });
    let internal = read(deployment, INTERNAL, |value| match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?}: expected \"true\" or \"false\"")),
    });
    match (login, internal) {
        (Ok(login), Ok(internal)) => Ok(Access { internal, login }),
        (login, internal) => Err([login.err(), internal.err()].into_iter().flatten().collect()),
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

/// The value of an annotation or label; not given is `false`.
fn read(
    deployment: &Deployment,
    name: &str,
    meaning: impl FnOnce(&str) -> Result<bool, String>,
) -> Result<bool, String> {
    let Some(value) = deployment.settings().remove(name) else { return Ok(false) };
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
        let table: [(&[_], &[_], _, _); 8] = [
            (&[], &[], false, false),
            (&[(AUTH, "none"), (INTERNAL, "false")], &[], false, false),
            (&[(AUTH, "basic")], &[], false, true),
            (&[(INTERNAL, "true")], &[], true, false),
            (&[(AUTH, "basic")], &[(INTERNAL, "true")], true, true),
            (&[], &[(AUTH, "basic"), (INTERNAL, "true")], true, true),
            (&[(AUTH, "none")], &[(AUTH, "basic")], false, false),
            (&[(AUTH, "basic")], &[(AUTH, "none")], false, true),
        ];
        for (annotations, labels, internal, login) in table {
            let parsed = parse(&deployment(annotations, labels));
            assert_eq!(parsed, Ok(Access { internal, login }), "{annotations:?} {labels:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let table: [(&[_], &[_], &[&str]); 6] = [
            (&[(AUTH, "jwt")], &[], &["annotations.roost.auth: jwt is not available in this version"]),
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
        let (open, login) = (Access::default(), Access { internal: false, login: true });
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
        assert_eq!(of(&kept), Access::STRICTEST, "all that was asked on the way, over a restart too");
        assert_eq!(of(&twice.completed()), open);
        let unknown = FunctionRecord::new(revision(&[(AUTH, "of a later version")]));
        assert_eq!(of(&unknown), Access::STRICTEST);
    }
}
