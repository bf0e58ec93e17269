//! One end of a WebSocket: what is read of its socket and what is written to it, and how it is closed.
//!
//! Owns the closing handshake, pings, and the deadlines of both. Never knows what a message is for.
//!
//! ```text
//!           ┌─ Close heard ─► Close said ─┐
//!   open ───┤                             ├─► shut down ─► gone
//!           └─ Close said ─► Close heard ─┘
//!     │            └── not heard in time ────────────────────▲
//!     └── end of stream, error: without a word ──────────────┘
//! ```
//!
//! A wire that waits has no buffer: bytes are read into one that all connections of a thread share.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::ending::{Category, Ending};
use super::event::Message;
use super::frame::{self, Decoder, Incoming, Opcode};
use super::outbound::{Outbound, Wrote};
use super::socket::Socket;
use crate::tunnel::{By, CloseFrame};

/// How much is read at once.
const READ: usize = 16 << 10;

/// How long the other side has to answer a Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it has to close its connection, once both have said Close.
const SHUT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long nothing of what waits may be taken before a client counts as too slow.
const STALL: Duration = Duration::from_secs(10);

/// How many of our own frames (answers to pings) may wait before no more is read.
const MOST_OWN: usize = 64;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    /// 1005 for a Close without a code, 1006 for no Close at all.
    pub(super) code: u16,
    pub(super) reason: Box<str>,
    pub(super) by: By,
    pub(super) category: Category,
}

/// What of the closing handshake there was.
#[derive(Debug)]
enum Phase {
    Open,
    /// We said it.
    Said {
        until: Instant,
    },
    /// Both did: the last bytes are on their way.
    Both {
        until: Instant,
    },
    Gone,
}

#[derive(Debug)]
pub(super) struct Wire {
    decoder: Decoder,
    /// Read and not looked at yet.
    rest: Bytes,
    own: usize,
    phase: Phase,
    closed: Option<Closed>,
    /// When anything last came.
    heard: Instant,
    pinged: Option<Instant>,
    /// Since when nothing of what waits was taken.
    stalled: Option<Instant>,
    unflushed: bool,
    shut: bool,
}

/// Where messages go as they come.
pub(super) trait Mailbox {
    /// Does it take one?
    fn has_room(&self) -> bool;
    /// Takes one; or says how the connection ends for it, or what is answered at once.
    fn take(&mut self, message: Message) -> Taken;
    /// The client has answered a ping, so long after it.
    fn answered(&mut self, round_trip: Duration);
    /// So many frames of this kind have come.
    fn heard(&self, kind: Opcode, count: u32);
    /// A frame of the protocol is to be written, or an answer that was given at once.
    fn says(&self, kind: Opcode);
}

pub(super) enum Taken {
    Kept,
    Answered(Bytes),
    Refused(Ending),
}

impl Wire {
    pub(super) fn new(ahead: Bytes, decoder: Decoder) -> Self {
        Self {
            decoder,
            rest: ahead,
            own: 0,
            phase: Phase::Open,
            closed: None,
            heard: Instant::now(),
            pinged: None,
            stalled: None,
            unflushed: false,
            shut: false,
        }
    }

    /// Can another process go on with it?
    pub(super) fn can_leave(&self, outbound: &Outbound) -> bool {
        outbound.socket(Socket::is_plain).unwrap_or(false)
    }

    /// Its socket, and where it stands, for another process; `None` if it is not open, or cannot be given away.
    pub(super) fn leave(&self, outbound: &Outbound) -> Option<(OwnedFd, Vec<Bytes>)> {
        if !self.is_open() || outbound.is_ending() {
            return None;
        }
        let socket = outbound.socket(Socket::copy)??;
        let socket = socket.inspect_err(|error| tracing::debug!(%error, "a socket is not left")).ok()?;
        Some((socket, outbound.take_all()))
    }

    /// Where its frames are, and what was read behind them.
    pub(super) fn place(&self) -> (&Decoder, &Bytes) {
        (&self.decoder, &self.rest)
    }

