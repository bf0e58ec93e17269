//! What a client may do with groups by itself, as its token says, or the function when it connects.
//!
//! Owns the words. Ours are `roost.join` and `roost.send`, for all groups, or with the name of one behind a dot:
//! `roost.join.lobby`; one that ends in `*` is all that begin so. Those of Azure Web PubSub mean the same. They are in the
//! claim `role`, or `roles`; who is in a group from the start (`webpubsub.group`) may read it as well. What a *function* does
//! with groups asks for none of this. Pure.

use crate::token::Claims;

/// The claims that roles are in: one text, or a list.
const ROLES: [&str; 2] = ["role", "roles"];

/// The groups that a client is in from the start.
pub(crate) const GROUPS: &str = "webpubsub.group";

/// May a client whose token says this hear what is said to `group`?
#[must_use]
pub fn may_read(claims: &Claims, group: &str) -> bool {
    claims.all(GROUPS).iter().any(|one| one == group) || let_join(of(claims), group)
}

/// May a client whose token says this say something to `group`?
#[must_use]
pub fn may_send(claims: &Claims, group: &str) -> bool {
    let_send(of(claims), group)
}

/// The roles that a token gives.
pub(crate) fn of(claims: &Claims) -> impl Iterator<Item = &String> {
    ROLES.iter().flat_map(|name| claims.all(name))
}

/// Do these roles let a client hear what is said to `group`?
pub(crate) fn let_join<'a>(roles: impl Iterator<Item = &'a String>, group: &str) -> bool {
    is_among(roles, "roost.join", "webpubsub.joinLeaveGroup", group)
}

/// Do these roles let a client say something to `group`?
pub(crate) fn let_send<'a>(roles: impl Iterator<Item = &'a String>, group: &str) -> bool {
    is_among(roles, "roost.send", "webpubsub.sendToGroup", group)
}

fn is_among<'a>(mut roles: impl Iterator<Item = &'a String>, ours: &str, azure: &str, group: &str) -> bool {
    let is_of = |role: &str, kind: &str, patterns: bool| match role.strip_prefix(kind) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('.').is_some_and(|named| match named.strip_suffix('*') {
            Some(beginning) if patterns => group.starts_with(beginning),
            _ => named == group,
        }),
        None => false,
    };
    roles.any(|role| is_of(role, ours, true) || is_of(role, azure, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_for_all_groups_or_for_those_that_it_names() {
        for (claims, group, reads, sends) in [
            (&[][..], "g", false, false),
            (&[("role", "roost.join")], "g", true, false),
            (&[("roles", "roost.send")], "g", false, true),
            (&[("role", "roost.join.g"), ("role", "roost.send.g")], "g", true, true),
            (&[("role", "roost.join.g"), ("role", "roost.send.g")], "gg", false, false),
            (&[("role", "roost.join.room-*")], "room-7", true, false),
            (&[("role", "roost.join.room-*")], "rooms", false, false),
            (&[("role", "roost.join.*")], "g", true, false),
            (&[("role", "roost.joins"), ("role", "roost.sendg")], "g", false, false),
            (&[("role", "roost.join.")], "g", false, false),
            (&[("role", "webpubsub.joinLeaveGroup")], "g", true, false),
            (&[("role", "webpubsub.sendToGroup.a.b")], "a.b", false, true),
            (&[("role", "webpubsub.sendToGroup.a.b")], "a", false, false),
            (&[("role", "webpubsub.joinLeaveGroup.r*")], "room", false, false),
            (&[("role", "webpubsub.joinLeaveGroup.r*")], "r*", true, false),
            (&[("webpubsub.group", "a"), ("webpubsub.group", "g")], "g", true, false),
            (&[("webpubsub.group", "a")], "g", false, false),
            (&[("scope", "roost.join")], "g", false, false),
        ] {
            let claims: Claims =
                claims.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            assert_eq!(
                (may_read(&claims, group), may_send(&claims, group)),
                (reads, sends),
                "{claims:?} {group}"
            );
        }
    }
}
