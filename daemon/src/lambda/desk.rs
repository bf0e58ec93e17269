//! One replica that polls for its events: what waits for it, and what it is working on.
//!
//! Owns the order of it. A replica works on one event at a time, since it asks for the next one only when it has answered.
//! Knows no HTTP.
//!
//! ```text
//!          next              an event              response, error
//!   New ─────────► Polling ─────────────► Working ─────────────────► Away ── next ──► Polling
//!    │               │                       │                        ▲
//!    │               └── the poll broke off ─┼────────────────────────┘
//!    └── init/error ─► Failed                └── next: that event will not be answered any more ──► Polling
//! ```

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How much longer than it has a handler may take that nobody waits for any more, before its replica is given up.
const GRACE: Duration = Duration::from_secs(5);

/// What a replica is to work on.
#[derive(Debug)]
pub struct Event {
    /// By what it is known.
    pub id: String,
    /// JSON, mostly.
    pub payload: Bytes,
    /// What its caller says of the trace that it is part of.
    pub trace: Option<HeaderValue>,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the handler returned, and of which type it is.
    Returned {
        /// As the runtime says it.
        content_type: Option<HeaderValue>,
        /// All of it.
        body: Bytes,
    },
    /// The handler failed: what the runtime says of it, as JSON.
    Failed(Bytes),
    /// What the handler returned is more than may be returned.
    TooLarge,
    /// The replica will not answer it: it has asked for another one.
    Dropped,
    /// The replica has ended.
    Ended,
}

/// An event as a replica gets it.
#[derive(Debug)]
pub struct Handed {
    /// The event.
    pub event: Event,
    /// Until when it has to be answered.
    pub deadline: SystemTime,
}

/// No such event is being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

#[derive(Debug)]
enum Phase {
    /// It has asked for nothing yet, as far as this daemon knows.
    New,
    /// It is between two events.
    Away,
    /// It asks for one.
    Polling,
    /// It has one, which is `caller`'s.
    Working { id: String, caller: oneshot::Sender<Answer>, deadline: Instant },
    /// It cannot start, for this reason.
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    phase: watch::Sender<Phase>,
    /// One event at most; those who bring more wait.
    put: mpsc::Sender<(Event, oneshot::Sender<Answer>)>,
    take: Mutex<mpsc::Receiver<(Event, oneshot::Sender<Answer>)>>,
    timeout: Duration,
    closed: CancellationToken,
}