    /// How it ended, once it is known.
    pub(super) fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// When a client that goes on being silent is sent a ping, or given up; when a close takes too long.
    pub(super) fn deadline(&self, ping: Option<Duration>, pong: Duration) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Open => match self.pinged {
                Some(pinged) => Some(pinged + pong),
                None => ping.map(|ping| self.heard + ping),
            },
            Phase::Said { until } | Phase::Both { until } => Some(until),
            Phase::Gone => None,
        };
        phase.into_iter().chain(self.stalled.map(|since| since + STALL)).min()
    }

    /// Does what is due. `true` if a ping was sent or one was not answered.
    pub(super) fn on_time(
        &mut self,
        ping: Option<Duration>,
        pong: Duration,
        outbound: &Outbound,
        mailbox: &impl Mailbox,
    ) -> Due {
        let now = Instant::now();
        if self.stalled.is_some_and(|since| since + STALL <= now) {
            // Nothing more can be said to it.
            self.end(Ending::too_slow(), outbound, mailbox);
            self.phase = Phase::Gone;
            return Due::Nothing;
        }
        match self.phase {
            Phase::Open => match (self.pinged, ping) {
                (Some(pinged), _) if pinged + pong <= now => {
                    outbound.end(Ending::of_host(1001, "ping timeout", Category::Network));
                    self.pinged = None;
                    self.heard = now;
                    Due::Unanswered
                }
                (None, Some(ping)) if self.heard + ping <= now => {
                    self.pinged = Some(now);
                    self.push_own(frame::encode(Opcode::Ping, &[], false), outbound);
                    Due::Pinged
                }
                _ => Due::Nothing,
            },
            Phase::Said { until } | Phase::Both { until } if until <= now => {
                self.phase = Phase::Gone;
                Due::Nothing
            }
            Phase::Said { .. } | Phase::Both { .. } | Phase::Gone => Due::Nothing,
        }
    }

    /// Reads what there is, for as long as the mailbox takes it. `Ready` when something has changed.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        outbound: &Outbound,
        mailbox: &mut impl Mailbox,
    ) -> Poll<()> {
        if !self.rest.is_empty() && self.is_open() && mailbox.has_room() {
            let mut rest = std::mem::take(&mut self.rest);
            let mut bytes = &rest[..];
            self.hear(&mut bytes, None, outbound, mailbox);
            let left = bytes.len();
            self.rest = rest.split_off(rest.len() - left);
            return Poll::Ready(());
        }
        let takes = match self.phase {
            Phase::Open => self.rest.is_empty() && self.own < MOST_OWN && mailbox.has_room(),
            Phase::Said { .. } | Phase::Both { .. } => true,
            Phase::Gone => false,
        };
        if !takes {
            return Poll::Pending;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut window = ReadBuf::new(buffer);
            let read = outbound.socket(|socket| socket.poll_read(cx, &mut window));
            let read = ready!(read.unwrap_or(Poll::Pending));
            let mut bytes = window.filled();
            match read {
                Ok(()) if !bytes.is_empty() => {
                    self.heard = Instant::now();
                    let asked = self.pinged.take();
                    self.hear(&mut bytes, asked, outbound, mailbox);
                    self.rest = Bytes::copy_from_slice(bytes);
                }
                ended => self.broke(ended.err()),
            }
            Poll::Ready(())
        })
    }

    /// Reads frames out of `bytes` until they end, or the mailbox is full. The client was `asked` then whether it lives.
    fn hear(
        &mut self,
        bytes: &mut &[u8],
        mut asked: Option<Instant>,
        outbound: &Outbound,
        mailbox: &mut impl Mailbox,
    ) {
        loop {
            if self.is_open() && !mailbox.has_room() {
                return;
            }
            match self.decoder.next(bytes) {
                Ok(None) => return,
                Ok(Some(Incoming::Ping(data))) => {
                    mailbox.heard(Opcode::Ping, 1);
                    if self.is_open() {
                        mailbox.says(Opcode::Pong);
                        self.push_own(frame::encode(Opcode::Pong, &data, false), outbound);
                    }
                }
                Ok(Some(Incoming::Pong(_))) => {
                    mailbox.heard(Opcode::Pong, 1);
                    if let Some(pinged) = asked.take() {
                        mailbox.answered(pinged.elapsed());
                    }
                }
                Ok(Some(Incoming::Close(said))) => {
                    mailbox.heard(Opcode::Close, 1);
                    self.heard_close(said, outbound, mailbox);
                    *bytes = &[];
                    return;
                }
                // What comes behind our own Close is nobody's.
                Ok(Some(Incoming::Message(..))) if !self.is_open() => {}
                Ok(Some(Incoming::Message(message, frames))) => {
                    let kind = Opcode::of_message(message.text);
                    mailbox.heard(kind, 1);
                    if frames > 1 {
                        mailbox.heard(Opcode::Continuation, frames - 1);
                    }
                    match mailbox.take(message) {
                        Taken::Kept => {}
                        Taken::Answered(frame) => {
                            mailbox.says(kind);
                            self.push_own(frame, outbound);
                        }
                        Taken::Refused(ending) => self.end(ending, outbound, mailbox),
                    }
                }
                Err(violation) => {
                    *bytes = &[];
                    if self.is_open() {
                        let category = match violation.code {
                            1007 => Category::BadText,
                            1009 => Category::TooBig,
                            _ => Category::ProtocolError,
                        };
                        self.end(Ending::new(violation.to_close(), By::Host, category), outbound, mailbox);
                    }
                    // Nothing that comes can be understood any more, not even a Close.
                    self.phase = Phase::Both { until: Instant::now() + SHUT_TIMEOUT };
                    return;
                }
            }
        }
    }

    fn heard_close(&mut self, said: Option<(u16, String)>, outbound: &Outbound, mailbox: &impl Mailbox) {
        let until = Instant::now() + SHUT_TIMEOUT;
        if self.is_open() {
            let answer = said.as_ref().map(|(code, reason)| CloseFrame::new(*code, reason));
            let answer = answer.unwrap_or_else(|| CloseFrame::new(0, ""));
            outbound.fall_silent();
            mailbox.says(Opcode::Close);
            self.push_own(frame::close(&answer), outbound);
            let (code, reason) = said.unwrap_or((1005, String::new()));
            self.closed.get_or_insert(Closed {
                code,
                reason: reason.into(),
                by: By::Client,
                category: Category::Normal,
            });
        }
        self.phase = Phase::Both { until };
    }

    /// Says Close, as the last thing. It is for whoever ends it to have said all else before.
    fn end(&mut self, ending: Ending, outbound: &Outbound, mailbox: &impl Mailbox) {
        if !self.is_open() {
            return;
        }
        let Ending { frame, by, category } = ending;
        self.closed.get_or_insert(Closed {
            code: frame.code().unwrap_or(1005),
            reason: frame.reason().into(),
            by,
            category,
        });
        outbound.close();
        mailbox.says(Opcode::Close);
        self.push_own(frame::close(&frame), outbound);
        self.phase = Phase::Said { until: Instant::now() + CLOSE_TIMEOUT };
        self.rest = Bytes::new();
    }

    fn broke(&mut self, error: Option<io::Error>) {
        if let Some(error) = error {
            tracing::debug!(%error, "a WebSocket broke");
        }
        self.closed.get_or_insert(Closed {
            code: 1006,
            reason: "".into(),
            by: By::Network,
            category: Category::Network,
        });
        self.phase = Phase::Gone;
    }

    fn push_own(&mut self, frame: Bytes, outbound: &Outbound) {
        self.own += 1;
        outbound.push_own(frame);
    }

    /// Writes what there is to say. `Ready` when something has changed.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outbound: &Outbound,
        mailbox: &impl Mailbox,
    ) -> Poll<()> {
        if self.is_gone() {
            return Poll::Pending;
        }
        match outbound.poll_write(cx) {
            Wrote::Nothing => (self.own, self.stalled) = (0, None),
            Wrote::Some { all } => {
                if all {
                    self.own = 0;
                }
                (self.stalled, self.unflushed) = (None, true);
                return Poll::Ready(());
            }
            Wrote::Stalled(since) => {
                self.stalled = Some(since);
                return Poll::Pending;
            }
            Wrote::Failed(error) => {
                self.broke(Some(error));
                return Poll::Ready(());
            }
        }
        if self.is_open()
            && let Some(ending) = outbound.take_end()
        {
            self.end(ending, outbound, mailbox);
            return Poll::Ready(());
        }
        if self.unflushed {
            return match outbound.socket(|socket| socket.poll_flush(cx)).unwrap_or(Poll::Pending) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    Poll::Ready(())
                }
                Poll::Ready(Err(error)) => {
                    self.broke(Some(error));
                    Poll::Ready(())
                }
                Poll::Pending => Poll::Pending,
            };
        }
        if matches!(self.phase, Phase::Both { .. }) && !self.shut {
            return match outbound.socket(|socket| socket.poll_shutdown(cx)).unwrap_or(Poll::Pending) {
                Poll::Ready(Ok(())) => {
                    self.shut = true;
                    Poll::Ready(())
                }
                Poll::Ready(Err(error)) => {
                    self.broke(Some(error));
                    Poll::Ready(())
                }
                Poll::Pending => Poll::Pending,
            };
        }
        Poll::Pending
    }
}

/// What came of a look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Pinged,
    Unanswered,
}
