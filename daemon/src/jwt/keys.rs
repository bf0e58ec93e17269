//! The keys that verify tokens: a JSON Web Key Set (RFC 7517), and what counts in it.
//!
//! Owns which kinds of keys there are. Each verifies with the one algorithm that is its own, so no token can choose another
//! one for it: a public key is never taken for the secret of an HMAC. Pure.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// How many keys there may be: a token that does not name its key is tried with each.
const MAX_KEYS: usize = 32;

/// The shortest secret, in bytes (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;

/// The sizes of RSA keys, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// As tokens and keys spell it. All others, `none` first of all, are no algorithms here.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // The second is its newer name (RFC 9864).
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// What verifies.
enum Material {
    Secret(hmac::Key),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

/// One key.
pub(super) struct Key {
    id: Option<String>,
    material: Material,
}

impl Key {
    fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn is_secret(&self) -> bool {
        matches!(self.material, Material::Secret(_))
    }

    /// Is `signature` this key's, of `message`?
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature),
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature),
        };
        verified.is_ok()
    }
}

/// All keys of a file, or of an answer.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Is there one that nobody else may know?
    pub(super) is_secret: bool,
    /// What there is besides that is of no use here: each with its place and why.
    pub(super) passed_over: Vec<String>,
    /// Tells whether the file has changed.
    pub(super) digest: [u8; 32],
}

/// Why a text is no set of keys. Says nothing of what it holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// It is no JSON of that form.
    #[error(
        "expected a JSON Web Key Set, {{\"keys\": [...]}}: line {line}, column {column} is not what belongs there"
    )]
    Form {
        /// Where, from 1.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// One of its keys is broken.
    #[error("keys[{index}].{member}: expected {expected}")]
    Key {
        /// Which, from 0.
        index: usize,
        /// What of it.
        member: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// None of its keys can verify a token.
    #[error("none of its keys is of use: expected one for HS256, RS256, ES256 or EdDSA")]
    None,
    /// There are too many.
    #[error("expected at most {MAX_KEYS} keys")]
    TooMany,
}

#[derive(Deserialize)]
struct RawKeySet {
    keys: Vec<RawKey>,
}

/// A key as it is written. What is not named here does not count.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    k: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

/// Why one key is not taken.
enum Flaw {
    /// It is for something else, or of a kind that is not known here: as RFC 7517 wants it, it is passed over.
    Foreign(&'static str),
    /// It is meant to be of use, and is not.
    Broken(&'static str, &'static str),
}

impl KeySet {
    /// Those of a file of this host: what is broken in it is a mistake.
    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidKeys> {
        Self::read(text, false)
    }

    /// Those that somebody else has written, for everybody to read: what is broken is passed over, and so is what would be a
    /// secret if everybody could not read it.
    pub(super) fn parse_public(text: &[u8]) -> Result<Self, InvalidKeys> {
        Self::read(text, true)
    }

    fn read(text: &[u8], public: bool) -> Result<Self, InvalidKeys> {
        let raw: RawKeySet = serde_json::from_slice(text)
            .map_err(|why| InvalidKeys::Form { line: why.line(), column: why.column() })?;
        let is_secret = raw.keys.iter().any(|key| key.kty == "oct" || key.d.is_some());
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        for (index, raw) in raw.keys.into_iter().enumerate() {
            match raw.resolve() {
                Ok(key) if public && key.is_secret() => {
                    passed_over.push(format!("keys[{index}] is passed over: everybody can read this secret"));
                }
                Ok(key) => keys.push(key),
                Err(Flaw::Broken(member, expected)) if public => {
                    let why = InvalidKeys::Key { index, member, expected };
                    passed_over.push(format!("passed over: {why}"));
                }
                Err(Flaw::Foreign(why)) => passed_over.push(format!("keys[{index}] is passed over: {why}")),
                Err(Flaw::Broken(member, expected)) => {
                    return Err(InvalidKeys::Key { index, member, expected });
                }
            }
        }
        match keys.len() {
            0 => Err(InvalidKeys::None),
            1..=MAX_KEYS => Ok(Self { keys, is_secret, passed_over, digest: Sha256::digest(text).into() }),
            _ => Err(InvalidKeys::TooMany),
        }
    }

    /// Is there a key of this id?
    pub(super) fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token that says this: of the id, if it names one, and for the algorithm.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |key| key.algorithm() == algorithm && (id.is_none() || key.id.as_deref() == id))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl RawKey {
    fn resolve(self) -> Result<Key, Flaw> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|ops| !verifies(ops))
        {
            return Err(Flaw::Foreign("it is not for signatures"));
        }
        let material = match (&*self.kty, self.crv.as_deref()) {
            _ if self.alg.as_deref().is_some_and(|alg| Algorithm::named(alg).is_none()) => {
                return Err(Flaw::Foreign("expected an alg of HS256, RS256, ES256 or EdDSA"));
            }
            ("oct", _) => Material::Secret(secret(&bytes("k", self.k.as_deref())?)?),
            ("RSA", _) => rsa(&bytes("n", self.n.as_deref())?, &bytes("e", self.e.as_deref())?)?,
            ("EC", Some("P-256")) => {
                let mut point = [4; 65];
                point[1..33].copy_from_slice(&coordinate("x", self.x.as_deref())?);
                point[33..].copy_from_slice(&coordinate("y", self.y.as_deref())?);
                Material::P256(point)
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(coordinate("x", self.x.as_deref())?),
            ("EC" | "OKP", _) => return Err(Flaw::Foreign("expected a crv of P-256 or Ed25519")),
            _ => return Err(Flaw::Foreign("expected a kty of oct, RSA, EC or OKP")),
        };
        let key = Key { id: self.kid, material };
        match self.alg.as_deref().and_then(Algorithm::named) {
            Some(algorithm) if algorithm != key.algorithm() => {
                Err(Flaw::Broken("alg", "the algorithm of its kty"))
            }
            _ => Ok(key),
        }
    }
}

fn bytes(member: &'static str, text: Option<&str>) -> Result<Vec<u8>, Flaw> {
    let decoded = text.and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
    decoded
        .filter(|bytes| !bytes.is_empty())
        .ok_or(Flaw::Broken(member, "bytes in base64url without padding"))
}

fn coordinate(member: &'static str, text: Option<&str>) -> Result<[u8; 32], Flaw> {
    bytes(member, text)?.try_into().map_err(|_| Flaw::Broken(member, "32 bytes"))
}

fn secret(bytes: &[u8]) -> Result<hmac::Key, Flaw> {
    if bytes.len() < MIN_SECRET {
        return Err(Flaw::Broken("k", "at least 32 bytes, as many as the hash has"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, bytes))
}

fn rsa(n: &[u8], e: &[u8]) -> Result<Material, Flaw> {
    // Some write a zero in front, which ring does not read.
    let trimmed = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (trimmed(n), trimmed(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(Flaw::Foreign("expected an RSA key of 2048 to 8192 bits"));
    }
    Ok(Material::Rsa { n, e })
}
