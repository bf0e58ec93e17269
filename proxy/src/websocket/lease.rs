//! For how long a client may stay: as long as its token counts, and each that it gives in time behind that one.
//!
//! Owns the words by which a client gives a new token: a text message `{"type":"auth","token":"…"}`, which the function does
//! not get, and its answer. Never verifies a token itself, and never ends a connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::event::Message;
use crate::token::{BadToken, Claims};

/// The longest message that is looked at for a token, in bytes: the longest token, and what is around it.
const LONGEST: usize = 17 << 10;

/// A token that is being verified.
type Verifying = Pin<Box<dyn Future<Output = Result<Claims, BadToken>> + Send>>;

/// What a client's token gives it.
pub(super) struct Lease {
    subject: Option<Box<str>>,
    until: SystemTime,
    /// The same, by the clock that timers go by.
    ends: Instant,
    verifying: Option<Verifying>,
}

/// The same, for the process that goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassedLease {
    subject: Option<String>,
    /// Milliseconds since 1970: what is written in a token is of that clock as well.
    until: u64,
}

#[derive(Deserialize)]
struct Renewal {
    r#type: String,
    token: Option<String>,
}

/// What a client is told.
#[derive(Serialize)]
struct Told<'a> {
    r#type: &'static str,
    ok: bool,
    /// Until when the token counts, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Lease {
    /// That of a token which says this. `None` if it counts for ever.
    pub(super) fn of(claims: &Claims) -> Option<Box<Self>> {
        let subject = claims.subject().map(Box::from);
        claims.until().map(|until| Box::new(Self::new(subject, until)))
    }

    fn new(subject: Option<Box<str>>, until: SystemTime) -> Self {
        Self { subject, until, ends: instant(until), verifying: None }
    }

    /// Whose it is.
    pub(super) fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// When it ends, with so much time behind the end of the token. `None`: never.
    pub(super) fn ends(&self, grace: Option<Duration>) -> Option<Instant> {
        self.ends.checked_add(grace?)
    }

    /// Is a token being verified?
    pub(super) fn is_busy(&self) -> bool {
        self.verifying.is_some()
    }

    /// Waits for `verifying`, and no more for one that came before.
    pub(super) fn verify(&mut self, verifying: Verifying) {
        self.verifying = Some(verifying);
    }

    /// What the token says that was to be verified.
    pub(super) fn poll_verified(&mut self, cx: &mut Context<'_>) -> Poll<Result<Claims, BadToken>> {
        let Some(verifying) = &mut self.verifying else { return Poll::Pending };
        let verified = ready!(verifying.as_mut().poll(cx));
        self.verifying = None;
        Poll::Ready(verified)
    }

    /// Goes on with a token that says this, and tells until when. A client stays who it is.
    pub(super) fn renew(&mut self, claims: &Claims) -> Result<u64, &'static str> {
        if claims.subject() != self.subject() {
            return Err("it is of another user");
        }
        let until = claims.until().ok_or("it does not say when it expires")?;
        (self.until, self.ends) = (until, instant(until));
        Ok(milliseconds(until) / 1000)
    }

    pub(super) fn pass_on(&self) -> PassedLease {
        PassedLease { subject: self.subject.as_deref().map(str::to_owned), until: milliseconds(self.until) }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("until", &self.until).finish_non_exhaustive()
    }
}

impl PassedLease {
    pub(super) fn take(self) -> Box<Lease> {
        let until = UNIX_EPOCH + Duration::from_millis(self.until);
        Box::new(Lease::new(self.subject.map(String::into_boxed_str), until))
    }
}

