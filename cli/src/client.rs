//! Speaks to the daemon's HTTP API, and knows what each refusal means for a person.
//!
//! It never follows redirects, never retries, and sends the admin's password only where it was asked to: a function
//! is called without it.

mod deadletters;
mod held;
mod queue;
mod system;

use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use roost_stack::Deployment;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use ureq::config::ConfigBuilder;
use ureq::http::{Method, Request, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body, SendBody};

use crate::api::{Image, Info, Namespace};
use crate::config::Endpoint;
use crate::name::Target;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the API may think before it answers. Calls of functions and uploads have no such limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The most of an error's text that is read, in bytes.
const MAX_ERROR_TEXT: u64 = 8 * 1024;
/// The most of a JSON answer that is read, in bytes.
const MAX_JSON: u64 = 64 * 1024 * 1024;

/// How a deployment meets a function that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It becomes the function's newest revision; what is not there is created.
    Update,
    /// It is refused.
    Create,
    /// The function is removed first.
    Replace,
}

/// Why a call to the daemon came to nothing.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot reach {gateway}: {cause}{}", if *.local { "\nIs roostd running? Try: systemctl status roostd" } else { "" })]
    Unreachable { gateway: String, cause: String, local: bool },
    #[error(
        "{gateway} wants a password: run 'roost login -g {gateway}', or run this as root on the daemon's own host"
    )]
    NoPassword { gateway: String },
    #[error("{gateway} did not accept the password: run 'roost login -g {gateway}' again")]
    WrongPassword { gateway: String },
    #[error("{text}")]
    Refused { status: u16, text: String },
    #[error("{gateway} gave an answer that is not understood ({cause}); is it a Roost or OpenFaaS gateway?")]
    NotUnderstood { gateway: String, cause: String },
}

impl Error {
    /// The HTTP status of a refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// May the same question get an answer a moment later?
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.status().is_some_and(|s| s >= 500)
    }
}

/// What is sent along with a request.
pub(crate) enum Payload {
    None,
    Bytes(Vec<u8>),
    /// A stream, with its length in bytes where that is known.
    Stream(Box<dyn Read>, Option<u64>),
}

/// A connection to one daemon.
pub(crate) struct Client {
    agent: Agent,
    gateway: String,
    local: bool,
    authorization: Option<String>,
}

