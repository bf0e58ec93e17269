//! Which connections are held whose functions want to hear of their end: so that they do, even if this daemon does not live
//! to see it.
//!
//! Owns a file in the state directory, of one line for each connection that was opened and one for each whose end was told.
//! A line is with the kernel before the client has its answer, so that it outlives a daemon that is killed; it is on the
//! disk a second later: of connections that end with the machine, those of its last second may be forgotten. Begins anew
//! when most of it tells of connections that are gone. A function that begins to ask is told of the ends of those
//! connections too that were open before: an update notes them here.
//!
//! ```text
//!   open ──► + ID FUNCTION … ──► told of the end ──► - ID
//!   next daemon: all + without a - , and not handed over ──► disconnected, 1006
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::event::{ConnectionId, Identity};
use roost_proxy::websocket::{Filter, Hub, Keeper};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// The name of the file.
const NAME: &str = "connections.journal";

/// How often it is put on the disk, if there is something new.
const SYNC: Duration = Duration::from_secs(1);

/// From so many lines on it is begun anew when most of them are of connections that are gone.
const MOST_DEAD: usize = 16_384;

/// The journal of this daemon.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// What stands in it and has no end yet.
    open: HashMap<ConnectionId, String>,
    lines: usize,
    unsynced: bool,
    /// The disk does not take it: that was told.
    failing: bool,
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Open(Opened),
    End(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Opened {
    id: String,
    function: String,
    namespace: String,
    path: String,
    user: Option<String>,
    subprotocol: Option<String>,
    peer: std::net::IpAddr,
    host: Option<String>,
    user_agent: Option<String>,
    since: u64,
}

impl Journal {
    /// The one in this directory, and what an earlier daemon has written and not told the end of.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(state: &Path) -> io::Result<(Arc<Self>, Vec<Identity>)> {
        let path = state.join(NAME);
        let open = match File::open(&path) {
            Ok(file) => read(BufReader::new(file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error),
        };
        let left = open.values().filter_map(|line| identity(line)).collect();
        let file = rewrite(&path, open.values())?;
        let inner = Inner { file, lines: open.len(), open, unsynced: false, failing: false };
        Ok((Arc::new(Self { path, inner: Mutex::new(inner) }), left))
    }

    /// Has it on the disk, again and again.
    pub async fn keep_synced(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SYNC);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let journal = Arc::clone(&self);
            let synced = tokio::task::spawn_blocking(move || journal.sync()).await;
            if let Ok(Err(error)) = synced {
                warn!("which connections are open may be forgotten if this machine stops: {error}");
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let file = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.unsynced) {
                return Ok(());
            }
            inner.file.try_clone()?
        };
        file.sync_data()
    }

    /// The function wants to hear of ends from now on: of its connections that are there, too. Called once what it wants is
    /// what connections that open see.
    pub fn note(&self, hub: &Hub, function: &FunctionKey) {
        let of_this = Filter { function: Some(function.clone()), ..Filter::default() };
        for member in hub.list(&function.namespace, &of_this, None, usize::MAX) {
            let id = member.identity().id;
            self.opened(member.identity());
            if hub.find(id).is_none() {
                // It ended under our eyes, and its end may have been told.
                self.ended(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is under the lock is whole after each step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, inner: &mut Inner, line: &Line) {
        let text = match serde_json::to_string(line) {
            Ok(text) => text + "\n",
            Err(error) => return warn!("a line cannot be written: {error}"),
        };
        if let Line::Open(opened) = line
            && let Some(id) = ConnectionId::parse(&opened.id)
        {
            inner.open.insert(id, text.clone());
        }
        inner.lines += 1;
        inner.unsynced = true;
        let mut written = inner.file.write_all(text.as_bytes());
        if written.is_ok() && inner.lines > MOST_DEAD.max(2 * inner.open.len()) {
            written = rewrite(&self.path, inner.open.values()).map(|file| {
                inner.file = file;
                inner.lines = inner.open.len();
            });
        }
        match written {
            Ok(()) => inner.failing = false,
            Err(error) if !inner.failing => {
                inner.failing = true;
                warn!("functions may not hear of the end of connections if this daemon is killed: {error}");
            }
            Err(_known) => {}
        }
    }
}

impl Keeper for Journal {
    fn opened(&self, identity: &Identity) {
        let line = Line::Open(opened(identity));
        let mut inner = self.lock();
        if !inner.open.contains_key(&identity.id) {
            self.add(&mut inner, &line);
        }
    }

    fn ended(&self, id: ConnectionId) {
        let mut inner = self.lock();
        if inner.open.remove(&id).is_some() {
            self.add(&mut inner, &Line::End(id.to_string()));
        }
    }
}

/// Those of them that no process has.
#[must_use]
pub fn lost(left: Vec<Identity>, hub: &Hub) -> Vec<Identity> {
    let lost: Vec<Identity> = left.into_iter().filter(|identity| hub.find(identity.id).is_none()).collect();
    if !lost.is_empty() {
        info!("{} connections ended with an earlier daemon, and their functions are told", lost.len());
    }
    lost
}

/// The lines without an end. One that is broken off, or not understood, is none.
fn read(lines: impl BufRead) -> io::Result<HashMap<ConnectionId, String>> {
    let mut open = HashMap::new();
    for line in lines.split(b'\n') {
        match serde_json::from_slice(&line?) {
            Ok(Line::Open(opened)) => {
                let text = serde_json::to_string(&Line::Open(opened.clone()))? + "\n";
                open.extend(ConnectionId::parse(&opened.id).map(|id| (id, text)));
            }
            Ok(Line::End(id)) => {
                ConnectionId::parse(&id).and_then(|id| open.remove(&id));
            }
            Err(_broken) => {}
        }
    }
    Ok(open)
}

/// A new file of these lines in place of the old one.
fn rewrite<'a>(path: &Path, lines: impl Iterator<Item = &'a String>) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    let text: String = lines.map(String::as_str).collect();
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    OpenOptions::new().append(true).open(path)
}

