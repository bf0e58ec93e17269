//! The embedded database: what should be, kept across restarts and power cuts.
//!
//! Owns the file, its tables and its version. A value is one byte of format version and then JSON. Every write is
//! durable when it returns. All calls block: its users, [`crate::function::registry`],
//! [`crate::usage::ledger`] and [`crate::triggers`], run them off the async workers. Never knows what is running.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use roost_proxy::function::{FunctionKey, Namespace};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::function::namespace::{NamespaceRecord, Namespaces};
use crate::function::record::FunctionRecord;
use crate::usage::UsageRecord;
use crate::usage::ledger::Row;

mod triggers;

/// Records by a text.
type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// `namespace/name` → [`FunctionRecord`].
const FUNCTIONS: Table = TableDefinition::new("functions");

/// namespace → [`NamespaceRecord`].
const NAMESPACES: Table = TableDefinition::new("namespaces");

/// `namespace/name` → [`UsageRecord`].
const USAGE: Table = TableDefinition::new("usage");

/// `day/namespace/name` → [`Figures`](crate::usage::figures::Figures). A day is written as 2026-01-31, so that the days are in their order.
const DAYS: Table = TableDefinition::new("days");

/// Facts about the file itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The key in [`META`] of the schema's version.
const SCHEMA: &str = "schema";

/// The schema that this build reads and writes.
const SCHEMA_VERSION: u64 = 1;

/// The format of a value in the other tables.
const RECORD_FORMAT: u8 = 1;

/// How much of the file redb may keep in memory, in bytes. The store is read once, at start.
const CACHE: usize = 1 << 17;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the store {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: DatabaseError,
    },
    /// Written by another version of Roost.
    #[error(
        "the store {path} has version {found} and this roostd reads version {SCHEMA_VERSION}: install the version that wrote it"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
    },
    /// Reading or writing failed.
    #[error("the store failed: {0}")]
    Database(Box<redb::Error>),
    /// A value cannot be read.
    #[error("the record of {key} in the store cannot be read: {why}")]
    Record {
        /// Whose record.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// How long a daemon that was killed may hold a database: what it had just begun to start may have it open, too.
const LET_GO: Duration = Duration::from_secs(5);

/// How often it is looked whether it has let go.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Opens the database at `path`, or makes it, with so many bytes of it in memory at most.
///
/// # Errors
/// When it cannot be opened, or another process has it and does not let go of it.
pub(crate) fn open_database(path: &Path, cache: usize) -> Result<Database, DatabaseError> {
    let began = Instant::now();
    loop {
        match Database::builder().set_cache_size(cache).create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if began.elapsed() < LET_GO => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing tells of a lock, and nobody is served before the store is open"
                )]
                std::thread::sleep(LOOK_AGAIN);
            }
            opened => return opened,
        }
    }
}

