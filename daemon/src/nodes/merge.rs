//! Questions on their way to other nodes, and the answers of several as one. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use roost_proxy::websocket::event::ConnectionId;

use super::question::{Act, Answer, Question};
use super::view::ConnectionView;

impl Question {
    /// What goes beside it, as it is.
    pub(super) fn data(&self) -> Bytes {
        match self {
            Self::One { act: Act::Say { data, .. }, .. } => data.clone(),
            _ => Bytes::new(),
        }
    }

    /// The question with what came beside it. `None` if that is not what it is said to be.
    pub(super) fn with(mut self, came: Bytes) -> Option<Self> {
        if let Self::One { act: Act::Say { text, data }, .. } = &mut self {
            if *text && str::from_utf8(&came).is_err() {
                return None;
            }
            *data = came;
        }
        Some(self)
    }

    /// How many things a list shows at most.
    pub(super) fn limit(&self) -> usize {
        match self {
            Self::List { limit, .. } | Self::Groups { limit, .. } | Self::Users { limit, .. } => *limit,
            Self::One { .. } | Self::End { .. } | Self::Move { .. } => 0,
        }
    }
}

impl Answer {
    /// Has it the connection that was asked for?
    pub(super) fn is_somebody(&self) -> bool {
        *self != Self::Nobody
    }

    /// This one and another node's, as the answer of both. `limit` is how many things a list shows. An answer of another kind
    /// is none.
    #[must_use]
    pub(super) fn and(self, other: Self, limit: usize) -> Self {
        match (self, other) {
            (Self::Nobody, Self::Nobody) => Self::Nobody,
            (Self::Connections { connections }, Self::Connections { connections: others }) => {
                Self::Connections { connections: in_order(connections, others, limit) }
            }
            (Self::Named { counts }, Self::Named { counts: others }) => {
                Self::Named { counts: summed(counts, others, limit) }
            }
            (Self::Counted { count, refused }, Self::Counted { count: others, refused: other }) => {
                Self::Counted { count: count.saturating_add(others), refused: refused.or(other) }
            }
            (Self::Nobody, other) => other,
            (this, _) => this,
        }
    }
}

/// Both in the order of their ids, each once. What has no id of ours is left out.
fn in_order(one: Vec<ConnectionView>, other: Vec<ConnectionView>, limit: usize) -> Vec<ConnectionView> {
    let with_id = |view: ConnectionView| Some((ConnectionId::parse(&view.id)?, view));
    let mut all: Vec<_> = one.into_iter().chain(other).filter_map(with_id).collect();
    // Of the same id the first is kept: the one that is here.
    all.sort_by_key(|(id, _)| *id);
    all.dedup_by_key(|(id, _)| *id);
    all.truncate(limit);
    all.into_iter().map(|(_, view)| view).collect()
}

/// Both in the order of their names, what has the same name together.
///
/// A name that is shown is counted whole: a node whose list was cut before it has told as many names that come first as are
/// shown at all.
fn summed(one: Vec<(String, usize)>, other: Vec<(String, usize)>, limit: usize) -> Vec<(String, usize)> {
    let mut all = BTreeMap::<String, usize>::new();
    for (name, count) in one.into_iter().chain(other) {
        let of = all.entry(name).or_default();
        *of = of.saturating_add(count);
    }
    all.into_iter().take(limit).collect()
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
