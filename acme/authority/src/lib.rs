//! An authority of a test's own, for `roost-acme` and for the whole daemon.
//!
//! Speaks RFC 8555 over HTTPS as Pebble does: it checks each signature, each URL and each nonce, throws away good nonces at
//! times, takes its time to finish an order, and really connects to look at both kinds of challenge. All names are at
//! `127.0.0.1`, and the ports it looks at are the test's.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Of so many good nonces one is refused.
const REFUSED_NONCES: u64 = 4;

/// An authority. It ends with the test.
#[derive(Debug)]
pub struct Authority(Arc<State>);

struct State {
    base: String,
    /// What its clients have to trust, in PEM.
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
    http_port: AtomicU16,
    tls_port: AtomicU16,
    /// Of what is given, in milliseconds.
    life: AtomicU64,
    down: AtomicBool,
    counter: AtomicU64,
    nonces: Mutex<HashSet<String>>,
    accounts: Mutex<HashMap<String, Account>>,
    orders: Mutex<Vec<Order>>,
    seen: Mutex<Seen>,
}

/// What it has seen.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Accounts that were made.
    pub accounts: usize,
    /// Whom the last of them named.
    pub contact: Vec<String>,
    /// Orders that were made.
    pub orders: usize,
    /// Nonces that were refused, good ones among them.
    pub refused_nonces: usize,
    /// Names, and how they were looked at, where that went well.
    pub valid: Vec<(String, &'static str)>,
    /// How often a look did not go well.
    pub invalid: usize,
}

struct Account {
    key: Vec<u8>,
    thumbprint: String,
}

struct Order {
    name: String,
    account: String,
    token: String,
    /// `None` while nobody has looked.
    valid: Option<bool>,
    problem: Option<(&'static str, String)>,
    /// Finalized, and how often it was asked for since.
    chain: Option<(String, usize)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("base", &self.base).finish_non_exhaustive()
    }
}

type Answer = Response<Full<Bytes>>;

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let body =
        json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status });
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

