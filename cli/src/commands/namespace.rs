//! `roost namespace`: list, get, create, update and remove namespaces, as faas-cli does.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;
use ureq::http::Method;

use super::deploy::pair;
use super::describe::entries;
use crate::api::{Map, Namespace};
use crate::args::Global;
use crate::output::Output;

/// The label and annotation by which hosts know a namespace of functions.
const MARK: (&str, &str) = ("openfaas", "1");

/// List, create, change and remove namespaces
#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    #[command(subcommand)]
    verb: Option<NamespaceVerb>,
}

#[derive(Debug, Subcommand)]
enum NamespaceVerb {
    /// List the namespaces (this is done when nothing is said)
    #[command(visible_alias = "ls")]
    List,
    /// Show one namespace
    #[command(visible_alias = "describe")]
    Get(Named),
    /// Create a namespace
    Create(Marked),
    /// Change the labels and annotations of a namespace: all of them are replaced
    Update(Marked),
    /// Remove a namespace that has no functions and no secrets
    #[command(visible_aliases = ["rm", "delete"])]
    Remove(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the namespace
    #[arg(value_name = "NAMESPACE")]
    name: String,
}

#[derive(Debug, Args)]
struct Marked {
    #[command(flatten)]
    named: Named,
    /// Label; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Annotation; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    annotation: Vec<(String, String)>,
}

impl Marked {
    fn namespace(&self) -> Namespace {
        let mark = || [(MARK.0.to_owned(), MARK.1.to_owned())];
        Namespace {
            name: self.named.name.clone(),
            annotations: Some(self.annotation.iter().cloned().chain(mark()).collect()),
            labels: Some(self.label.iter().cloned().chain(mark()).collect()),
        }
    }
}

pub(crate) fn run(args: &NamespaceArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let (method, namespace, done) = match args.verb.as_ref().unwrap_or(&NamespaceVerb::List) {
        NamespaceVerb::List => {
            let names = client.namespaces()?;
            if out.json {
                return out.value(&names);
            }
            return names.iter().try_for_each(|name| Ok(out.line(name)?));
        }
        NamespaceVerb::Get(named) => return get(client.namespace(&named.name)?, out),
        NamespaceVerb::Create(marked) => (Method::POST, marked.namespace(), "Created"),
        NamespaceVerb::Update(marked) => (Method::PUT, marked.namespace(), "Updated"),
        NamespaceVerb::Remove(named) => {
            let labels = Map::from([(MARK.0.to_owned(), MARK.1.to_owned())]);
            let namespace = Namespace { name: named.name.clone(), annotations: None, labels: Some(labels) };
            (Method::DELETE, namespace, "Removed")
        }
    };
    client.change_namespace(method, &namespace)?;
    if out.json { out.value(&namespace) } else { Ok(out.line(format!("{done} {}", namespace.name))?) }
}

fn get(value: Value, out: &mut Output) -> Result<()> {
    if out.json {
        return out.value(&value);
    }
    let namespace: Namespace = serde_json::from_value(value)?;
    let mut rows = vec![vec!["Name:".to_owned(), namespace.name]];
    for (what, map) in [("Labels:", namespace.labels), ("Annotations:", namespace.annotations)] {
        for (i, line) in entries(map.as_ref()).lines().enumerate() {
            rows.push(vec![if i == 0 { what.to_owned() } else { String::new() }, line.to_owned()]);
        }
    }
    Ok(out.table(&rows)?)
}
