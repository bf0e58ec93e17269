//! What one request asks of its function: an endpoint of which key, and which of them if it can be had.
//!
//! Owns the reading of it, from a request as the function will see it. Never claims anything.
//!
//! A key is a must: it chooses who may have the request at all. A wish is not: it is for the replica that the client had
//! before, and where that takes no more, another one does. A function whose requests have keys hears no wishes.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Request, Uri};

use crate::affinity::Cookies;
use crate::error::Error;
use crate::function::ReplicaId;
use crate::placement::{Affinity, KeySource, ReplicaKey};
use crate::upstream::Upstream;

/// What is asked for. The default is any endpoint without a key, for a request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub(crate) key: Option<ReplicaKey>,
    pub(crate) wish: Wish,
    pub(crate) tunnel: bool,
}

/// Which of the endpoints is preferred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    #[default]
    None,
    /// The one that the client had, where it is known by a cookie.
    Again(Option<ReplicaId>),
    /// The one that belongs to what the client is known by, of which this is a hash.
    Hash(u64),
}

/// Why nothing could be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There is no endpoint.
    Endpoint,
    /// There are endpoints, and each is at its cap.
    Room,
}

impl Ask {
    /// An endpoint of `key`, and no other: for functions whose [`Placement`](crate::Placement) has keys.
    #[must_use]
    pub fn of_key(self, key: ReplicaKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// An endpoint for a tunnel: it may be held for hours.
    #[must_use]
    pub fn for_tunnel(self) -> Self {
        Self { tunnel: true, ..self }
    }

    /// What the request of a client asks for.
    ///
    /// # Errors
    /// When it has no key, and needs one.
    pub(crate) fn of_client<B>(
        upstream: &Upstream,
        request: &Request<B>,
        peer: IpAddr,
        cookies: &Cookies,
        tunnel: bool,
    ) -> Result<Self, Error> {
        let ask = Self::read(upstream, request, |affinity| match affinity {
            Affinity::Cookie => Wish::Again(cookies.recall(upstream, request.headers())),
            Affinity::Ip => match peer.to_canonical() {
                IpAddr::V4(peer) => wish_of(&peer.octets()),
                IpAddr::V6(peer) => wish_of(&peer.octets()),
            },
            Affinity::Header(_) | Affinity::Query(_) => Wish::None,
        })?;
        Ok(Self { tunnel, ..ask })
    }

    /// What a call of ours asks for. There is no client who would come back.
    ///
    /// # Errors
    /// When it has no key, and needs one.
    pub(crate) fn of_own<B>(upstream: &Upstream, request: &Request<B>) -> Result<Self, Error> {
        Self::read(upstream, request, |_| Wish::None)
    }

    /// `by_client` says what is wished for where that is not said by the request itself.
    fn read<B>(
        upstream: &Upstream,
        request: &Request<B>,
        by_client: impl FnOnce(&Affinity) -> Wish,
    ) -> Result<Self, Error> {
        let placement = upstream.placement.load();
        let Some(placement) = &*placement else { return Ok(Self::default()) };
        if let Some(source) = &placement.key {
            return Ok(Self::default().of_key(key(source, request)?));
        }
        let wish = match &placement.affinity {
            Some(Affinity::Header(name)) => {
                header(name, request.headers()).map_or(Wish::None, |value| wish_of(&value))
            }
            Some(Affinity::Query(name)) => {
                parameter(name, request.uri()).map_or(Wish::None, |value| wish_of(&value))
            }
            Some(affinity) => by_client(affinity),
            None => Wish::None,
        };
        Ok(Self { wish, ..Self::default() })
    }
}

/// How much `replica` suits those who wish for `hash`. Each of them has an order of its own of all replicas, which does
/// not change when others come and go.
pub(crate) fn weight(hash: u64, replica: &ReplicaId) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(hash);
    hasher.write(replica.as_str().as_bytes());
    hasher.finish()
}

/// The same in each process of one build: after a restart, clients find their replicas again.
fn wish_of(value: &[u8]) -> Wish {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    Wish::Hash(hasher.finish())
}

fn key<B>(source: &KeySource, request: &Request<B>) -> Result<ReplicaKey, Error> {
    let value = match source {
        KeySource::Path(index) => segment(*index, request.uri()),
        KeySource::Query(name) => parameter(name, request.uri()),
        KeySource::Header(name) => header(name, request.headers()),
    };
    let value = value.ok_or_else(|| Error::MissingKey { at: source.clone() })?;
    ReplicaKey::from_bytes(&value).map_err(|problem| Error::InvalidKey { at: source.clone(), problem })
}

