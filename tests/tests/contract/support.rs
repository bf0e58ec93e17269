//! Rows of a table: a call, and the whole answer that it has to get.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use roost_tests::{Answer, Api, Config, Host, Image, body_of};
use serde_json::{Value, json};

/// The image that the recorded requests name. No registry has it: the host is given it as a file.
pub(crate) const IMAGE: &str = "registry.recorded/echo:1";

/// A host that has [`IMAGE`], and pulls nothing.
pub(crate) async fn host() -> Host {
    host_with(Config::default()).await
}

/// The same with other settings.
pub(crate) async fn host_with(config: Config) -> Host {
    let host = Host::start_with(Config { pull_policy: "IfNotPresent", ..config }).await;
    let archive = Image::echo().archive(IMAGE);
    let answer = host.api.post(&format!("/system/images?name={IMAGE}"), archive).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    host
}

/// What `Authorization: Basic` has of this host's user.
pub(crate) fn credentials(host: &Host) -> String {
    BASE64_STANDARD.encode(format!("admin:{}", host.password()))
}

/// The answer that is wanted, whole.
pub(crate) struct Expected {
    status: u16,
    headers: BTreeMap<String, Is>,
    body: Body,
}

enum Is {
    Text(String),
    /// A form, with what to call it.
    Form(&'static str, fn(&str) -> bool),
}

enum Body {
    Text(String),
    /// A text that begins so.
    Begins(&'static str),
    Json(Value),
    /// A function, or a list of them: what differs from run to run is checked for its form and left out.
    Functions(Value),
}

/// No body.
pub(crate) fn empty(status: u16) -> Expected {
    plain(status, "").without("content-type")
}

/// An error in the API's words.
pub(crate) fn error(status: u16, body: &str) -> Expected {
    plain(status, body).with("x-content-type-options", "nosniff")
}

/// A text.
pub(crate) fn plain(status: u16, body: &str) -> Expected {
    let expected = Expected { status, headers: BTreeMap::new(), body: Body::Text(body.to_owned()) };
    expected.with("content-type", "text/plain; charset=utf-8")
}

/// JSON, whatever the order of its keys.
pub(crate) fn json(value: Value) -> Expected {
    let expected = Expected { status: 200, headers: BTreeMap::new(), body: Body::Json(value) };
    expected.with("content-type", "application/json")
}

/// A function or a list of them.
pub(crate) fn functions(value: Value) -> Expected {
    Expected { body: Body::Functions(value), ..json(Value::Null) }
}

/// The answer of a function, with what the proxy says of it.
pub(crate) fn invoked(status: u16, kind: &str, body: &str) -> Expected {
    proxied(plain(status, body).with("content-type", kind))
}

/// The headers that the proxy adds to every answer of its own, or of a function.
pub(crate) fn proxied(expected: Expected) -> Expected {
    expected
        .form("x-call-id", "a UUID of version 4", |text| text.len() == 36 && text.as_bytes()[14] == b'4')
        .form("x-start-time", "nanoseconds since 1970", |text| {
            text.len() == 19 && text.parse::<u64>().is_ok()
        })
        .with("x-served-by", concat!("roost/", env!("CARGO_PKG_VERSION")))
}

impl Expected {
    /// With a body of which only the beginning is the same from run to run.
    pub(crate) fn begins(self, with: &'static str) -> Self {
        Self { body: Body::Begins(with), ..self }
    }

    /// With a header.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), Is::Text(value.to_owned()));
        self
    }

    /// With a header of some form.
    pub(crate) fn form(mut self, name: &str, what: &'static str, form: fn(&str) -> bool) -> Self {
        self.headers.insert(name.to_owned(), Is::Form(what, form));
        self
    }

