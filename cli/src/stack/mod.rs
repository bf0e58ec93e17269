//! Stack files of OpenFaaS: `stack.yaml` becomes a list of deployments.
//!
//! ```text
//! text → substitute ${…} → parse → one Deployment a function, with its environment files read
//! ```
//!
//! Keys that tell how to build are passed over: here are images only. A key that nobody knows is a note, not an error.

mod substitute;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::{Deployment, Map, Resources};

/// Keys of a function that only a build needs.
const BUILD_KEYS: [&str; 11] = [
    "lang",
    "handler",
    "skip_build",
    "build_args",
    "build_options",
    "build_secrets",
    "build_extra_paths",
    "platforms",
    "publish",
    "copy",
    "handler_timeout",
];
/// Keys of a function that we read.
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

/// A stack file, read.
#[derive(Debug)]
pub(crate) struct Stack {
    /// `provider.gateway`, if it is set.
    pub(crate) gateway: Option<String>,
    /// One for each function, sorted by name.
    pub(crate) deployments: Vec<Deployment>,
    /// What a person should know: variables that were not set, keys that are not known.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    provider: Option<Provider>,
    functions: Option<BTreeMap<String, Option<Function>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Provider {
    gateway: Option<String>,
}

/// A value without text is an empty text.
type YamlMap = BTreeMap<String, Option<String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    image: Option<String>,
    fprocess: Option<String>,
    environment: Option<YamlMap>,
    environment_file: Option<Vec<PathBuf>>,
    secrets: Option<Vec<String>>,
    labels: Option<YamlMap>,
    annotations: Option<YamlMap>,
    constraints: Option<Vec<String>>,
    limits: Option<Resources>,
    requests: Option<Resources>,
    readonly_root_filesystem: Option<bool>,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EnvironmentFile {
    environment: Option<YamlMap>,
}

/// The keys only, whatever stands behind them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    functions: Option<BTreeMap<String, Option<BTreeMap<String, IgnoredAny>>>>,
}

impl Stack {
    /// Reads a stack file and the environment files it names.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, |name| env::var(name).ok(), |file| environment(file, folder))
            .with_context(|| path.display().to_string())
    }

    fn parse(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
        environment: impl Fn(&Path) -> Result<Map>,
    ) -> Result<Self> {
        let substituted = substitute::substitute(text, variable).map_err(anyhow::Error::msg)?;
        let missing = substituted.missing.iter().map(|name| format!("${{{name}}} is not set: it is empty"));
        let mut notes: Vec<String> = missing.collect();
        let file: File = serde_saphyr::from_str(&substituted.text)?;
        notes.extend(unknown_keys(&substituted.text)?);
        let functions = file.functions.unwrap_or_default();
        if functions.is_empty() {
            bail!("there are no functions in it");
        }
        let deployments = functions
            .into_iter()
            .map(|(name, function)| deployment(&name, function.unwrap_or_default(), &environment))
            .collect::<Result<_>>()?;
        let gateway = file.provider.and_then(|p| p.gateway).filter(|g| !g.is_empty());
        Ok(Self { gateway, deployments, notes })
    }
}

fn deployment(
    name: &str,
    function: Function,
    environment: &impl Fn(&Path) -> Result<Map>,
) -> Result<Deployment> {
    let Some(image) = function.image.filter(|image| !image.is_empty()) else {
        bail!("functions.{name}.image is missing");
    };
    let mut env_vars = filled(function.environment);
    // As faas-cli does: what stands in a file wins over what stands in the stack.
    for file in function.environment_file.unwrap_or_default() {
        env_vars.extend(environment(&file).with_context(|| format!("functions.{name}.environment_file"))?);
    }
    Ok(Deployment {
        service: name.to_owned(),
        image,
        namespace: function.namespace.filter(|n| !n.is_empty()),
        env_process: function.fprocess.filter(|p| !p.is_empty()),
        env_vars,
        constraints: function.constraints.unwrap_or_default(),
        secrets: function.secrets.unwrap_or_default(),
        labels: filled(function.labels),
        annotations: filled(function.annotations),
        limits: function.limits,
        requests: function.requests,
        read_only_root_filesystem: function.readonly_root_filesystem.unwrap_or(false),
    })
}

