//! A client that comes back to its connection: the socket is gone, and the connection waits a while for another one.
//!
//! Owns what that takes, beside a connection and only where its function asks for it: a token that nobody can guess and
//! that counts once, the last messages that were said, and the socket of a client that has come. The client says how many
//! messages it has had, and is told what came behind that. For everybody else nothing has happened: id, user, groups and
//! state are what they were, and what is said meanwhile is kept.
//!
//! ```text
//!   open ──(socket is lost)──► away ──(token, in time)──► open, behind what the client has had
//!     ▲                          └──(not in time)──► gone
//!     └──(token: the loss was not noticed yet)
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::event::{ConnectionId, Identity, Message};
use super::frame;
use super::lease::Lease;
use super::member::Member;
use super::outbound::{Outbound, Said};
use super::socket::Socket;
use crate::function::FunctionKey;
use crate::placement::ReplicaKey;
use crate::token::Claims;

/// How many of the last messages to a client are kept for it, and how many bytes of them.
const MOST_MESSAGES: usize = 1000;
const MOST_BYTES: usize = 256 << 10;

/// By which a client is told its token, and that it is back.
pub(super) const X_ROOST_RESUME: HeaderName = HeaderName::from_static("x-roost-resume");
pub(super) const X_ROOST_RESUMED: HeaderName = HeaderName::from_static("x-roost-resumed");

/// What a client comes back with, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token(ConnectionId);

impl Token {
    fn random() -> Self {
        Self(ConnectionId::random())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        ConnectionId::parse(text).map(Self)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client says of that in its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// `None`: it is new, and wants to be told a token.
    pub(super) token: Option<Token>,
    /// How many messages it has had.
    pub(super) seen: u64,
}

/// What the query of a handshake says: `resume` alone, or `resume=TOKEN&seen=NUMBER`.
pub(super) fn read(query: Option<&str>) -> Option<Wish> {
    let mut wish = None;
    let mut seen = 0;
    for (name, value) in form_urlencoded::parse(query?.as_bytes()) {
        match &*name {
            "resume" => wish = Some(Token::parse(&value)),
            "seen" => seen = value.parse().unwrap_or(u64::MAX),
            _ => {}
        }
    }
    wish.map(|token| Wish { token, seen })
}

/// A client that is back, with its socket.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) socket: Socket,
    pub(super) ahead: Bytes,
    /// What its token gives it now, if it has one that ends.
    pub(super) lease: Option<Box<Lease>>,
    /// What that token says.
    pub(super) claims: Claims,
    pub(super) seen: u64,
    /// It was told that it gets all that it has not had.
    pub(super) whole: bool,
    /// It wants to be told its next token in words: browsers do not see headers.
    pub(super) greet: bool,
}

/// Whose a connection is, and so who may come back to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// Of whom its token was, if it came with one that says so.
    pub(super) subject: Option<Box<str>>,
    /// The key of its replica, where the function has one for each.
    pub(super) key: Option<ReplicaKey>,
}

/// What is kept beside a connection whose client may come back.
#[derive(Debug)]
pub(super) struct Return {
    owner: Owner,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    token: Token,
    /// How many messages were said in all.
    said: u64,
    /// The last of them, as frames.
    kept: VecDeque<Bytes>,
    bytes: usize,
    /// There is no socket.
    away: bool,
    back: Option<Back>,
}

/// What a connection leaves of this to another process.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) owner: Owner,
    pub(super) token: Token,
    pub(super) said: u64,
    pub(super) kept: Vec<Bytes>,
}

impl Return {
    pub(super) fn new(owner: Owner) -> Self {
        Self::of(Remembered { owner, token: Token::random(), said: 0, kept: Vec::new() })
    }

    /// As an earlier process has left it.
    pub(super) fn of(Remembered { owner, token, said, kept }: Remembered) -> Self {
        let bytes = kept.iter().map(Bytes::len).sum();
        let kept = kept.into();
        Self { owner, state: Mutex::new(State { token, said, kept, bytes, away: false, back: None }) }
    }

    /// For another process.
    pub(super) fn remembered(&self) -> Remembered {
        let state = self.lock();
        let kept = state.kept.iter().cloned().collect();
        Remembered { owner: self.owner.clone(), token: state.token, said: state.said, kept }
    }

    /// The token that counts now.
    pub(super) fn token(&self) -> Token {
        self.lock().token
    }

    /// Has `say` say a frame, and keeps it. To one who is away it is kept alone.
    pub(super) fn say(
        &self,
        outbound: &Outbound,
        frame: Bytes,
        say: impl FnOnce(&Outbound, Bytes) -> Said,
    ) -> Said {
        let mut state = self.lock();
        let said = match state.away {
            true if outbound.is_ending() => Said::Gone,
            true => Said::Queued,
            false => say(outbound, frame.clone()),
        };
        if said == Said::Queued {
            state.keep(frame);
        }
        said
    }

    /// Its socket is lost, and closed: what was to be written to that is forgotten, as it is kept here.
    pub(super) fn goes_away(&self, outbound: &Outbound) {
        let mut state = self.lock();
        state.away = true;
        outbound.detach();
        outbound.restart([]);
    }

    /// A client is there with its socket.
    pub(super) fn comes(&self, back: Back) {
        self.lock().back = Some(back);
    }

    pub(super) fn take_back(&self) -> Option<Back> {
        self.lock().back.take()
    }

    /// Is all kept that came behind so many messages?
    pub(super) fn is_whole(&self, seen: u64) -> bool {
        self.lock().is_whole(seen)
    }

