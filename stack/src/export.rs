//! Writes a stack file from deployments.
//!
//! The order is stable, and what is written reads back to the same deployments: texts that YAML or the filling in of
//! variables would take for something else are quoted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use thiserror::Error;

use crate::substitute::escape;
use crate::{Deployment, Map};

/// Labels and annotations that the platform adds by itself.
const LABELS_OF_PLATFORM: [&str; 2] = ["faas_function", "uid"];
const ANNOTATIONS_OF_PLATFORM: [(&str, &str); 1] = [("prometheus.io.scrape", "false")];

/// Two functions of one name: a stack file tells functions apart by their names alone.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{function} is in two namespaces, {first} and {second}, and a stack file holds a name once: export one namespace at a time"
)]
pub struct Collision {
    /// The name.
    pub function: String,
    /// Where it is.
    pub first: String,
    /// Where it is, too.
    pub second: String,
}

/// Writes a stack file. `default_namespace` is the one that need not be said.
///
/// # Errors
/// When two functions have the same name.
pub fn export(deployments: &[Deployment], default_namespace: &str) -> Result<String, Collision> {
    let mut functions = BTreeMap::new();
    let namespace = |d: &Deployment| d.namespace.as_deref().unwrap_or(default_namespace).to_owned();
    for deployment in deployments {
        match functions.entry(&deployment.service) {
            Entry::Vacant(place) => {
                place.insert(deployment);
            }
            Entry::Occupied(taken) => {
                return Err(Collision {
                    function: deployment.service.clone(),
                    first: namespace(taken.get()),
                    second: namespace(deployment),
                });
            }
        }
    }
    let mut text = String::from("version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n");
    for (name, deployment) in functions {
        line(&mut text, 1, &format!("{}:", scalar(name)));
        function(&mut text, deployment, default_namespace);
    }
    Ok(escape(&text))
}

fn function(text: &mut String, deployment: &Deployment, default_namespace: &str) {
    let mut pair = |key: &str, value: &str| {
        if !value.is_empty() {
            line(text, 2, &format!("{key}: {}", scalar(value)));
        }
    };
    pair("image", &deployment.image);
    pair(
        "namespace",
        deployment.namespace.as_deref().filter(|n| *n != default_namespace).unwrap_or_default(),
    );
    pair("fprocess", deployment.env_process.as_deref().unwrap_or_default());
    map(text, "environment", deployment.env_vars.iter());
    list(text, "secrets", &deployment.secrets);
    let own = |(key, _): &(&String, &String)| !LABELS_OF_PLATFORM.contains(&key.as_str());
    map(text, "labels", deployment.labels.iter().filter(own));
    let own = |(key, value): &(&String, &String)| {
        !ANNOTATIONS_OF_PLATFORM.contains(&(key.as_str(), value.as_str()))
    };
    map(text, "annotations", deployment.annotations.iter().filter(own));
    list(text, "constraints", &deployment.constraints);
    map(text, "limits", amounts(&deployment.limits));
    map(text, "requests", amounts(&deployment.requests));
    if deployment.read_only_root_filesystem {
        line(text, 2, "readonly_root_filesystem: true");
    }
}

fn amounts(amounts: &Map) -> impl Iterator<Item = (&String, &String)> {
    amounts.iter().filter(|(_, amount)| !amount.is_empty())
}

fn map<'a>(text: &mut String, key: &str, pairs: impl Iterator<Item = (&'a String, &'a String)>) {
    let mut pairs = pairs.peekable();
    if pairs.peek().is_some() {
        line(text, 2, &format!("{key}:"));
    }
    for (key, value) in pairs {
        match block(value) {
            Some(block) => line(text, 3, &format!("{}: {block}", scalar(key))),
            None => line(text, 3, &format!("{}: {}", scalar(key), scalar(value))),
        }
    }
}

fn list(text: &mut String, key: &str, items: &[String]) {
    if !items.is_empty() {
        line(text, 2, &format!("{key}:"));
    }
    for item in items {
        line(text, 3, &format!("- {}", scalar(item)));
    }
}

fn line(text: &mut String, depth: usize, content: &str) {
    text.extend(std::iter::repeat_n("  ", depth));
    text.push_str(content);
    text.push('\n');
}

/// A text of several lines as a person would write it, where nothing in it needs an escape.
fn block(value: &str) -> Option<String> {
    let (lines, sign) = match value.strip_suffix('\n') {
        Some(lines) => (lines, "|"),
        None => (value, "|-"),
    };
    // Blank lines at either end, and a first line that is indented, would need further signs.
    let plain = lines.contains('\n')
        && !lines.starts_with([' ', '\n'])
        && !lines.ends_with('\n')
        && lines.lines().all(|line| !line.ends_with([' ', '\t']) && !line.starts_with('\t'))
        && lines.chars().all(|c| c == '\n' || c == '\t' || is_printable(c));
    plain.then(|| {
        let mut block = sign.to_owned();
        for line in lines.split('\n') {
            block.push_str(if line.is_empty() { "\n" } else { "\n        " });
            block.push_str(line);
        }
        block
    })
}

/// A text that every reader of YAML takes for this very text.
fn scalar(value: &str) -> String {
    if is_plain(value) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c => write!(quoted, "\\U{:08X}", u32::from(c)).unwrap_or_default(),
        }
    }
    quoted.push('"');
    quoted
}

