use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use roost_proxy::TokenPlaces;
use serde_json::{Map, Value, json};

use super::*;

/// The key and the token of RFC 7515, A.1 (HS256).
const A1_KEY: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const A1: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The modulus and the token of A.2 (RS256).
const A2_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR\
    T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2\
    R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h\
    4FRWyuXpoQ";
const A2: &str = "eyJhbGciOiJSUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcA\
    cQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHW\
    EsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

/// The key and the token of A.3 (ES256).
const A3_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const A3_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const A3: &str = "eyJhbGciOiJFUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// The key of RFC 8037, A.2 (EdDSA), and the secret half of it.
const ED_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ED_D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

fn key_set(keys: &Value) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// All keys of the examples, with ids.
fn examples() -> KeySet {
    key_set(&json!([
        { "kty": "oct", "kid": "hs", "k": A1_KEY },
        { "kty": "RSA", "kid": "rs", "n": A2_N, "e": "AQAB" },
        { "kty": "EC", "kid": "es", "crv": "P-256", "x": A3_X, "y": A3_Y },
        { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": ED_X },
    ]))
}

fn encode(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

/// A token that the secret of A.1 signs, or another one.
fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", BASE64URL.encode(tag))
}

fn secret() -> Vec<u8> {
    BASE64URL.decode(A1_KEY).unwrap()
}

fn signed(token: &str, keys: &KeySet) -> Result<Map<String, Value>, BadToken> {
    verify::signed(token.as_bytes(), keys)
}

#[test]
fn the_examples_of_the_standards_are_verified_by_their_keys_and_no_others() {
    let claims = json!({ "iss": "joe", "exp": 1_300_819_380, "http://example.com/is_root": true });
    for token in [A1, A2, A3] {
        assert_eq!(Value::Object(signed(token, &examples()).unwrap()), claims);
        // Of each part one letter is another one.
        for (dot, part) in token.split('.').enumerate() {
            let at = token.split('.').take(dot).map(|part| part.len() + 1).sum::<usize>() + part.len() / 2;
            let mut tampered = token.as_bytes().to_vec();
            tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
            assert!(verify::signed(&tampered, &examples()).is_err(), "part {dot} of {token}");
        }
    }
    let other = key_set(&json!([{ "kty": "oct", "k": BASE64URL.encode([7; 32]) }]));
    assert_eq!(signed(A1, &other), Err(BadToken::Untrusted));
    // RFC 8037, A.4 and A.5: no claims, but a signature.
    let example = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
        hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let (message, signature) = example.rsplit_once('.').unwrap();
    let signature = BASE64URL.decode(signature).unwrap();
    let examples = examples();
    let mut keys = examples.fitting(keys::Algorithm::EdDsa, Some("ed"));
    assert!(keys.next().unwrap().verifies(message.as_bytes(), &signature));
    assert_eq!(signed(example, &examples), Err(BadToken::Malformed), "verified, and no claims");
}

#[test]
fn elliptic_keys_sign_tokens_by_either_name_of_their_algorithm() {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (BASE64URL.encode(&point[1..33]), BASE64URL.encode(&point[33..]));
    let ec = key_set(&json!([{ "kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "use": "sig" }]));
    let message = format!("{}.{}", encode(&json!({ "alg": "ES256" })), encode(&json!({ "sub": "a" })));
    let signature = pair.sign(&random, message.as_bytes()).unwrap();
    let token = format!("{message}.{}", BASE64URL.encode(signature));
    assert_eq!(signed(&token, &ec).unwrap()["sub"], "a");

    let pair = Ed25519KeyPair::from_seed_unchecked(&BASE64URL.decode(ED_D).unwrap()).unwrap();
    for alg in ["EdDSA", "Ed25519"] {
        let message = format!("{}.{}", encode(&json!({ "alg": alg })), encode(&json!({ "sub": "b" })));
        let token = format!("{message}.{}", BASE64URL.encode(pair.sign(message.as_bytes())));
        assert_eq!(signed(&token, &examples()).unwrap()["sub"], "b");
    }
}

#[test]
fn a_token_chooses_its_key_by_its_id_and_never_the_algorithm_of_a_key() {
    let (claims, secret) = (json!({ "sub": "x" }), secret());
    let n = BASE64URL.decode(A2_N).unwrap();
    let public = BASE64URL.decode(ED_X).unwrap();
    for (header, secret, expected) in [
        (json!({ "alg": "HS256" }), &secret, None),
        (json!({ "alg": "HS256", "kid": "hs", "typ": "JWT" }), &secret, None),
        (json!({ "alg": "HS256", "kid": "rs" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": "HS256", "kid": "gone" }), &secret, Some(BadToken::Untrusted)),
        // What everybody knows is taken for a secret.
        (json!({ "alg": "HS256", "kid": "rs" }), &n, Some(BadToken::Untrusted)),
        (json!({ "alg": "HS256" }), &n, Some(BadToken::Untrusted)),
        (json!({ "alg": "HS256" }), &public, Some(BadToken::Untrusted)),
        (json!({ "alg": "RS256" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": "HS512" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": "hs256" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": "none" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": "None", "kid": "hs" }), &secret, Some(BadToken::Untrusted)),
        (json!({ "alg": 1 }), &secret, Some(BadToken::Malformed)),
        (json!({}), &secret, Some(BadToken::Malformed)),
        (json!(["HS256"]), &secret, Some(BadToken::Malformed)),
        (json!({ "alg": "HS256", "crit": ["b64"], "b64": true }), &secret, Some(BadToken::Malformed)),
    ] {
        let token = hs256(&header, &claims, secret);
        assert_eq!(signed(&token, &examples()).err(), expected, "{header}");
    }
    let unsigned = format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&claims));
    assert_eq!(signed(&unsigned, &examples()), Err(BadToken::Untrusted));
}

#[test]
fn what_is_no_token_or_too_long_a_one_is_refused() {
    let header = json!({ "alg": "HS256" });
    let long = |length: usize| hs256(&header, &json!({ "sub": "x".repeat(length) }), &secret());
    assert!(signed(&long(12_000), &examples()).is_ok());
    let no_object = hs256(&header, &json!("sub"), &secret());
    for token in [
        &long(12_300),
        &no_object,
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        &format!("{A1}="),
        &format!("{A1}."),
        &A1.replace('-', "+"),
    ] {
        assert_eq!(signed(token, &examples()), Err(BadToken::Malformed), "{token}");
    }
}

#[test]
fn claims_hold_from_then_to_then_of_this_issuer_for_this_audience() {
    let leeway = Duration::from_secs(60);
    let any = Issuer { keys: KeysAt::File("/k".into()), name: None, audience: None };
    let ours = Issuer { name: Some("i".into()), audience: Some("roost".into()), ..any.clone() };
    let good = json!({ "exp": 2000, "iss": "i", "aud": ["x", "roost"] });
    for (settings, claims, now, expected) in [
        (&any, json!({ "exp": 2000 }), 2059, None),
        (&any, json!({ "exp": 2000 }), 2060, Some(BadToken::Expired)),
        (&any, json!({ "exp": 2000.5 }), 2060, None),
        (&any, json!({ "exp": -1 }), 2060, Some(BadToken::Expired)),
        (&any, json!({ "exp": "2000" }), 0, Some(BadToken::Malformed)),
        (&any, json!({ "exp": null }), 0, Some(BadToken::Malformed)),
        (&any, json!({ "sub": "x" }), 0, Some(BadToken::Endless)),
        (&any, json!({ "exp": 2000, "nbf": 1000 }), 940, None),
        (&any, json!({ "exp": 2000, "nbf": 1000 }), 939, Some(BadToken::Early)),
        (&any, json!({ "exp": 2000, "nbf": "now" }), 1500, Some(BadToken::Malformed)),
        (&any, json!({ "exp": 2000, "iss": "anybody" }), 0, None),
        (&any, json!({ "exp": 2000, "aud": "somebody" }), 0, Some(BadToken::Audience)),
        (&ours, good, 0, None),
        (&ours, json!({ "exp": 2000, "iss": "i", "aud": "roost" }), 0, None),
        (&ours, json!({ "exp": 2000, "iss": "I", "aud": "roost" }), 0, Some(BadToken::Issuer)),
        (&ours, json!({ "exp": 2000, "aud": "roost" }), 0, Some(BadToken::Issuer)),
        (&ours, json!({ "exp": 2000, "iss": ["i"], "aud": "roost" }), 0, Some(BadToken::Issuer)),
        (&ours, json!({ "exp": 2000, "iss": "i" }), 0, Some(BadToken::Audience)),
        (&ours, json!({ "exp": 2000, "iss": "i", "aud": ["x"] }), 0, Some(BadToken::Audience)),
    ] {
        let now = Duration::from_secs(now);
        let judged = verify::judge(claims.as_object().unwrap(), settings, leeway, now);
        assert_eq!(judged.err(), expected, "{claims} at {now:?}");
    }
    let until = |exp: Value| verify::judge(json!({ "exp": exp }).as_object().unwrap(), &any, leeway, leeway);
    assert_eq!(until(json!(2000.5)), Ok(Duration::from_millis(2_060_500)));
    assert_eq!(until(json!(1e300)), until(json!(1e200)), "no end that could not be told");
    let claims =
        json!({ "sub": "a", "n": 1, "list": ["b", 2, {}], "t": true, "o": { "x": 1 }, "none": null });
    let Value::Object(claims) = claims else { panic!() };
    let said = verify::said(claims, leeway);
    assert_eq!(
        ["sub", "t", "n", "list", "o", "none", "x"].map(|name| said.get(name)),
        [Some("a"), Some("true"), Some("1"), None, None, None, None]
    );
    assert_eq!(said.all("list"), ["b", "2"]);
    assert_eq!(said.until(), Some(SystemTime::UNIX_EPOCH + leeway));
}

#[test]
fn keys_for_something_else_are_passed_over_and_broken_ones_are_not() {
    let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": ED_X });
    for other in [
        json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": ED_X }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44" }),
        json!({ "kty": "RSA", "n": A2_N, "e": "AQAB", "use": "enc" }),
        json!({ "kty": "RSA", "n": A2_N, "e": "AQAB", "alg": "RS512" }),
        json!({ "kty": "RSA", "n": BASE64URL.encode([255; 128]), "e": "AQAB" }),
        json!({ "kty": "oct", "k": A1_KEY, "key_ops": ["sign"] }),
    ] {
        let keys = key_set(&json!([other, good]));
        assert_eq!((keys.len(), keys.passed_over.len()), (1, 1), "{other}");
        let alone = KeySet::parse(json!({ "keys": [other] }).to_string().as_bytes());
        assert_eq!(alone.unwrap_err(), InvalidKeys::None);
    }
    for (broken, member) in [
        (json!({ "kty": "oct" }), "k"),
        (json!({ "kty": "oct", "k": BASE64URL.encode([1; 31]) }), "k"),
        (json!({ "kty": "oct", "k": "a b" }), "k"),
        (json!({ "kty": "oct", "k": A1_KEY, "alg": "RS256" }), "alg"),
        (json!({ "kty": "RSA", "n": A2_N }), "e"),
        (json!({ "kty": "EC", "crv": "P-256", "x": A3_X, "y": "AA" }), "y"),
        (json!({ "kty": "OKP", "crv": "Ed25519" }), "x"),
    ] {
        let why = KeySet::parse(json!({ "keys": [good, broken] }).to_string().as_bytes()).unwrap_err();
        assert!(why.to_string().starts_with(&format!("keys[1].{member}: expected ")), "{why}");
    }
    let many = KeySet::parse(json!({ "keys": vec![good; 33] }).to_string().as_bytes());
    assert_eq!(many.unwrap_err(), InvalidKeys::TooMany);
    for text in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": [{}]}"] {
        assert!(matches!(KeySet::parse(text.as_bytes()), Err(InvalidKeys::Form { .. })), "{text}");
    }
}

/// Whoever has the keys of these files.
fn settings(issuers: &[(Option<&str>, &Path)]) -> Jwt {
    let issuer = |(name, path): &(Option<&str>, &Path)| Issuer {
        keys: KeysAt::File((*path).to_owned()),
        name: name.map(str::to_owned),
        audience: None,
    };
    Jwt {
        issuers: issuers.iter().map(issuer).collect(),
        leeway: Duration::ZERO,
        grace: None,
        places: TokenPlaces::default(),
    }
}

#[tokio::test]
async fn a_bad_file_never_takes_away_good_keys_and_a_secret_is_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |keys: &Value| fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    let load = || Tokens::load(&settings(&[(None, &path)]), dir.path());
    assert!(matches!(load(), Err(JwtError::Read { .. })));
    write(&json!([{ "kty": "oct", "k": A1_KEY }]));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(load(), Err(JwtError::Exposed { mode: 0o644, .. })));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let tokens = load().unwrap();
    let token = hs256(&json!({ "alg": "HS256" }), &json!({ "sub": "ada", "exp": 1u64 << 40 }), &secret());
    let subject = async || tokens.verify(&token).await.map(|claims| claims.subject().unwrap().to_owned());
    assert_eq!(subject().await, Ok("ada".to_owned()));
    assert_eq!(tokens.verify(A1).await, Err(BadToken::Expired));

    fs::write(&path, "{").unwrap();
    assert!(tokens.reload().is_err());
    assert_eq!(subject().await, Ok("ada".to_owned()));
    write(&json!([{ "kty": "oct", "k": A1_KEY, "kid": "1" }]));
    assert!(tokens.reload().unwrap() && !tokens.reload().unwrap());
    assert_eq!(subject().await, Ok("ada".to_owned()));
    write(&json!([{ "kty": "OKP", "crv": "Ed25519", "x": ED_X }]));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(tokens.reload().unwrap(), "what everybody may know");
    assert_eq!(subject().await, Err(BadToken::Untrusted));
}

#[tokio::test]
async fn each_issuer_vouches_for_its_own_tokens_alone() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| dir.path().join(name));
    for (path, secret) in files.iter().zip([[1_u8; 32], [2; 32]]) {
        let key = json!({ "kty": "oct", "k": BASE64URL.encode(secret) });
        fs::write(path, json!({ "keys": [key] }).to_string()).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    let [a, b] = &files;
    let tokens =
        Tokens::load(&settings(&[(Some("a"), a), (Some("b"), b), (Some("c"), a)]), dir.path()).unwrap();
    for (issuer, secret, expected) in [
        ("a", 1, Ok(())),
        ("b", 2, Ok(())),
        ("c", 1, Ok(())),
        ("a", 2, Err(BadToken::Issuer)),
        ("b", 1, Err(BadToken::Issuer)),
        ("d", 1, Err(BadToken::Issuer)),
        ("a", 3, Err(BadToken::Untrusted)),
    ] {
        let claims = json!({ "iss": issuer, "exp": 1u64 << 40 });
        let token = hs256(&json!({ "alg": "HS256" }), &claims, &[secret; 32]);
        assert_eq!(tokens.verify(&token).await.map(|_| ()), expected, "{issuer} {secret}");
    }
}
