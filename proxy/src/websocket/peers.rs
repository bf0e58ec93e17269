//! What is said to many, on its way to those of other hosts.
//!
//! Owns the words for it, and who hears of it. Knows no other host: whoever listens passes it on, and has what others say
//! said to those here alone.

use std::fmt;
use std::sync::OnceLock;

use super::event::{ConnectionId, Message};
use super::hub::{Hub, Reach};
use crate::function::{FunctionKey, Namespace};

/// Something that is said to many.
#[derive(Debug, Clone, Copy)]
pub struct Saying<'a> {
    /// To those of this namespace only.
    pub namespace: &'a Namespace,
    /// To which of them.
    pub to: Many<'a>,
    /// What is said.
    pub message: &'a Message,
    /// Who is not to hear it.
    pub except: &'a [ConnectionId],
}

/// To which connections of a namespace something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Many<'a> {
    /// Those in this group.
    Group(&'a str),
    /// Those of this user.
    User(&'a str),
    /// Those of this function.
    Function(&'a FunctionKey),
    /// All.
    All,
}

type Listens = dyn Fn(&Saying<'_>) + Send + Sync;

/// Whoever passes on what is said to many. Called under locks: it only notes what was said, in the order in which it was.
#[derive(Default)]
pub(super) struct Peers(OnceLock<Box<Listens>>);

impl Peers {
    pub(super) fn pass_on(&self, saying: &Saying<'_>) {
        if let Some(listens) = self.0.get() {
            listens(saying);
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

impl Hub {
    /// From now on `listens` hears of everything that is said to many here. What it does must be short, must not wait, and
    /// must not call the hub. `false` if there is another one already.
    pub fn set_peers(&self, listens: impl Fn(&Saying<'_>) + Send + Sync + 'static) -> bool {
        self.peers.0.set(Box::new(listens)).is_ok()
    }

    /// Says what was said on another host to those here, and passes it on to nobody.
    pub fn say_here(&self, saying: &Saying<'_>) -> Reach {
        self.speak(saying, || {})
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn whatever_is_said_to_many_is_passed_on_once_whether_anybody_is_here_or_not() {
        let hub = Hub::default();
        let (space, function) = (Namespace::default(), FunctionKey::from_route("chat").unwrap());
        let message = Message { text: true, data: "hi".into() };
        let id = ConnectionId::random();
        hub.say_to_user(&space, "ada", &message);
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let notes = Arc::clone(&heard);
        assert!(hub.set_peers(move |saying| {
            let (to, except) = (saying.to, saying.except.len());
            notes.lock().unwrap().push(format!("{to:?} but {except}"));
        }));
        assert!(!hub.set_peers(|_| {}));
        hub.say_to_group(&space, "room", &message, &[id]);
        hub.say_to_user(&space, "ada", &message);
        hub.say_to_each(&space, Some(&function), &message, &[]);
        hub.say_to_each(&space, None, &message, &[]);
        let expected = [
            "Group(\"room\") but 1",
            "User(\"ada\") but 0",
            "Function(\"chat.openfaas-fn\") but 0",
            "All but 0",
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
        for to in [Many::Group("room"), Many::User("ada"), Many::Function(&function), Many::All] {
            hub.say_here(&Saying { namespace: &space, to, message: &message, except: &[] });
        }
        assert_eq!(heard.lock().unwrap().len(), 4, "what others said was passed on");
    }
}
