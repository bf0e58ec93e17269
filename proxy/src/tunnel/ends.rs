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

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::words::CloseFrame;

/// Ends the tunnels that listen to it.
#[derive(Debug, Default)]
pub(crate) struct Ends(Arc<Said>);

/// One tunnel's ear. As long as nothing is said, listening costs one look at a number.
#[derive(Debug)]
pub(crate) struct Told {
    said: Arc<Said>,
    /// Its place among the ears.
    ear: u32,
    /// So much of what was said it has heard.
    heard: u32,
    /// Orders to close that were given before.
    closes: u32,
    /// Everybody was told to end before this tunnel opened.
    late: bool,
    /// Who is woken when something is said, as the ear knows it.
    waker: Option<Waker>,
}

/// What a tunnel is told.
#[derive(Debug)]
pub(crate) enum Word {
    /// It has its turn to end then.
    Turn(Instant),
    /// It is to be closed now, with this.
    Close(Arc<CloseFrame>),
}

/// What all who listen share.
#[derive(Debug, Default)]
struct Said {
    /// How often something was said. Wraps. Is one more before anybody is woken for it.
    times: AtomicU32,
    cut: AtomicBool,
    orders: Mutex<Orders>,
    ears: Mutex<Ears>,
}

/// Whom to wake.
#[derive(Debug, Default)]
struct Ears {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
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

impl Said {
    /// Says something: `change` says whether it is anything new.
    fn say(&self, change: impl FnOnce(&mut Orders) -> bool) {
        {
            let mut orders = lock(&self.orders);
            if !change(&mut orders) {
                return;
            }
            self.cut.store(matches!(orders.round, Round::Cut), Ordering::Release);
            self.times.fetch_add(1, Ordering::Release);
        }
        for waker in lock(&self.ears).wakers.iter().flatten() {
            waker.wake_by_ref();
        }
    }

    fn times(&self) -> u32 {
        self.times.load(Ordering::Acquire)
    }
}

impl Ears {
    fn listening(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            u32::try_from(self.wakers.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Has `waker` woken at this ear, and gives back the one before it. That is not to be dropped while this is locked:
    /// what goes with it may be listening, too.
    fn set(&mut self, ear: u32, waker: Option<Waker>) -> Option<Waker> {
        let place = self.wakers.get_mut(ear as usize)?;
        std::mem::replace(place, waker)
    }
}

impl Ends {
    /// For a tunnel that opens now.
    pub(crate) fn listen(&self) -> Told {
        let ear = lock(&self.0.ears).take();
        let orders = lock(&self.0.orders);
        let late = !matches!(orders.round, Round::None);
        let (heard, closes) = (self.0.times(), orders.closes);
        Told { said: Arc::clone(&self.0), ear, heard, closes, late, waker: None }
    }

    /// Ends the tunnels that are open, spread evenly over `over`, and those that open later at once.
    ///
    /// Said again, it counts for those whose turn had not come: from now on, and for each no later than before.
    pub(crate) fn pace(&self, over: Duration) {
        let of = lock(&self.0.ears).listening();
        let round = Round::Paced { since: Instant::now(), over, of, tickets: AtomicUsize::new(0) };
        self.0.say(|orders| {
            orders.round = round;
            true
        });
    }

    /// Has the tunnels that are open closed with `frame`, and not those that open later.
    pub(crate) fn close(&self, frame: Arc<CloseFrame>) {
        self.0.say(|orders| {
            orders.close = Some(frame);
            orders.closes = orders.closes.wrapping_add(1);
            true
        });
    }

    /// Ends all, without a word to anybody.
    pub(crate) fn cut(&self) {
        self.0.say(|orders| {
            orders.round = Round::Cut;
            true
        });
    }

    /// Is all cut?
    pub(crate) fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }

    /// Lets tunnels open again and stay.
    pub(crate) fn recall(&self) {
        self.0.say(|orders| !matches!(std::mem::take(&mut orders.round), Round::None));
    }
}

impl Told {
    /// Was everybody told before this tunnel opened?
    pub(crate) fn already(&self) -> bool {
        self.late
    }

    /// Is this who is woken when something is said?
    pub(crate) fn wakes(&self, waker: &Waker) -> bool {
        self.waker.as_ref().is_some_and(|ours| ours.will_wake(waker))
    }

    /// When this tunnel's turn is, once a round has begun, or with what it is to be closed. Each answer takes part in one
    /// more round.
    pub(crate) fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<Word> {
        loop {
            ready!(self.poll_said(cx));
            let orders = lock(&self.said.orders);
            self.heard = self.said.times();
            if let Some(frame) = orders.close.as_ref().filter(|_| orders.closes != self.closes) {
                self.closes = orders.closes;
                return Poll::Ready(Word::Close(Arc::clone(frame)));
            }
            match &orders.round {
                Round::None => {}
                Round::Paced { since, over, of, tickets } => {
                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                    return Poll::Ready(Word::Turn(*since + delay(ticket, *of, *over)));
                }
                Round::Cut => return Poll::Ready(Word::Turn(Instant::now())),
            }
        }
    }

    /// Ready when all is cut. What else is said meanwhile is not heard any more.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Before the look: what is said behind it is still to be heard.
            let times = self.said.times();
            if self.said.cut.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            self.heard = times;
            ready!(self.poll_said(cx));
        }
    }

    /// Ready if something was said that was not heard.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.heard != self.said.times() {
            return Poll::Ready(());
        }
        if self.wakes(cx.waker()) {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        let before = lock(&self.said.ears).set(self.ear, self.waker.clone());
        drop(before);
        // What was said before the ear was there has woken nobody.
        if self.heard == self.said.times() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let waker = {
            let mut ears = lock(&self.said.ears);
            ears.free.push(self.ear);
            ears.set(self.ear, None)
        };
        drop(waker);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn tickets_are_spread_evenly_and_the_uncounted_wait_for_nothing() {
        let over = Duration::from_secs(10);
        let delays: Vec<_> = (0..6).map(|ticket| delay(ticket, 4, over).as_millis()).collect();
        assert_eq!(delays, [0, 2500, 5000, 7500, 0, 0]);
        assert_eq!(delay(7, 8, Duration::ZERO), Duration::ZERO);
        assert!(delay(3, 4, Duration::MAX) <= Duration::MAX);
    }

    async fn word(told: &mut Told) -> Word {
        poll_fn(|cx| told.poll_word(cx)).await
    }

    async fn turn(told: &mut Told) -> Instant {
        match word(told).await {
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
            assert!(matches!(word(told).await, Word::Close(words) if words == frame));
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
    async fn who_waits_is_woken_and_an_ear_that_is_free_is_used_again() {
        let ends = Ends::default();
        let (mut one, other) = (ends.listen(), ends.listen());
        let ear = other.ear;
        drop(other);
        assert_eq!(ends.listen().ear, ear);
        let waits = tokio::spawn(async move { turn(&mut one).await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        ends.pace(Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(20), waits).await.expect("it was woken").unwrap();
        assert!(!ends.is_cut());
        ends.cut();
        assert!(ends.is_cut());
        ends.recall();
        assert!(!ends.is_cut());
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
        poll_fn(|cx| first.poll_cut(cx)).await;
    }
}