/// The database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` behind a failure: redb takes no more calls then, even when the disk has room again. The next call opens
    /// the file anew.
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// When the file cannot be opened, is in use by another process, or was written by another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Self::open_file(path)?;
        Ok(Self { path: path.to_owned(), database: Mutex::new(Some(database)) })
    }

    fn open_file(path: &Path) -> Result<Database, StoreError> {
        let database = open_database(path, CACHE)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(SCHEMA)?.map(|version| version.value());
            match found {
                None => drop(meta.insert(SCHEMA, SCHEMA_VERSION)?),
                Some(SCHEMA_VERSION) => {}
                Some(found) => return Err(StoreError::Version { path: path.to_owned(), found }),
            }
            transaction.open_table(FUNCTIONS)?;
            transaction.open_table(NAMESPACES)?;
            transaction.open_table(USAGE)?;
            transaction.open_table(DAYS)?;
            transaction.open_table(triggers::SCHEDULES)?;
            transaction.open_table(triggers::SESSIONS)?;
        }
        transaction.commit()?;
        Ok(database)
    }

    /// Does something with the open database.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut open = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => Self::open_file(&self.path)?,
        };
        let done = work(&database);
        if !matches!(done, Err(StoreError::Database(_))) {
            *open = Some(database);
        }
        done
    }

    /// All functions.
    ///
    /// # Errors
    /// When the file or a record in it cannot be read.
    pub fn functions(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(FUNCTIONS)?;
            table
                .iter()?
                .map(|entry| {
                    let (key, value) = entry?;
                    decode(value.value())
                        .map_err(|why| StoreError::Record { key: key.value().to_owned(), why })
                })
                .collect()
        })
    }

    /// What was counted of functions, by `namespace/name`.
    ///
    /// # Errors
    /// When the file or a record in it cannot be read.
    pub fn usage(&self) -> Result<HashMap<String, UsageRecord>, StoreError> {
        self.all(USAGE)
    }

    /// All records of a table, by their names.
    fn all<T: DeserializeOwned>(&self, table: Table) -> Result<HashMap<String, T>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(table)?;
            table
                .iter()?
                .map(|entry| {
                    let (key, value) = entry?;
                    let key = key.value().to_owned();
                    match decode(value.value()) {
                        Ok(record) => Ok((key, record)),
                        Err(why) => Err(StoreError::Record { key, why }),
                    }
                })
                .collect()
        })
    }

    /// Writes what was counted of some functions, all of it or nothing.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put_usage(&self, counted: &[(FunctionKey, UsageRecord)]) -> Result<(), StoreError> {
        let encoded: Result<Vec<_>, StoreError> = counted
            .iter()
            .map(|(key, record)| {
                let key = path_of(key);
                match encode(record) {
                    Ok(value) => Ok((key, value)),
                    Err(why) => Err(StoreError::Record { key, why }),
                }
            })
            .collect();
        self.put_all(USAGE, &encoded?)
    }

    /// What functions have used on the days `from` to `to`, of those that `wanted` says.
    ///
    /// # Errors
    /// When the file or a record in it cannot be read.
    pub fn days(
        &self,
        from: Date,
        to: Date,
        wanted: impl Fn(Date, &FunctionKey) -> bool,
    ) -> Result<Vec<Row>, StoreError> {
        let (from, to) = (format!("{from}/"), behind(to));
        if from >= to {
            return Ok(Vec::new());
        }
        self.with(|database| {
            let table = database.begin_read()?.open_table(DAYS)?;
            let mut rows = Vec::new();
            for entry in table.range(from.as_str()..to.as_str())? {
                let (key, value) = entry?;
                let bad = |why| StoreError::Record { key: key.value().to_owned(), why };
                let (day, function) = day_and_function(key.value()).map_err(bad)?;
                if wanted(day, &function) {
                    rows.push((day, function, decode(value.value()).map_err(bad)?));
                }
            }
            Ok(rows)
        })
    }

    /// Writes what functions have used on some days, all of it or nothing.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put_days(&self, rows: &[Row]) -> Result<(), StoreError> {
        let encoded = rows.iter().map(|(day, function, figures)| {
            let key = format!("{day}/{}", path_of(function));
            match encode(figures) {
                Ok(value) => Ok((key, value)),
                Err(why) => Err(StoreError::Record { key, why }),
            }
        });
        self.put_all(DAYS, &encoded.collect::<Result<Vec<_>, _>>()?)
    }

    /// Removes what was used before a day, and tells how many records that were.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn remove_days_before(&self, first: Date) -> Result<usize, StoreError> {
        let first = format!("{first}/");
        self.with(|database| {
            let old: Vec<String> = {
                let table = database.begin_read()?.open_table(DAYS)?;
                let keys = table.range(..first.as_str())?.map(|entry| Ok(entry?.0.value().to_owned()));
                keys.collect::<Result<_, StoreError>>()?
            };
            if old.is_empty() {
                return Ok(0);
            }
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(DAYS)?;
                for key in &old {
                    table.remove(key.as_str())?;
                }
            }
            transaction.commit()?;
            Ok(old.len())
        })
    }

    fn put_all(&self, table: Table, encoded: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(table)?;
                for (key, value) in encoded {
                    table.insert(key.as_str(), value.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// Writes the record of a function.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put(&self, key: &FunctionKey, record: &FunctionRecord) -> Result<(), StoreError> {
        self.insert(FUNCTIONS, &path_of(key), record)
    }

    /// Removes the record of a function, if it is there, and what was counted of it and noted of its schedules.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn remove(&self, key: &FunctionKey) -> Result<(), StoreError> {
        self.delete(&[FUNCTIONS, USAGE, triggers::SCHEDULES], &path_of(key))
    }

    /// All namespaces of which something is noted.
    ///
    /// # Errors
    /// When the file or a record in it cannot be read.
    pub fn namespaces(&self) -> Result<Namespaces, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(NAMESPACES)?;
            table
                .iter()?
                .map(|entry| {
                    let (key, value) = entry?;
                    let bad = |why| StoreError::Record { key: key.value().to_owned(), why };
                    let name = key.value().parse().map_err(|why| bad(format!("{why}")))?;
                    Ok((name, decode(value.value()).map_err(bad)?))
                })
                .collect()
        })
    }

    /// Writes the record of a namespace.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put_namespace(&self, name: &Namespace, record: &NamespaceRecord) -> Result<(), StoreError> {
        self.insert(NAMESPACES, name.as_str(), record)
    }

    /// Removes the record of a namespace, if it is there.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn remove_namespace(&self, name: &Namespace) -> Result<(), StoreError> {
        self.delete(&[NAMESPACES], name.as_str())
    }

    fn insert(&self, table: Table, key: &str, record: &impl Serialize) -> Result<(), StoreError> {
        let value = encode(record).map_err(|why| StoreError::Record { key: key.to_owned(), why })?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(table)?.insert(key, value.as_slice())?;
            Ok(transaction.commit()?)
        })
    }

    fn delete(&self, tables: &[Table], key: &str) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            for table in tables {
                transaction.open_table(*table)?.remove(key)?;
            }
            Ok(transaction.commit()?)
        })
    }
}

