//! All connections of this host by their ids, groups and users.
//!
//! Owns who is here and in which group. Never reads or writes a socket: saying something to a connection puts it into that
//! connection's queue. Groups and users belong to a namespace: functions of others do not see them.
//!
//! The locks are held for a look or a change, never while anything is awaited, and in this order: groups or users, then one
//! group's members, then one connection's names of groups. Where both are held, groups come before users. What is said in
//! a group is said under the lock of its history, which comes before all of these.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::ending::Ending;
use super::event::{ConnectionId, Message};
use super::fanout::Fanout;
use super::history::{CannotWatch, History, HistoryFigures, Past, Place, Topics, Watch, Watching};
use super::member::Member;
use super::outbound::Said;
use super::peers::{Many, Peers, Saying};
use super::presence::{Change, Listener};
use super::returns::Returns;
use super::spoken::Spoken;
use super::sweep::Dirty;
use crate::function::{FunctionKey, Namespace};
use crate::scale::{Sizes, Spread};

/// In how many parts the connections lie.
const SHARDS: usize = 16;

/// The longest name of a group, in bytes.
pub const MAX_GROUP_NAME: usize = 128;

type Members = HashMap<ConnectionId, Arc<Member>>;
type Key = (Namespace, Arc<str>);

/// Who is here.
#[derive(Debug)]
pub struct Hub {
    shards: [Mutex<Members>; SHARDS],
    hash: RandomState,
    count: AtomicUsize,
    groups: Mutex<HashMap<Key, Arc<Group>>>,
    users: Mutex<HashMap<Key, Vec<Arc<Member>>>>,
    /// How often something that was said to many was said to one of them.
    fanned_out: AtomicU64,
    /// How long that took.
    fanouts: Arc<Sizes>,
    /// What was said in groups, and who watches them.
    pub(super) topics: Arc<Topics>,
    /// Connections whose clients may come back.
    pub(super) returns: Returns,
    /// Hears of users who come to groups and leave them.
    pub(super) listener: Listener,
    /// Hears of what is said to many.
    pub(super) peers: Peers,
}

/// Those of one group.
#[derive(Debug, Default)]
struct Group(Mutex<Members>);

/// Why a connection could not join a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CannotJoin {
    /// The name is none.
    #[error("expected the name of a group: 1 to 128 bytes of text without control characters, ',' or ';'")]
    Name,
    /// It is in as many as it may be.
    #[error("a connection can be in {0} groups at most")]
    TooMany(usize),
    /// It is gone.
    #[error("the connection is gone")]
    Gone,
}

/// Of which connections a list is.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this function.
    pub function: Option<FunctionKey>,
    /// Those in this group.
    pub group: Option<String>,
    /// Those of this user.
    pub user: Option<String>,
}

/// What there is of a function's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// So many have not had their answer.
    pub opening: usize,
    /// So many bytes wait for clients to read them.
    pub unsent: usize,
}

/// To how many something was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// It waits in the queues of so many.
    pub queued: usize,
    /// So many did not keep up, and end for it.
    pub too_slow: usize,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hash: RandomState::new(),
            count: AtomicUsize::new(0),
            groups: Mutex::default(),
            users: Mutex::default(),
            fanned_out: AtomicU64::new(0),
            fanouts: Arc::default(),
            topics: Arc::default(),
            returns: Returns::default(),
            listener: Listener::default(),
            peers: Peers::default(),
        }
    }
}

impl Hub {
    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn enter(&self, member: &Arc<Member>) {
        let identity = member.identity();
        self.count.fetch_add(1, Relaxed);
        lock(self.shard(identity.id)).insert(identity.id, Arc::clone(member));
    }

    /// It is `user`'s, from now on.
    pub(super) fn is_of(&self, member: &Arc<Member>) {
        if let Some(key) = user_key(member) {
            lock(&self.users).entry(key).or_default().push(Arc::clone(member));
        }
    }

    /// It is gone, and with it from its groups. For once.
    pub(super) fn leave(&self, member: &Arc<Member>) {
        self.go(member, true);
    }

