//! Signing tokens (JSON Web Tokens) with a key of one's own, and telling its public half.
//!
//! Owns which keys sign, and with which algorithm: there is one for each kind of key. For tests: who gives tokens to people
//! asks more of them than this.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64URL};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Map, Value, json};

/// The shortest secret that a daemon takes, in bytes.
const MIN_SECRET: usize = 32;

/// A key that signs.
pub(crate) enum Key {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// A private key in PEM: PKCS #8, or PKCS #1 of RSA.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::of_pem(&text).with_context(|| format!("{}", path.display()))
    }

    fn of_pem(text: &str) -> Result<Self> {
        let (kind, der) = pem(text).ok_or_else(|| anyhow!("expected a private key in PEM"))?;
        let random = SystemRandom::new();
        match &*kind {
            "RSA PRIVATE KEY" => {
                let key =
                    RsaKeyPair::from_der(&der).map_err(|why| anyhow!("no RSA key to sign with: {why}"))?;
                Ok(Self::Rsa(Box::new(key)))
            }
            "PRIVATE KEY" => {
                let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
                if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                    Ok(Self::Ed25519(key))
                } else if let Ok(key) = p256() {
                    Ok(Self::P256(key))
                } else if let Ok(key) = RsaKeyPair::from_pkcs8(&der) {
                    Ok(Self::Rsa(Box::new(key)))
                } else {
                    bail!("expected a key of RSA (2048 bits or more), P-256 or Ed25519")
                }
            }
            "EC PRIVATE KEY" => bail!("expected PKCS #8: convert it with 'openssl pkcs8 -topk8 -nodes'"),
            other => bail!("expected a private key that is not encrypted, found {other:?}"),
        }
    }

    /// A secret that both sides know: what is in the file, but for a line break at its end.
    pub(crate) fn read_secret(path: &Path) -> Result<Self> {
        let mut bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        if bytes.len() < MIN_SECRET {
            bail!("{}: expected a secret of at least {MIN_SECRET} bytes", path.display());
        }
        Ok(Self::Secret(bytes))
    }

    /// The algorithm that it signs with, as tokens spell it.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// What verifies its signatures, as a JSON Web Key. Of a secret that is the secret.
    pub(crate) fn to_jwk(&self, id: Option<&str>) -> Value {
        let encode = |bytes: &[u8]| BASE64URL.encode(bytes);
        let mut jwk = match self {
            Self::Secret(secret) => json!({ "kty": "oct", "k": encode(secret) }),
            Self::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) })
            }
            Self::P256(pair) => {
                // Behind a byte that says that both are there.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
        };
        jwk["alg"] = self.algorithm().into();
        jwk["use"] = "sig".into();
        if let Some(id) = id {
            jwk["kid"] = id.into();
        }
        jwk
    }

    /// A token that says this.
    pub(crate) fn sign(&self, id: Option<&str>, claims: &Map<String, Value>) -> Result<String> {
        let mut header = json!({ "alg": self.algorithm(), "typ": "JWT" });
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        let encode = |part: String| BASE64URL.encode(part);
        let message = format!("{}.{}", encode(header.to_string()), encode(serde_json::to_string(claims)?));
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match self {
            Self::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), bytes).as_ref().to_vec()
            }
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).map_err(|_| cannot_sign())?;
                signature
            }
            Self::P256(pair) => pair.sign(&random, bytes).map_err(|_| cannot_sign())?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        Ok(format!("{message}.{}", BASE64URL.encode(signature)))
    }
}

fn cannot_sign() -> anyhow::Error {
    anyhow!("this key cannot sign")
}

/// The kind and the bytes of the first block.
fn pem(text: &str) -> Option<(String, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.chars().filter(|character| !character.is_whitespace()).collect();
    Some((kind.to_owned(), BASE64_STANDARD.decode(body).ok()?))
}

