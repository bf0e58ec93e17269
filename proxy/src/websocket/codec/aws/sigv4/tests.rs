//! The signatures are those of other people's clients: `botocore` 1.44, `@smithy/signature-v4`, and the one that the
//! algorithm's authors have published.

use std::sync::LazyLock;

use http::header::CONTENT_TYPE;
use http::{Method, Request};
use proptest::prelude::*;

use super::*;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const DATE: &str = "20261120T203836Z";
/// The same.
const AT: u64 = 1_795_207_116;

fn keys() -> &'static SecretKeys {
    static KEYS: LazyLock<SecretKeys> =
        LazyLock::new(|| [(KEY.to_owned(), SECRET.to_owned())].into_iter().collect());
    &KEYS
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A request as it was signed: by whom, its headers, and what the signature came to.
struct Signed {
    method: Method,
    path: &'static str,
    body: &'static [u8],
    region: &'static str,
    headers: &'static [(&'static str, &'static str)],
    names: &'static str,
    signature: &'static str,
}

impl Signed {
    fn authorization(&self) -> String {
        let day = &DATE[..8];
        format!(
            "AWS4-HMAC-SHA256 Credential={KEY}/{day}/{}/execute-api/aws4_request, SignedHeaders={}, Signature={}",
            self.region, self.names, self.signature
        )
    }

    fn head(&self) -> Parts {
        let mut request = Request::builder().method(self.method.clone()).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let request = request.header(X_AMZ_DATE, DATE).header(AUTHORIZATION, self.authorization());
        request.body(()).unwrap().into_parts().0
    }

    fn verdict(&self) -> Result<String, Unsigned> {
        verify(&self.head(), self.body, keys(), at(AT)).map(str::to_owned)
    }
}

const HOST_ONLY: &[(&str, &str)] = &[("host", "chat.example")];