    /// Another process has it from here on: it is still in its groups.
    pub(super) fn pass_on(&self, member: &Arc<Member>) {
        self.go(member, false);
    }

    fn go(&self, member: &Arc<Member>, for_good: bool) {
        member.outbound.gone();
        self.returns.leave(member);
        let identity = member.identity();
        if lock(self.shard(identity.id)).remove(&identity.id).is_some() {
            self.count.fetch_sub(1, Relaxed);
        }
        // Before the others of its user: one of them that joins meanwhile is either before this or behind it.
        let mut groups = lock(&self.groups);
        if let Some(key) = user_key(member)
            && let Entry::Occupied(mut entry) = lock(&self.users).entry(key)
        {
            entry.get_mut().retain(|one| !Arc::ptr_eq(one, member));
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        // From here on none is added: joining looks for the connection under the same lock.
        let names = std::mem::take(&mut *member.lock_groups());
        for name in names {
            remove(&mut groups, (identity.function.namespace.clone(), Arc::clone(&name)), identity.id);
            if for_good {
                self.changed(member, &name, false);
            }
        }
    }

    /// The connection of this id, of any namespace.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<Member>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    /// The connection of this id in `namespace`.
    #[must_use]
    pub fn find_in(&self, namespace: &Namespace, id: ConnectionId) -> Option<Arc<Member>> {
        self.find(id).filter(|member| member.identity().function.namespace == *namespace)
    }

    /// Up to `limit` connections of `namespace` in the order of their ids, those behind `after`.
    #[must_use]
    pub fn list(
        &self,
        namespace: &Namespace,
        filter: &Filter,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Vec<Arc<Member>> {
        let fits = |member: &Arc<Member>| {
            let identity = member.identity();
            identity.function.namespace == *namespace
                && after.is_none_or(|after| identity.id > after)
                && filter.function.as_ref().is_none_or(|function| identity.function == *function)
                && filter.user.as_deref().is_none_or(|user| identity.user() == Some(user))
        };
        let mut found: Vec<Arc<Member>> = match (&filter.group, &filter.user) {
            (Some(name), _) => self.group(namespace, name).map_or_else(Vec::new, |group| {
                lock(&group.0).values().filter(|member| fits(member)).cloned().collect()
            }),
            (None, Some(user)) => self.of_user(namespace, user).into_iter().filter(fits).collect(),
            (None, None) => self.shards.iter().fold(Vec::new(), |mut found, shard| {
                found.extend(lock(shard).values().filter(|member| fits(member)).cloned());
                found
            }),
        };
        found.sort_unstable_by_key(|member| member.identity().id);
        found.truncate(limit);
        found
    }

    /// Puts a connection into a group; it stays there if it is there already. `most` is in how many one may be.
    ///
    /// # Errors
    /// When the name is none, the connection is in too many, or gone.
    pub fn join(&self, member: &Arc<Member>, name: &str, most: usize) -> Result<(), CannotJoin> {
        self.come(member, name, most, true)
    }

    /// Puts a connection where an earlier process had it.
    pub(super) fn join_again(&self, member: &Arc<Member>, name: &str) -> Result<(), CannotJoin> {
        self.come(member, name, usize::MAX, false)
    }

    fn come(
        &self,
        member: &Arc<Member>,
        name: &str,
        most: usize,
        for_the_first_time: bool,
    ) -> Result<(), CannotJoin> {
        if !is_group_name(name) {
            return Err(CannotJoin::Name);
        }
        let identity = member.identity();
        let mut groups = lock(&self.groups);
        if self.find(identity.id).is_none() {
            return Err(CannotJoin::Gone);
        }
        let mut names = member.lock_groups();
        if names.iter().any(|one| **one == *name) {
            return Ok(());
        }
        if names.len() >= most {
            return Err(CannotJoin::TooMany(most));
        }
        let key = (identity.function.namespace.clone(), Arc::<str>::from(name));
        names.push(Arc::clone(&key.1));
        drop(names);
        let name = Arc::clone(&key.1);
        let group = groups.entry(key).or_default();
        lock(&group.0).insert(identity.id, Arc::clone(member));
        if for_the_first_time {
            self.changed(member, &name, true);
        }
        Ok(())
    }

    /// Takes a connection out of a group. `false` if it was not in it.
    pub fn part(&self, member: &Arc<Member>, name: &str) -> bool {
        let identity = member.identity();
        let mut groups = lock(&self.groups);
        let mut names = member.lock_groups();
        let Some(at) = names.iter().position(|one| **one == *name) else { return false };
        let name = names.swap_remove(at);
        drop(names);
        remove(&mut groups, (identity.function.namespace.clone(), Arc::clone(&name)), identity.id);
        self.changed(member, &name, false);
        true
    }

    /// A connection has come to a group or left it: tells whoever wants to hear of it, if it is its user's first or last one
    /// there. Under the lock of the groups.
    fn changed(&self, member: &Arc<Member>, group: &Arc<str>, joined: bool) {
        let identity = member.identity();
        let namespace = &identity.function.namespace;
        let topic = self.topics.of_presence(namespace, group);
        let told = member.wants_to_hear_of(joined);
        let Some(user) = identity.user().filter(|_| told || topic.is_some()) else { return };
        let others = |of_function: bool| {
            let users = lock(&self.users);
            let mut all = users.get(&(namespace.clone(), user.into())).into_iter().flatten();
            all.any(|one| {
                !Arc::ptr_eq(one, member)
                    && (!of_function || one.identity().function == identity.function)
                    && one.lock_groups().contains(group)
            })
        };
        if let Some(topic) = topic.filter(|_| !others(false)) {
            Topics::changed(&topic, user, joined);
        }
        if told && !others(true) {
            let (group, member) = (Arc::clone(group), Arc::clone(member));
            self.listener.tell(Change { group, member, joined, at: SystemTime::now() });
        }
    }

    /// The users of a group and how many connections each has there, in the order of their names, those behind `after`.
    #[must_use]
    pub fn users_of(
        &self,
        namespace: &Namespace,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Box<str>, usize)> {
        let Some(group) = self.group(namespace, group) else { return Vec::new() };
        let mut found: HashMap<Box<str>, usize> = HashMap::new();
        for member in lock(&group.0).values() {
            if let Some(user) =
                member.identity().user().filter(|user| after.is_none_or(|after| *user > after))
            {
                *found.entry(user.into()).or_default() += 1;
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    /// A function asks for this history of the groups of its namespace from now on, or for none.
    pub fn ask_for_history(&self, function: &FunctionKey, history: Option<History>) {
        self.topics.ask(function, history);
    }

    /// What is kept of a group behind `after`, up to `limit` messages.
    #[must_use]
    pub fn past(&self, namespace: &Namespace, group: &str, after: Option<Place>, limit: usize) -> Past {
        self.topics.past(namespace, group, after, limit)
    }

    /// Watches a group: a stream of what is said there, from where the client was if that is still kept.
    ///
    /// # Errors
    /// When the name is none, too many are watched, or this host is about to end.
    pub fn watch(&self, namespace: &Namespace, group: &str, asked: &Watching) -> Result<Watch, CannotWatch> {
        let watch = self.topics.watch(namespace, group, asked)?;
        if !asked.presence {
            return Ok(watch);
        }
        let mut users = self.users_of(namespace, group, None, MOST_SHOWN + 1);
        let more = users.len() > MOST_SHOWN;
        users.truncate(MOST_SHOWN);
        Ok(watch.among(&users, more))
    }

    /// Ends the streams of those who watch groups through this function.
    pub fn end_watching(&self, function: &FunctionKey) {
        self.topics.end(Some(function));
    }

    /// What is counted of history, and of those who watch.
    #[must_use]
    pub fn history_figures(&self) -> HistoryFigures {
        self.topics.figures()
    }

    /// The groups of `namespace` and how many are in each, in the order of their names, those behind `after`.
    #[must_use]
    pub fn groups(&self, namespace: &Namespace, after: Option<&str>, limit: usize) -> Vec<(Arc<str>, usize)> {
        let groups = lock(&self.groups);
        let mut found: Vec<_> = groups
            .iter()
            .filter(|((of, name), _)| of == namespace && after.is_none_or(|after| **name > *after))
            .map(|((_, name), group)| (Arc::clone(name), lock(&group.0).len()))
            .collect();
        drop(groups);
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    /// What there is of each function. A look at each connection: for whoever asks now and then.
    #[must_use]
    pub fn figures(&self) -> HashMap<FunctionKey, Figures> {
        let mut all = HashMap::<FunctionKey, Figures>::new();
        for shard in &self.shards {
            for member in lock(shard).values() {
                let function = &member.identity().function;
                if !all.contains_key(function) {
                    all.insert(function.clone(), Figures::default());
                }
                let Some(of) = all.get_mut(function) else { continue };
                of.opening += usize::from(!member.is_open());
                of.unsent += member.unsent();
            }
        }
        all
    }

    /// How many groups there are, and how many memberships.
    #[must_use]
    pub fn group_figures(&self) -> [usize; 2] {
        let groups = lock(&self.groups);
        [groups.len(), groups.values().map(|group| lock(&group.0).len()).sum()]
    }

    /// How often something that was said to many was said to one of them.
    #[must_use]
    pub fn fanned_out(&self) -> u64 {
        self.fanned_out.load(Relaxed)
    }

    /// How long it took from the first write to the last of something that was said to many, on the scale of
    /// [`FANOUTS`](crate::FANOUTS). A connection that is gone before is not waited for.
    #[must_use]
    pub fn fanouts(&self) -> Spread {
        self.fanouts.read()
    }

    fn to_many<'a>(&self, message: &'a Message) -> Spoken<'a> {
        Spoken::to_many(message, Fanout::new(&self.fanouts))
    }

    fn say_to_all<'a>(
        &self,
        members: impl IntoIterator<Item = &'a Arc<Member>>,
        spoken: &Spoken<'_>,
    ) -> Reach {
        let (mut reach, mut dirty) = (Reach::default(), Dirty::default());
        for member in members {
            match member.speak_of_many(spoken, &mut dirty) {
                Said::Queued => reach.queued += 1,
                Said::TooSlow => reach.too_slow += 1,
                Said::Gone => {}
            }
        }
        dirty.sweep();
        self.fanned_out.fetch_add(reach.queued as u64, Relaxed);
        reach
    }

    /// Says something to all of a group but `except`. The frame is made once. It is kept, if that is asked for.
    pub fn say_to_group(
        &self,
        namespace: &Namespace,
        name: &str,
        message: &Message,
        except: &[ConnectionId],
    ) -> Reach {
        self.say(&Saying { namespace, to: Many::Group(name), message, except })
    }

    /// Says something to all connections of a user.
    pub fn say_to_user(&self, namespace: &Namespace, user: &str, message: &Message) -> Reach {
        self.say(&Saying { namespace, to: Many::User(user), message, except: &[] })
    }

    /// Says something to all connections of a namespace, or of one function of it, but `except`.
    pub fn say_to_each(
        &self,
        namespace: &Namespace,
        function: Option<&FunctionKey>,
        message: &Message,
        except: &[ConnectionId],
    ) -> Reach {
        let to = function.map_or(Many::All, Many::Function);
        self.say(&Saying { namespace, to, message, except })
    }

    /// To those here, and through whoever listens to those elsewhere.
    fn say(&self, saying: &Saying<'_>) -> Reach {
        self.speak(saying, || self.peers.pass_on(saying))
    }

    /// To those here. What is said in a group is passed on in the order in which it is said there.
    pub(super) fn speak(&self, saying: &Saying<'_>, pass_on: impl FnOnce()) -> Reach {
        let Saying { namespace, to, message, except } = *saying;
        match to {
            Many::Group(name) => self.topics.say(namespace, name, message, || {
                self.say_to_members(namespace, name, message, except, pass_on)
            }),
            Many::User(user) => {
                pass_on();
                self.say_to_all(&self.of_user(namespace, user), &self.to_many(message))
            }
            Many::Function(_) | Many::All => {
                pass_on();
                self.say_to_those(saying)
            }
        }
    }

    fn say_to_members(
        &self,
        namespace: &Namespace,
        name: &str,
        message: &Message,
        except: &[ConnectionId],
        pass_on: impl FnOnce(),
    ) -> Reach {
        let Some(group) = self.group(namespace, name) else {
            pass_on();
            return Reach::default();
        };
        let members = lock(&group.0);
        pass_on();
        let others = members.iter().filter(|(id, _)| !except.contains(id)).map(|(_, member)| member);
        self.say_to_all(others, &self.to_many(message))
    }

    fn say_to_those(&self, saying: &Saying<'_>) -> Reach {
        let spoken = self.to_many(saying.message);
        let mut reach = Reach::default();
        for shard in &self.shards {
            let members = lock(shard);
            let those = members.values().filter(|member| {
                let identity = member.identity();
                identity.function.namespace == *saying.namespace
                    && !matches!(saying.to, Many::Function(function) if identity.function != *function)
                    && !saying.except.contains(&identity.id)
            });
            reach = reach.and(self.say_to_all(those, &spoken));
        }
        reach
    }

    /// The connections of a user.
    #[must_use]
    pub fn of_user(&self, namespace: &Namespace, user: &str) -> Vec<Arc<Member>> {
        lock(&self.users).get(&(namespace.clone(), user.into())).cloned().unwrap_or_default()
    }

    /// Ends those of a namespace that fit: how many.
    pub fn end(&self, namespace: &Namespace, filter: &Filter, ending: &Ending) -> usize {
        let found = self.list(namespace, filter, None, usize::MAX);
        found.iter().filter(|member| member.end(ending.clone())).count()
    }

    /// Has the task of each look again.
    pub(super) fn wake_all(&self) {
        for shard in &self.shards {
            lock(shard).values().for_each(|member| member.outbound.wake());
        }
    }

    /// Ends all there are, spread over `over`.
    pub(super) async fn end_all(&self, ending: Ending, over: Duration) {
        let all: Vec<Arc<Member>> =
            self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect();
        let (began, count) = (tokio::time::Instant::now(), u32::try_from(all.len()).unwrap_or(u32::MAX));
        for (number, member) in (0_u32..).zip(&all) {
            member.end(ending.clone());
            if number % PACED == PACED - 1 {
                tokio::time::sleep_until(began + over.mul_f64(f64::from(number) / f64::from(count))).await;
            }
        }
    }

    fn group(&self, namespace: &Namespace, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups).get(&(namespace.clone(), name.into())).cloned()
    }

    fn shard(&self, id: ConnectionId) -> &Mutex<Members> {
        &self.shards[self.hash.hash_one(id) as usize % SHARDS]
    }
}

/// How many users one who begins to watch is told of at once.
const MOST_SHOWN: usize = 1000;

/// How many are ended at once when they are ended one after the other.
const PACED: u32 = 16;

impl Reach {
    fn and(self, other: Self) -> Self {
        Self { queued: self.queued + other.queued, too_slow: self.too_slow + other.too_slow }
    }
}

/// Can a group have this name?
#[must_use]
pub fn is_group_name(name: &str) -> bool {
    let forbidden = |char: char| char.is_control() || matches!(char, ',' | ';');
    (1..=MAX_GROUP_NAME).contains(&name.len()) && !name.contains(forbidden) && name.trim() == name
}

fn user_key(member: &Member) -> Option<Key> {
    let identity = member.identity();
    let user = identity.user()?;
    Some((identity.function.namespace.clone(), user.into()))
}

fn remove(groups: &mut HashMap<Key, Arc<Group>>, key: Key, id: ConnectionId) {
    let Entry::Occupied(entry) = groups.entry(key) else { return };
    let mut members = lock(&entry.get().0);
    members.remove(&id);
    let empty = members.is_empty();
    drop(members);
    if empty {
        entry.remove();
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing happens under these locks that could leave them half done.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