/// The first value of a header, unless it is empty.
fn header<'a>(name: &HeaderName, headers: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
    headers.get(name).map(|value| Cow::from(value.as_bytes())).filter(|value| !value.is_empty())
}

/// A segment of the path, counted from 1, unless it is empty.
fn segment(index: usize, uri: &Uri) -> Option<Cow<'_, [u8]>> {
    // In front of the first segment is the slash that each path begins with.
    uri.path().split('/').nth(index).map(|text| decode(text, false)).filter(|value| !value.is_empty())
}

/// The first value of a parameter of the query, unless it is empty.
fn parameter<'a>(name: &str, uri: &'a Uri) -> Option<Cow<'a, [u8]>> {
    let pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| *decode(key, true) == *name.as_bytes());
    values.next().map(|(_, value)| decode(value, true)).filter(|value| !value.is_empty())
}

/// What `text` means in a URL: however a client spells a key, it is the same one. What is not an escape stays as it is.
fn decode(text: &str, plus_is_space: bool) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return bytes.into();
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        decoded.push(match (byte, tail) {
            (b'+', _) if plus_is_space => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    (high << 4) | low
                }
                _ => byte,
            },
            _ => byte,
        });
    }
    decoded.into()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_key_is_read_from_where_it_is_said_to_be_however_it_is_spelt() {
        for (source, uri, found) in [
            ("path[1]", "/room/7", Ok("room")),
            ("path[2]", "/room/7", Ok("7")),
            ("path[2]", "/room/a%20b%2Fc+d", Ok("a b/c+d")),
            ("path[1]", "/%72%6Fom", Ok("room")),
            ("path[1]", "/100%", Ok("100%")),
            ("path[1]", "/%zz", Ok("%zz")),
            ("path[1]", "/%c3%a4", Ok("ä")),
            (
                "path[1]",
                "/%ff",
                Err(
                    "this function needs a key: path[1]: expected a key of 1 to 256 bytes of text without control characters",
                ),
            ),
            (
                "path[1]",
                "/a%0Ab",
                Err(
                    "this function needs a key: path[1]: expected a key of 1 to 256 bytes of text without control characters",
                ),
            ),
            ("path[1]", "/", Err("this function needs a key: path[1]")),
            ("path[2]", "/room", Err("this function needs a key: path[2]")),
            ("path[2]", "/room/", Err("this function needs a key: path[2]")),
            ("query:room", "/?x=1&room=a+b%26&room=2", Ok("a b&")),
            ("query:room", "/?%72oom=1", Ok("1")),
            ("query:room", "/?room=", Err("this function needs a key: query:room")),
            ("query:room", "/?room", Err("this function needs a key: query:room")),
            ("query:room", "/room", Err("this function needs a key: query:room")),
            ("header:x-room", "/", Ok("of%20header")),
            ("header:x-empty", "/", Err("this function needs a key: header:x-empty")),
            ("header:x-none", "/", Err("this function needs a key: header:x-none")),
        ] {
            let request = request(uri, &[("x-room", "of%20header"), ("x-room", "other"), ("x-empty", "")]);
            let read = key(&source.parse().unwrap(), &request).map_err(|error| error.to_string());
            assert_eq!(
                read.as_ref().map(ReplicaKey::as_str).map_err(String::as_str),
                found,
                "{source} {uri}"
            );
        }
    }

    #[test]
    fn each_value_has_an_order_of_all_replicas_that_does_not_change_when_one_goes() {
        let replicas: Vec<ReplicaId> = (0..8).map(|index| format!("r{index}").parse().unwrap()).collect();
        let mut first = [0; 8];
        for value in 0..4_000_u64 {
            let Wish::Hash(hash) = wish_of(&value.to_be_bytes()) else { panic!("expected a hash") };
            let best = |without: usize| {
                (0..8).filter(|index| *index != without).max_by_key(|index| weight(hash, &replicas[*index]))
            };
            let chosen = best(8).unwrap();
            first[chosen] += 1;
            assert!((0..8).filter(|gone| *gone != chosen).all(|gone| best(gone) == Some(chosen)));
        }
        assert!(first.iter().all(|count| (400..600).contains(count)), "{first:?}");
    }
}