/// The token that a message gives, if it is one that does.
pub(super) fn token_in(message: &Message) -> Option<String> {
    let data = &message.data;
    let may_be = message.text
        && data.len() <= LONGEST
        && data.trim_ascii_start().first() == Some(&b'{')
        && memmem::find(data, b"\"auth\"").is_some();
    if !may_be {
        return None;
    }
    let renewal: Renewal = serde_json::from_slice(data).ok()?;
    renewal.token.filter(|_| renewal.r#type == "auth")
}

/// The answer to it: until when it counts, or why it does not.
pub(super) fn answer(renewed: Result<u64, &str>) -> Message {
    let told = Told { r#type: "auth", ok: renewed.is_ok(), until: renewed.ok(), error: renewed.err() };
    let data = serde_json::to_vec(&told).map(Bytes::from).unwrap_or_default();
    Message { text: true, data }
}

/// A moment of the other clock.
fn instant(at: SystemTime) -> Instant {
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now + Duration::from_hours(24 * 365))
}

fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &str) -> Message {
        Message { text: true, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    fn claims(subject: Option<&str>, until: SystemTime) -> Claims {
        let said = subject.map(|subject| ("sub".to_owned(), subject.to_owned()));
        said.into_iter().collect::<Claims>().counting_until(until)
    }

    #[test]
    fn a_token_is_given_in_these_words_and_no_others() {
        for (message, token) in [
            (r#"{"type":"auth","token":"t"}"#, Some("t")),
            (r#" { "token": "t", "type": "auth", "more": [1] } "#, Some("t")),
            (r#"{"type":"auth"}"#, None),
            (r#"{"type":"auth","token":1}"#, None),
            (r#"{"type":"message","token":"t","of":"auth"}"#, None),
            (r#"{"type":"message","data":{"type":"auth","token":"t"}}"#, None),
            (r#"["auth","t"]"#, None),
            (r#"{"type":"auth","token":"t""#, None),
            ("auth", None),
            ("", None),
        ] {
            assert_eq!(token_in(&text(message)).as_deref(), token, "{message}");
        }
        let binary = Message { text: false, ..text(r#"{"type":"auth","token":"t"}"#) };
        assert_eq!(token_in(&binary), None);
        let long = format!(r#"{{"type":"auth","token":"{}"}}"#, "t".repeat(LONGEST));
        assert_eq!(token_in(&text(&long)), None);
        assert_eq!(answer(Ok(7)), text(r#"{"type":"auth","ok":true,"until":7}"#));
        assert_eq!(
            answer(Err("it has expired")),
            text(r#"{"type":"auth","ok":false,"error":"it has expired"}"#)
        );
    }

    #[test]
    fn a_client_stays_who_it_is_and_the_next_process_knows_until_when() {
        let now = SystemTime::now();
        let (soon, late) = (now + Duration::from_secs(10), now + Duration::from_secs(100));
        let mut lease = Lease::of(&claims(Some("ada"), soon)).unwrap();
        let before = lease.ends(Some(Duration::ZERO)).unwrap();
        assert_eq!(lease.ends(Some(Duration::from_secs(5))), before.checked_add(Duration::from_secs(5)));
        assert_eq!(lease.ends(None), None);
        for other in [Some("grace"), None] {
            assert_eq!(lease.renew(&claims(other, late)), Err("it is of another user"), "{other:?}");
        }
        assert_eq!(lease.ends(Some(Duration::ZERO)), Some(before));
        assert_eq!(lease.renew(&claims(Some("ada"), late)), Ok(milliseconds(late) / 1000));
        let after = lease.ends(Some(Duration::ZERO)).unwrap();
        assert!((89..=91).contains(&(after - before).as_secs()));
        let passed = lease.pass_on().take();
        assert_eq!(passed.subject(), Some("ada"));
        let again = passed.ends(Some(Duration::ZERO)).unwrap();
        assert!(again.max(after) - again.min(after) < Duration::from_secs(1));
        assert!(Lease::of(&Claims::default()).is_none());
        let over = Lease::of(&claims(None, UNIX_EPOCH)).unwrap();
        assert!(over.ends(Some(Duration::ZERO)).unwrap() <= Instant::now());
    }
}