    /// Without a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// What differs, a line each. `head` when no body can come with it.
    pub(crate) fn differences(&self, answer: &Answer, head: bool) -> Vec<String> {
        let mut found = Vec::new();
        if answer.status.as_u16() != self.status {
            found.push(format!("{} instead of {}", answer.status, self.status));
        }
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &answer.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.to_string())
                .and_modify(|all| {
                    all.push_str(" | ");
                    all.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        // The example's own.
        headers.remove("x-replica");
        if headers.remove("date").is_none() {
            found.push("no date".to_owned());
        }
        let length = headers.remove("content-length");
        let chunked = headers.remove("transfer-encoding");
        if !head && chunked.is_none() && length != Some(answer.body.len().to_string()) {
            found.push(format!("content-length {length:?} of {} bytes", answer.body.len()));
        }
        for (name, wanted) in &self.headers {
            match (headers.remove(name), wanted) {
                (Some(is), Is::Text(text)) if is == *text => {}
                (Some(is), Is::Form(_, form)) if form(&is) => {}
                (is, Is::Text(text)) => found.push(format!("{name}: {is:?} instead of {text:?}")),
                (is, Is::Form(what, _)) => found.push(format!("{name}: {is:?} instead of {what}")),
            }
        }
        found.extend(headers.iter().map(|(name, value)| format!("{name}: {value:?}, unexpected")));
        if !head {
            found.extend(self.body.difference(answer));
        }
        found
    }
}

impl Body {
    fn difference(&self, answer: &Answer) -> Option<String> {
        let text = String::from_utf8_lossy(&answer.body);
        let parsed = || serde_json::from_str::<Value>(&text).unwrap_or(Value::Null);
        match self {
            Self::Text(wanted) => {
                (text != *wanted).then(|| format!("body {text:?}\n    instead of {wanted:?}"))
            }
            Self::Begins(wanted) => (!text.starts_with(wanted))
                .then(|| format!("body {text:?}\n    does not begin with {wanted:?}")),
            Self::Json(wanted) => {
                (parsed() != *wanted).then(|| format!("body {text}\n    instead of {wanted}"))
            }
            Self::Functions(wanted) => {
                let mut is = parsed();
                let mistakes = match &mut is {
                    Value::Array(all) => all.iter_mut().filter_map(|one| settle(one).err()).collect(),
                    one => settle(one).err().unwrap_or_default(),
                };
                (is != *wanted || !mistakes.is_empty())
                    .then(|| format!("body {is}\n    instead of {wanted}\n    {mistakes}"))
            }
        }
    }
}

/// Checks the fields of a function that differ from run to run, and takes them out.
fn settle(function: &mut Value) -> Result<(), String> {
    let Some(fields) = function.as_object_mut() else { return Err("not an object".to_owned()) };
    let created = fields.remove("createdAt").unwrap_or_default();
    // RFC 3339 in UTC: what Go's decoder takes for a time.
    let form = created.as_str().is_some_and(|text| {
        let (date, rest) = text.split_at_checked(10).unwrap_or_default();
        date.split('-').map(str::len).eq([4, 2, 2]) && rest.starts_with('T') && rest.ends_with('Z')
    });
    // Ours, beside the contract.
    let status = fields.remove("status").unwrap_or_default();
    match (form, status["phase"].is_string()) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("createdAt: {created}")),
        (_, false) => Err(format!("status: {status}")),
    }
}

/// A function of [`IMAGE`] with nothing set, ready; further fields in `more`.
pub(crate) fn shown(name: &str, more: &Value) -> Value {
    let mut function = json!({
        "name": name, "image": IMAGE, "namespace": "openfaas-fn", "labels": { "faas_function": name },
        "annotations": {}, "replicas": 1, "availableReplicas": 1,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        function[key] = value.clone();
    }
    function
}

/// Calls that are made one after the other. When it is dropped, all wrong answers are told at once.
pub(crate) struct Table {
    api: Api,
    headers: Vec<(String, String)>,
    wrong: Vec<String>,
}

impl Table {
    /// A table of calls by this client.
    pub(crate) fn of(api: &Api) -> Self {
        Self { api: api.clone(), headers: Vec::new(), wrong: Vec::new() }
    }

    /// The next call is made with this header, too.
    pub(crate) fn header(&mut self, name: &str, value: &str) -> &mut Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes a call, `METHOD PATH`, and holds the answer against the one that is expected.
    pub(crate) async fn row(&mut self, call: &str, body: impl ToString, expected: Expected) -> Answer {
        let (method, path) = call.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let body = body.to_string();
        let mut request = self.api.request(&method, path);
        for (name, value) in self.headers.drain(..) {
            request = request.header(name, value);
        }
        let answer = self.api.try_send(request.body(body_of(body.clone())).unwrap()).await;
        let answer = answer.unwrap_or_else(|why| panic!("{call}: {why}"));
        let found = expected.differences(&answer, method == Method::HEAD);
        if !found.is_empty() {
            self.wrong.push(format!("{call} {body}\n  {}", found.join("\n  ")));
        }
        answer
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
        }
    }
}
