//! What a function printed, as one stream of records: its replicas' files merged by time, and then what comes.
//!
//! Owns the order and the choice of lines. File work runs on blocking threads, a bounded piece at a time, and only when the
//! stream is polled: a slow reader holds no thread and no memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::SystemTime;

use futures_util::stream::{self, Stream};
use jiff::Timestamp;
use roost_proxy::function::FunctionKey;

use super::armed::Changes;
use super::follow::{Following, Watch};
use super::record::Record;
use super::replica::{Line, Replica};
use super::replica_of;

/// How many replicas of one function are read at once: those that printed last. Each takes two files.
const REPLICA_LIMIT: usize = 256;

/// How much is read ahead of the stream: this many records,
const BATCH_RECORDS: usize = 256;
/// or this many bytes of text.
const BATCH_BYTES: usize = 256 * 1024;

/// Which lines of which function.
#[derive(Debug, Clone)]
pub struct Query {
    /// The function.
    pub key: FunctionKey,
    /// Only this replica.
    pub instance: Option<String>,
    /// Only this many of the newest lines that were there at the beginning.
    pub tail: Option<usize>,
    /// Only lines of this time or later.
    pub since: Option<Timestamp>,
    /// Go on with what is printed from then on. The stream has no end then.
    pub follow: bool,
}

/// The stream of what `query` asks for. `root` holds the files of all functions, `dir` those of this one.
///
/// # Errors
/// When what is there cannot be opened, or what is to come cannot be watched.
pub(super) async fn read(
    root: PathBuf,
    dir: PathBuf,
    following: &Following,
    query: Query,
) -> io::Result<impl Stream<Item = io::Result<Record>> + use<>> {
    let follow = query.follow;
    let reader = Reader::new(dir.clone(), query);
    let mut state = State { reader: Some(reader), watch: None, ready: VecDeque::new() };
    // First watch, then look: what is written in between is seen by both, and read once.
    if follow {
        // Before the first deploy on this host there may be nothing to watch.
        let made = root.clone();
        state.work(move |_| DirBuilder::new().recursive(true).mode(0o700).create(made)).await?;
        state.watch = Some(following.watch(&root, &dir)?);
    }
    state.work(Reader::begin).await?;
    Ok(stream::try_unfold(state, |mut state| async { Ok(state.next().await?.map(|record| (record, state))) }))
}

/// A stream between two records.
struct State {
    reader: Option<Reader>,
    watch: Option<Watch>,
    ready: VecDeque<Record>,
}

impl State {
    async fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            self.ready = self.work(Reader::batch).await?.into();
            if self.ready.is_empty() {
                let Some(watch) = &mut self.watch else { return Ok(None) };
                let changes = watch.changed().await?;
                self.work(move |reader| reader.refresh(&changes)).await?;
            }
        }
    }

    /// Runs a piece of file work on a blocking thread.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reader) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(mut reader) = self.reader.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let (reader, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut reader);
            (reader, result)
        })
        .await?;
        self.reader = Some(reader);
        result
    }
}

/// The replicas of one function, each read up to a place.
struct Reader {
    dir: PathBuf,
    query: Query,
    replicas: BTreeMap<String, Merged>,
    /// Lines still to be left out, for `tail`.
    skip: usize,
}

/// A replica and its next line.
#[derive(Default)]
struct Merged {
    replica: Replica,
    next: Option<Line>,
    /// Its files are gone: it leaves when it is read to its end.
    gone: bool,
}

impl Reader {
    fn new(dir: PathBuf, query: Query) -> Self {
        Self { dir, query, replicas: BTreeMap::new(), skip: 0 }
    }

    /// Opens what is there. For `tail` it is read twice: once to count, so that it is never held in memory.
    fn begin(&mut self) -> io::Result<()> {
        self.refresh(&Changes::All)?;
        if let Some(tail) = self.query.tail {
            let mut lines = 0_usize;
            for merged in self.replicas.values_mut() {
                while let Some(line) = merged.replica.next_line()? {
                    lines += usize::from(self.query.since.is_none_or(|since| line.timestamp >= since));
                }
                merged.replica.rewind()?;
            }
            self.skip = lines.saturating_sub(tail);
        }
        Ok(())
    }

