//! Stack files on this host: at every start, and when asked to by SIGHUP, the functions in them are there as they say.
//!
//! ```text
//! directory ─ *.yaml, by name ─▶ deployments ─▶ unknown: create · the same: nothing · different: update
//! ```
//!
//! It never deletes a function. What is broken is an error in the log with its file and key; all others go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roost_proxy::function::FunctionKey;
use roost_stack::{Mistake, Stack, Surroundings};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::function::registry::{Registry, RegistryError};
use crate::function::spec::{Deployment, FunctionSpec};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A file, and the stack in it or why there is none.
type Found = (PathBuf, Result<Stack, String>);

/// Applies all stack files of a directory. A directory that is not there holds none.
pub async fn apply(registry: &Arc<Registry>, directory: &Path) {
    let of = directory.to_owned();
    let found = match tokio::task::spawn_blocking(move || read(&of)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return,
        Ok(Err(error)) => return error!("{}: stack files cannot be read: {error}", directory.display()),
        Err(error) => return error!("{}: reading stack files broke: {error}", directory.display()),
    };
    let mut tally = Tally::default();
    let mut named: BTreeMap<FunctionKey, PathBuf> = BTreeMap::new();
    for (file, stack) in found {
        let stack = match stack {
            Ok(stack) => stack,
            Err(why) => {
                tally.failed += 1;
                error!("{}: {why}", file.display());
                continue;
            }
        };
        for note in &stack.notes {
            warn!("{}: {note}", file.display());
        }
        for function in stack.functions {
            if let Err(why) = settle(registry, function, &file, &mut named, &mut tally).await {
                tally.failed += 1;
                error!("{}: {why}", file.display());
            }
        }
    }
    if tally != Tally::default() {
        let Tally { created, updated, same, failed } = tally;
        info!(
            "{}: {created} functions created, {updated} updated, {same} as they were, {failed} mistakes",
            directory.display()
        );
    }
}

/// Applies them again whenever SIGHUP comes. From the call on, not from the first poll on, SIGHUP does not end the
/// daemon.
pub fn follow(registry: Arc<Registry>, directory: PathBuf) -> impl Future<Output = ()> {
    let hangups = signal(SignalKind::hangup());
    async move {
        let mut hangups = match hangups {
            Ok(hangups) => hangups,
            Err(error) => return warn!("stack files are applied at the start only: no SIGHUP: {error}"),
        };
        while hangups.recv().await.is_some() {
            info!("SIGHUP: applying the stack files of {} again", directory.display());
            apply(&registry, &directory).await;
        }
    }
}

/// What came of the functions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    created: usize,
    updated: usize,
    same: usize,
    failed: usize,
}

/// Makes one function what its file says.
async fn settle(
    registry: &Arc<Registry>,
    function: Result<roost_stack::Deployment, Mistake>,
    file: &Path,
    named: &mut BTreeMap<FunctionKey, PathBuf>,
    tally: &mut Tally,
) -> Result<(), String> {
    let spec = spec(function.map_err(|mistake| mistake.to_string())?)?;
    let place = format!("functions.{}", spec.key.name);
    if let Some(before) = named.insert(spec.key.clone(), file.to_owned()) {
        let text = format!("{place}: {} is in {}, too: that one counts", spec.key, before.display());
        named.insert(spec.key, before);
        return Err(text);
    }
    let (counted, result): (&mut usize, Result<(), RegistryError>) = match registry.deployment(&spec.key) {
        None => (&mut tally.created, registry.create(spec).await.map(drop)),
        Some(there) if is_same(&there, &spec.deployment) => (&mut tally.same, Ok(())),
        Some(_) => (&mut tally.updated, registry.update(spec).await.map(drop)),
    };
    result.map_err(|error| format!("{place}: {error}"))?;
    *counted += 1;
    Ok(())
}

/// The same way as through the API: by its JSON.
fn spec(deployment: roost_stack::Deployment) -> Result<FunctionSpec, String> {
    let place = format!("functions.{}", deployment.service);
    let read = serde_json::to_value(deployment).and_then(serde_json::from_value::<Deployment>);
    let deployment = read.map_err(|error| format!("{place}: {error}"))?;
    FunctionSpec::parse(deployment).map_err(|invalid| format!("{place}: {invalid}"))
}

/// Both are of one function, so the namespace is the same however it is written.
fn is_same(there: &Deployment, wanted: &Deployment) -> bool {
    let mut there = there.clone();
    there.namespace.clone_from(&wanted.namespace);
    there == *wanted
}

/// The stack files of a directory, by name.
fn read(directory: &Path) -> io::Result<Vec<Found>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            files.push(path);
        }
    }
    files.sort();
    let found = files.into_iter().map(|file| {
        let stack = stack(&file);
        (file, stack)
    });
    Ok(found.collect())
}

/// Variables are those of this process; environment files stand beside the stack file.
fn stack(file: &Path) -> Result<Stack, String> {
    let text = text(file).map_err(|error| error.to_string())?;
    let around = Surroundings {
        variable: Some(&|name| std::env::var(name).ok()),
        read: Some(&|path| text_beside(file, path)),
        wanted: &|_| true,
    };
    Stack::parse(&text, &around).map_err(|error| error.to_string())
}

fn text_beside(file: &Path, path: &str) -> io::Result<String> {
    text(&file.parent().unwrap_or(Path::new("")).join(path))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_name_and_a_broken_one_stands_alone() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("20-b.yml", "functions: { b: { image: i, environment_file: [b.env] } }");
        write("10-a.yaml", "functions: {");
        write("b.env", "environment: { A: b }");
        write(".30-c.yaml", "functions: { c: { image: i } }");
        write("40-d.json", "{}");
        let found = read(directory.path()).unwrap();
        let names: Vec<_> = found.iter().map(|(file, _)| file.file_name().unwrap()).collect();
        assert_eq!(names, ["10-a.yaml", "20-b.yml"]);
        assert!(found[0].1.as_ref().unwrap_err().contains("line 1"));
        let b = found[1].1.as_ref().unwrap().functions[0].as_ref().unwrap();
        assert_eq!(b.env_vars["A"], "b");
        assert_eq!(read(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_function_of_a_file_is_as_valid_as_one_of_the_api() {
        let of = |image: &str, memory: &str| roost_stack::Deployment {
            service: "f".into(),
            image: image.into(),
            limits: [("memory".to_owned(), memory.to_owned())].into(),
            secrets: vec!["s".into()],
            read_only_root_filesystem: true,
            ..roost_stack::Deployment::default()
        };
        let good = spec(of("i:1", "64Mi")).unwrap();
        assert_eq!(good.limits.memory_bytes, Some(64 << 20));
        assert!(good.deployment.read_only_root_filesystem && good.deployment.secrets == ["s"]);
        let why = spec(of("I:1", "lots")).unwrap_err();
        assert!(
            why.starts_with("functions.f: ") && why.contains("limits.memory") && why.contains("image"),
            "{why}"
        );
    }

    #[test]
    fn a_namespace_that_is_said_is_the_same_as_one_that_is_meant() {
        let meant = Deployment { service: "f".into(), ..Deployment::default() };
        let said = Deployment { namespace: "openfaas-fn".into(), ..meant.clone() };
        let other = Deployment { image: "i".into(), ..meant.clone() };
        assert!(is_same(&meant, &said) && is_same(&said, &meant) && !is_same(&meant, &other));
    }
}
