//! What can go wrong on the way to a function, and the only mapping of it to HTTP.
//!
//! Owns the statuses and texts of the platform's own answers. Never logs, never retries: the side says who is to blame,
//! the callers decide.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};

use crate::body::ResponseBody;
use crate::function::{FunctionKey, ReplicaId};
use crate::limits::Limit;
use crate::placement::{InvalidPlacement, KeySource};
use crate::token::BadToken;

/// Marks an answer of the platform, as opposed to one of the function.
const X_OPENFAAS_INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

/// Which limit was reached, where one was.
const X_ROOST_TIMEOUT: HeaderName = HeaderName::from_static("x-roost-timeout");

/// When a client that was turned away may come again, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Where an error comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The function.
    Upstream,
    /// This host: its limits, or what it was told to run.
    Host,
}

/// How to ask for a function that wants to know who calls.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"roost\"");

/// The same for one that wants a token (RFC 6750).
const TOKEN_CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"roost\", error=\"invalid_token\"");

/// The same for a token that does not say enough.
const SCOPE_CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"roost\", error=\"insufficient_scope\"");

/// Why a request got no answer from a function.
///
/// The text is for the client: one line, no addresses, nothing of the request but the name it asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such function (any more).
    #[error("error finding function {name}: no such function on this host")]
    UnknownFunction {
        /// `NAME.NAMESPACE` as the client asked for it.
        name: String,
    },
    /// The function asks who calls, and the client did not say, or it is not so.
    #[error("function {function} asks for a user of this host and a password")]
    Unauthorized {
        /// The function.
        function: FunctionKey,
    },
    /// The function asks for a token, and the one of the client does not count.
    #[error("function {function} asks for a valid bearer token: {why}")]
    InvalidToken {
        /// The function.
        function: FunctionKey,
        /// What is wrong with the token.
        why: BadToken,
    },
    /// The token of the client counts, and does not say what the function asks for.
    #[error("function {function} asks for a token that says {lacks}")]
    InsufficientToken {
        /// The function.
        function: FunctionKey,
        /// What it has to say.
        lacks: Arc<str>,
    },
    /// The caller is known, and may not do this.
    #[error("{what} is not let in by function {function}")]
    Forbidden {
        /// The function.
        function: FunctionKey,
        /// Who or what.
        what: &'static str,
    },
    /// No deferred call is known by this id (any more).
    #[error("no call {id} is queued or running here")]
    UnknownCall {
        /// The id as the client gave it.
        id: String,
    },
    /// What the queue has cannot be known.
    #[error("the queue cannot be asked at this moment")]
    QueueAway,
    /// It is there for WebSockets alone, and the client asks for none.
    #[error("function {function} takes WebSockets alone: expected Upgrade: websocket")]
    UpgradeRequired {
        /// The function.
        function: FunctionKey,
    },
    /// No connection could be made, so nothing was sent.
    #[error("Can't reach service for: {}. Connecting to replica {replica} failed: {cause}", .function.name)]
    Connect {
        /// The function.
        function: FunctionKey,
        /// The last replica tried.
        replica: ReplicaId,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// The connection ended before an answer came. The function may have seen the request.
    #[error("Can't reach service for: {}. Replica {replica} {what}", .function.name)]
    NoAnswer {
        /// The function.
        function: FunctionKey,
        /// The replica that had the request.
        replica: ReplicaId,
        /// What it did, to continue "the replica …".
        what: &'static str,
    },
    /// No response head within the request limit.
    #[error("function {function} did not answer within its request limit of {limit:?}")]
    RequestTimeout {
        /// The function.
        function: FunctionKey,
        /// The limit.
        limit: Duration,
    },
    /// No response head within the limit that begins with the end of the request.
    #[error(
        "function {function} did not answer within its header limit of {limit:?} once it had the request"
    )]
    HeaderTimeout {
        /// The function.
        function: FunctionKey,
        /// The limit.
        limit: Duration,
    },
    /// So many requests are waiting for the function already.
    #[error("function {function} has no ready replica, and {capacity} requests are waiting already")]
    WaitingRoomFull {
        /// The function.
        function: FunctionKey,
        /// How many may wait.
        capacity: usize,
    },
    /// No replica became ready in time.
    #[error("function {function} had no ready replica within the waiting limit of {limit:?}")]
    WaitingTimeout {
        /// The function.
        function: FunctionKey,
        /// The limit.
        limit: Duration,
    },
    /// Each replica has as many requests and connections as it may have.
    #[error(
        "function {function} is at its capacity: each of its replicas has {cap} requests or connections open"
    )]
    AtCapacity {
        /// The function.
        function: FunctionKey,
        /// How many each may have.
        cap: usize,
    },
    /// There is no replica for the key of this request, and as many keys as may be have one, or wait for one.
    #[error("function {function} has replicas for other keys, and can have them for {max} at most")]
    TooManyKeys {
        /// The function.
        function: FunctionKey,
        /// For how many keys there may be replicas.
        max: usize,
    },
    /// The request does not say which key it is of, and the function has a replica for each.
    #[error("this function needs a key: {at}")]
    MissingKey {
        /// Where it is looked for.
        at: KeySource,
    },
    /// What stands where the key of the request should be is none.
    #[error("this function needs a key: {at}: {problem}")]
    InvalidKey {
        /// Where it was found.
        at: KeySource,
        /// What it is not.
        problem: InvalidPlacement,
    },
    /// It is known that there will be no replica for now.
    #[error("function {function} is not available: {reason}")]
    Unavailable {
        /// The function.
        function: FunctionKey,
        /// Why, in the words of whoever knows.
        reason: Arc<str>,
    },
    /// This host goes down, and no more connections are made that would last.
    #[error("this host is about to restart")]
    Draining,
    /// The client stopped in the middle of its request body.
    #[error("the request body stalled for {limit:?}")]
    ClientStalled {
        /// The idle limit.
        limit: Duration,
    },
    /// The client's request body broke off.
    #[error("the request body broke off")]
    ClientGone,
    /// The client's request body is too long for the function.
    #[error("the request body is longer than the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The client's request body was not there in time.
    #[error("the request body was not there within its limit of {limit:?}")]
    BodyTooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The request may be read in more than one way.
    #[error("the request {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Too much is asked in too short a time, or too much is open.
    #[error("{}", .limit.says())]
    Limited {
        /// Which limit it is.
        limit: Limit,
        /// When there may be room again.
        wait: Duration,
    },
}