fn opened(identity: &Identity) -> Opened {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let since = identity.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    Opened {
        id: identity.id.to_string(),
        function: identity.function.name.to_string(),
        namespace: identity.function.namespace.to_string(),
        path: identity.path.to_string(),
        user: identity.user().map(str::to_owned),
        subprotocol: identity.subprotocol().map(str::to_owned),
        peer: identity.peer,
        host: text(&identity.host),
        user_agent: text(&identity.user_agent),
        since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}

fn identity(line: &str) -> Option<Identity> {
    let Ok(Line::Open(opened)) = serde_json::from_str(line) else { return None };
    let once =
        |text: Option<String>| text.map_or_else(OnceLock::new, |text| OnceLock::from(text.into_boxed_str()));
    Some(Identity {
        id: ConnectionId::parse(&opened.id)?,
        function: FunctionKey::new(opened.namespace.parse().ok()?, opened.function.parse().ok()?),
        path: opened.path.into(),
        user: once(opened.user),
        subprotocol: once(opened.subprotocol),
        peer: opened.peer,
        host: opened.host.map(String::into_boxed_str),
        user_agent: opened.user_agent.map(String::into_boxed_str),
        since: UNIX_EPOCH.checked_add(Duration::from_millis(opened.since)).unwrap_or_else(SystemTime::now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody(user: &str) -> Identity {
        Identity {
            id: ConnectionId::random(),
            function: FunctionKey::from_route("chat.dev").unwrap(),
            path: "/room?x=1".into(),
            user: OnceLock::from(Box::<str>::from(user)),
            subprotocol: OnceLock::new(),
            peer: [127, 0, 0, 1].into(),
            host: Some("h".into()),
            user_agent: None,
            since: UNIX_EPOCH + Duration::from_secs(7),
        }
    }

    fn ids(left: &[Identity]) -> Vec<ConnectionId> {
        let mut ids: Vec<_> = left.iter().map(|identity| identity.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_next_daemon_finds_those_whose_end_was_not_told_with_all_that_is_known_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert!(left.is_empty());
        let (one, two) = (somebody("ada"), somebody("bob"));
        journal.opened(&one);
        journal.opened(&two);
        journal.opened(&two);
        journal.ended(one.id);
        journal.ended(ConnectionId::random());
        drop(journal);
        let text = fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert_eq!(text.lines().count(), 3, "each is written once");
        // Killed in the midst of a line.
        let mut file = OpenOptions::new().append(true).open(dir.path().join(NAME)).unwrap();
        file.write_all(b"{\"open\":{\"id\":\"half").unwrap();
        for _ in 0..2 {
            let (_journal, left) = Journal::open(dir.path()).unwrap();
            assert_eq!(ids(&left), [two.id]);
            assert_eq!(opened(&left[0]), opened(&two));
        }
    }

    #[test]
    fn it_does_not_grow_with_connections_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        let stays = somebody("ada");
        journal.opened(&stays);
        for _ in 0..20_000 {
            let goes = somebody("bob");
            journal.opened(&goes);
            journal.ended(goes.id);
        }
        let size = fs::metadata(dir.path().join(NAME)).unwrap().len();
        assert!(size < 5 << 20, "{size}");
        drop(journal);
        assert_eq!(ids(&Journal::open(dir.path()).unwrap().1), [stays.id]);
    }
}