fn signed() -> [Signed; 7] {
    [
        Signed {
            method: Method::POST,
            path: "/prod/%40connections/L0SM9cOFvHcCIhw%3D",
            body: b"hello",
            region: "us-east-1",
            headers: HOST_ONLY,
            names: "host;x-amz-date",
            signature: "27cb515eb37f2ea3d5b1b5561f51d0ef72b6cd7fb71147592a86ab10e14ede4f",
        },
        Signed {
            method: Method::GET,
            path: "/@connections/AAECAwQFBgcICQoLDA0ODw",
            body: b"",
            region: "us-east-1",
            headers: HOST_ONLY,
            names: "host;x-amz-date",
            signature: "a8e3dc8e92e13821f8bed3aafb851289254ad6b9fe8d967903ae98054952e93e",
        },
        Signed {
            method: Method::DELETE,
            path: "/fn/chat/@connections/AAECAwQFBgcICQoLDA0ODw",
            body: b"",
            region: "us-east-1",
            headers: &[("host", "127.0.0.1:8080")],
            names: "host;x-amz-date",
            signature: "f4c37de3c52b1d566d5f69b5d58e29bb183e6caab2b698feb369d4cb3a71b77b",
        },
        Signed {
            method: Method::POST,
            path: "/@connections/AAECAwQFBgcICQoLDA0ODw?type=binary&a=%C3%BC%20b&a=1",
            body: b"\x00\xff",
            region: "us-east-1",
            headers: &[("host", "chat.example"), ("x-amz-security-token", "TOKEN//abc=")],
            names: "host;x-amz-date;x-amz-security-token",
            signature: "0cdf5978e3b1eaf9bb667616185a39ad8fd614046705757d4694a2dbf7c617c0",
        },
        Signed {
            method: Method::POST,
            path: "/a//b/./c/../@connections/x~y-z_.",
            body: b"x",
            region: "us-east-1",
            headers: &[
                ("host", "chat.example"),
                ("content-type", "application/octet-stream"),
                ("x-amz-meta", "  two   words "),
            ],
            names: "content-type;host;x-amz-date;x-amz-meta",
            signature: "90e4211519a309bad6f0b9cdeab6280f14463f69226c05a1c03c917f538f22a1",
        },
        Signed {
            method: Method::POST,
            path: "/@connections/x",
            body: b"anything",
            region: "us-east-1",
            headers: &[("host", "chat.example"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")],
            names: "host;x-amz-content-sha256;x-amz-date",
            signature: "b7717ecae7bea7a74cd175160e8bb5fc4804ff5196e1934a5b5402fce57578b2",
        },
        Signed {
            method: Method::POST,
            path: "/prod/@connections/L0SM9cOFvHcCIhw%3D",
            body: b"hello",
            region: "eu-west-1",
            headers: &[
                ("host", "chat.example"),
                ("content-type", "application/octet-stream"),
                ("content-length", "5"),
                ("x-amz-content-sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
            ],
            names: "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
            signature: "aafb4a5803e19867e89c9ce34ea1c49cd87a0853f8778811fa2b0da21558a26d",
        },
    ]
}

#[test]
fn what_the_sdks_sign_is_known_as_theirs() {
    for request in signed() {
        assert_eq!(request.verdict().as_deref(), Ok(KEY), "{} {}", request.method, request.path);
    }
}

#[test]
fn over_http2_the_host_is_the_authority() {
    let [request, ..] = signed();
    let mut head = request.head();
    head.headers.remove(HOST);
    head.uri = format!("https://chat.example{}", request.path).parse().unwrap();
    assert_eq!(verify(&head, request.body, keys(), at(AT)), Ok(KEY));
}

#[test]
fn the_published_signature_is_found() {
    let head = Request::get("/")
        .header("host", "example.amazonaws.com")
        .header(X_AMZ_DATE, "20150830T123600Z")
        .header(
            AUTHORIZATION,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        )
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let claim = Claim::read(&head.headers).unwrap();
    let canonical = canonical(&head, &claim.signed, &hex(&Sha256::digest(b""))).unwrap();
    let mac = signing(SECRET, &claim, "20150830T123600Z", &canonical);
    assert_eq!(mac.finalize().into_bytes()[..], claim.signature);
    // But it is for another service.
    let refused = verify(&head, b"", keys(), at(1_440_938_160));
    assert!(matches!(refused, Err(Unsigned::Incomplete(_))), "{refused:?}");
}

#[test]
fn a_clock_may_be_five_minutes_off_and_no_more() {
    let [request, ..] = signed();
    for (now, near) in [(AT - 300, true), (AT + 300, true), (AT - 301, false), (AT + 301, false), (0, false)]
    {
        let verdict = verify(&request.head(), request.body, keys(), at(now));
        let expected = if near { Ok(KEY) } else { Err(Unsigned::Skewed(DATE.into())) };
        assert_eq!(verdict, expected, "{now}");
    }
}

#[test]
fn whatever_is_not_as_it_was_signed_is_refused() {
    type Change = fn(&mut Parts, &mut Vec<u8>);
    let mismatch = || Unsigned::Mismatch;
    let changes: [(Change, Unsigned); 9] = [
        (|head, _| head.method = Method::DELETE, mismatch()),
        (|head, _| head.uri = "/prod/@connections/L0SM9cOFvHcCIhx%3D".parse().unwrap(), mismatch()),
        (|head, _| head.uri = format!("{}?type=text", head.uri).parse().unwrap(), mismatch()),
        (|head, _| drop(head.headers.insert("host", "other".parse().unwrap())), mismatch()),
        (|head, _| head.headers.extend([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]), mismatch()),
        (|head, _| drop(head.headers.remove("content-type")), mismatch()),
        (|head, _| drop(head.headers.insert(X_AMZ_DATE, "20261120T203837Z".parse().unwrap())), mismatch()),
        (|_, body| body.push(b'!'), Unsigned::OtherBody),
        (|head, _| drop(head.headers.remove(AUTHORIZATION)), Unsigned::Missing),
    ];
    let [.., request] = signed();
    for (at_change, (change, expected)) in changes.into_iter().enumerate() {
        let (mut head, mut body) = (request.head(), request.body.to_vec());
        change(&mut head, &mut body);
        assert_eq!(verify(&head, &body, keys(), at(AT)), Err(expected), "change {at_change}");
    }
    // A body that is said to be of no matter is none of what was signed otherwise.
    let mut head = request.head();
    head.headers.insert(X_AMZ_CONTENT_SHA256, UNSIGNED_PAYLOAD.parse().unwrap());
    assert_eq!(verify(&head, b"other", keys(), at(AT)), Err(Unsigned::Mismatch));
}

#[test]
fn a_key_that_is_not_known_or_whose_secret_is_another_signs_nothing() {
    let [request, ..] = signed();
    let with =
        |id: &str, secret: &str| [(id.to_owned(), secret.to_owned())].into_iter().collect::<SecretKeys>();
    let verdict = |keys: &SecretKeys| verify(&request.head(), request.body, keys, at(AT)).map(drop);
    assert_eq!(verdict(&SecretKeys::default()), Err(Unsigned::UnknownKey));
    assert_eq!(verdict(&with("OTHER", SECRET)), Err(Unsigned::UnknownKey));
    assert_eq!(verdict(&with(KEY, "other")), Err(Unsigned::Mismatch));
    assert_eq!(format!("{:?}", keys()), r#"{"AKIDEXAMPLE"}"#);
}

#[test]
fn an_authorization_that_is_not_whole_is_none() {
    let [request, ..] = signed();
    let whole = request.authorization();
    let authorization = |value: &str| {
        let mut head = request.head();
        head.headers.insert(AUTHORIZATION, value.parse().unwrap());
        verify(&head, request.body, keys(), at(AT)).map(drop)
    };
    assert_eq!(authorization(&whole.replace(", ", ",")), Ok(()));
    for value in [
        "Bearer x".to_owned(),
        ALGORITHM.to_owned(),
        whole.replace("SHA256 ", "SHA256"),
        whole.replace("aws4_request", "aws3_request"),
        whole.replace("/execute-api/", "/s3/"),
        whole.replace("/execute-api/", "/"),
        whole.replace("/20261120/", "/20261121/"),
        whole.replace("host;", ""),
        whole.replace(";x-amz-date", ""),
        whole.replace("Signature=2", "Signature="),
        whole.replace("Signature=2", "Signature=+"),
        format!("{whole}, Signature=00"),
        format!("{whole}, More=1"),
        format!("{whole},"),
        whole.replace("SignedHeaders=host", &format!("SignedHeaders=host{}", ";a".repeat(MAX_SIGNED))),
    ] {
        assert!(matches!(authorization(&value), Err(Unsigned::Incomplete(_))), "{value}");
    }
    for date in ["", "20261120", "2026-11-20T20:38:36Z", "20261320T203836Z", "20261120T203836", "äöü"] {
        let mut head = request.head();
        head.headers.insert(X_AMZ_DATE, HeaderValue::from_bytes(date.as_bytes()).unwrap());
        let verdict = verify(&head, request.body, keys(), at(AT));
        assert!(matches!(verdict, Err(Unsigned::Incomplete(_))), "{date}: {verdict:?}");
    }
    let mut head = request.head();
    head.headers.append(AUTHORIZATION, whole.parse().unwrap());
    assert!(matches!(verify(&head, request.body, keys(), at(AT)), Err(Unsigned::Incomplete(_))));
}

proptest! {
    #[test]
    fn no_authorization_breaks_it(
        text in "AWS4-HMAC-SHA256 (Credential=[A/]{0,9},|SignedHeaders=[a;]{0,9},|Signature=([0-9a-f]{64})?,|\\PC){0,4}"
    ) {
        let [request, ..] = signed();
        let mut head = request.head();
        if let Ok(value) = HeaderValue::from_str(text.trim_end_matches(',')) {
            head.headers.insert(AUTHORIZATION, value);
            prop_assert!(verify(&head, request.body, keys(), at(AT)).is_err());
        }
    }

    #[test]
    fn a_signature_with_one_other_digit_is_refused(at_digit in 0..64_usize, digit in 0..16_u8) {
        let [request, ..] = signed();
        let mut digits = request.signature.as_bytes().to_vec();
        let other = hex(&[digit]).as_bytes()[1];
        prop_assume!(digits[at_digit] != other);
        digits[at_digit] = other;
        let mut head = request.head();
        let value = request.authorization().replace(request.signature, std::str::from_utf8(&digits).unwrap());
        head.headers.insert(AUTHORIZATION, value.parse().unwrap());
        prop_assert_eq!(verify(&head, request.body, keys(), at(AT)), Err(Unsigned::Mismatch));
    }
}