impl Desk {
    /// Of a replica that has so long for each event.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let (put, take) = mpsc::channel(1);
        let phase = watch::Sender::new(Phase::New);
        Self { phase, put, take: Mutex::new(take), timeout, closed: CancellationToken::new() }
    }

    /// Has the replica work on an event, as soon as it asks for one. Dropped, nobody waits for the answer any more; if the
    /// replica has not been given the event until then, it never is.
    pub async fn ask(&self, event: Event) -> Answer {
        tokio::select! {
            biased;
            answer = self.answer_to(event) => answer,
            () = self.closed() => Answer::Ended,
        }
    }

    async fn answer_to(&self, event: Event) -> Answer {
        let (caller, answer) = oneshot::channel();
        if self.put.send((event, caller)).await.is_err() {
            // Never: both ends of the channel are here.
            return Answer::Dropped;
        }
        let mut waiting = Waiting { desk: self, answer };
        (&mut waiting.answer).await.unwrap_or(Answer::Dropped)
    }

    /// The next event, as soon as there is one. Dropped, it was not asked for.
    pub async fn next(&self) -> Handed {
        // Of several polls, which no runtime makes, one goes before the other.
        let mut take = self.take.lock().await;
        let _polling = Polling::begin(self);
        loop {
            match take.recv().await {
                Some((_, caller)) if caller.is_closed() => {}
                Some((event, caller)) => {
                    let deadline = Instant::now() + self.timeout;
                    self.phase.send_replace(Phase::Working { id: event.id.clone(), caller, deadline });
                    return Handed { event, deadline: SystemTime::now() + self.timeout };
                }
                // Never, as above.
                None => std::future::pending().await,
            }
        }
    }

    /// The replica has dealt with an event. For one that has asked this daemon for nothing yet that may be an event of an
    /// earlier daemon: nobody waits for it, which is not the replica's fault.
    ///
    /// # Errors
    /// When it is none that the replica works on.
    pub fn answered(&self, id: &str, answer: Answer) -> Result<(), Unknown> {
        let mut known = Err(Unknown);
        self.phase.send_if_modified(|phase| {
            match phase {
                Phase::Working { id: current, .. } if current == id => known = Ok(()),
                Phase::New => {
                    known = Ok(());
                    return false;
                }
                _ => return false,
            }
            if let Phase::Working { caller, .. } = std::mem::replace(phase, Phase::Away) {
                // Its caller may have gone.
                let (Ok(()) | Err(_)) = caller.send(answer);
            }
            true
        });
        known
    }

    /// The replica has ended: nothing is answered any more.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Resolves when the replica has ended.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The replica cannot start, for this reason.
    pub fn failed(&self, why: String) {
        self.phase.send_replace(Phase::Failed(why));
    }

    /// Resolves when the replica asks for an event.
    ///
    /// # Errors
    /// When it has said that it cannot start: why.
    pub async fn ready(&self) -> Result<(), String> {
        let mut phase = self.phase.subscribe();
        let settled = phase.wait_for(|phase| matches!(phase, Phase::Polling | Phase::Failed(_))).await;
        match settled.as_deref() {
            Ok(Phase::Failed(why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Resolves when the replica has had more than its time for an event that nobody waits for any more: as long as it goes
    /// on with that, it takes no other one.
    pub async fn stuck(&self) -> String {
        let mut phase = self.phase.subscribe();
        loop {
            let given_up = match &*phase.borrow_and_update() {
                Phase::Working { caller, deadline, .. } if caller.is_closed() => Some(*deadline + GRACE),
                _ => None,
            };
            let given_up = async {
                match given_up {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = given_up => return format!("its handler did not end within {:?}", self.timeout),
                Ok(()) = phase.changed() => {}
            }
        }
    }
}

/// A poll that goes on.
struct Polling<'a>(&'a Desk);

impl<'a> Polling<'a> {
    fn begin(desk: &'a Desk) -> Self {
        desk.phase.send_modify(|phase| {
            if let Phase::Working { caller, .. } = std::mem::replace(phase, Phase::Polling) {
                let (Ok(()) | Err(_)) = caller.send(Answer::Dropped);
            }
        });
        Self(desk)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.phase.send_if_modified(|phase| {
            let broke_off = matches!(phase, Phase::Polling);
            if broke_off {
                *phase = Phase::Away;
            }
            broke_off
        });
    }
}

/// A caller that waits for its answer.
struct Waiting<'a> {
    desk: &'a Desk,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answer.close();
        // Whoever watches looks again.
        self.desk.phase.send_modify(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn event(id: &str) -> Event {
        Event { id: id.to_owned(), payload: Bytes::from_static(b"{}"), trace: None }
    }

    fn returned(text: &'static str) -> Answer {
        Answer::Returned { content_type: None, body: text.into() }
    }

    #[tokio::test]
    async fn an_event_waits_for_the_poll_and_its_caller_gets_the_answer_to_it() {
        let desk = Desk::new(TIMEOUT);
        let asked = desk.ask(event("a"));
        tokio::pin!(asked);
        assert!(asked.as_mut().now_or_never().is_none(), "nobody polls");
        let before = SystemTime::now();
        let handed = desk.next().await;
        assert_eq!(handed.event.id, "a");
        assert!(handed.deadline >= before + TIMEOUT && handed.deadline <= SystemTime::now() + TIMEOUT);
        assert!(asked.as_mut().now_or_never().is_none(), "nobody answered");
        assert_eq!(desk.answered("b", returned("no")), Err(Unknown));
        assert_eq!(desk.answered("a", returned("yes")), Ok(()));
        assert_eq!(asked.await, returned("yes"));
        assert_eq!(desk.answered("a", returned("again")), Err(Unknown));
    }

    #[tokio::test]
    async fn an_event_whose_caller_has_gone_is_not_given_away() {
        let desk = Desk::new(TIMEOUT);
        assert!(desk.ask(event("gone")).now_or_never().is_none());
        let next = desk.next();
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        let handed = tokio::select! {
            handed = next => handed,
            answer = desk.ask(event("there")) => panic!("{answer:?} of nobody"),
        };
        assert_eq!(handed.event.id, "there");
    }

    #[tokio::test]
    async fn a_replica_that_asks_for_the_next_event_will_not_answer_the_last() {
        let desk = Desk::new(TIMEOUT);
        let poll = async {
            desk.next().await;
            desk.next().now_or_never()
        };
        let (answer, _) = tokio::join!(desk.ask(event("a")), poll);
        assert_eq!(answer, Answer::Dropped);
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_the_replica_has_ended() {
        let desk = Desk::new(TIMEOUT);
        let end = async {
            desk.next().await;
            desk.close();
        };
        let (one, other, ()) = tokio::join!(desk.ask(event("a")), desk.ask(event("b")), end);
        assert_eq!((one, other), (Answer::Ended, Answer::Ended));
        assert_eq!(desk.ask(event("c")).await, Answer::Ended);
    }

    #[tokio::test]
    async fn it_is_ready_while_it_polls() {
        let desk = Desk::new(TIMEOUT);
        assert!(desk.ready().now_or_never().is_none());
        assert_eq!(desk.answered("of an earlier daemon", Answer::Dropped), Ok(()));
        {
            let poll = desk.next();
            tokio::pin!(poll);
            assert!(poll.as_mut().now_or_never().is_none());
            assert_eq!(desk.ready().now_or_never(), Some(Ok(())));
        }
        assert!(desk.ready().now_or_never().is_none(), "the poll broke off");
        assert_eq!(desk.answered("a", Answer::Dropped), Err(Unknown), "it knows this daemon now");
        desk.failed("no module".to_owned());
        assert_eq!(desk.ready().now_or_never(), Some(Err("no module".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_stuck_with_what_nobody_waits_for_when_its_time_is_over() {
        let desk = Desk::new(TIMEOUT);
        let began = Instant::now();
        let use_it = async {
            let asked = desk.ask(event("a"));
            tokio::pin!(asked);
            assert!(asked.as_mut().now_or_never().is_none());
            desk.next().await;
            // It waits for longer than the handler has, as it may.
            assert!(tokio::time::timeout(TIMEOUT * 2, asked).await.is_err());
        };
        let (why, ()) = tokio::join!(desk.stuck(), use_it);
        assert_eq!((why.as_str(), began.elapsed()), ("its handler did not end within 30s", TIMEOUT * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_stuck_if_it_answers_late() {
        let desk = Desk::new(TIMEOUT);
        let use_it = async {
            let asked = desk.ask(event("a"));
            tokio::pin!(asked);
            assert!(asked.as_mut().now_or_never().is_none());
            desk.next().await;
        };
        use_it.await;
        let late = async {
            tokio::time::sleep(TIMEOUT + GRACE / 2).await;
            assert_eq!(desk.answered("a", returned("late")), Ok(()));
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(desk.stuck(), late) };
        assert!(tokio::time::timeout(TIMEOUT * 10, both).await.is_err());
    }
}