impl Client {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let local = is_loopback(&endpoint.gateway);
        let mut config =
            agent().http_status_as_error(false).max_redirects(0).allow_non_standard_methods(true);
        if local {
            // A proxy elsewhere cannot reach a daemon on this host.
            config = config.proxy(None);
        }
        let authorization = endpoint.credentials.as_ref().map(|login| {
            let pair = format!("{}:{}", login.user, login.password);
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        });
        Self { agent: config.build().into(), gateway: endpoint.gateway.clone(), local, authorization }
    }

    /// The URL under which a function is called.
    pub(crate) fn function_url(&self, target: &Target) -> String {
        format!("{}/function/{target}", self.gateway)
    }

    pub(crate) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Creates or updates.
    pub(crate) fn deploy(&self, deployment: &Deployment, how: How) -> anyhow::Result<()> {
        let body = serde_json::to_vec(deployment)?;
        match how {
            How::Create => {}
            How::Update => match self.change(Method::PUT, "/system/functions", body.clone()) {
                Err(e) if e.status() == Some(404) => {}
                other => return Ok(other?),
            },
            How::Replace => {
                let target =
                    Target { name: deployment.service.clone(), namespace: deployment.namespace.clone() };
                match self.remove(&target) {
                    Err(e) if e.status() == Some(404) => {}
                    other => other?,
                }
            }
        }
        Ok(self.change(Method::POST, "/system/functions", body)?)
    }

    pub(crate) fn remove(&self, target: &Target) -> Result<(), Error> {
        let mut body = serde_json::json!({ "functionName": target.name });
        if let Some(namespace) = &target.namespace {
            body["namespace"] = namespace.as_str().into();
        }
        self.change(Method::DELETE, "/system/functions", body.to_string().into_bytes())
    }

    /// So many replicas of a function, from now on.
    pub(crate) fn scale(&self, target: &Target, replicas: u32) -> Result<(), Error> {
        let mut body = serde_json::json!({ "serviceName": target.name, "replicas": replicas });
        if let Some(namespace) = &target.namespace {
            body["namespace"] = namespace.as_str().into();
        }
        let path = format!("/system/scale-function/{}", target.name);
        self.change(Method::POST, &path, body.to_string().into_bytes())
    }

    /// One function; `None` when there is none of that name.
    pub(crate) fn function<T: DeserializeOwned>(&self, target: &Target) -> Result<Option<T>, Error> {
        let mut parameters = vec![("usage", "1")];
        parameters.extend(target.namespace.as_deref().map(|ns| ("namespace", ns)));
        match self.json(&with_query(&format!("/system/function/{}", target.name), &parameters)) {
            Ok(function) => Ok(Some(function)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All functions of a namespace, as they are told.
    pub(crate) fn functions(&self, namespace: Option<&str>) -> Result<Vec<Value>, Error> {
        self.json(&in_namespace("/system/functions", namespace))
    }

    /// The same, with what each of them uses.
    pub(crate) fn functions_with_usage<T: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
    ) -> Result<Vec<T>, Error> {
        let mut parameters = vec![("usage", "1")];
        parameters.extend(namespace.map(|ns| ("namespace", ns)));
        self.json(&with_query("/system/functions", &parameters))
    }

    /// What is decided about replicas, as server-sent events, for as long as the daemon sends.
    pub(crate) fn events(&self, parameters: &[(&str, &str)]) -> Result<Box<dyn Read>, Error> {
        self.stream("/system/events", parameters)
    }

    /// What functions have used, as JSON or as CSV.
    pub(crate) fn usage(&self, parameters: &[(&str, &str)]) -> Result<Box<dyn Read>, Error> {
        self.stream("/system/usage", parameters)
    }

    /// Does the daemon answer?
    pub(crate) fn health(&self) -> Result<(), Error> {
        let request = self.request(Method::GET, "/healthz");
        self.agreed(self.send(request, Payload::None, Some(ANSWER_TIMEOUT))?).map(drop)
    }

    pub(crate) fn namespaces(&self) -> Result<Vec<String>, Error> {
        self.json("/system/namespaces")
    }

    /// One namespace, with its labels and annotations.
    pub(crate) fn namespace<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        self.json(&format!("/system/namespace/{}", encode(name)))
    }

    /// Creates a namespace (`POST`), changes (`PUT`) or removes (`DELETE`) it.
    pub(crate) fn change_namespace(&self, method: Method, namespace: &Namespace) -> anyhow::Result<()> {
        // To create, the name is in the body alone.
        let name = if method == Method::POST { String::new() } else { encode(&namespace.name) };
        let body = serde_json::to_vec(namespace)?;
        Ok(self.change(method, &format!("/system/namespace/{name}"), body)?)
    }

    pub(crate) fn info(&self) -> Result<Info, Error> {
        self.json("/system/info")
    }

    pub(crate) fn images<T: DeserializeOwned>(&self, namespace: Option<&str>) -> Result<T, Error> {
        self.json(&in_namespace("/system/images", namespace))
    }

    pub(crate) fn remove_image(&self, name: &str, namespace: Option<&str>) -> Result<(), Error> {
        let mut parameters = vec![("name", name)];
        parameters.extend(namespace.map(|ns| ("namespace", ns)));
        self.change(Method::DELETE, &with_query("/system/images", &parameters), Vec::new())
    }

    /// Sends an archive; answers the images that were in it.
    pub(crate) fn import(
        &self,
        name: Option<&str>,
        namespace: Option<&str>,
        archive: Payload,
    ) -> Result<Vec<Image>, Error> {
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        parameters.extend(name.map(|n| ("name", n)));
        parameters.extend(namespace.map(|ns| ("namespace", ns)));
        let request = self
            .request(Method::POST, &with_query("/system/images", &parameters))
            .header("Content-Type", "application/x-tar")
            // A refusal comes before a gigabyte was sent for nothing.
            .header("Expect", "100-continue");
        let response = self.agreed(self.send(authorised(request, self), archive, None)?)?;
        self.read_json(response)
    }

    /// The secrets of a namespace, by name.
    pub(crate) fn secrets<T: DeserializeOwned>(&self, namespace: Option<&str>) -> Result<T, Error> {
        self.json(&in_namespace("/system/secrets", namespace))
    }

    pub(crate) fn create_secret(
        &self,
        name: &str,
        namespace: Option<&str>,
        value: &[u8],
    ) -> Result<(), Error> {
        self.change(Method::POST, "/system/secrets", secret(name, namespace, Some(value)))
    }

    pub(crate) fn update_secret(
        &self,
        name: &str,
        namespace: Option<&str>,
        value: &[u8],
    ) -> Result<(), Error> {
        self.change(Method::PUT, "/system/secrets", secret(name, namespace, Some(value)))
    }

    pub(crate) fn remove_secret(&self, name: &str, namespace: Option<&str>) -> Result<(), Error> {
        self.change(Method::DELETE, "/system/secrets", secret(name, namespace, None))
    }

    /// The log of a function, line by line as JSON, for as long as the daemon sends.
    pub(crate) fn logs(&self, parameters: &[(&str, &str)]) -> Result<Box<dyn Read>, Error> {
        self.stream("/system/logs", parameters)
    }

    /// Calls a function, without the admin's password and without a limit in time.
    pub(crate) fn invoke(
        &self,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        payload: Payload,
    ) -> Result<Response<Body>, Error> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(request, payload, None)
    }

    /// A change that is answered without a body.
    fn change(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(), Error> {
        let payload = if body.is_empty() { Payload::None } else { Payload::Bytes(body) };
        let request = self.request(method, path).header("Content-Type", "application/json");
        let response = self.send(authorised(request, self), payload, Some(ANSWER_TIMEOUT))?;
        self.agreed(response).map(drop)
    }

    /// An answer that need not have an end.
    fn stream(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Box<dyn Read>, Error> {
        let request = self.request(Method::GET, &with_query(path, parameters));
        let response = self.send(authorised(request, self), Payload::None, Some(ANSWER_TIMEOUT))?;
        Ok(Box::new(self.agreed(response)?.into_body().into_reader()))
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let request = self.request(Method::GET, path).header("Accept", "application/json");
        let response = self.send(authorised(request, self), Payload::None, Some(ANSWER_TIMEOUT))?;
        self.read_json(self.agreed(response)?)
    }

    fn read_json<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, Error> {
        let reader = response.into_body().into_with_config().limit(MAX_JSON).reader();
        serde_json::from_reader(io::BufReader::new(reader)).map_err(|e| self.not_understood(&e))
    }

    fn request(&self, method: Method, path: &str) -> ureq::http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.gateway))
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        payload: Payload,
        patience: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let expects_body =
            request.method_ref().is_some_and(|m| matches!(*m, Method::POST | Method::PUT | Method::PATCH));
        let (body, length) = match payload {
            // "Nothing" is said too, where a body is usual (RFC 9110, 8.6).
            Payload::None => (SendBody::none(), expects_body.then_some(0)),
            Payload::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (SendBody::from_owned_reader(io::Cursor::new(bytes)), Some(length))
            }
            Payload::Stream(reader, length) => (SendBody::from_owned_reader(reader), length),
        };
        let request = match length {
            Some(length) => request.header("Content-Length", length),
            None => request,
        };
        let request = request.body(body).map_err(|e| self.not_understood(&e))?;
        let request = self.agent.configure_request(request).timeout_recv_response(patience).build();
        self.agent.run(request).map_err(|e| self.unreachable(&e))
    }

    /// Passes a success on, and turns everything else into what it means.
    fn agreed(&self, mut response: Response<Body>) -> Result<Response<Body>, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let gateway = self.gateway.clone();
        if status == 401 {
            let known = self.authorization.is_some();
            return Err(if known { Error::WrongPassword { gateway } } else { Error::NoPassword { gateway } });
        }
        let text = error_text(response.body_mut());
        let text = if text.is_empty() { format!("{gateway} answered {status}") } else { text };
        Err(Error::Refused { status: status.as_u16(), text })
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        let cause = match error {
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused".to_owned()
            }
            ureq::Error::Io(e) => e.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            other => other.to_string(),
        };
        Error::Unreachable { gateway: self.gateway.clone(), cause, local: self.local }
    }

    fn not_understood(&self, cause: &dyn std::error::Error) -> Error {
        Error::NotUnderstood { gateway: self.gateway.clone(), cause: cause.to_string() }
    }
}