/// The variables of an environment file. A relative path is looked for here first, as faas-cli does, then beside
/// the stack file.
fn environment(file: &Path, folder: &Path) -> Result<Map> {
    let beside = folder.join(file);
    let path = if file.exists() { file } else { &beside };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed: EnvironmentFile =
        serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
    Ok(filled(parsed.environment))
}

fn filled(map: Option<YamlMap>) -> Map {
    map.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

fn unknown_keys(text: &str) -> Result<Vec<String>> {
    let keys: Keys = serde_saphyr::from_str(text)?;
    let known = |key: &str| BUILD_KEYS.contains(&key) || DEPLOY_KEYS.contains(&key);
    let mut notes = Vec::new();
    for (name, keys) in keys.functions.unwrap_or_default() {
        let unknown = keys.into_iter().flatten().map(|(key, _)| key).filter(|key| !known(key));
        notes.extend(unknown.map(|key| format!("functions.{name}.{key} is not known: it has no effect")));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Stack> {
        let variable = |name: &str| (name == "TAG").then(|| "1.2".to_owned());
        let file = |path: &Path| {
            anyhow::ensure!(path == Path::new("env.yml"), "no such file");
            Ok(Map::from([("A".into(), "file".into()), ("C".into(), "3".into())]))
        };
        Stack::parse(text, variable, file)
    }

    #[test]
    fn every_key_of_a_deployment_is_read() {
        let stack = parse(
            "version: 1.0
provider:
  name: openfaas
  gateway: http://h:8080
functions:
  b: { image: img }
  a:
    lang: golang-middleware
    handler: ./a
    image: r.lan/a:${TAG}
    fprocess: node index.js
    environment:
      A: inline
      DEBUG: true
      N: 010
      EMPTY:
    environment_file: [env.yml]
    secrets: [s1, s2]
    labels:
      com.openfaas.scale.min: 2
    annotations:
      topic: \"a, b\"
    constraints: [\"x = y\"]
    limits: { memory: 64Mi, cpu: 0.5 }
    requests: { memory: 32Mi }
    readonly_root_filesystem: true
    namespace: dev
",
        )
        .unwrap();
        assert_eq!(stack.gateway.as_deref(), Some("http://h:8080"));
        assert!(stack.notes.is_empty(), "{:?}", stack.notes);
        let map = |pairs: &[(&str, &str)]| -> Map {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let expected = Deployment {
            service: "a".into(),
            image: "r.lan/a:1.2".into(),
            namespace: Some("dev".into()),
            env_process: Some("node index.js".into()),
            env_vars: map(&[("A", "file"), ("C", "3"), ("DEBUG", "true"), ("N", "010"), ("EMPTY", "")]),
            constraints: vec!["x = y".into()],
            secrets: vec!["s1".into(), "s2".into()],
            labels: map(&[("com.openfaas.scale.min", "2")]),
            annotations: map(&[("topic", "a, b")]),
            limits: Some(Resources { memory: Some("64Mi".into()), cpu: Some("0.5".into()) }),
            requests: Some(Resources { memory: Some("32Mi".into()), cpu: None }),
            read_only_root_filesystem: true,
        };
        assert_eq!(stack.deployments[0], expected);
        assert_eq!(stack.deployments[1].service, "b");
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let stack =
            parse("functions:\n  a:\n    image: ${NOT_SET:-x}${OTHER}\n    enviroment: {}\n").unwrap();
        assert_eq!(stack.deployments[0].image, "x");
        assert_eq!(stack.notes.len(), 2);
        assert!(stack.notes[0].contains("OTHER") && stack.notes[1].contains("functions.a.enviroment"));
    }

    #[test]
    fn mistakes_name_their_place() {
        let table = [
            ("functions:\n  a: { lang: go }\n", "functions.a.image is missing"),
            ("version: 1.0\n", "no functions"),
            ("functions:\n  a:\n    image: [1]\n", "line 3"),
            ("functions:\n  a: { image: x, environment_file: [gone.yml] }\n", "functions.a.environment_file"),
            ("functions: ${\n", "line 1"),
            ("functions:\n a: {image: x}\n a: {image: y}\n", "duplicate"),
        ];
        for (text, expected) in table {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
