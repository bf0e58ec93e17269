//! What a function asks of its callers, as a deployment says it.
//!
//! Owns the annotations `roost.auth`, `roost.auth.claims` and `roost.internal`, and that keys that are in tokens (`roost.scale.key`) ask for
//! one. Labels of these names count the same; an annotation goes before a label.

use roost_proxy::{Access, KeySource, RequiredClaim};

use crate::function::record::FunctionRecord;
use crate::function::spec::Deployment;
use crate::scaling::labels::KEY;

pub(crate) const AUTH: &str = "roost.auth";
pub(super) const CLAIMS: &str = "roost.auth.claims";
pub(super) const INTERNAL: &str = "roost.internal";

/// How many claims a token may have to have, and the longest of them, in bytes.
const MAX_CLAIMS: usize = 16;
const MAX_CLAIM: usize = 256;

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
    let access = match (auth, keyed, internal) {
        (Ok(auth), Ok(keyed), Ok(internal)) => Ok(auth.and(keyed).and(internal)),
        (auth, keyed, internal) => Err([auth, keyed, internal].into_iter().filter_map(Result::err).collect()),
    };
    match (access, parse_claims(deployment)) {
        (Ok(access), Ok(claims)) if access.token || claims.is_empty() => Ok(access),
        (Ok(_), Ok(_)) => Err(vec![format!("{}.{CLAIMS}: only with {AUTH}: jwt", place(deployment, CLAIMS))]),
        (access, claims) => {
            let mistakes: [Vec<String>; 2] =
                [access.err().unwrap_or_default(), claims.err().into_iter().collect()];
            Err(mistakes.concat())
        }
    }
}

/// What tokens have to say, as a deployment says it: `role=editor, tenant=acme`, each of them.
fn parse_claims(deployment: &Deployment) -> Result<Vec<RequiredClaim>, String> {
    let Some(value) = deployment.settings().remove(CLAIMS) else { return Ok(Vec::new()) };
    let claim = |one: &str| {
        let (name, text) = one.trim().split_once('=')?;
        let fits = |part: &str| (1..=MAX_CLAIM).contains(&part.len());
        (fits(name) && fits(text)).then(|| RequiredClaim { name: name.to_owned(), text: text.to_owned() })
    };
    let claims: Option<Vec<_>> = value.split(',').map(claim).collect();
    claims.filter(|claims| claims.len() <= MAX_CLAIMS).ok_or_else(|| {
        let place = place(deployment, CLAIMS);
        format!("{place}.{CLAIMS}: expected claims such as role=editor, tenant=acme, at most {MAX_CLAIMS}")
    })
}

/// What tokens have to say now: whatever any revision asks that may serve. What cannot be read, nobody says.
#[must_use]
pub fn claims_of(record: &FunctionRecord) -> Vec<RequiredClaim> {
    let unreadable = || vec![RequiredClaim { name: String::new(), text: String::new() }];
    let of_each = record.revisions().map(|of| parse_claims(&of.deployment).unwrap_or_else(|_| unreadable()));
    let mut claims: Vec<RequiredClaim> = of_each.flatten().collect();
    claims.sort();
    claims.dedup();
    claims
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
    meaning(value.trim()).map_err(|why| format!("{}.{name}: {why}", place(deployment, name)))
}

/// Where a setting stands.
fn place(deployment: &Deployment, name: &str) -> &'static str {
    if deployment.annotations.contains_key(name) { "annotations" } else { "labels" }
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
    fn tokens_have_to_say_what_any_revision_asks_that_may_serve() {
        let claim = |name: &str, text: &str| RequiredClaim { name: name.into(), text: text.into() };
        let asking = |claims| Revision::new(deployment(&[(AUTH, "jwt"), (CLAIMS, claims)], &[]));
        let first = FunctionRecord::new(asking("role=editor, tenant=acme")).completed();
        assert_eq!(claims_of(&first), [claim("role", "editor"), claim("tenant", "acme")]);
        let second = first.updated(asking("tenant=acme,a=b=c"));
        let all = [claim("a", "b=c"), claim("role", "editor"), claim("tenant", "acme")];
        assert_eq!(claims_of(&second), all);
        assert_eq!(claims_of(&second.completed()), [claim("a", "b=c"), claim("tenant", "acme")]);
        assert_eq!(claims_of(&FunctionRecord::new(asking("of a later version"))), [claim("", "")]);
        for (settings, expected) in [
            (
                &[(AUTH, "jwt"), (CLAIMS, "role")][..],
                "annotations.roost.auth.claims: expected claims such as",
            ),
            (&[(AUTH, "jwt"), (CLAIMS, "")], "annotations.roost.auth.claims: expected claims such as"),
            (&[(AUTH, "jwt"), (CLAIMS, "=x")], "annotations.roost.auth.claims: expected claims such as"),
            (&[(CLAIMS, "role=x")], "annotations.roost.auth.claims: only with roost.auth: jwt"),
            (&[(AUTH, "basic"), (CLAIMS, "role=x")], "annotations.roost.auth.claims: only with"),
        ] {
            let mistakes = parse(&deployment(settings, &[])).unwrap_err();
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(expected), "{mistakes:?}");
        }
        assert!(parse(&deployment(&[(KEY, "jwt:sub"), (CLAIMS, "role=x")], &[])).unwrap().token);
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