    /// Looks again at the files that changed.
    fn refresh(&mut self, changes: &Changes) -> io::Result<()> {
        // What is new is not of the beginning.
        self.skip = 0;
        match changes {
            Changes::All => {
                for id in self.listed()? {
                    self.refresh_replica(&id)?;
                }
                // Also those that are listed no more.
                for id in self.replicas.keys().cloned().collect::<Vec<_>>() {
                    self.refresh_replica(&id)?;
                }
            }
            Changes::Some(ids) => {
                for id in ids {
                    self.refresh_replica(id)?;
                }
            }
        }
        Ok(())
    }

    fn refresh_replica(&mut self, id: &str) -> io::Result<()> {
        if self.query.instance.as_deref().is_some_and(|instance| instance != id) {
            return Ok(());
        }
        let merged = self.replicas.entry(id.to_owned()).or_default();
        merged.gone = !merged.replica.refresh(&self.dir, id)?;
        Ok(())
    }

    /// The replicas that have files, at most [`REPLICA_LIMIT`].
    fn listed(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut newest = HashMap::<String, SystemTime>::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = replica_of(&name) else { continue };
            // A file may go between the two looks at it: then it counts as the oldest.
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let newest = newest.entry(id.to_owned()).or_insert(SystemTime::UNIX_EPOCH);
            *newest = (*newest).max(modified.unwrap_or(SystemTime::UNIX_EPOCH));
        }
        let mut ids: Vec<_> = newest.into_iter().collect();
        ids.sort_by(|(_, a), (_, b)| b.cmp(a));
        Ok(ids.into_iter().take(REPLICA_LIMIT).map(|(id, _)| id).collect())
    }

    /// The next records in order, a bounded number. Empty when all that the last look found is read.
    fn batch(&mut self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Some((id, line)) = self.earliest()? else { break };
            if self.query.since.is_some_and(|since| line.timestamp < since) {
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            bytes += line.text.len();
            records.push(Record {
                name: self.query.key.name.as_str().to_owned(),
                namespace: self.query.key.namespace.as_str().to_owned(),
                instance: id,
                timestamp: line.timestamp,
                text: line.text,
                stream: line.stream,
            });
        }
        Ok(records)
    }

    /// Takes the earliest of the replicas' next lines.
    fn earliest(&mut self) -> io::Result<Option<(String, Line)>> {
        for merged in self.replicas.values_mut().filter(|merged| merged.next.is_none()) {
            merged.next = merged.replica.next_line()?;
        }
        self.replicas.retain(|_, merged| merged.next.is_some() || !merged.gone);
        let with_line = self.replicas.iter_mut().filter(|(_, merged)| merged.next.is_some());
        let first = with_line.min_by_key(|(_, merged)| merged.next.as_ref().map(|line| line.timestamp));
        Ok(first.and_then(|(id, merged)| Some((id.clone(), merged.next.take()?))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::super::store::LogStore;
    use super::*;

    /// A store with the given files of one function.
    fn store(files: &[(&str, &[&str])]) -> (tempfile::TempDir, LogStore) {
        let root = tempfile::tempdir().unwrap();
        let store = LogStore::new(root.path().to_owned());
        let dir = store.directory(&key());
        fs::create_dir_all(&dir).unwrap();
        for (name, lines) in files {
            let lines: String = lines
                .iter()
                .map(|line| format!("2026-01-02T03:04:{}\n", line.replacen(' ', "Z stdout F ", 1)))
                .collect();
            fs::write(dir.join(name), lines).unwrap();
        }
        (root, store)
    }

    fn key() -> FunctionKey {
        FunctionKey::from_route("echo").unwrap()
    }

    fn query() -> Query {
        Query { key: key(), instance: None, tail: None, since: None, follow: false }
    }

    async fn texts(store: &LogStore, query: Query) -> Vec<String> {
        store.read(query).await.unwrap().map_ok(|record| record.text).try_collect().await.unwrap()
    }

    const FILES: &[(&str, &[&str])] = &[
        ("echo-a.log.1", &["01 a1", "03 a3"]),
        ("echo-a.log", &["05 a5", "07 a7"]),
        ("echo-b.log", &["02 b2", "05 b5", "06 b6"]),
        ("echo-b.pid", &["00 no log"]),
    ];

    #[tokio::test]
    async fn replicas_are_merged_by_time_and_chosen_by_the_query() {
        let (_root, store) = store(FILES);
        let at = |second: u8| Some(format!("2026-01-02T03:04:{second:02}Z").parse().unwrap());
        let a = || Some("echo-a".to_owned());
        for (query, expected) in [
            (query(), "a1 b2 a3 a5 b5 b6 a7"),
            (Query { tail: Some(3), ..query() }, "b5 b6 a7"),
            (Query { tail: Some(0), ..query() }, ""),
            (Query { tail: Some(100), ..query() }, "a1 b2 a3 a5 b5 b6 a7"),
            (Query { since: at(5), ..query() }, "a5 b5 b6 a7"),
            (Query { since: at(5), tail: Some(2), ..query() }, "b6 a7"),
            (Query { instance: a(), ..query() }, "a1 a3 a5 a7"),
            (Query { instance: a(), tail: Some(1), ..query() }, "a7"),
            (Query { instance: Some("../echo-a".to_owned()), ..query() }, ""),
        ] {
            assert_eq!(texts(&store, query.clone()).await.join(" "), expected, "{query:?}");
        }
    }

    #[tokio::test]
    async fn a_function_that_never_printed_has_no_lines() {
        let root = tempfile::tempdir().unwrap();
        let store = LogStore::new(root.path().join("not there"));
        assert_eq!(texts(&store, query()).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_told_before_the_first_line_and_what_breaks_later_in_the_middle() {
        let (root, store) = store(FILES);
        let follow = Query { follow: true, ..query() };
        let mut lines = Box::pin(store.read(follow.clone()).await.unwrap());
        for expected in "a1 b2 a3 a5 b5 b6 a7".split(' ') {
            assert_eq!(lines.try_next().await.unwrap().unwrap().text, expected);
        }
        let dir = store.directory(&key());
        fs::rename(&dir, root.path().join("elsewhere")).unwrap();
        fs::write(&dir, "").unwrap();
        let broken = lines.try_next().await.err().unwrap();
        assert_eq!(broken.kind(), io::ErrorKind::NotADirectory, "{broken}");
        for query in [query(), follow] {
            assert!(store.read(query.clone()).await.is_err(), "{query:?}");
        }
    }

    #[tokio::test]
    async fn a_record_names_its_function_and_replica() {
        let (_root, store) = store(&[("echo-a.log", &["01 hello"])]);
        let records: Vec<_> = store.read(query()).await.unwrap().try_collect().await.unwrap();
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!((record.name.as_str(), record.namespace.as_str()), ("echo", "openfaas-fn"));
        assert_eq!((record.instance.as_str(), record.text.as_str()), ("echo-a", "hello"));
        assert_eq!(record.timestamp.to_string(), "2026-01-02T03:04:01Z");
    }

    #[tokio::test]
    async fn more_than_one_batch_comes_out_whole_and_in_order() {
        let lines: Vec<_> = (0..5 * BATCH_RECORDS).map(|n| format!("00.{n:09} line {n}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let (_root, store) = store(&[("echo-a.log", &lines)]);
        let expected: Vec<_> = lines.iter().map(|line| line[13..].to_owned()).collect();
        assert_eq!(texts(&store, query()).await, expected);
    }
}
