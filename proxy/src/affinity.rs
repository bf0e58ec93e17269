//! The cookie by which a client comes back to the replica that it had.
//!
//! Owns its form and its secret. The value says nothing of the replica to whoever does not hold the key, and nobody else
//! can make one. Never decides who is claimed: it tells whom a client wishes for, and afterwards what it got.
//!
//! The cookie of a replica is computed from the replica's id, so that it is good for as long as the replica lives, also
//! after a restart of this process that is given the same key.

use std::fmt;

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use http::header::{COOKIE, HeaderMap, HeaderValue};
use sha2::Sha256;
use uuid::Uuid;

use crate::ask::Wish;
use crate::claim::Claim;
use crate::endpoint::Endpoint;
use crate::function::{FunctionKey, ReplicaId};
use crate::path::FunctionPath;
use crate::upstream::Upstream;

const NAME: &str = "roost-affinity";

/// The secret behind cookies. Whoever has it can choose a replica, and no more.
#[derive(Clone)]
pub struct AffinityKey([u8; 32]);

impl AffinityKey {
    /// A new one, good until this process ends.
    #[must_use]
    pub fn random() -> Self {
        let mut key = [0; 32];
        // 244 random bits.
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Self(key)
    }

    /// The secret itself, for whoever keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for AffinityKey {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl fmt::Debug for AffinityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AffinityKey")
    }
}

/// What a cookie holds: the first half of an HMAC-SHA256.
pub(crate) type Tag = u128;

/// Gives out cookies, and knows its own again.
#[derive(Debug)]
pub(crate) struct Cookies(AffinityKey);

impl Cookies {
    pub(crate) fn new(key: AffinityKey) -> Self {
        Self(key)
    }

    /// The replica among the present ones whose cookie a client has sent.
    pub(crate) fn recall(&self, upstream: &Upstream, headers: &HeaderMap) -> Option<ReplicaId> {
        let endpoints = upstream.endpoints.load();
        let known =
            |tag| endpoints.of(None).iter().find(|endpoint| self.tag(upstream.key(), endpoint) == tag);
        headers.get_all(COOKIE).iter().flat_map(tags).find_map(known).map(|endpoint| endpoint.id().clone())
    }

    /// The cookie for a client whose request was claimed so, and who found the function at `path`: if clients of this
    /// function are known by one, and this client's is for another replica.
    pub(crate) fn issue(&self, claim: &Claim, path: &FunctionPath<'_>) -> Option<HeaderValue> {
        let replica = claim.endpoint().id();
        match &claim.ask().wish {
            Wish::Again(had) if had.as_ref() != Some(replica) => {}
            _ => return None,
        }
        let tag = self.tag(claim.upstream().key(), claim.endpoint());
        let cookie = format!("{NAME}={tag:032x}; Path={}; HttpOnly; SameSite=Lax", path.base());
        // A path is letters, digits and a few marks.
        HeaderValue::try_from(cookie).ok()
    }

    fn tag(&self, function: &FunctionKey, endpoint: &Endpoint) -> Tag {
        endpoint.tag(|replica| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&self.0.0).expect("a key may have any length");
            for part in [function.namespace.as_str(), function.name.as_str(), replica.as_str()] {
                mac.update(part.as_bytes());
                // No name contains it.
                mac.update(b"/");
            }
            let mac: [u8; 32] = mac.finalize().into_bytes().into();
            mac.iter().take(16).fold(0, |tag, byte| (tag << 8) | Tag::from(*byte))
        })
    }
}

/// What a `Cookie` header holds under our name. There may be several, of functions whose names are spelt in two ways.
fn tags(header: &HeaderValue) -> impl Iterator<Item = Tag> {
    let pairs = header.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(|pair| {
        let value = pair.strip_prefix(NAME.as_bytes())?.strip_prefix(b"=")?;
        let text = str::from_utf8(value).ok().filter(|text| text.len() == 32)?;
        Tag::from_str_radix(text, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ask::Ask;
    use crate::path::{self, Target};
    use crate::upstream::UpstreamLimits;

    fn claim(cookies: &Cookies, headers: &HeaderMap, function: &str, replica: &str) -> Claim {
        let upstream = Upstream::new(FunctionKey::from_route(function).unwrap(), UpstreamLimits::default());
        upstream.publish(vec![Endpoint::new(replica.parse().unwrap(), "127.0.0.1:1".parse().unwrap())]);
        let wish = Wish::Again(cookies.recall(&upstream, headers));
        upstream.claim_for(&Ask { wish, ..Ask::default() }).unwrap()
    }

    fn at(path: &str) -> FunctionPath<'_> {
        match path::read(path) {
            Target::Function(path) => path,
            other => panic!("{other:?}"),
        }
    }

    fn sent(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    #[test]
    fn a_cookie_is_known_again_with_the_same_key_for_the_same_replica_and_is_not_given_twice() {
        let key = AffinityKey::random();
        let cookies = Cookies::new(key.clone());
        let given =
            cookies.issue(&claim(&cookies, &HeaderMap::new(), "f", "f-1"), &at("/function/f.ns")).unwrap();
        let (pair, attributes) = given.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/function/f.ns; HttpOnly; SameSite=Lax");
        assert_eq!(pair.len(), "roost-affinity=".len() + 32);
        assert!(!pair.contains("f-1"));
        let own = claim(&cookies, &HeaderMap::new(), "f", "f-1");
        let own = cookies.issue(&own, &FunctionPath::at_root("f.ns", "/x")).unwrap();
        assert_eq!(own.to_str().unwrap(), format!("{pair}; Path=/; HttpOnly; SameSite=Lax"));
        let after_restart = Cookies::new(key);
        let forged = format!("{NAME}={:032x}", 7);
        for (cookies, function, replica, cookie, known) in [
            (&cookies, "f", "f-1", pair, true),
            (&after_restart, "f", "f-1", pair, true),
            (&after_restart, "f", "f-1", &*format!("a=b;{forged}; {pair};x"), true),
            (&after_restart, "f", "f-2", pair, false),
            (&after_restart, "g", "f-1", pair, false),
            (&after_restart, "f", "f-1", &*forged, false),
            (&after_restart, "f", "f-1", "roost-affinity=f-1", false),
            (&Cookies::new(AffinityKey::random()), "f", "f-1", pair, false),
        ] {
            let claim = claim(cookies, &sent(cookie), function, replica);
            assert_eq!(
                cookies.issue(&claim, &at("/function/f/x")).is_none(),
                known,
                "{function} {replica} {cookie}"
            );
        }
    }

    #[test]
    fn a_request_that_wishes_for_nobody_gets_no_cookie() {
        let upstream = Upstream::new(FunctionKey::from_route("f").unwrap(), UpstreamLimits::default());
        upstream.publish(vec![Endpoint::new("f-1".parse().unwrap(), "127.0.0.1:1".parse().unwrap())]);
        let cookies = Cookies::new(AffinityKey::random());
        assert_eq!(cookies.issue(&Arc::clone(&upstream).claim().unwrap(), &at("/function/f")), None);
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Cookies::new(AffinityKey::from([7; 32]))), "Cookies(AffinityKey)");
    }
}