fn agent() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
}

/// Fetches a text from anywhere, as nobody in particular. At most so many bytes.
pub(crate) fn download(url: &str, most: u64) -> anyhow::Result<String> {
    let agent: Agent = agent().timeout_global(Some(ANSWER_TIMEOUT)).build().into();
    let text = agent
        .get(url)
        .call()
        .and_then(|mut response| response.body_mut().with_config().limit(most).read_to_string());
    text.with_context(|| format!("cannot fetch {url}"))
}

/// The request with the admin's password, where we have one.
fn authorised(request: ureq::http::request::Builder, client: &Client) -> ureq::http::request::Builder {
    match &client.authorization {
        Some(value) => request.header("Authorization", value),
        None => request,
    }
}

/// What the other side says about its refusal, on one line and without control characters.
pub(crate) fn error_text(body: &mut Body) -> String {
    let mut bytes = Vec::new();
    let read = body.as_reader().take(MAX_ERROR_TEXT).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).trim().replace(char::is_control, " ");
    match read {
        // A cut answer is still worth showing.
        Err(e) if text.is_empty() => format!("its answer broke off: {e}"),
        _ => text,
    }
}

/// The body of a call about a secret. A value that is no text goes as base64.
fn secret(name: &str, namespace: Option<&str>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = serde_json::json!({ "name": name });
    if let Some(namespace) = namespace {
        body["namespace"] = namespace.into();
    }
    match value.map(|bytes| (bytes, str::from_utf8(bytes))) {
        Some((_, Ok(text))) => body["value"] = text.into(),
        Some((bytes, Err(_))) => body["rawValue"] = BASE64_STANDARD.encode(bytes).into(),
        None => {}
    }
    body.to_string().into_bytes()
}

/// Does the URL name this host?
pub(crate) fn is_loopback(gateway: &str) -> bool {
    let host = gateway.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let Some(host) = host else { return false };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

fn in_namespace(path: &str, namespace: Option<&str>) -> String {
    let parameters: Vec<_> = namespace.map(|ns| ("namespace", ns)).into_iter().collect();
    with_query(path, &parameters)
}

/// Appends parameters, encoded, to a path.
fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut text = path.to_owned();
    for (i, (key, value)) in parameters.iter().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(&encode(key));
        text.push('=');
        text.push_str(&encode(value));
    }
    text
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(with_query("/a", &[]), "/a");
        let got = with_query("/a", &[("name", "r:5000/x@sha256:1"), ("ns", "é &")]);
        assert_eq!(got, "/a?name=r%3A5000%2Fx%40sha256%3A1&ns=%C3%A9%20%26");
    }

    #[test]
    fn this_host_is_known_by_its_names() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost", true),
            ("http://[::1]:80", true),
            ("https://127.example.org", false),
            ("http://10.0.0.1:8080", false),
        ] {
            assert_eq!(is_loopback(url), expected, "{url}");
        }
    }
}
