//! The calls on the disk.
//!
//! Owns the database of the queue, its tables and its version. Changes are made in batches; a batch is on the disk when it
//! is committed, or nothing of it ever is. Every call blocks: the [keeper](super::keeper) makes them, on a thread of its
//! own. A value is one byte of format version and then JSON; bodies are bytes.
//!
//! ```text
//!   calls    number → what came              state    number → how far it is
//!   bodies   number → its body, if no file   answers  number → the answer's, while its callback is tried again
//!   results  id and function → an answer     ends     when a result or a key goes → which
//!   keys     function and idempotency key → the call that has it
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::invocation::{Accepted, Answer, Invocation};
use super::spool::{Kept, Named};
use crate::store::open_database;

/// All tables are alike, and like those of the [store](crate::store): each other kind would be more code of the database. A
/// number is sixteen digits, so that the order of texts is that of numbers.
type Texts = TableDefinition<'static, &'static str, &'static [u8]>;

const CALLS: Texts = TableDefinition::new("calls");
const BODIES: Texts = TableDefinition::new("bodies");
const STATE: Texts = TableDefinition::new("state");
const ANSWERS: Texts = TableDefinition::new("answers");
const RESULTS: Texts = TableDefinition::new("results");
const RESULT_BODIES: Texts = TableDefinition::new("result-bodies");
const KEYS: Texts = TableDefinition::new("keys");
const ENDS: Texts = TableDefinition::new("ends");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// The key in [`META`] of the schema's version, and the schema that this build reads and writes.
const SCHEMA: &str = "schema";
const SCHEMA_VERSION: u64 = 1;

/// The format of a value that is JSON.
const FORMAT: u8 = 1;

/// What goes at an end.
const RESULT: &[u8] = b"result";
const KEY: &[u8] = b"key";

/// How much of the file redb may keep in memory, in bytes.
const CACHE: usize = 4 << 20;

/// How many ends are looked at together.
const ENDS_AT_ONCE: usize = 256;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the queue {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: redb::DatabaseError,
    },
    /// Written by another version of Roost.
    #[error(
        "the queue {path} has version {found} and this roostd reads version {SCHEMA_VERSION}: install the version that wrote it"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
    },
    /// Reading or writing failed.
    #[error("the queue cannot be written: {0}")]
    Database(Box<redb::Error>),
    /// A record cannot be read.
    #[error("a record of the queue cannot be read: {0}")]
    Record(serde_json::Error),
    /// A record was written by another version of Roost.
    #[error("a record of the queue has a format that this roostd does not know")]
    Format,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl StoreError {
    /// Is there no room on the disk?
    pub(super) fn is_full(&self) -> bool {
        let Self::Database(error) = self else { return false };
        matches!(&**error, redb::Error::Io(error) if is_full(error))
    }
}

/// Is there no room on the disk?
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// A call that is there when the daemon begins.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) call: Invocation,
    pub(super) body: Where,
    pub(super) state: State,
}

/// How far a call is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// An attempt has begun, and not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) begun: bool,
    /// Attempts that have begun.
    #[serde(default)]
    pub(super) attempts: u32,
    /// Not before, in milliseconds of Unix time; 0 is at once.
    #[serde(default)]
    pub(super) due: i64,
    /// Its answer, while the callback is tried again, and how often that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<(Answer, Where, u32)>,
}

/// Where a body is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Where {
    /// In the table beside; so many bytes.
    Table(u64),
    /// In a file.
    File(Named),
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    body: Where,
    #[serde(flatten)]
    call: Invocation,
}

/// A call, as it is made.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) call: Invocation,
    pub(super) body: Kept,
    /// Its answer, and how often it was to be sent.
    pub(super) answer: Option<(Answer, Kept, u32)>,
}

/// An answer that is kept for whoever asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) answer: Answer,
    /// `None`: it was too large to be kept.
    pub(super) body: Option<Where>,
    /// Until when, in milliseconds of Unix time.
    pub(super) until: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    id: String,
    until: i64,
}

impl Where {
    pub(super) fn of(kept: &Kept) -> Self {
        match kept {
            Kept::Inline(bytes) => Self::Table(bytes.len() as u64),
            Kept::File(named) => Self::File(named.clone()),
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Table(length) => *length,
            Self::File(named) => Kept::File(named.clone()).length(),
        }
    }

