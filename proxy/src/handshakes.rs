//! How handshakes of WebSockets were answered.
//!
//! Owns the reasons, and what is counted by them and by status. A lock for each handshake, which costs a thousand times
//! more than that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::error::Error;
use crate::metrics::{Distribution, Histogram};

/// A function may refuse clients with any status: of one function so many answers are counted apart.
const MAX_APART: usize = 32;

/// Stands for all others.
const OTHERS: u16 = 0;

/// What a client is told that asks from a page which may not.
pub(crate) const FOREIGN_PAGE: &str = "a page of this origin";

/// Why a handshake was answered as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was agreed upon.
    Agreed,
    /// It was none.
    Malformed,
    /// The page may not connect from where it is.
    Origin,
    /// The token of the client does not count, or there is none.
    Token,
    /// Who it is may not.
    Forbidden,
    /// A limit of this host, the client's or the function's.
    Limit,
    /// All replicas have as many as they may have.
    Capacity,
    /// There is no replica, and it is known that there will be none for now.
    Unavailable,
    /// This host is about to end.
    Draining,
    /// No replica, or no answer, came in time.
    Timeout,
    /// The function could not be reached, or broke off.
    Unreachable,
    /// The function says no, or says nothing that counts.
    Function,
}

impl Why {
    /// That of a function which does not answer, where this host would say `status` to a plain request.
    pub(crate) fn of_unanswered(status: StatusCode) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Capacity,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            StatusCode::GATEWAY_TIMEOUT => Self::Timeout,
            _ => Self::Unreachable,
        }
    }

    /// Its name; none for what needs no reason.
    fn name(self) -> &'static str {
        match self {
            Self::Agreed => "",
            Self::Malformed => "malformed",
            Self::Origin => "origin",
            Self::Token => "token",
            Self::Forbidden => "forbidden",
            Self::Limit => "limit",
            Self::Capacity => "capacity",
            Self::Unavailable => "unavailable",
            Self::Draining => "draining",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Function => "function",
        }
    }
}

impl From<&Error> for Why {
    fn from(error: &Error) -> Self {
        match error {
            Error::Malformed { .. }
            | Error::MissingKey { .. }
            | Error::InvalidKey { .. }
            | Error::UpgradeRequired { .. }
            | Error::ClientStalled { .. }
            | Error::ClientGone => Self::Malformed,
            Error::Forbidden { what, .. } if *what == FOREIGN_PAGE => Self::Origin,
            Error::InvalidToken { .. } => Self::Token,
            Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::InsufficientToken { .. } => {
                Self::Forbidden
            }
            Error::Limited { .. } | Error::BodyTooLarge { .. } | Error::BodyTooSlow { .. } => Self::Limit,
            Error::AtCapacity { .. } | Error::TooManyKeys { .. } => Self::Capacity,
            Error::UnknownFunction { .. }
            | Error::UnknownCall { .. }
            | Error::QueueAway
            | Error::WaitingRoomFull { .. }
            | Error::Unavailable { .. } => Self::Unavailable,
            Error::Draining => Self::Draining,
            Error::WaitingTimeout { .. } | Error::RequestTimeout { .. } | Error::HeaderTimeout { .. } => {
                Self::Timeout
            }
            Error::Connect { .. } | Error::NoAnswer { .. } => Self::Unreachable,
        }
    }
}

/// Handshakes of one function, by status and reason.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(Mutex<Vec<((u16, Why), Histogram)>>);

/// Those that were answered in one way, since this process began.
#[derive(Debug, Clone, PartialEq)]
pub struct Handshaken {
    /// The status; none for all that are not counted apart.
    pub status: Option<u16>,
    /// Why; empty for those that were agreed upon.
    pub reason: &'static str,
    /// How many there were, and how long they took.
    pub took: Distribution,
}

impl Handshakes {
    /// One was answered with `status`.
    pub(crate) fn answered(&self, status: u16, why: Why, took: Duration) {
        let mut all = self.lock();
        let place = |all: &[((u16, Why), Histogram)], of| all.iter().position(|(one, _)| *one == of);
        // Of the others there is one for each reason, and these are few.
        let apart = place(&all, (status, why)).is_some() || all.len() < MAX_APART;
        let of = (if apart { status } else { OTHERS }, why);
        let at = place(&all, of).unwrap_or_else(|| {
            all.push((of, Histogram::default()));
            all.len() - 1
        });
        all[at].1.observe(took);
    }

    pub(crate) fn read(&self) -> Vec<Handshaken> {
        let read = |((status, why), took): &((u16, Why), Histogram)| Handshaken {
            status: Some(*status).filter(|status| *status != OTHERS),
            reason: why.name(),
            took: took.read(),
        };
        self.lock().iter().map(read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<((u16, Why), Histogram)>> {
        // Nothing happens under the lock that could leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::FunctionKey;
    use crate::limits::Limit;

    #[test]
    fn whatever_statuses_a_function_refuses_clients_with_so_many_are_counted_apart_and_the_others_together() {
        let handshakes = Handshakes::default();
        handshakes.answered(400, Why::Malformed, Duration::ZERO);
        for status in (400..440).chain([400]) {
            handshakes.answered(status, Why::Function, Duration::ZERO);
        }
        let read = handshakes.read();
        let count = |status, reason| {
            let of = |one: &&Handshaken| (one.status, one.reason) == (status, reason);
            read.iter().find(of).map(|one| one.took.count())
        };
        assert_eq!(read.len(), MAX_APART + 1);
        assert_eq!((count(Some(400), "function"), count(None, "function")), (Some(2), Some(9)));
        assert_eq!(count(Some(400), "malformed"), Some(1));
    }

    #[test]
    fn what_a_client_is_told_has_a_reason() {
        let function = FunctionKey::from_route("f").unwrap();
        let forbidden = |what| Error::Forbidden { function: function.clone(), what };
        for (error, reason) in [
            (forbidden(FOREIGN_PAGE), "origin"),
            (forbidden("somebody"), "forbidden"),
            (Error::Draining, "draining"),
            (Error::Limited { limit: Limit::ClientHandshakes, wait: Duration::ZERO }, "limit"),
            (Error::WaitingTimeout { function: function.clone(), limit: Duration::ZERO }, "timeout"),
            (Error::AtCapacity { function: function.clone(), cap: 1 }, "capacity"),
        ] {
            assert_eq!(Why::from(&error).name(), reason, "{error}");
        }
    }
}