/// May it stand without quotes? Sure of it is only what begins like a word and is no word of YAML's own.
fn is_plain(value: &str) -> bool {
    const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "y"];
    let begins = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "-_./:@+=".contains(c);
    let word = value.to_ascii_lowercase();
    begins
        && value.chars().all(goes_on)
        && !value.ends_with(':')
        && !WORDS.contains(&word.as_str())
        && word != "n"
}

/// YAML 1.2, 5.1, without what is invisible or ends a line.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'..='\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stack, Surroundings};

    fn read(text: &str) -> Vec<Deployment> {
        let variable = |_: &str| Some("WRONG".to_owned());
        let around =
            Surroundings { variable: Some(&variable), read: Some(&|_| unreachable!()), wanted: &|_| true };
        let stack = Stack::parse(text, &around).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        stack.functions.into_iter().map(Result::unwrap).collect()
    }

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn full() -> Deployment {
        Deployment {
            service: "a".into(),
            image: "r.lan:5000/a:1.2@sha256:00".into(),
            namespace: Some("dev".into()),
            env_process: Some("node index.js".into()),
            env_vars: map(&[("PORT", "8080"), ("EMPTY", "")]),
            constraints: vec!["node.role == worker".into()],
            secrets: vec!["s2".into(), "s1".into()],
            labels: map(&[("com.openfaas.scale.zero", "true"), ("faas_function", "a"), ("uid", "7")]),
            annotations: map(&[("json", "{\n  \"a\": 1\n}\n"), ("prometheus.io.scrape", "false")]),
            limits: map(&[("memory", "64Mi"), ("cpu", "0.5")]),
            requests: map(&[("memory", "")]),
            read_only_root_filesystem: true,
        }
    }

    #[test]
    fn a_stack_file_reads_like_one_that_a_person_wrote() {
        let bare = Deployment { service: "123".into(), image: "i".into(), ..Deployment::default() };
        let expected = r#"version: 1.0
provider:
  name: openfaas
functions:
  "123":
    image: i
  a:
    image: r.lan:5000/a:1.2@sha256:00
    namespace: dev
    fprocess: "node index.js"
    environment:
      EMPTY: ""
      PORT: "8080"
    secrets:
      - s2
      - s1
    labels:
      com.openfaas.scale.zero: "true"
    annotations:
      json: |
        {
          "a": 1
        }
    constraints:
      - "node.role == worker"
    limits:
      cpu: "0.5"
      memory: "64Mi"
    readonly_root_filesystem: true
"#;
        assert_eq!(export(&[full(), bare], "openfaas-fn").unwrap(), expected);
    }

    #[test]
    fn what_is_written_reads_back_and_is_written_the_same() {
        let mut expected = full();
        expected.labels = map(&[("com.openfaas.scale.zero", "true")]);
        expected.annotations.remove("prometheus.io.scrape");
        expected.requests.clear();
        let text = export(&[full()], "openfaas-fn").unwrap();
        let back = read(&text);
        assert_eq!(back, [expected]);
        assert_eq!(export(&back, "openfaas-fn").unwrap(), text);
    }

    #[test]
    fn any_text_comes_back_as_it_was() {
        let texts = [
            "",
            " ",
            "a",
            "true",
            "Yes",
            "NO",
            "y",
            "null",
            "~",
            "-",
            "- a",
            "1",
            "0x1F",
            "1e3",
            ".5",
            "1_000",
            "12:30",
            "2024-01-02",
            ".inf",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "'a'",
            "\"a\"",
            "\\",
            "\\n",
            "C:\\d",
            "&a",
            "*a",
            "!t",
            "%d",
            "@a",
            "`a",
            "[a]",
            "{a}",
            "a,b",
            "|",
            ">",
            "?",
            "? a",
            "---",
            "...",
            "a\tb",
            "\ta",
            "tab\t",
            "a\nb",
            "a\nb\n",
            "a\n\nb",
            "a\n\n",
            "\na",
            "\n",
            " a\nb",
            "a \nb",
            "a\n b\n",
            "a\r\nb",
            "a\rb",
            "\0",
            "\u{7f}\u{85}\u{a0}",
            "\u{2028}",
            "\u{feff}a",
            "é ü 漢 🦀",
            "${TAG}",
            "$TAG",
            "$$",
            "$$${A}",
            "a\n${TAG}\\\\",
            "//",
            "\\/",
            "a\n# b\nc",
            "a\n---\nb",
            "a\n\tb",
            "<<",
            "=",
            "a\n...\n",
            "\u{1b}[31m",
        ];
        for text in texts {
            let all = Deployment {
                service: "f".into(),
                image: "i".into(),
                annotations: map(&[("k", text), (if text.is_empty() { "e" } else { text }, "v")]),
                constraints: vec![text.to_owned()],
                env_process: Some(text.to_owned()).filter(|t| !t.is_empty()),
                ..Deployment::default()
            };
            let written = export(std::slice::from_ref(&all), "").unwrap();
            assert_eq!(read(&written), [all], "{text:?} as\n{written}");
        }
    }

    #[test]
    fn one_name_in_two_namespaces_is_refused() {
        let of = |namespace: Option<&str>| Deployment {
            service: "a".into(),
            namespace: namespace.map(str::to_owned),
            ..Deployment::default()
        };
        let error = export(&[of(None), of(Some("dev"))], "openfaas-fn").unwrap_err();
        assert_eq!((error.first.as_str(), error.second.as_str()), ("openfaas-fn", "dev"));
    }
}
