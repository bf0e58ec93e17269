//! What a client wants done with groups, and may want: it is done here, and the client told.

use super::{Connection, Ties, drop_word};
use crate::websocket::client_groups::{Verb, Wish, answer};
use crate::websocket::{CannotJoin, is_group_name};

impl Connection {
    /// Does what its client has asked for. `true` if there was something.
    pub(super) fn does_wishes(&mut self) -> bool {
        let Some(groups) = &mut self.mailbox.groups else { return false };
        let wishes = std::mem::take(&mut groups.wishes);
        let member = &self.ties.member;
        for wish in &wishes {
            let refused = match groups.rights.allow(wish) {
                true => self.ties.does(wish).err().map(|why| ("InternalServerError", why)),
                false => Some(("Forbidden", "no role of this client allows it".to_owned())),
            };
            if let Some(ack) = wish.ack {
                let refused = refused.as_ref().map(|(name, why)| (*name, &**why));
                drop_word(member.speak_of_task(&answer(ack, refused)));
            }
        }
        !wishes.is_empty()
    }
}

impl Ties {
    fn does(&self, wish: &Wish) -> Result<(), String> {
        let Self { shared, member, settings, .. } = self;
        let identity = member.identity();
        match &wish.verb {
            Verb::Join => {
                let joined = shared.hub.join(member, &wish.group, settings.max_groups);
                return joined.map_err(|why| why.to_string());
            }
            Verb::Leave => {
                shared.hub.part(member, &wish.group);
            }
            Verb::Send { .. } if !is_group_name(&wish.group) => return Err(CannotJoin::Name.to_string()),
            Verb::Send { message, no_echo } => {
                let me = [identity.id];
                let except = if *no_echo { &me[..] } else { &[] };
                shared.hub.say_to_group(&identity.function.namespace, &wish.group, message, except);
            }
        }
        Ok(())
    }
}
