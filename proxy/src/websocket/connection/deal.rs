//! Telling the function of one thing that happened on a connection, from its side of that: what is told, and what is counted.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Ties;
use crate::tunnel::By;
use crate::websocket::counters::EventCounters;
use crate::websocket::event::{Departure, Event, Message, Outcome, What};
use crate::websocket::invoke::{Teller, Told};

/// What a function is told, and owned by the telling.
pub(super) enum Happened {
    Connected,
    Said(Vec<Message>),
    Left(Departure),
}

pub(super) async fn deal(
    ties: Ties,
    happened: Happened,
    sequence: Option<u64>,
    state: Option<Box<str>>,
) -> Dealt {
    let began = Instant::now();
    let (what, kind) = match &happened {
        Happened::Connected => (What::Connected, 1),
        Happened::Said(messages) => (What::Messages(messages), 2),
        Happened::Left(departure) => (What::Disconnected(departure), 3),
    };
    let counters = ties.member.counters();
    let event = Event {
        of: ties.member.identity(),
        sequence,
        attempt: 1,
        at: SystemTime::now(),
        state: state.as_deref(),
        what,
    };
    let (settings, key) = (ties.now(), ties.key.as_ref());
    let told = Teller { shared: &ties.shared, settings: &settings, counters, key }.happened(event).await;
    count(counters, kind, &told, began);
    Dealt { told, state }
}

/// Counts what came of an event.
fn count(counters: &EventCounters, kind: usize, told: &Told<Outcome>, began: Instant) {
    let outcome = match told {
        Told::Answered(Outcome::Done(_)) => 0,
        Told::Answered(Outcome::Failed { .. }) => 1,
        Told::Unanswered { .. } => 2,
    };
    counters.event(kind, outcome, began.elapsed());
}

/// What came of it, and the state that it took along.
pub(super) struct Dealt {
    pub(super) told: Told<Outcome>,
    pub(super) state: Option<Box<str>>,
}

/// Tells the function of the end of a connection that nobody saw.
pub(in crate::websocket) async fn tell_loss(ties: Ties, why: &'static str) {
    let (keeper, id) = (Arc::clone(&ties.shared.keeper), ties.member.identity().id);
    if ties.settings.events.disconnected {
        let lasted = ties.member.identity().since.elapsed().unwrap_or_default();
        let departure = Departure { code: 1006, reason: why.into(), by: By::Host, lasted };
        deal(ties, Happened::Left(departure), None, None).await;
    }
    keeper.ended(id);
}
