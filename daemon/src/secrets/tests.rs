//! Both trees together, on a real disk and a real tmpfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::*;

/// Secrets below a directory of the test's own; the tmpfs goes with it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Secrets {
        Secrets::open(&self.dir.path().join("state"), &self.dir.path().join("run")).unwrap()
    }

    /// Every path below `state/secrets` or `run/secrets`, with its mode.
    fn modes(&self, tree: &str) -> Vec<(String, u32)> {
        let top = self.dir.path().join(tree).join("secrets");
        let mut todo = vec![top.clone()];
        let mut found = Vec::new();
        while let Some(path) = todo.pop() {
            let about = fs::metadata(&path).unwrap();
            let shown = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            found.push((shown, about.permissions().mode() & 0o7777));
            if about.is_dir() {
                todo.extend(entries_of(&path));
            }
        }
        found.sort();
        found
    }

    fn copy(&self, id: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.path().join("run/secrets/openfaas-fn").join(id).join(name)).ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        umount2(&self.dir.path().join("run/secrets"), MntFlags::MNT_DETACH).ok();
    }
}

fn entries_of(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::try_from(text.as_bytes().to_vec()).unwrap()
}

fn replica(id: &str) -> ReplicaId {
    id.parse().unwrap()
}

async fn give(secrets: &Secrets, id: &str, names: &[&str]) -> Result<Option<BindMount>, SecretError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    secrets.give(Namespace::default(), replica(id), &names).await
}

#[tokio::test]
async fn a_secret_is_made_once_changed_while_it_is_there_and_removed_once() {
    let place = Place::new();
    let secrets = place.open();
    let ns = Namespace::default;
    let told = |result: Result<(), SecretError>| result.unwrap_err().to_string();
    assert_eq!(told(secrets.update(ns(), name("a"), value("1")).await), "unable to find secret: a");
    assert_eq!(told(secrets.remove(ns(), name("a")).await), "unable to find secret: a");
    secrets.create(ns(), name("a"), value("1")).await.unwrap();
    assert_eq!(
        told(secrets.create(ns(), name("a"), value("2")).await),
        "secret a already exists: update it with PUT"
    );
    secrets.create("dev".parse().unwrap(), name("b"), value("2")).await.unwrap();
    secrets.create(ns(), name("a.b"), value("2")).await.unwrap();
    assert_eq!(secrets.list(ns()).await.unwrap(), [name("a"), name("a.b")]);
    assert!(secrets.contains(&ns(), "a") && !secrets.contains(&ns(), "b"));
    assert!(!secrets.contains(&ns(), "../dev/b") && !secrets.contains(&ns(), "."));
    assert_eq!(
        place.modes("state"),
        [
            ("", 0o700),
            ("dev", 0o700),
            ("dev/b", 0o600),
            ("openfaas-fn", 0o700),
            ("openfaas-fn/a", 0o600),
            ("openfaas-fn/a.b", 0o600)
        ]
        .map(|(path, mode)| (path.to_owned(), mode))
    );
    for secret in ["a", "a.b"] {
        secrets.remove(ns(), name(secret)).await.unwrap();
    }
    secrets.remove("dev".parse().unwrap(), name("b")).await.unwrap();
    assert_eq!(place.modes("state"), [(String::new(), 0o700)]);
}

#[tokio::test]
async fn a_replica_sees_what_it_names_as_it_is_now_and_no_more() {
    let place = Place::new();
    let secrets = place.open();
    for secret in ["a", "b", "c"] {
        secrets.create(Namespace::default(), name(secret), value("old")).await.unwrap();
    }
    assert_eq!(give(&secrets, "none-1", &[]).await.unwrap(), None);
    let mount = give(&secrets, "f-1", &["a", "b", "a"]).await.unwrap().unwrap();
    assert_eq!(mount.source, place.dir.path().join("run/secrets/openfaas-fn/f-1"));
    assert_eq!((mount.target, mount.read_only), (PathBuf::from("/var/openfaas/secrets"), true));
    give(&secrets, "g-1", &["b"]).await.unwrap();
    assert_eq!(
        place.modes("run"),
        [
            ("", 0o700),
            ("openfaas-fn", 0o700),
            ("openfaas-fn/f-1", 0o755),
            ("openfaas-fn/f-1/a", 0o444),
            ("openfaas-fn/f-1/b", 0o444),
            ("openfaas-fn/g-1", 0o755),
            ("openfaas-fn/g-1/b", 0o444),
        ]
        .map(|(path, mode)| (path.to_owned(), mode))
    );
    secrets.update(Namespace::default(), name("b"), value("new")).await.unwrap();
    for (id, secret, seen) in [("f-1", "a", "old"), ("f-1", "b", "new"), ("g-1", "b", "new")] {
        assert_eq!(place.copy(id, secret).as_deref(), Some(seen), "{id} {secret}");
    }
    assert_eq!(place.copy("g-1", "a"), None);
    let missing = give(&secrets, "h-1", &["a", "no"]).await.unwrap_err();
    assert_eq!(missing.to_string(), "unable to find secret: no");
    for id in ["f-1", "g-1", "h-1", "never-was"] {
        secrets.take_away(Namespace::default(), replica(id)).await.unwrap();
    }
    assert_eq!(place.modes("run"), [(String::new(), 0o700)]);
}

#[tokio::test]
async fn what_a_crash_left_is_finished_or_removed() {
    let place = Place::new();
    let secrets = place.open();
    secrets.create(Namespace::default(), name("a"), value("old")).await.unwrap();
    secrets.create(Namespace::default(), name("b"), value("old")).await.unwrap();
    for id in ["kept-1", "stray-1"] {
        give(&secrets, id, &["a", "b"]).await.unwrap();
    }
    drop(secrets);
    let (state, run) = (place.dir.path().join("state/secrets"), place.dir.path().join("run/secrets"));
    // In the middle of an update, of a removal, and of a start.
    fs::write(state.join("openfaas-fn/a"), "new").unwrap();
    fs::write(state.join("openfaas-fn/.half"), "ne").unwrap();
    fs::remove_file(state.join("openfaas-fn/b")).unwrap();
    fs::write(run.join("openfaas-fn/.half"), "ne").unwrap();
    fs::create_dir(run.join("openfaas-fn/made-1")).unwrap();
    fs::create_dir(run.join("dev")).unwrap();

    let secrets = place.open();
    secrets.collect(HashSet::from(["kept-1".to_owned()])).await.unwrap();
    assert_eq!(place.copy("kept-1", "a").as_deref(), Some("new"));
    assert_eq!(place.copy("kept-1", "b").as_deref(), Some("old"), "until the replica goes");
    let paths = |tree| place.modes(tree).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths("state"), ["", "openfaas-fn", "openfaas-fn/a"]);
    assert_eq!(
        paths("run"),
        ["", "openfaas-fn", "openfaas-fn/kept-1", "openfaas-fn/kept-1/a", "openfaas-fn/kept-1/b"]
    );
}
