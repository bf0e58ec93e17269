//! The section `[limits]`: what clients may send, how fast, and how much of it at once.
//!
//! Owns its defaults. What a function may say for itself is read in `function::bounds`, in the same words.

use std::num::NonZeroUsize;
use std::time::Duration;

use roost_proxy::{Bounds, ClientLimits, Rate};
use serde::Deserialize;

use super::Mistakes;
use crate::units;

/// What a limit is that there is not.
pub(crate) const OFF: &str = "off";

/// The fewest bytes of a head that browsers get along with, and the most that may be kept for each connection.
const HEADER_SIZES: std::ops::RangeInclusive<u64> = 8 << 10..=16 << 20;

/// Limits of the port, and those of functions that say nothing themselves.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once; `None`: as many as this process may have files for.
    pub connections: Option<NonZeroUsize>,
    /// What each client may do.
    pub clients: ClientLimits,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request's head.
    pub header_size: usize,
    /// Those of each function.
    pub bounds: Bounds,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    connections: Option<usize>,
    connections_per_client: Option<Amount>,
    requests_per_client: Option<String>,
    handshakes_per_client: Option<String>,
    remembered_clients: Option<usize>,
    connections_per_user: Option<Amount>,
    handshakes_per_user: Option<String>,
    headers: Option<usize>,
    header_size: Option<String>,
    body: Option<String>,
    body_time: Option<String>,
    function_connections: Option<Amount>,
    function_requests: Option<String>,
    function_handshakes: Option<String>,
}

/// A number, or `off`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(i64),
    Word(String),
}

impl Amount {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Word(word) => word.clone(),
        }
    }
}

/// How many, or `off`.
pub(crate) fn count(text: &str) -> Result<Option<NonZeroUsize>, &'static str> {
    if text == OFF {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= 1_000_000);
    number.map(Some).ok_or("expected a number from 1 to 1000000, or off")
}

/// How fast, or `off`.
pub(crate) fn rate(text: &str) -> Result<Option<Rate>, String> {
    if text == OFF {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|why: roost_proxy::InvalidRate| format!("{why}; or off"))
}

/// How many bytes, or `off`.
pub(crate) fn size(text: &str) -> Result<Option<u64>, String> {
    if text == OFF {
        return Ok(None);
    }
    units::memory(text).map(Some).map_err(|_| "expected a size such as 512KiB or 10MiB, or off".to_owned())
}

/// How long, or `off`. No time at all is none, too.
pub(crate) fn time(text: &str) -> Result<Option<Duration>, String> {
    if text == OFF {
        return Ok(None);
    }
    let time = units::duration(text).map_err(|why| format!("{why}, or off"))?;
    Ok(Some(time).filter(|time| !time.is_zero()))
}

impl RawLimits {
    pub(super) fn resolve(self, m: &mut Mistakes) -> Limits {
        let usual = ClientLimits::default();
        let connections = self.connections.and_then(NonZeroUsize::new);
        m.require(
            self.connections.is_none_or(|number| (1..=1_000_000).contains(&number)),
            "limits.connections: expected a number from 1 to 1000000",
        );
        let remembered = self.remembered_clients.unwrap_or(usual.remembered);
        m.require(
            (16..=1_000_000).contains(&remembered),
            &format!("limits.remembered_clients = {remembered}: expected 16 to 1000000"),
        );
        let headers = self.headers.unwrap_or(100);
        m.require(
            (10..=1000).contains(&headers),
            &format!("limits.headers = {headers}: expected 10 to 1000"),
        );
        let mut amount = |key: &str, value: Option<Amount>| {
            let text = value.map(|value| value.text());
            m.read(key, text.as_deref(), None, count)
        };
        let per_client = amount("limits.connections_per_client", self.connections_per_client);
        let per_user = amount("limits.connections_per_user", self.connections_per_user);
        let tunnels = amount("limits.function_connections", self.function_connections);
        let header_size = |text: &str| {
            let size = units::memory(text).ok().filter(|size| HEADER_SIZES.contains(size));
            size.and_then(|size| usize::try_from(size).ok()).ok_or("expected a size from 8KiB to 16MiB")
        };
        let mut pace = |key: &str, value: Option<String>| m.read(key, value.as_deref(), None, rate);
        let clients = ClientLimits {
            connections: per_client,
            requests: pace("limits.requests_per_client", self.requests_per_client),
            handshakes: pace("limits.handshakes_per_client", self.handshakes_per_client),
            remembered,
            user_connections: per_user,
            user_handshakes: pace("limits.handshakes_per_user", self.handshakes_per_user),
        };
        let bounds = Bounds {
            requests: pace("limits.function_requests", self.function_requests),
            handshakes: pace("limits.function_handshakes", self.function_handshakes),
            connections: tunnels,
            body: m.read("limits.body", self.body.as_deref(), None, size),
            body_time: m.read("limits.body_time", self.body_time.as_deref(), None, time),
        };
        let header_size = m.read("limits.header_size", self.header_size.as_deref(), 1 << 20, header_size);
        Limits { connections, clients, headers, header_size, bounds }
    }
}