    pub(super) fn file(&self) -> Option<&Named> {
        match self {
            Self::Table(_) => None,
            Self::File(named) => Some(named),
        }
    }
}

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` behind a failure: redb takes no more calls then, even when the disk has room again. The next batch opens the
    /// file anew.
    database: Option<Database>,
}

impl Store {
    /// Opens the database at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), database: Some(open(path)?) })
    }

    /// Makes changes, all of them or none. What is done to the calls is on the disk when this returns.
    pub(super) fn batch<T>(
        &mut self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let done = batch(&database, work);
        if !matches!(done, Err(StoreError::Database(_))) {
            self.database = Some(database);
        }
        done
    }

    /// All calls that are there, in the order of their numbers. One that cannot be read is passed over, and told of.
    pub(super) fn found(
        &mut self,
        mut each: impl FnMut(Result<Found, (u64, StoreError)>),
    ) -> Result<(), StoreError> {
        self.batch(|tables| {
            for entry in tables.calls.iter()? {
                let (name, value) = entry?;
                let number = number_of(name.value())?;
                let record = decode::<Record>(value.value());
                let state = match tables.state.get(name.value())? {
                    Some(state) => decode(state.value()),
                    None => Ok(State::default()),
                };
                each(
                    record
                        .and_then(|record| Ok((record, state?)))
                        .map_err(|why| (number, why))
                        .map(|(Record { body, call }, state)| Found { number, call, body, state }),
                );
            }
            Ok(())
        })
    }

    /// A call, whole. `None` if it is no more.
    pub(super) fn load(&mut self, number: u64) -> Result<Option<Loaded>, StoreError> {
        let database = match &self.database {
            Some(database) => database,
            None => self.database.insert(open(&self.path)?),
        };
        let read = database.begin_read()?;
        load(
            number,
            &read.open_table(CALLS)?,
            &read.open_table(BODIES)?,
            &read.open_table(STATE)?,
            &read.open_table(ANSWERS)?,
        )
    }

    /// The names of all files of results.
    pub(super) fn result_files(&self) -> Result<Vec<Named>, StoreError> {
        let Some(database) = &self.database else { return Ok(Vec::new()) };
        let table = database.begin_read()?.open_table(RESULTS)?;
        let mut names = Vec::new();
        for entry in table.iter()? {
            let (_, value) = entry?;
            let result: Outcome = decode(value.value())?;
            names.extend(result.body.as_ref().and_then(Where::file).cloned());
        }
        Ok(names)
    }

    /// The next number that no call has had.
    pub(super) fn next_number(&self) -> Result<u64, StoreError> {
        let Some(database) = &self.database else { return Ok(1) };
        let read = database.begin_read()?;
        let last = read.open_table(CALLS)?.last()?.map_or(Ok(0), |(name, _)| number_of(name.value()))?;
        Ok(last + 1)
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let opened = open_database(path, CACHE);
    // Headers of calls are in it.
    if opened.is_ok()
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(0o600))
    {
        warn!("{} may be read by others: {error}", path.display());
    }
    prepare(opened.map_err(|source| StoreError::Open { path: path.to_owned(), source })?, path)
}

/// Sees to it that a database has the tables.
fn prepare(database: Database, path: &Path) -> Result<Database, StoreError> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(SCHEMA)?.map(|version| version.value());
        match found {
            None => drop(meta.insert(SCHEMA, SCHEMA_VERSION)?),
            Some(SCHEMA_VERSION) => {}
            Some(found) => return Err(StoreError::Version { path: path.to_owned(), found }),
        }
    }
    Tables::open(&transaction)?;
    transaction.commit()?;
    Ok(database)
}

fn batch<T>(
    database: &Database,
    work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let done = work(&mut Tables::open(&transaction)?)?;
    transaction.commit()?;
    Ok(done)
}

/// The tables, while a batch is made.
pub(super) struct Tables<'a> {
    calls: Table<'a, &'static str, &'static [u8]>,
    bodies: Table<'a, &'static str, &'static [u8]>,
    state: Table<'a, &'static str, &'static [u8]>,
    answers: Table<'a, &'static str, &'static [u8]>,
    results: Table<'a, &'static str, &'static [u8]>,
    result_bodies: Table<'a, &'static str, &'static [u8]>,
    keys: Table<'a, &'static str, &'static [u8]>,
    ends: Table<'a, &'static str, &'static [u8]>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            calls: transaction.open_table(CALLS)?,
            bodies: transaction.open_table(BODIES)?,
            state: transaction.open_table(STATE)?,
            answers: transaction.open_table(ANSWERS)?,
            results: transaction.open_table(RESULTS)?,
            result_bodies: transaction.open_table(RESULT_BODIES)?,
            keys: transaction.open_table(KEYS)?,
            ends: transaction.open_table(ENDS)?,
        })
    }

    /// Adds a call, unless one of its idempotency key is known at `now`. Its key is known for `known_for` milliseconds.
    pub(super) fn append(
        &mut self,
        number: u64,
        call: &Invocation,
        body: &Kept,
        now: i64,
        known_for: i64,
    ) -> Result<Accepted, StoreError> {
        if let Some(key) = &call.wishes.idempotency_key {
            let name = format!("{}\0{key}", call.function);
            let known = self.keys.get(name.as_str())?.map(|key| decode::<Key>(key.value())).transpose()?;
            if let Some(known) = known.filter(|known| known.until > now) {
                return Ok(Accepted::Again(known.id));
            }
            let until = now.saturating_add(known_for);
            self.keys.insert(name.as_str(), &*encode(&Key { id: call.id.clone(), until })?)?;
            self.ends.insert(end_of(until, &name).as_str(), KEY)?;
        }
        if let Kept::Inline(bytes) = body
            && !bytes.is_empty()
        {
            self.bodies.insert(name_of(number).as_str(), &**bytes)?;
        }
        let record = RecordOf { body: Where::of(body), call };
        self.calls.insert(name_of(number).as_str(), &*encode(&record)?)?;
        if let Some(delay) = call.wishes.delay {
            let due = call.accepted.saturating_add_unsigned(delay);
            self.put_state(number, &State { due, ..State::default() })?;
        }
        Ok(Accepted::New)
    }

    /// Notes how far a call is.
    pub(super) fn put_state(&mut self, number: u64, state: &State) -> Result<(), StoreError> {
        self.state.insert(name_of(number).as_str(), &*encode(state)?)?;
        Ok(())
    }

    /// How far it is.
    pub(super) fn state(&self, number: u64) -> Result<State, StoreError> {
        let state = self.state.get(name_of(number).as_str())?;
        state.map_or(Ok(State::default()), |state| decode(state.value()))
    }

    /// Notes the answer of a call whose callback is to be tried again.
    pub(super) fn put_answer(&mut self, number: u64, body: &Kept) -> Result<(), StoreError> {
        if let Kept::Inline(bytes) = body {
            self.answers.insert(name_of(number).as_str(), &**bytes)?;
        }
        Ok(())
    }

    /// Keeps an answer for whoever asks. The file of another one in its place is given.
    pub(super) fn put_result(
        &mut self,
        name: &str,
        answer: Answer,
        body: Option<&Kept>,
        until: i64,
    ) -> Result<Option<Named>, StoreError> {
        let result = Outcome { answer, body: body.map(Where::of), until };
        let replaced =
            self.results.insert(name, &*encode(&result)?)?.map(|old| decode::<Outcome>(old.value()));
        match body {
            Some(Kept::Inline(bytes)) => drop(self.result_bodies.insert(name, &**bytes)?),
            _ => drop(self.result_bodies.remove(name)?),
        }
        self.ends.insert(end_of(until, name).as_str(), RESULT)?;
        Ok(replaced.transpose()?.and_then(|old| old.body?.file().cloned()))
    }

    /// A result that is kept.
    pub(super) fn result(&self, name: &str) -> Result<Option<(Answer, Option<Kept>)>, StoreError> {
        let Some(result) = self.results.get(name)? else { return Ok(None) };
        let Outcome { answer, body, .. } = decode(result.value())?;
        let body = match body {
            None => None,
            Some(Where::File(named)) => Some(Kept::File(named)),
            Some(Where::Table(_)) => {
                let bytes = self.result_bodies.get(name)?;
                Some(Kept::Inline(
                    bytes.map_or_else(Bytes::new, |bytes| Bytes::copy_from_slice(bytes.value())),
                ))
            }
        };
        Ok(Some((answer, body)))
    }

    /// The names of the results of an id.
    pub(super) fn results_of(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let (from, to) = (format!("{id}\0"), format!("{id}\x01"));
        let names = self.results.range(from.as_str()..to.as_str())?;
        names.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    /// A call is no more.
    pub(super) fn remove(&mut self, number: u64) -> Result<(), StoreError> {
        let name = name_of(number);
        for table in [&mut self.calls, &mut self.bodies, &mut self.state, &mut self.answers] {
            table.remove(name.as_str())?;
        }
        Ok(())
    }

    /// A call, whole. `None` if it is no more.
    pub(super) fn load(&self, number: u64) -> Result<Option<Loaded>, StoreError> {
        load(number, &self.calls, &self.bodies, &self.state, &self.answers)
    }

    /// Removes keys and results that have had their time, and gives the files of the latter. Says whether there may be
    /// more.
    pub(super) fn expire(&mut self, now: i64) -> Result<(Vec<Named>, bool), StoreError> {
        let mut due = Vec::new();
        for entry in self.ends.range(..end_of(now, "").as_str())?.take(ENDS_AT_ONCE) {
            let (end, what) = entry?;
            due.push((end.value().to_owned(), what.value() == KEY));
        }
        let (more, mut files) = (due.len() == ENDS_AT_ONCE, Vec::new());
        for (end, is_key) in due {
            self.ends.remove(end.as_str())?;
            let (at, name) = read_end(&end)?;
            // One that was put there again has another end.
            if is_key {
                let is_it = self.keys.get(name)?.map(|key| decode::<Key>(key.value())).transpose()?;
                if is_it.is_some_and(|key| key.until <= at) {
                    self.keys.remove(name)?;
                }
            } else {
                let found = self.results.get(name)?.map(|result| decode::<Outcome>(result.value()));
                let Some(result) = found.transpose()?.filter(|result| result.until <= at) else { continue };
                self.results.remove(name)?;
                self.result_bodies.remove(name)?;
                files.extend(result.body.as_ref().and_then(Where::file).cloned());
            }
        }
        Ok((files, more))
    }

    /// When the next key or result has had its time.
    pub(super) fn next_end(&self) -> Result<Option<i64>, StoreError> {
        self.ends.first()?.map(|(end, _)| Ok(read_end(end.value())?.0)).transpose()
    }
}

fn load(
    number: u64,
    calls: &impl ReadableTable<&'static str, &'static [u8]>,
    bodies: &impl ReadableTable<&'static str, &'static [u8]>,
    state: &impl ReadableTable<&'static str, &'static [u8]>,
    answers: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<Loaded>, StoreError> {
    let name = name_of(number);
    let Some(record) = calls.get(name.as_str())? else { return Ok(None) };
    let Record { body, call } = decode(record.value())?;
    let state: State =
        state.get(name.as_str())?.map_or(Ok(State::default()), |state| decode(state.value()))?;
    let body = kept(&name, bodies, body)?;
    let answer = match state.answer {
        Some((answer, place, times)) => Some((answer, kept(&name, answers, place)?, times)),
        None => None,
    };
    Ok(Some(Loaded { call, body, answer }))
}

fn kept(
    name: &str,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    place: Where,
) -> Result<Kept, StoreError> {
    Ok(match place {
        Where::File(named) => Kept::File(named),
        Where::Table(_) => Kept::Inline(
            table.get(name)?.map_or_else(Bytes::new, |bytes| Bytes::copy_from_slice(bytes.value())),
        ),
    })
}

#[derive(Serialize)]
struct RecordOf<'a> {
    body: Where,
    #[serde(flatten)]
    call: &'a Invocation,
}

/// The name of a call of a number.
fn name_of(number: u64) -> String {
    format!("{number:016x}")
}

fn number_of(name: &str) -> Result<u64, StoreError> {
    u64::from_str_radix(name, 16).map_err(|_| StoreError::Format)
}

/// The name of an end: when, in milliseconds of Unix time, and what.
fn end_of(at: i64, name: &str) -> String {
    format!("{:016x}{name}", at.max(0))
}

fn read_end(end: &str) -> Result<(i64, &str), StoreError> {
    let (at, name) = end.split_at_checked(16).ok_or(StoreError::Format)?;
    Ok((i64::from_str_radix(at, 16).map_err(|_| StoreError::Format)?, name))
}

/// The name of a result.
pub(super) fn result_name(call: &Invocation) -> String {
    format!("{}\0{}", call.id, call.function)
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).map_err(StoreError::Record)?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(StoreError::Record),
        _ => Err(StoreError::Format),
    }
}

#[cfg(test)]
mod tests;