/// Claims as they are typed, `NAME=VALUE`: a value that is JSON is that, any other is text, and one that is given again is a
/// list. They go before those that are made here.
pub(crate) fn claims(typed: &[String], now: Duration, ttl: Duration) -> Result<Map<String, Value>, String> {
    let mut claims = Map::new();
    for pair in typed {
        let (name, text) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            format!("'{pair}' is no claim; write it like role=editor, or role='[\"editor\",\"reader\"]'")
        })?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        match claims.get_mut(name) {
            Some(Value::Array(values)) => values.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
            None => {
                claims.insert(name.to_owned(), value);
            }
        }
    }
    claims.entry("iat").or_insert_with(|| now.as_secs().into());
    claims.entry("exp").or_insert_with(|| (now + ttl).as_secs().into());
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};

    use super::*;

    fn to_pem(der: &[u8]) -> String {
        let body = BASE64_STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    fn parts(token: &str) -> (Value, Value, String, Vec<u8>) {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let read = |part: &str| serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap();
        (read(header), read(claims), message.to_owned(), BASE64URL.decode(signature).unwrap())
    }

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        let random = SystemRandom::new();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let said = claims(&["sub=ada".into()], Duration::ZERO, Duration::from_secs(60)).unwrap();
        for (der, algorithm, kty) in [(p256.as_ref(), "ES256", "EC"), (ed25519.as_ref(), "EdDSA", "OKP")] {
            let key = Key::of_pem(&to_pem(der)).unwrap();
            let (header, claims, message, signature) = parts(&key.sign(Some("k1"), &said).unwrap());
            assert_eq!(header, json!({ "alg": algorithm, "typ": "JWT", "kid": "k1" }));
            assert_eq!(claims, json!({ "sub": "ada", "iat": 0, "exp": 60 }));
            let jwk = key.to_jwk(Some("k1"));
            assert_eq!(
                (&jwk["kty"], &jwk["alg"], &jwk["kid"]),
                (&json!(kty), &json!(algorithm), &json!("k1"))
            );
            assert!(jwk.get("d").is_none());
            let part = |name: &str| BASE64URL.decode(jwk[name].as_str().unwrap()).unwrap();
            let verified = if kty == "EC" {
                let point = [&[4][..], &part("x"), &part("y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message.as_bytes(), &signature)
            } else {
                UnparsedPublicKey::new(&ED25519, part("x")).verify(message.as_bytes(), &signature)
            };
            verified.unwrap();
        }
        let secret = Key::Secret(vec![7; 32]);
        let (header, _, message, signature) = parts(&secret.sign(None, &said).unwrap());
        assert_eq!(header, json!({ "alg": "HS256", "typ": "JWT" }));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        hmac::verify(&key, message.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn what_is_no_key_is_told_so() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----");
        for (text, why) in [
            (String::new(), "expected a private key in PEM"),
            (block("PRIVATE KEY"), "expected a key of RSA"),
            (block("RSA PRIVATE KEY"), "no RSA key"),
            (block("EC PRIVATE KEY"), "expected PKCS #8"),
            (block("ENCRYPTED PRIVATE KEY"), "expected a private key that is not encrypted"),
        ] {
            let told = Key::of_pem(&text).err().unwrap().to_string();
            assert!(told.contains(why), "{why} in {told}");
        }
    }

    #[test]
    fn claims_are_text_unless_they_are_json_and_several_are_a_list() {
        let typed =
            ["n=1", "b=true", "s=one two", "role=a", "role=b", "role=c", "j={\"x\":[1]}", "q=\"1\"", "exp=5"];
        let typed: Vec<String> = typed.map(str::to_owned).into();
        let read = claims(&typed, Duration::from_secs(10), Duration::from_secs(5)).unwrap();
        let expected = json!({
            "n": 1, "b": true, "s": "one two", "role": ["a", "b", "c"], "j": { "x": [1] }, "q": "1", "exp": 5, "iat": 10
        });
        assert_eq!(Value::Object(read), expected);
        for wrong in ["role", "=x", ""] {
            assert!(claims(&[wrong.to_owned()], Duration::ZERO, Duration::ZERO).is_err(), "{wrong}");
        }
    }
}