    /// Says again what the client has not had; `greet`: behind a word with its next token. `true` if that is all of it.
    pub(super) fn goes_on(&self, outbound: &Outbound, seen: u64, greet: bool) -> bool {
        let mut state = self.lock();
        let whole = state.is_whole(seen);
        let had = if whole { seen.saturating_sub(state.first()) } else { 0 };
        let had = usize::try_from(had).unwrap_or(usize::MAX);
        let mut frames: VecDeque<Bytes> = state.kept.iter().skip(had).cloned().collect();
        if greet {
            frames.push_front(greeting(state.token, Some(whole)));
        }
        state.away = false;
        outbound.restart(frames);
        whole
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing happens under the lock that could leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, frame: Bytes) {
        self.said += 1;
        self.bytes += frame.len();
        self.kept.push_back(frame);
        while self.kept.len() > MOST_MESSAGES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// How many messages there were before those that are kept.
    fn first(&self) -> u64 {
        self.said - self.kept.len() as u64
    }

    fn is_whole(&self, seen: u64) -> bool {
        (self.first()..=self.said).contains(&seen)
    }
}

/// What a client that asked for it is told first.
pub(super) fn greeting(token: Token, whole: Option<bool>) -> Bytes {
    let mut word =
        serde_json::json!({ "type": "resume", "token": token.to_string(), "resumed": whole.is_some() });
    if let Some(whole) = whole {
        word["whole"] = whole.into();
    }
    frame::message(&Message { text: true, data: word.to_string().into() }, None)
}

/// The headers of a 101 that tell a client its token, and that it is back.
pub(super) fn tell(headers: &mut HeaderMap, token: Token, whole: Option<bool>) {
    let value = HeaderValue::from_str(&token.to_string());
    headers.insert(X_ROOST_RESUME, value.expect("it is what a URL can hold"));
    if let Some(whole) = whole {
        let word = if whole { "whole" } else { "partial" };
        headers.insert(X_ROOST_RESUMED, HeaderValue::from_static(word));
    }
}

/// All connections whose clients may come back, by their tokens.
#[derive(Debug, Default)]
pub(super) struct Returns(Mutex<HashMap<Token, Arc<Member>>>);

impl Returns {
    /// From now on this one's may.
    pub(super) fn enter(&self, member: &Arc<Member>, returns: Return) {
        let token = returns.token();
        if member.returns.set(Box::new(returns)).is_ok() {
            self.lock().insert(token, Arc::clone(member));
        }
    }

    /// The connection of this token, if it is one of this function and this owner, and fits. Then the token counts no more;
    /// another one does.
    pub(super) fn take(
        &self,
        token: Token,
        function: &FunctionKey,
        owner: &Owner,
        fits: impl Fn(&Identity) -> bool,
    ) -> Option<Arc<Member>> {
        let mut all = self.lock();
        let member = all.get(&token).filter(|member| member.identity().function == *function);
        let member = member.filter(|member| fits(member.identity())).cloned()?;
        let returns = member.returns.get().filter(|returns| returns.owner == *owner)?;
        all.remove(&token);
        let next = Token::random();
        returns.lock().token = next;
        all.insert(next, Arc::clone(&member));
        Some(member)
    }

    /// It is gone.
    pub(super) fn leave(&self, member: &Member) {
        if let Some(returns) = member.returns.get() {
            self.lock().remove(&returns.token());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Arc<Member>>> {
        // Nothing happens under the lock that could leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a connection waits for its client, at most.
pub const LONGEST_RETURN: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_may_ask_for_a_token_or_have_one() {
        let token = Token::random();
        let wish = |token, seen| Some(Wish { token, seen });
        for (query, expected) in [
            ("", None),
            ("seen=3", None),
            ("resume", wish(None, 0)),
            ("a=b&resume=", wish(None, 0)),
            ("resume=nonsense&seen=2", wish(None, 2)),
            (&format!("resume={token}&seen=2"), wish(Some(token), 2)),
            (&format!("seen=x&resume={token}"), wish(Some(token), u64::MAX)),
        ] {
            assert_eq!(read(Some(query)), expected, "{query}");
        }
        assert_eq!(read(None), None);
    }

    proptest! {
        #[test]
        fn a_client_that_comes_back_gets_what_it_has_not_had_or_hears_that_some_is_gone(
            lengths in proptest::collection::vec(0_usize..40_000, 1..60), lost_at in 0_usize..60, seen in 0_u64..70
        ) {
            let (returns, outbound) = (Return::new(Owner::default()), Outbound::new(usize::MAX));
            let frames: Vec<Bytes> = lengths
                .iter()
                .zip(0_u32..)
                .map(|(length, number)| {
                    let mut frame = number.to_be_bytes().to_vec();
                    frame.resize(4 + length, 0);
                    frame.into()
                })
                .collect();
            for (at, frame) in frames.iter().enumerate() {
                if at == lost_at {
                    returns.goes_away(&outbound);
                }
                prop_assert_eq!(returns.say(&outbound, frame.clone(), Outbound::say), Said::Queued);
            }
            let whole = returns.goes_on(&outbound, seen, false);
            let again = outbound.take_all();
            let kept: usize = again.iter().map(Bytes::len).sum();
            prop_assert!(kept <= MOST_BYTES);
            prop_assert!(frames.ends_with(&again));
            if whole {
                prop_assert_eq!(again.len() as u64 + seen, frames.len() as u64);
            } else {
                prop_assert!(seen > frames.len() as u64 || again.len() as u64 + seen < frames.len() as u64);
            }
        }
    }
}