impl Error {
    /// Who is to blame.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::Unauthorized { .. }
            | Self::InvalidToken { .. }
            | Self::InsufficientToken { .. }
            | Self::Forbidden { .. }
            | Self::UpgradeRequired { .. }
            | Self::MissingKey { .. }
            | Self::InvalidKey { .. }
            | Self::ClientStalled { .. }
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow { .. }
            | Self::Malformed { .. }
            | Self::ClientGone => Side::Downstream,
            Self::Limited { limit, .. } if limit.is_of_client() => Side::Downstream,
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::RequestTimeout { .. }
            | Self::HeaderTimeout { .. } => Side::Upstream,
            Self::UnknownFunction { .. }
            | Self::UnknownCall { .. }
            | Self::QueueAway
            | Self::WaitingRoomFull { .. }
            | Self::WaitingTimeout { .. }
            | Self::AtCapacity { .. }
            | Self::TooManyKeys { .. }
            | Self::Draining
            | Self::Limited { .. }
            | Self::Unavailable { .. } => Side::Host,
        }
    }

    /// The status for the client. A failed handshake of a tunnel has always been a 502, a failed call a 500; what came too
    /// late is a 504 to a handshake, and what it has always been to a call.
    #[must_use]
    pub fn status(&self, tunnel: bool) -> StatusCode {
        match self {
            Self::UnknownFunction { .. } | Self::UnknownCall { .. } => StatusCode::NOT_FOUND,
            Self::Unauthorized { .. } | Self::InvalidToken { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::InsufficientToken { .. } => StatusCode::FORBIDDEN,
            Self::UpgradeRequired { .. } => StatusCode::UPGRADE_REQUIRED,
            Self::Connect { .. } | Self::NoAnswer { .. } if tunnel => StatusCode::BAD_GATEWAY,
            Self::Connect { .. } | Self::NoAnswer { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RequestTimeout { .. } | Self::HeaderTimeout { .. } | Self::WaitingTimeout { .. }
                if tunnel =>
            {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RequestTimeout { .. } | Self::HeaderTimeout { .. } => StatusCode::BAD_GATEWAY,
            Self::WaitingRoomFull { .. }
            | Self::WaitingTimeout { .. }
            | Self::Draining
            | Self::QueueAway
            | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::AtCapacity { .. } | Self::TooManyKeys { .. } | Self::Limited { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::ClientStalled { .. } | Self::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MissingKey { .. } | Self::InvalidKey { .. } | Self::Malformed { .. } | Self::ClientGone => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// May the function have seen something of the request?
    pub(crate) fn may_have_been_sent(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::RequestTimeout { .. } | Self::HeaderTimeout { .. })
    }

    fn retry_after(&self) -> HeaderValue {
        match self {
            Self::Limited { wait, .. } => {
                HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            _ => RETRY_AFTER_SECONDS,
        }
    }

    /// The limit that was reached, if that is what went wrong: as the settings call it.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::RequestTimeout { .. } => Some("request"),
            Self::HeaderTimeout { .. } => Some("header"),
            Self::ClientStalled { .. } => Some("idle"),
            Self::WaitingTimeout { .. } => Some("waiting"),
            Self::Connect { cause, .. } if cause.kind() == io::ErrorKind::TimedOut => Some("connect"),
            _ => None,
        }
    }

    /// The answer for the client; `tunnel` when it asked for an upgrade.
    pub(crate) fn response(&self, tunnel: bool) -> Response<ResponseBody> {
        // A reason comes from outside and may have more than one line; ours has exactly one.
        let text = self.to_string().replace(['\r', '\n'], " ") + "\n";
        let mut response = Response::new(ResponseBody::full(text));
        *response.status_mut() = self.status(tunnel);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(X_OPENFAAS_INTERNAL, HeaderValue::from_static("proxy"));
        if let Some(limit) = self.limit() {
            headers.insert(X_ROOST_TIMEOUT, HeaderValue::from_static(limit));
        }
        if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, self.retry_after());
        }
        let challenge = match self {
            Self::Unauthorized { .. } => Some(CHALLENGE),
            Self::InvalidToken { .. } => Some(TOKEN_CHALLENGE),
            Self::InsufficientToken { .. } => Some(SCOPE_CHALLENGE),
            _ => None,
        };
        if let Some(challenge) = challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_the_status_of_the_contract() {
        let function: FunctionKey = FunctionKey::from_route("echo").unwrap();
        let replica: ReplicaId = "echo-1".parse().unwrap();
        let limit = Duration::from_secs(1);
        let refused = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        for (error, call, tunnel) in [
            (Error::UnknownFunction { name: "x.y".into() }, 404, 404),
            (Error::Unauthorized { function: function.clone() }, 401, 401),
            (Error::InvalidToken { function: function.clone(), why: BadToken::Expired }, 401, 401),
            (Error::Forbidden { function: function.clone(), what: "nobody" }, 403, 403),
            (Error::InsufficientToken { function: function.clone(), lacks: "a=b".into() }, 403, 403),
            (Error::UpgradeRequired { function: function.clone() }, 426, 426),
            (Error::UnknownCall { id: "x".into() }, 404, 404),
            (Error::QueueAway, 503, 503),
            (
                Error::Connect { function: function.clone(), replica: replica.clone(), cause: refused },
                500,
                502,
            ),
            (Error::NoAnswer { function: function.clone(), replica, what: "left" }, 500, 502),
            (Error::RequestTimeout { function: function.clone(), limit }, 502, 504),
            (Error::HeaderTimeout { function: function.clone(), limit }, 502, 504),
            (Error::Draining, 503, 503),
            (Error::WaitingRoomFull { function: function.clone(), capacity: 1 }, 503, 503),
            (Error::WaitingTimeout { function: function.clone(), limit }, 503, 504),
            (Error::AtCapacity { function: function.clone(), cap: 1 }, 429, 429),
            (Error::TooManyKeys { function: function.clone(), max: 1 }, 429, 429),
            (Error::MissingKey { at: KeySource::Path(1) }, 400, 400),
            (Error::Unavailable { function, reason: "two\nlines".into() }, 503, 503),
            (Error::ClientStalled { limit }, 408, 408),
            (Error::ClientGone, 400, 400),
            (Error::BodyTooLarge { limit: 1 }, 413, 413),
            (Error::BodyTooSlow { limit }, 408, 408),
            (Error::Malformed { what: "has no Host" }, 400, 400),
            (Error::Limited { limit: Limit::ClientRequests, wait: limit }, 429, 429),
        ] {
            assert_eq!(error.status(false).as_u16(), call, "{error}");
            assert_eq!(error.status(true).as_u16(), tunnel, "{error}");
            let response = error.response(false);
            assert_eq!(response.headers()[X_OPENFAAS_INTERNAL], "proxy");
            let later = matches!(call, 429 | 503);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), later, "{error}");
            let challenged = call == 401 || matches!(error, Error::InsufficientToken { .. });
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), challenged, "{error}");
        }
    }

    #[test]
    fn the_answer_says_which_limit_was_reached() {
        let function: FunctionKey = FunctionKey::from_route("echo").unwrap();
        let limit = Duration::from_secs(1);
        let connect = |kind: io::ErrorKind| Error::Connect {
            function: function.clone(),
            replica: "echo-1".parse().unwrap(),
            cause: Arc::new(kind.into()),
        };
        for (error, name) in [
            (Error::RequestTimeout { function: function.clone(), limit }, Some("request")),
            (Error::HeaderTimeout { function: function.clone(), limit }, Some("header")),
            (Error::WaitingTimeout { function: function.clone(), limit }, Some("waiting")),
            (Error::ClientStalled { limit }, Some("idle")),
            (connect(io::ErrorKind::TimedOut), Some("connect")),
            (connect(io::ErrorKind::ConnectionRefused), None),
            (Error::Draining, None),
        ] {
            let response = error.response(false);
            let said = response.headers().get(X_ROOST_TIMEOUT).map(|value| value.to_str().unwrap());
            assert_eq!(said, name, "{error}");
        }
    }
}
