//! Reads a stack file: every key that says what to deploy, as faas-cli understands it.
//!
//! Keys that tell how to build are passed over: here are images only. A key that nobody knows is a note, not an error.
//! A mistake in one function is that function's; the others are read all the same.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thiserror::Error;

use crate::substitute::substitute;
use crate::websockets::{Websockets, annotations};
use crate::{Deployment, Map};

/// The only version of stack files that there is.
const VERSION: &str = "1.0";
/// What `provider.name` may be.
const PROVIDERS: [&str; 3] = ["openfaas", "faas", "roost"];
/// Keys of a function that only a build needs.
const BUILD_KEYS: [&str; 9] = [
    "lang",
    "handler",
    "skip_build",
    "build_args",
    "build_options",
    "build_secrets",
    "build_extra_paths",
    "platforms",
    "copy",
];
/// Keys of a function that are read.
const DEPLOY_KEYS: [&str; 12] = [
    "image",
    "fprocess",
    "environment",
    "environment_file",
    "secrets",
    "labels",
    "annotations",
    "constraints",
    "limits",
    "requests",
    "readonly_root_filesystem",
    "namespace",
];

/// Why there is no stack in a text.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Error(String);

/// Why there is no deployment in a function's part.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("functions.{function}.{key}: {why}")]
pub struct Mistake {
    /// The function's name.
    pub function: String,
    /// The key at fault.
    pub key: &'static str,
    /// What was expected of it.
    pub why: String,
}

/// Tells the value of a variable, if it is set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a file.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// What a stack file needs besides its own text.
pub struct Surroundings<'a> {
    /// The value of a variable. Without this `${…}` stays as it is.
    pub variable: Option<Lookup<'a>>,
    /// The text of an environment file, by the path that the stack file names. Without this only names matter: a
    /// function needs no image, and its environment files are passed over.
    pub read: Option<ReadFile<'a>>,
    /// Which functions are asked for, by their names. The others may be broken.
    pub wanted: &'a dyn Fn(&str) -> bool,
}

/// A stack file, read.
#[derive(Debug)]
pub struct Stack {
    /// `provider.gateway`, if it is set.
    pub gateway: Option<String>,
    /// One for each function that was asked for, sorted by name.
    pub functions: Vec<Result<Deployment, Mistake>>,
    /// What a person should know: variables that were not set, keys that are not known.
    pub notes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    version: Option<String>,
    provider: Option<Provider>,
    functions: Option<BTreeMap<String, Option<Function>>>,
    websockets: Option<Websockets>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Provider {
    name: Option<String>,
    gateway: Option<String>,
}

/// Numbers, booleans and texts alike, in their own spelling. A value without text is an empty text.
type Values = BTreeMap<String, Option<String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    image: Option<String>,
    fprocess: Option<String>,
    environment: Option<Values>,
    environment_file: Option<Vec<String>>,
    secrets: Option<Vec<String>>,
    labels: Option<Values>,
    annotations: Option<Values>,
    constraints: Option<Vec<String>>,
    limits: Option<Values>,
    requests: Option<Values>,
    readonly_root_filesystem: Option<bool>,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EnvironmentFile {
    environment: Option<Values>,
}

/// The keys only, whatever stands behind them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    functions: Option<BTreeMap<String, Option<BTreeMap<String, IgnoredAny>>>>,
}

impl Stack {
    /// Reads a stack file and the environment files it names.
    ///
    /// # Errors
    /// When it is not a stack file, each with the line or the key at fault. A stack without a function that was asked
    /// for is none.
    pub fn parse(text: &str, around: &Surroundings<'_>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let substituted;
        let text = match around.variable {
            Some(variable) => {
                let filled = substitute(text, variable).map_err(Error)?;
                notes
                    .extend(filled.missing.iter().map(|name| format!("${{{name}}} is not set: it is empty")));
                substituted = filled.text;
                &substituted
            }
            None => text,
        };
        let file: File = yaml(text)?;
        check(&file)?;
        let keys: Keys = yaml(text)?;
        notes.extend(unknown_keys(keys, around.wanted));
        let functions = file.functions.unwrap_or_default();
        if functions.is_empty() {
            return Err(Error("functions: expected at least one function".to_owned()));
        }
        let apis = file.websockets.unwrap_or_default();
        let (mut added, of_apis) = annotations(apis, |name| functions.contains_key(name)).map_err(Error)?;
        notes.extend(of_apis);
        if !functions.keys().any(|name| (around.wanted)(name)) {
            let names: Vec<_> = functions.into_keys().collect();
            return Err(Error(format!("functions: none of these was asked for: {}", names.join(", "))));
        }
        let asked_for = functions.into_iter().filter(|(name, _)| (around.wanted)(name));
        let functions = asked_for
            .map(|(name, function)| {
                let added = added.remove(&name).unwrap_or_default();
                let mut deployment = deployment(name, function.unwrap_or_default(), around.read)?;
                // What a function says itself counts.
                for (name, value) in added {
                    deployment.annotations.entry(name).or_insert(value);
                }
                Ok(deployment)
            })
            .collect();
        let gateway = file.provider.and_then(|p| p.gateway).filter(|g| !g.is_empty());
        Ok(Self { gateway, functions, notes })
    }
}

