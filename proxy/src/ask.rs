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
use crate::token::{ProvenKey, Token};
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

    /// What the request of a client asks for, of which `token` is.
    ///
    /// # Errors
    /// When it has no key, and needs one.
    pub(crate) fn of_client<B>(
        upstream: &Upstream,
        request: &Request<B>,
        token: &Token<'_>,
        peer: IpAddr,
        cookies: &Cookies,
        tunnel: bool,
    ) -> Result<Self, Error> {
        let claim = |claim: &str| claimed(upstream, token, claim);
        let ask = Self::read(upstream, request, claim, |affinity| match affinity {
            Affinity::Cookie => Wish::Again(cookies.recall(upstream, request.headers())),
            Affinity::Ip => match peer.to_canonical() {
                IpAddr::V4(peer) => wish_of(&peer.octets()),
                IpAddr::V6(peer) => wish_of(&peer.octets()),
            },
            Affinity::Header(_) | Affinity::Query(_) => Wish::None,
        })?;
        Ok(Self { tunnel, ..ask })
    }

    /// What a call of ours asks for. There is no client who would come back, and of its token counts what was found when
    /// it was [taken over](Self::prove).
    ///
    /// # Errors
    /// When it has no key, and needs one.
    pub(crate) fn of_own<B>(upstream: &Upstream, request: &Request<B>) -> Result<Self, Error> {
        let proven = request.extensions().get::<ProvenKey>();
        let claim = |claim: &str| {
            Ok(proven
                .filter(|proven| *proven.claim == *claim)
                .map(|proven| proven.key.as_str().as_bytes().into()))
        };
        Self::read(upstream, request, claim, |_| Wish::None)
    }

    /// Finds what a call asks for that is taken over to be made later, and leaves with it what its `token` said.
    ///
    /// # Errors
    /// When it has no key, and needs one.
    pub(crate) fn prove<B>(
        upstream: &Upstream,
        request: &mut Request<B>,
        token: &Token<'_>,
    ) -> Result<(), Error> {
        let mut asked = None;
        let claim = |claim: &str| {
            asked = Some(claim.into());
            claimed(upstream, token, claim)
        };
        let ask = Self::read(upstream, request, claim, |_| Wish::None)?;
        if let Some((claim, key)) = asked.zip(ask.key) {
            request.extensions_mut().insert(ProvenKey { claim, key });
        }
        Ok(())
    }

    /// `claim` gives the text of a claim of the request's token; `by_client` says what is wished for where that is not said
    /// by the request itself.
    fn read<'a, B>(
        upstream: &Upstream,
        request: &'a Request<B>,
        claim: impl FnOnce(&str) -> Result<Option<Cow<'a, [u8]>>, Error>,
        by_client: impl FnOnce(&Affinity) -> Wish,
    ) -> Result<Self, Error> {
        let placement = upstream.placement.load();
        let Some(placement) = &*placement else { return Ok(Self::default()) };
        if let Some(source) = &placement.key {
            return Ok(Self::default().of_key(key(source, request, claim)?));
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

/// The text of a claim of `token`, which was verified when its bearer was let in.
fn claimed<'a>(
    upstream: &Upstream,
    token: &'a Token<'_>,
    claim: &str,
) -> Result<Option<Cow<'a, [u8]>>, Error> {
    let claims = token.claims().map_err(|why| why.of(upstream.key()))?;
    Ok(claims.get(claim).filter(|text| !text.is_empty()).map(|text| text.as_bytes().into()))
}

fn key<'a, B>(
    source: &KeySource,
    request: &'a Request<B>,
    claim: impl FnOnce(&str) -> Result<Option<Cow<'a, [u8]>>, Error>,
) -> Result<ReplicaKey, Error> {
    let value = match source {
        KeySource::Path(index) => segment(*index, request.uri()),
        KeySource::Query(name) => parameter(name, request.uri()),
        KeySource::Header(name) => header(name, request.headers()),
        KeySource::Jwt(name) => claim(name)?,
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
            ("jwt:sub", "/", Err("this function needs a key: jwt:sub")),
        ] {
            let request = request(uri, &[("x-room", "of%20header"), ("x-room", "other"), ("x-empty", "")]);
            let read =
                key(&source.parse().unwrap(), &request, |_| Ok(None)).map_err(|error| error.to_string());
            assert_eq!(
                read.as_ref().map(ReplicaKey::as_str).map_err(String::as_str),
                found,
                "{source} {uri}"
            );
        }
    }

    /// Finds this key in the token of every request, or none.
    struct Says(Option<&'static str>);

    impl crate::access::Guard for Says {
        fn is_replica(&self, _: IpAddr) -> bool {
            false
        }

        fn authenticate<'a>(&'a self, _: &'a HeaderMap, _: IpAddr) -> crate::access::Judgement<'a> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn claims<'a>(&'a self, _: &'a str) -> crate::access::Verification<'a> {
            let subject = self.0.ok_or(crate::token::BadToken::Expired);
            let claims =
                subject.map(|subject| [("sub".to_owned(), subject.to_owned())].into_iter().collect());
            Box::pin(std::future::ready(claims))
        }
    }

    #[tokio::test]
    async fn a_call_keeps_the_key_that_its_token_said_and_it_counts_for_that_claim_alone() {
        let function = crate::function::FunctionKey::from_route("f").unwrap();
        let upstream = Upstream::new(function, crate::upstream::UpstreamLimits::default());
        let key_in = |source: &str| {
            let key = Some(source.parse().unwrap());
            upstream.set_placement(crate::placement::Placement { key, max_keys: 1, ..Default::default() });
        };
        key_in("jwt:sub");
        let (ada, expired) = (Says(Some("ada")), Says(None));
        let mut call = request("/room", &[("authorization", "Bearer t")]);
        let places = crate::bearer::TokenPlaces::default();
        let token = Token::take(&expired, &places, &mut call);
        let unread = Ask::prove(&upstream, &mut call, &token).unwrap_err();
        assert_eq!(unread.status(false), 503, "nobody has verified it");
        token.verify().await.unwrap_err();
        let refused = Ask::prove(&upstream, &mut call, &token).unwrap_err();
        assert_eq!(refused.status(false), 401);
        assert!(matches!(Ask::of_own(&upstream, &call), Err(Error::MissingKey { .. })), "nothing was proven");
        let token = Token::take(&ada, &places, &mut call);
        token.verify().await.unwrap();
        Ask::prove(&upstream, &mut call, &token).unwrap();
        // Nobody verifies it again.
        let asked = |call: &Request<()>| Ask::of_own(&upstream, call).map(|ask| ask.key.unwrap().to_string());
        assert_eq!(asked(&call).unwrap(), "ada");
        key_in("jwt:tenant");
        assert!(matches!(asked(&call), Err(Error::MissingKey { .. })), "it is the text of another claim");
        key_in("path[1]");
        assert_eq!(asked(&call).unwrap(), "room");
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