fn object(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(value.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

impl Authority {
    /// One that finds hosts at these ports.
    pub async fn start(http_port: u16, tls_port: u16) -> Self {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().unwrap();
        let root = params.self_signed(&root_key).unwrap();
        let (root, root_pem) = (root.der().clone(), root.pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(State {
            base: format!("https://{}", listener.local_addr().unwrap()),
            ca: own.cert.pem(),
            issuer: Issuer::new(params, root_key),
            root,
            root_pem,
            http_port: http_port.into(),
            tls_port: tls_port.into(),
            life: AtomicU64::new(90 * 86_400_000),
            down: AtomicBool::default(),
            counter: AtomicU64::default(),
            nonces: Mutex::default(),
            accounts: Mutex::default(),
            orders: Mutex::default(),
            seen: Mutex::default(),
        });
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                let (state, acceptor) = (Arc::clone(&serving), acceptor.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await?;
                    let service = service_fn(|request| Arc::clone(&state).answer(request));
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that has gone is no failure.
                    let (Ok(()) | Err(_)) = http.serve_connection(TokioIo::new(stream), service).await;
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self(state)
    }

    /// Its URL.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}/dir", self.0.base)
    }

    /// What its clients have to trust, in PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.0.ca
    }

    /// Who signs what it gives.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.0.root
    }

    /// The same, in PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.0.root_pem
    }

    /// How long what it gives is good.
    pub fn give_for(&self, life: Duration) {
        self.0.life.store(u64::try_from(life.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Answers with 503 to everything.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    /// Where it looks from now on for `http-01`.
    pub fn set_http_port(&self, port: u16) {
        self.0.http_port.store(port, Ordering::SeqCst);
    }

    /// Knows no account any more.
    pub fn forget_accounts(&self) {
        self.0.accounts.lock().unwrap().clear();
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.seen.lock().unwrap().clone()
    }
}

impl State {
    fn nonce(&self) -> HeaderValue {
        let nonce = format!("nonce-{}", self.counter.fetch_add(1, Ordering::SeqCst));
        self.nonces.lock().unwrap().insert(nonce.clone());
        HeaderValue::try_from(nonce).unwrap()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
        let mut answer = match self.down.load(Ordering::SeqCst) {
            true => problem(503, "serverInternal", "down for now"),
            false => Arc::clone(&self).respond(request).await,
        };
        answer.headers_mut().insert("replay-nonce", self.nonce());
        Ok(answer)
    }

    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let url = |path: &str| format!("{}{path}", self.base);
        match (&method, path.as_str()) {
            (&Method::GET, "/dir") => {
                let directory = json!({
                    "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                    "revokeCert": url("/revoke"), "keyChange": url("/rollover"),
                    "meta": { "termsOfService": url("/terms") },
                });
                return object(StatusCode::OK, &directory);
            }
            (&Method::HEAD | &Method::GET, "/nonce") => return Response::new(Full::default()),
            (&Method::POST, _) => {}
            _ => return problem(405, "malformed", "only POST, signed"),
        }
        let is_jose = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/jose+json");
        if !is_jose {
            return problem(415, "malformed", "expected application/jose+json");
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let signed = match self.verify(&url(&path), &body) {
            Ok(signed) => signed,
            Err(answer) => return *answer,
        };
        let mut segments = path.split('/').skip(1);
        let (resource, index) = (segments.next().unwrap(), segments.next());
        let index = index.and_then(|index| index.parse::<usize>().ok());
        match (resource, index) {
            ("account", None) => self.new_account(&signed),
            ("order", None) => self.new_order(&signed),
            (_, Some(index))
                if self
                    .orders
                    .lock()
                    .unwrap()
                    .get(index)
                    .is_none_or(|order| order.account != signed.account) =>
            {
                problem(404, "malformed", "no such thing")
            }
            ("order", Some(index)) => {
                if let Some((_, asked)) = &mut self.orders.lock().unwrap()[index].chain {
                    *asked += 1;
                }
                object(StatusCode::OK, &self.order(index))
            }
            ("authz", Some(index)) => object(StatusCode::OK, &self.authorization(index)),
            ("challenge", Some(index)) => {
                self.look(index, segments.next().unwrap_or_default(), &signed.account)
            }
            ("finalize", Some(index)) => self.finalize(index, &signed.payload),
            ("certificate", Some(index)) => match &self.orders.lock().unwrap()[index].chain {
                Some((chain, _)) => Response::new(Full::from(chain.clone())),
                None => problem(404, "malformed", "not yet"),
            },
            _ => problem(404, "malformed", "no such thing"),
        }
    }

    /// Checks what was sent in every respect (RFC 8555, 6.2 to 6.5).
    fn verify(&self, url: &str, body: &[u8]) -> Result<Signed, Box<Answer>> {
        let malformed = |why: &str| Box::new(problem(400, "malformed", why));
        let message: Value = serde_json::from_slice(body).map_err(|_| malformed("no JSON"))?;
        let part = |name: &str| message[name].as_str().map(str::to_owned).ok_or_else(|| malformed(name));
        let (protected, payload, signature) = (part("protected")?, part("payload")?, part("signature")?);
        let decode = |text: &str| BASE64.decode(text).map_err(|_| malformed("base64"));
        let header: Value = serde_json::from_slice(&decode(&protected)?).map_err(|_| malformed("header"))?;
        if header["alg"] != "ES256" {
            return Err(Box::new(problem(400, "badSignatureAlgorithm", "expected ES256")));
        }
        if header["url"] != url {
            return Err(Box::new(problem(401, "unauthorized", "signed for another URL")));
        }
        let nonce = header["nonce"].as_str().unwrap_or_default();
        let good = self.nonces.lock().unwrap().remove(nonce);
        let unlucky = self.counter.load(Ordering::SeqCst).is_multiple_of(REFUSED_NONCES);
        if !good || unlucky {
            self.seen.lock().unwrap().refused_nonces += 1;
            return Err(Box::new(problem(400, "badNonce", "another one, please")));
        }
        let (key, thumbprint, account) = match (&header["jwk"], header["kid"].as_str()) {
            (Value::Null, Some(kid)) => {
                let accounts = self.accounts.lock().unwrap();
                let unknown = || Box::new(problem(400, "accountDoesNotExist", "who is that?"));
                let account = accounts.get(kid).ok_or_else(unknown)?;
                (account.key.clone(), account.thumbprint.clone(), kid.to_owned())
            }
            (jwk, None) => {
                let coordinate = |name: &str| decode(jwk[name].as_str().unwrap_or_default());
                let key = [&[4][..], &coordinate("x")?, &coordinate("y")?].concat();
                // In this order, without spaces (RFC 7638).
                let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
                (key, BASE64.encode(Sha256::digest(canonical)), String::new())
            }
            _ => return Err(malformed("expected either jwk or kid")),
        };
        let text = format!("{protected}.{payload}");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key)
            .verify(text.as_bytes(), &decode(&signature)?)
            .map_err(|_| malformed("the signature is wrong"))?;
        let payload = decode(&payload)?;
        let payload = match payload.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&payload).map_err(|_| malformed("payload"))?,
        };
        Ok(Signed { key, thumbprint, account, payload })
    }

    fn new_account(&self, signed: &Signed) -> Answer {
        if signed.payload["termsOfServiceAgreed"] != true {
            return problem(403, "userActionRequired", "agree to the terms");
        }
        let mut seen = self.seen.lock().unwrap();
        seen.accounts += 1;
        let contact = signed.payload["contact"].as_array().cloned().unwrap_or_default();
        seen.contact = contact.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        let url = format!("{}/accounts/{}", self.base, seen.accounts);
        let account = Account { key: signed.key.clone(), thumbprint: signed.thumbprint.clone() };
        self.accounts.lock().unwrap().insert(url.clone(), account);
        let mut answer = object(StatusCode::CREATED, &json!({ "status": "valid" }));
        answer.headers_mut().insert(LOCATION, url.try_into().unwrap());
        answer
    }

    fn new_order(&self, signed: &Signed) -> Answer {
        let identifiers = signed.payload["identifiers"].as_array().cloned().unwrap_or_default();
        let [identifier] = identifiers.as_slice() else {
            return problem(400, "malformed", "expected one name");
        };
        let name = identifier["value"].as_str().unwrap_or_default().to_owned();
        self.seen.lock().unwrap().orders += 1;
        let token = format!("token-{}", self.counter.fetch_add(1, Ordering::SeqCst));
        let mut orders = self.orders.lock().unwrap();
        let index = orders.len();
        let account = signed.account.clone();
        orders.push(Order { name, account, token, valid: None, problem: None, chain: None });
        drop(orders);
        let mut answer = object(StatusCode::CREATED, &self.order(index));
        answer.headers_mut().insert(LOCATION, format!("{}/order/{index}", self.base).try_into().unwrap());
        answer
    }

    fn order(&self, index: usize) -> Value {
        let order = &self.orders.lock().unwrap()[index];
        let status = match (order.valid, &order.chain) {
            (None, _) => "pending",
            (Some(false), _) => "invalid",
            (Some(true), None) => "ready",
            (Some(true), Some((_, 0 | 1))) => "processing",
            (Some(true), Some(_)) => "valid",
        };
        let mut value = json!({
            "status": status,
            "identifiers": [{ "type": "dns", "value": order.name }],
            "authorizations": [format!("{}/authz/{index}", self.base)],
            "finalize": format!("{}/finalize/{index}", self.base),
        });
        if status == "valid" {
            value["certificate"] = format!("{}/certificate/{index}", self.base).into();
        }
        value
    }

    fn authorization(&self, index: usize) -> Value {
        let order = &self.orders.lock().unwrap()[index];
        let status = match order.valid {
            None => "pending",
            Some(true) => "valid",
            Some(false) => "invalid",
        };
        let challenges = ["dns-01", "http-01", "tls-alpn-01"].map(|kind| {
            let mut value = json!({
                "type": kind, "url": format!("{}/challenge/{index}/{kind}", self.base),
                "token": order.token, "status": "pending",
            });
            if let Some((failed, detail)) = &order.problem
                && *failed == kind
            {
                value["status"] = "invalid".into();
                value["error"] =
                    json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": detail });
            }
            value
        });
        json!({ "status": status, "identifier": { "type": "dns", "value": order.name }, "challenges": challenges })
    }

    /// Goes and looks, while the client asks how it is.
    fn look(self: &Arc<Self>, index: usize, kind: &str, account: &str) -> Answer {
        let kind = match kind {
            "http-01" => "http-01",
            "tls-alpn-01" => "tls-alpn-01",
            _ => return problem(400, "malformed", "not that way"),
        };
        let (name, token) = {
            let order = &self.orders.lock().unwrap()[index];
            (order.name.clone(), order.token.clone())
        };
        let key = format!("{token}.{}", self.accounts.lock().unwrap()[account].thumbprint);
        let url = format!("{}/challenge/{index}/{kind}", self.base);
        let value = json!({ "type": kind, "url": url, "token": token, "status": "processing" });
        let state = Arc::clone(self);
        tokio::spawn(async move {
            let looked = match kind {
                "http-01" => state.look_http(&name, &token, &key).await,
                _ => state.look_tls(&name, &key).await,
            };
            let order = &mut state.orders.lock().unwrap()[index];
            order.valid = Some(looked.is_ok());
            let mut seen = state.seen.lock().unwrap();
            match looked {
                Ok(()) => seen.valid.push((name, kind)),
                Err(why) => {
                    seen.invalid += 1;
                    order.problem = Some((kind, why));
                }
            }
        });
        object(StatusCode::OK, &value)
    }

    async fn look_http(&self, name: &str, token: &str, expected: &str) -> Result<(), String> {
        let address = ("127.0.0.1", self.http_port.load(Ordering::SeqCst));
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let request = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") && body == expected => Ok(()),
            _ => Err(format!("at the path of the token is {answer:?}")),
        }
    }

    async fn look_tls(&self, name: &str, key: &str) -> Result<(), String> {
        let certificate = shake(self.tls_port.load(Ordering::SeqCst), name).await?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| error.to_string())?;
        let names = certificate.subject_alternative_name().ok().flatten().ok_or("no names")?;
        let expected = [x509_parser::extensions::GeneralName::DNSName(name)];
        if names.value.general_names != expected {
            return Err(format!("it is for {names:?}"));
        }
        let extension = certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .ok_or("no answer in it")?;
        let digest = [&[4, 32][..], &Sha256::digest(key)].concat();
        (extension.critical && extension.value == digest)
            .then_some(())
            .ok_or("another answer in it".to_owned())
    }

    fn finalize(&self, index: usize, payload: &Value) -> Answer {
        let csr = BASE64.decode(payload["csr"].as_str().unwrap_or_default()).unwrap_or_default();
        let Ok(mut csr) = CertificateSigningRequestParams::from_der(&csr.into()) else {
            return problem(400, "badCSR", "it is none");
        };
        {
            let order = &mut self.orders.lock().unwrap()[index];
            if order.valid != Some(true) || order.chain.is_some() {
                return problem(403, "orderNotReady", "not yet, or not again");
            }
            if csr.params.subject_alt_names
                != [rcgen::SanType::DnsName(order.name.as_str().try_into().unwrap())]
            {
                return problem(400, "badCSR", "it is for other names");
            }
            let life = Duration::from_millis(self.life.load(Ordering::SeqCst));
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            csr.params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
            csr.params.not_after = csr.params.not_before + life;
            order.chain = Some((csr.signed_by(&self.issuer).unwrap().pem(), 0));
        }
        object(StatusCode::OK, &self.order(index))
    }
}

struct Signed {
    key: Vec<u8>,
    thumbprint: String,
    account: String,
    payload: Value,
}

/// The certificate that is shown to an authority which asks for `name`.
///
/// # Errors
/// When none is shown, or it is not for an authority.
pub async fn shake(port: u16, name: &str) -> Result<CertificateDer<'static>, String> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("another protocol".to_owned());
    }
    Ok(connection.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Takes any certificate: what it says is looked at afterwards.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
