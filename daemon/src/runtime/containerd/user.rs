//! Whom a replica runs as: from the image's `user[:group]` and the image's own `passwd` and `group`.
//!
//! Pure: texts in, numbers out. [`super::rootfs`] reads the texts. What was found is kept: to look into an image costs
//! more than all the rest of what is done before its process is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The user that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// User id.
    pub(super) uid: u32,
    /// Group id.
    pub(super) gid: u32,
    /// Supplementary group ids. The group is one of them: a process that drops it with `setgid` must not get at
    /// files that are closed to the group only.
    pub(super) groups: Vec<u32>,
}

impl User {
    /// The user of an image that names none.
    pub(super) fn root() -> Self {
        Self::new(0, 0, Vec::new())
    }

    fn new(uid: u32, gid: u32, mut groups: Vec<u32>) -> Self {
        groups.retain(|group| *group != gid);
        groups.insert(0, gid);
        Self { uid, gid, groups }
    }
}

/// The most users that are kept: more images than a host has functions.
const MAX_KEPT: usize = 1024;

/// The users of images, by the image's file system and what it says.
#[derive(Debug, Default)]
pub(super) struct Users {
    kept: Mutex<HashMap<(String, String), Arc<User>>>,
}

impl Users {
    /// The user `wanted` of the image with these files, if it was found before.
    pub(super) fn get(&self, chain_id: &str, wanted: &str) -> Option<Arc<User>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(chain_id.to_owned(), wanted.to_owned())).cloned()
    }

    /// Keeps what was found.
    pub(super) fn keep(&self, chain_id: &str, wanted: &str, user: User) -> Arc<User> {
        let user = Arc::new(user);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert((chain_id.to_owned(), wanted.to_owned()), Arc::clone(&user));
        user
    }
}

/// Why a user of an image cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUser {
    /// Neither a number nor a line of `/etc/passwd`.
    #[error("its /etc/passwd has no user {0:?}")]
    UnknownUser(String),
    /// Neither a number nor a line of `/etc/group`.
    #[error("its /etc/group has no group {0:?}")]
    UnknownGroup(String),
    /// Not of the form `user[:group]`.
    #[error("expected user[:group], by name or by number")]
    Malformed,
}

/// Supplementary groups beyond this are not looked for: the kernel takes no more.
const MAX_GROUPS: usize = 65_536;

/// One line of `/etc/passwd`, as far as it matters.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// Finds the user `wanted` (`user[:group]`, each a name or a number; empty is root) in the texts of an image's
/// `/etc/passwd` and `/etc/group`.
///
/// As everywhere in this field: a number needs no line, and without one its group is 0; a group that is named
/// replaces the supplementary ones of the user.
///
/// # Errors
/// When a name has no line, or the form is wrong.
pub(super) fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, InvalidUser> {
    if wanted.is_empty() {
        return Ok(User::root());
    }
    let (user, named_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    if user.is_empty() || named_group.is_some_and(|group| group.is_empty() || group.contains(':')) {
        return Err(InvalidUser::Malformed);
    }
    // A name wins over a number: an account may be called "1000".
    let number: Option<u32> = user.parse().ok();
    let account = accounts(passwd)
        .find(|account| account.name == user)
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let uid = account
        .as_ref()
        .map(|account| account.uid)
        .or(number)
        .ok_or_else(|| InvalidUser::UnknownUser(user.to_owned()))?;
    match named_group {
        Some(name) => Ok(User::new(uid, group_id(name, group)?, Vec::new())),
        None => Ok(User::new(
            uid,
            account.as_ref().map_or(0, |account| account.gid),
            account.map_or_else(Vec::new, |account| memberships(account.name, group)),
        )),
    }
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    })
}

/// Name, id and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(wanted: &str, group: &str) -> Result<u32, InvalidUser> {
    groups(group)
        .find(|(name, _, _)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| InvalidUser::UnknownGroup(wanted.to_owned()))
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .take(MAX_GROUPS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken line\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n100:x:7:8::/:/bin/false\nnobody:x:65534:65534::/:";
    const GROUP: &str =
        "root:x:0:root\napp:x:1001:\naudio:x:29:root,app\nvideo:x:44: app \n5:x:77:\nbad:x:y:app";

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User::new(uid, gid, groups.to_vec())
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        for (wanted, expected) in [
            ("", user(0, 0, &[])),
            ("root", user(0, 0, &[0, 29])),
            ("0", user(0, 0, &[0, 29])),
            ("app", user(1000, 1001, &[29, 44])),
            ("1000", user(1000, 1001, &[29, 44])),
            ("4711", user(4711, 0, &[])),
            ("app:audio", user(1000, 29, &[])),
            ("app:12", user(1000, 12, &[])),
            ("4711:4712", user(4711, 4712, &[])),
            ("100", user(7, 8, &[])),
            ("app:5", user(1000, 77, &[])),
            ("nobody", user(65534, 65534, &[])),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP), Ok(expected), "{wanted}");
        }
    }

    #[test]
    fn what_has_no_line_and_is_no_number_is_refused() {
        for (wanted, expected) in [
            ("ghost", InvalidUser::UnknownUser("ghost".into())),
            ("app:ghosts", InvalidUser::UnknownGroup("ghosts".into())),
            ("-1", InvalidUser::UnknownUser("-1".into())),
            ("4294967296", InvalidUser::UnknownUser("4294967296".into())),
            ("app:", InvalidUser::Malformed),
            (":app", InvalidUser::Malformed),
            ("a:b:c", InvalidUser::Malformed),
        ] {
            assert_eq!(resolve(wanted, PASSWD, GROUP), Err(expected), "{wanted}");
        }
        assert_eq!(resolve("1000", "", ""), Ok(user(1000, 0, &[])));
    }

    #[test]
    fn the_group_is_one_of_the_groups_and_only_once() {
        assert_eq!(resolve("root", PASSWD, GROUP).unwrap().groups, [0, 29]);
        assert_eq!(resolve("app:audio", PASSWD, GROUP).unwrap().groups, [29]);
        assert_eq!(resolve("", PASSWD, GROUP).unwrap().groups, [0]);
    }
}