/// What a function is called in the tables.
pub(crate) fn path_of(key: &FunctionKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// What sorts behind all keys of a day, and before those of the next.
fn behind(day: Date) -> String {
    format!("{day}0")
}

fn day_and_function(key: &str) -> Result<(Date, FunctionKey), String> {
    let mut parts = key.splitn(3, '/');
    let (Some(day), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("expected day/namespace/name".to_owned());
    };
    let day = day.parse().map_err(|why| format!("{why}"))?;
    let namespace = namespace.parse().map_err(|why| format!("{why}"))?;
    let name = name.parse().map_err(|why| format!("{why}"))?;
    Ok((day, FunctionKey::new(namespace, name)))
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut value = vec![RECORD_FORMAT];
    serde_json::to_writer(&mut value, record).map_err(|why| why.to_string())?;
    Ok(value)
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    match value.split_first() {
        Some((&RECORD_FORMAT, json)) => serde_json::from_slice(json).map_err(|why| why.to_string()),
        Some((format, _)) => Err(format!("its format is {format}, this roostd reads {RECORD_FORMAT}")),
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::record::Revision;
    use crate::function::spec::Deployment;
    use crate::usage::figures::Figures;

    fn record(name: &str) -> (FunctionKey, FunctionRecord) {
        let deployment =
            Deployment { service: name.into(), image: "busybox".into(), ..Deployment::default() };
        let key = FunctionKey::from_route(name).unwrap();
        (key, FunctionRecord::new(Revision::new(deployment)))
    }

    #[test]
    fn what_was_put_is_there_after_opening_again_and_what_was_removed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let ((a, record_a), (b, record_b)) = (record("a"), record("b"));
        {
            let store = Store::open(&path).unwrap();
            store.put(&a, &record_a).unwrap();
            store.put(&b, &record_b).unwrap();
            store.remove(&a).unwrap();
            store.remove(&a).unwrap();
        }
        assert_eq!(Store::open(&path).unwrap().functions().unwrap(), [record_b]);
    }

    #[test]
    fn a_store_from_before_namespaces_opens_and_takes_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let (key, function) = record("a");
        {
            let store = Store::open(&path).unwrap();
            store.put(&key, &function).unwrap();
            let transaction = store.database.lock().unwrap().as_ref().unwrap().begin_write().unwrap();
            assert!(transaction.delete_table(NAMESPACES).unwrap());
            transaction.commit().unwrap();
        }
        let blue: Namespace = "blue".parse().unwrap();
        let namespace = NamespaceRecord::default_one();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.namespaces().unwrap(), Namespaces::new());
        store.put_namespace(&blue, &namespace).unwrap();
        assert_eq!(store.namespaces().unwrap(), Namespaces::from([(blue.clone(), namespace)]));
        store.remove_namespace(&blue).unwrap();
        store.remove_namespace(&blue).unwrap();
        assert_eq!(store.namespaces().unwrap(), Namespaces::new());
        assert_eq!(store.functions().unwrap(), [function]);
    }

    #[test]
    fn what_was_counted_stays_until_its_function_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let ((a, record_a), (b, _)) = (record("a"), record("b"));
        let counted = |requests| UsageRecord { requests };
        {
            let store = Store::open(&path).unwrap();
            store.put(&a, &record_a).unwrap();
            store.put_usage(&[(a.clone(), counted(1)), (b.clone(), counted(2))]).unwrap();
            store.put_usage(&[(b.clone(), counted(3))]).unwrap();
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(
            store.usage().unwrap(),
            HashMap::from([(path_of(&a), counted(1)), (path_of(&b), counted(3))])
        );
        store.remove(&a).unwrap();
        assert_eq!(store.usage().unwrap(), HashMap::from([(path_of(&b), counted(3))]));
    }

    #[test]
    fn days_are_kept_apart_in_their_order_outlive_their_function_and_go_when_they_are_old() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let ((a, record_a), (b, _)) = (record("a"), record("b"));
        let day = |text: &str| text.parse::<Date>().unwrap();
        let row = |date: &str, function: &FunctionKey, invocations| {
            (day(date), function.clone(), Figures { invocations, ..Figures::default() })
        };
        let all = |_: Date, _: &FunctionKey| true;
        {
            let store = Store::open(&path).unwrap();
            store.put(&a, &record_a).unwrap();
            store
                .put_days(&[row("2026-02-01", &a, 4), row("2026-01-31", &b, 2), row("2026-01-31", &a, 1)])
                .unwrap();
            store.put_days(&[row("2026-01-31", &a, 3), row("2025-12-31", &b, 9)]).unwrap();
            store.remove(&a).unwrap();
        }
        let store = Store::open(&path).unwrap();
        let january = store.days(day("2026-01-01"), day("2026-01-31"), all).unwrap();
        assert_eq!(january, [row("2026-01-31", &a, 3), row("2026-01-31", &b, 2)]);
        let of_a = store.days(day("2025-01-01"), Date::MAX, |_, function| *function == a).unwrap();
        assert_eq!(of_a, [row("2026-01-31", &a, 3), row("2026-02-01", &a, 4)]);
        assert_eq!(store.days(day("2026-02-01"), day("2026-01-01"), all).unwrap(), []);
        assert_eq!(store.remove_days_before(day("2026-01-31")).unwrap(), 1);
        assert_eq!(store.remove_days_before(day("2026-01-31")).unwrap(), 0);
        assert_eq!(store.days(Date::MIN, Date::MAX, all).unwrap().len(), 3);
    }

    #[test]
    fn a_store_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        {
            let database = Store::open_file(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.open_table(META).unwrap().insert(SCHEMA, 99).unwrap();
            transaction.commit().unwrap();
        }
        assert!(matches!(Store::open(&path), Err(StoreError::Version { found: 99, .. })));
    }
}
