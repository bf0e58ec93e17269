//! The answer of this node: from the hub, which never waits.

use std::sync::Arc;

use roost_proxy::websocket::event::Message;
use roost_proxy::websocket::{CannotJoin, Hub, Member, Said};

use super::question::{Act, Answer, Close, Question, Those};
use super::view::ConnectionView;
use crate::function::registry::Registry;

/// What is known and done here. `node` is the name of this node, where there are several.
pub(super) fn answer(hub: &Hub, registry: &Registry, node: Option<&str>, question: &Question) -> Answer {
    match question {
        Question::One { namespace, id, act } => {
            let found = match namespace {
                Some(namespace) => hub.find_in(namespace, id.0),
                None => hub.find(id.0),
            };
            found.map_or(Answer::Nobody, |member| to_one(hub, &member, act, node))
        }
        Question::List { of, after, limit } => {
            let found = hub.list(&of.namespace, &of.filter(), after.map(|after| after.0), *limit);
            let connections = found.iter().map(|member| ConnectionView::new(member, node)).collect();
            Answer::Connections { connections }
        }
        Question::Groups { namespace, after, limit } => {
            let groups = hub.groups(namespace, after.as_deref(), *limit);
            let counts = groups.into_iter().map(|(name, count)| (name.to_string(), count)).collect();
            Answer::Named { counts }
        }
        Question::Users { namespace, group, after, limit } => {
            let users = hub.users_of(namespace, group, after.as_deref(), *limit);
            Answer::Named { counts: users.into_iter().map(|(name, count)| (name.into(), count)).collect() }
        }
        Question::End { of, close, passed } => end(hub, registry, of, close, *passed),
        Question::Move { namespace, user, group, join } => {
            let members = hub.of_user(namespace, user);
            if *join {
                return join_all(hub, &members, group);
            }
            let count = members.iter().filter(|member| hub.part(member, group)).count();
            Answer::Counted { count, refused: None }
        }
    }
}

fn to_one(hub: &Hub, member: &Arc<Member>, act: &Act, node: Option<&str>) -> Answer {
    match act {
        Act::Show => Answer::Shown { connection: Box::new(ConnectionView::new(member, node)) },
        Act::Say { text, data } => match member.say(&Message { text: *text, data: data.clone() }) {
            Said::Queued => Answer::Done,
            Said::TooSlow => Answer::TooSlow,
            Said::Gone => Answer::Nobody,
        },
        Act::End { close } => {
            // One that ends already ends with what was said first.
            member.end(close.ending());
            Answer::Done
        }
        Act::Join { group } => match hub.join(member, group, member.most_groups()) {
            Ok(()) => Answer::Done,
            Err(CannotJoin::Gone) => Answer::Nobody,
            Err(why) => Answer::Refused { why },
        },
        Act::Part { group } => {
            hub.part(member, group);
            Answer::Done
        }
    }
}

fn join_all(hub: &Hub, members: &[Arc<Member>], group: &str) -> Answer {
    let (mut count, mut refused) = (0, None);
    for member in members {
        match hub.join(member, group, member.most_groups()) {
            Ok(()) => count += 1,
            // It went in this moment: it is none of the user's any more.
            Err(CannotJoin::Gone) => {}
            Err(why) => refused = Some(why),
        }
    }
    Answer::Counted { count, refused }
}

fn end(hub: &Hub, registry: &Registry, of: &Those, close: &Close, passed: bool) -> Answer {
    let through = match of.function() {
        Some(function) if passed => registry.close_connections(function, close.frame()).unwrap_or_default(),
        _ => 0,
    };
    let held = hub.end(&of.namespace, &of.filter(), &close.ending());
    Answer::Counted { count: through + held, refused: None }
}