fn check(file: &File) -> Result<(), Error> {
    if let Some(version) = file.version.as_deref().filter(|v| !v.is_empty() && *v != VERSION) {
        return Err(Error(format!("version: expected {VERSION}, got {version:?}")));
    }
    let provider = file.provider.as_ref().and_then(|p| p.name.as_deref()).unwrap_or_default();
    if !provider.is_empty() && !PROVIDERS.contains(&provider) {
        return Err(Error(format!("provider.name: expected {}, got {provider:?}", PROVIDERS[0])));
    }
    Ok(())
}

fn deployment(name: String, function: Function, read: Option<ReadFile<'_>>) -> Result<Deployment, Mistake> {
    let mistake = |key, why| Mistake { function: name.clone(), key, why };
    let image = function.image.unwrap_or_default();
    let mut env_vars = texts(function.environment);
    if let Some(read) = read {
        if image.is_empty() {
            return Err(mistake("image", "is required: build it first, and say where it is".to_owned()));
        }
        // As faas-cli does: a file wins over what stands in the stack, and a later one over an earlier one.
        for path in function.environment_file.unwrap_or_default() {
            let text =
                read(&path).map_err(|e| mistake("environment_file", format!("cannot read {path}: {e}")))?;
            let file: EnvironmentFile =
                yaml(&text).map_err(|e| mistake("environment_file", format!("{path}: {e}")))?;
            env_vars.extend(texts(file.environment));
        }
    }
    Ok(Deployment {
        image,
        namespace: function.namespace.filter(|n| !n.is_empty()),
        env_process: function.fprocess.filter(|p| !p.is_empty()),
        env_vars,
        constraints: function.constraints.unwrap_or_default(),
        secrets: function.secrets.unwrap_or_default(),
        labels: texts(function.labels),
        annotations: texts(function.annotations),
        limits: amounts(function.limits),
        requests: amounts(function.requests),
        read_only_root_filesystem: function.readonly_root_filesystem.unwrap_or(false),
        service: name,
    })
}

fn texts(values: Option<Values>) -> Map {
    values.into_iter().flatten().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

/// An amount that is not said is none.
fn amounts(values: Option<Values>) -> Map {
    let mut amounts = texts(values);
    amounts.retain(|_, amount| !amount.is_empty());
    amounts
}

fn unknown_keys(keys: Keys, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let known = |key: &str| BUILD_KEYS.contains(&key) || DEPLOY_KEYS.contains(&key);
    let mut notes = Vec::new();
    for (name, keys) in keys.functions.unwrap_or_default().into_iter().filter(|(name, _)| wanted(name)) {
        let unknown = keys.into_iter().flatten().map(|(key, _)| key).filter(|key| !known(key));
        notes.extend(unknown.map(|key| format!("functions.{name}.{key} is not known: it has no effect")));
    }
    notes
}

/// Reads the first document of a text; further ones are passed over, as faas-cli does. An error names key and line.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut path = None;
    let read = serde_saphyr::with_deserializer_from_str(first_document(text), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = Some(error.path().to_string()).filter(|path| path != ".");
            error.into_inner()
        })
    });
    read.map_err(|error: serde_saphyr::Error| {
        let why = error.without_snippet().to_string();
        Error(path.map_or_else(|| why.clone(), |path| format!("{path}: {why}")))
    })
}

/// What stands before the mark that begins another document. At the beginning of a line a mark is nothing else.
fn first_document(text: &str) -> &str {
    let is_mark = |line: &str, mark| {
        line.strip_prefix(mark)
            .is_some_and(|rest: &str| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut begun = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let begins = is_mark(line, "---");
        if begun && (begins || is_mark(line, "...")) {
            return &text[..end];
        }
        begun |= begins || !(line.trim().is_empty() || line.starts_with(['#', '%']));
        end += line.len();
    }
    text
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
