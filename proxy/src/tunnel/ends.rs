//! Telling open tunnels that they are to end, one after the other.
//!
//! Owns the rounds: who is told, and when each one's turn is. A crowd of clients that all lose their connection at one
//! moment comes back at one moment. Never ends a tunnel: each does that itself, in its own task.
//!
//! ```text
//!   nobody is told ──pace()──► a round: ticket i of n has its turn after i/n of the time; who comes later, at once
//!        ▲                        │
//!        └───────recall()─────────┘          cut(): all at once, and without a word
//! ```
//!
//! Beside that it passes on a single order to close, in words of whoever gave it, to all that are open at that moment.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::words::CloseFrame;

/// Ends the tunnels that listen to it.
#[derive(Debug, Default)]
pub(crate) struct Ends(watch::Sender<Orders>);

/// One tunnel's ear.
#[derive(Debug)]
pub(crate) struct Told {
    orders: watch::Receiver<Orders>,
    /// Everybody was told to end before this tunnel opened.
    late: bool,
    /// Orders to close that were given before.
    closes: u32,
}

/// What a tunnel is told.
#[derive(Debug)]
pub(crate) enum Word {
    /// It has its turn to end then.
    Turn(Instant),
    /// It is to be closed now, with this.
    Close(Arc<CloseFrame>),
}

#[derive(Debug, Default)]
struct Orders {
    round: Round,
    close: Option<Arc<CloseFrame>>,
    /// How many such there were. Wraps.
    closes: u32,
}

/// Who ends when.
#[derive(Debug, Default)]
enum Round {
    /// Nobody ends.
    #[default]
    None,
    /// The first `of` tickets are spread over the time, all others have their turn at once.
    Paced { since: Instant, over: Duration, of: usize, tickets: AtomicUsize },
    /// All end now, and wait for nothing.
    Cut,
}

impl Ends {
    /// For a tunnel that opens now.
    pub(crate) fn listen(&self) -> Told {
        let orders = self.0.subscribe();
        let (late, closes) = {
            let orders = orders.borrow();
            (!matches!(orders.round, Round::None), orders.closes)
        };
        Told { orders, late, closes }
    }

    /// Ends the tunnels that are open, spread evenly over `over`, and those that open later at once.
    ///
    /// Said again, it counts for those whose turn had not come: from now on, and for each no later than before.
    pub(crate) fn pace(&self, over: Duration) {
        let of = self.0.receiver_count();
        let round = Round::Paced { since: Instant::now(), over, of, tickets: AtomicUsize::new(0) };
        self.0.send_modify(|orders| orders.round = round);
    }

    /// Has the tunnels that are open closed with `frame`, and not those that open later.
    pub(crate) fn close(&self, frame: Arc<CloseFrame>) {
        self.0.send_modify(|orders| {
            orders.close = Some(frame);
            orders.closes = orders.closes.wrapping_add(1);
        });
    }

    /// Ends all, without a word to anybody.
    pub(crate) fn cut(&self) {
        self.0.send_modify(|orders| orders.round = Round::Cut);
    }

    /// Lets tunnels open again and stay.
    pub(crate) fn recall(&self) {
        self.0.send_if_modified(|orders| !matches!(std::mem::take(&mut orders.round), Round::None));
    }
}

impl Told {
    /// Was everybody told before this tunnel opened?
    pub(crate) fn already(&self) -> bool {
        self.late
    }

    /// When this tunnel's turn is, once a round has begun, or with what it is to be closed. Each call takes part in one
    /// more round.
    ///
    /// Cancel safe.
    pub(crate) async fn word(&mut self) -> Word {
        loop {
            if self.orders.changed().await.is_err() {
                // Whoever could say something is gone.
                return pending().await;
            }
            let orders = self.orders.borrow_and_update();
            if let Some(frame) = orders.close.as_ref().filter(|_| orders.closes != self.closes) {
                self.closes = orders.closes;
                return Word::Close(Arc::clone(frame));
            }
            match &orders.round {
                Round::None => {}
                Round::Paced { since, over, of, tickets } => {
                    return Word::Turn(*since + delay(tickets.fetch_add(1, Ordering::Relaxed), *of, *over));
                }
                Round::Cut => return Word::Turn(Instant::now()),
            }
        }
    }

    /// Resolves when all is cut.
    pub(crate) async fn cut(&mut self) {
        if self.orders.wait_for(|orders| matches!(orders.round, Round::Cut)).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// How long ticket `ticket` of `of` waits. Tickets behind the last are of those that came too late to be counted.
fn delay(ticket: usize, of: usize, over: Duration) -> Duration {
    if ticket >= of {
        return Duration::ZERO;
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    over.saturating_mul(count(ticket)) / count(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_spread_evenly_and_the_uncounted_wait_for_nothing() {
        let over = Duration::from_secs(10);
        let delays: Vec<_> = (0..6).map(|ticket| delay(ticket, 4, over).as_millis()).collect();
        assert_eq!(delays, [0, 2500, 5000, 7500, 0, 0]);
        assert_eq!(delay(7, 8, Duration::ZERO), Duration::ZERO);
        assert!(delay(3, 4, Duration::MAX) <= Duration::MAX);
    }

    async fn turn(told: &mut Told) -> Instant {
        match told.word().await {
            Word::Turn(at) => at,
            Word::Close(frame) => panic!("closed with {frame:?}"),
        }
    }

    #[tokio::test]
    async fn an_order_to_close_is_for_those_that_are_open_whatever_else_is_going_on() {
        let ends = Ends::default();
        let mut first = ends.listen();
        ends.pace(Duration::from_secs(60));
        let (mut late, frame) = (ends.listen(), Arc::new(CloseFrame::new(4000, "x")));
        turn(&mut first).await;
        ends.close(Arc::clone(&frame));
        for told in [&mut first, &mut late] {
            assert!(matches!(told.word().await, Word::Close(words) if words == frame));
        }
        let mut later = ends.listen();
        assert!(later.already(), "the round goes on");
        ends.pace(Duration::ZERO);
        turn(&mut later).await;
        ends.recall();
        assert!(!ends.listen().already());
    }

    #[tokio::test]
    async fn each_that_listens_has_a_turn_of_its_own_and_a_latecomer_knows_that_it_is_one() {
        let ends = Ends::default();
        let mut told: Vec<_> = (0..4).map(|_| ends.listen()).collect();
        assert!(!told[0].already());
        let before = Instant::now();
        ends.pace(Duration::from_secs(4));
        let mut turns = Vec::new();
        for one in &mut told {
            turns.push(turn(one).await.duration_since(before).as_secs());
        }
        assert_eq!(turns, [0, 1, 2, 3]);
        assert!(ends.listen().already());
        drop(told);
        ends.recall();
        assert!(!ends.listen().already());
    }

    #[tokio::test]
    async fn a_second_round_is_for_those_who_are_left() {
        let ends = Ends::default();
        let (mut first, second) = (ends.listen(), ends.listen());
        ends.pace(Duration::from_secs(60));
        drop(second);
        turn(&mut first).await;
        ends.pace(Duration::ZERO);
        assert!(turn(&mut first).await <= Instant::now());
        ends.cut();
        first.cut().await;
    }
}
