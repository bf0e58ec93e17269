//! What is attached, on disk: one JSON file for each attachment.
//!
//! Owns the files and their form. Never decides what is done about a record. A file is replaced whole or not at all; it is
//! synced, because `host-local` may keep its addresses on a disk and then an address that nobody remembers would stay taken.
//! On a tmpfs, where the cache of a host belongs, that costs nothing.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::conflist::Conflist;
use crate::network::Options;
use crate::{Error, id};

/// How the name of a file ends.
const SUFFIX: &str = ".json";
/// How the name of an unfinished file begins; no id begins so.
const UNFINISHED: &str = ".unfinished-";

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Begun; what was made may be anything from nothing to all.
    Attaching,
    /// Complete.
    Attached,
    /// What is left may be anything from all to nothing.
    Detaching,
}

/// What is known of one attachment: enough to undo it, whatever the configuration says by then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) state: State,
    /// How many plugins have finished ADD. The next one may have been in the middle of it.
    pub(crate) added: usize,
    /// Set once `state` is `Attached`.
    pub(crate) address: Option<IpAddr>,
    pub(crate) conflist: Conflist,
    pub(crate) options: Options,
    /// The result of the last plugin that finished.
    pub(crate) result: Option<Value>,
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Makes the directory if it is not there.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(|source| Error::Directory { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.id);
        let written = serde_json::to_vec(record).map_err(Into::into).and_then(|json| {
            let mut file = NamedTempFile::with_prefix_in(UNFINISHED, &self.dir)?;
            file.write_all(&json)?;
            file.as_file().sync_data()?;
            file.persist(&path).map_err(|e| e.error).map(drop)
        });
        written.map_err(|source| Error::Cache { path, step: "write", source })
    }

    /// The record of an attachment, if there is one.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Record>, Error> {
        let path = self.path(id);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Cache { path, step: "read", source }),
        };
        match serde_json::from_slice(&json) {
            Ok(record) => Ok(Some(record)),
            Err(e) => Err(Error::Cache { path, step: "understand", source: e.into() }),
        }
    }

    /// Forgets an attachment. It need not be known.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Error> {
        let path = self.path(id);
        remove_file(&path).map_err(|source| Error::Cache { path, step: "remove", source })
    }

    /// The ids of all records, readable or not.
    pub(crate) fn ids(&self) -> Result<Vec<String>, Error> {
        let names = self.names()?;
        let ids = names.iter().filter_map(|name| name.strip_suffix(SUFFIX));
        Ok(ids.filter(|id| id::validate(id).is_ok()).map(str::to_owned).collect())
    }

    /// Removes what writes left behind that never came to their end. Only while nothing is written.
    pub(crate) fn remove_unfinished(&self) -> Result<(), Error> {
        for name in self.names()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let path = self.dir.join(name);
            remove_file(&path).map_err(|source| Error::Cache { path, step: "remove", source })?;
        }
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}{SUFFIX}"))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |source| Error::Directory { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, state: State) -> Record {
        let conflist =
            Conflist::parse(br#"{"cniVersion":"0.4.0","name":"n","plugins":[{"type":"x"}]}"#).unwrap();
        let options = Options { capabilities: serde_json::Map::new(), args: vec![("K".into(), "V".into())] };
        let address = Some("10.1.0.5".parse().unwrap());
        Record {
            id: id.into(),
            state,
            added: 1,
            address,
            conflist,
            options,
            result: Some(serde_json::json!({"ips": []})),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("a/b")).unwrap();
        assert!(cache.read("a").unwrap().is_none());
        cache.write(&record("a", State::Attaching)).unwrap();
        cache.write(&record("a", State::Attached)).unwrap();

        let back = cache.read("a").unwrap().unwrap();
        assert_eq!(
            serde_json::to_value(&back).unwrap(),
            serde_json::to_value(record("a", State::Attached)).unwrap()
        );
        assert_eq!(cache.ids().unwrap(), ["a"]);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no unfinished file is left");

        cache.remove("a").unwrap();
        cache.remove("a").unwrap();
        assert!(cache.read("a").unwrap().is_none());
    }

    #[test]
    fn a_torn_file_is_an_error_that_names_it_and_is_still_listed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().into()).unwrap();
        fs::write(dir.path().join("a.json"), "{\"id\":").unwrap();
        assert!(cache.read("a").unwrap_err().to_string().contains("a.json: understand"));
        assert_eq!(cache.ids().unwrap(), ["a"]);
    }

    #[test]
    fn only_records_are_listed_and_unfinished_files_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().into()).unwrap();
        for name in [".unfinished-1", "note.txt", ".json", "a.b.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(cache.ids().unwrap(), ["a.b"]);
        cache.remove_unfinished().unwrap();
        assert!(!dir.path().join(".unfinished-1").exists() && dir.path().join("note.txt").exists());
    }
}
