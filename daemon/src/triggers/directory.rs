//! Directories: a file that was written, or moved in, is a call.
//!
//! Owns which files are taken, and what becomes of them: once the queue has their calls they are moved to `done`, or
//! removed. Files are taken one after the other, the oldest first; those that are there at the start, too. What begins with
//! a dot is left alone, so that a file can be written under such a name and then be renamed.
//!
//! ```text
//!   inotify, or the start ─► list ─► read ─► queue ─► done/   (too large, unreadable: failed/)
//! ```

mod files;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use nix::sys::inotify::AddWatchFlags;
use roost_proxy::function::FunctionKey;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::files::{Found, Read};
use super::handing::hand_over;
use super::settings::Directory;
use super::topics::Source;
use super::wanted::Wanted;
use super::{Deliver, Tools, TriggeredCall, X_CONNECTOR, X_TOPIC};
use crate::inotify::Events;

const CONNECTOR: HeaderValue = HeaderValue::from_static("directory-connector");
const X_FILE: &str = "x-roost-file";

/// How soon a directory that cannot be watched is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// Takes files of one directory for ever, while somebody listens to it.
pub async fn run<D: Deliver>(
    source: Source,
    directory: Directory,
    tools: Tools<D>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
) {
    let watcher = Watcher { name: source.to_string(), source, directory, tools };
    let mut told = String::new();
    loop {
        if watcher.functions(&wanted.borrow_and_update()).is_empty() {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Err(error) = watcher.watch(&mut wanted).await else { continue };
        watcher.tools.figures.connected(&watcher.source, false);
        let why = error.to_string();
        if told != why {
            warn!("{}: {}: not watched: {why}", watcher.name, watcher.directory.path.display());
            told = why;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

struct Watcher<D> {
    source: Source,
    /// The source, in words.
    name: String,
    directory: Directory,
    tools: Tools<D>,
}

impl<D: Deliver> Watcher<D> {
    fn functions(&self, wanted: &Wanted) -> Vec<FunctionKey> {
        wanted.of_source(&self.source).into_values().flatten().collect()
    }

    /// Takes all files, and waits for more. Ends when nobody listens any more, and fails when the directory goes.
    async fn watch(&self, wanted: &mut watch::Receiver<Arc<Wanted>>) -> io::Result<()> {
        let events = Events::new()?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        events.inotify().add_watch(&self.directory.path, flags)?;
        if !self.directory.remove {
            // Whoever cannot put files away would take them again and again.
            let path = self.directory.path.clone();
            blocking(move || files::make_place(&path, files::DONE).map(drop)).await?;
        }
        self.tools.figures.connected(&self.source, true);
        info!("{}: files of {} are taken", self.name, self.directory.path.display());
        let is_end = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
        loop {
            let path = self.directory.path.clone();
            let listed = blocking(move || files::list(&path)).await?;
            let more = listed.len() == files::MAX_LISTED;
            for found in listed {
                let functions = self.functions(&wanted.borrow_and_update());
                if functions.is_empty() {
                    return Ok(());
                }
                self.take(found, &functions).await?;
            }
            if more {
                continue;
            }
            tokio::select! {
                happened = events.next() => if happened?.iter().any(|event| event.mask.intersects(is_end)) {
                    return Err(io::Error::other("it is gone"));
                },
                changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            }
            if self.functions(&wanted.borrow_and_update()).is_empty() {
                return Ok(());
            }
        }
    }

    /// Makes one file a call. Fails only when it cannot be put away: it would be taken again and again.
    async fn take(&self, found: Found, functions: &[FunctionKey]) -> io::Result<()> {
        let (path, max) = (found.path.clone(), self.tools.max_body);
        match blocking(move || files::read(&path, max)).await {
            Ok(Read::File(body, mark)) => {
                debug!("{}: {}", self.name, found.path.display());
                let call = call(&self.source, &found.path, body, &mark);
                let Tools { deliver, figures, .. } = &self.tools;
                hand_over(deliver, figures, &self.name, functions, &call).await;
                let (path, remove) = (found.path, self.directory.remove);
                blocking(
                    move || if remove { files::remove(&path) } else { files::put_away(&path, files::DONE) },
                )
                .await
            }
            Ok(Read::TooLarge) => {
                warn!("{}: {}: larger than queue.max_body: put away", self.name, found.path.display());
                self.put_away_as_failed(found, functions).await
            }
            // It was taken away meanwhile, or is no file.
            Ok(Read::Nothing) => Ok(()),
            Err(error) => {
                warn!("{}: {}: put away: {error}", self.name, found.path.display());
                self.put_away_as_failed(found, functions).await
            }
        }
    }

    async fn put_away_as_failed(&self, found: Found, functions: &[FunctionKey]) -> io::Result<()> {
        for function in functions {
            self.tools.figures.failed(function, &self.name);
        }
        blocking(move || files::put_away(&found.path, files::FAILED)).await
    }
}

fn call(source: &Source, path: &Path, body: Vec<u8>, mark: &str) -> TriggeredCall {
    let file = path.file_name().map(files::written).unwrap_or_default();
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(X_CONNECTOR, CONNECTOR);
    headers.insert(X_TOPIC, HeaderValue::try_from(&*source.name).expect("the name of a source is a header"));
    headers.insert(X_FILE, HeaderValue::try_from(&file).expect("what is visible is a header"));
    TriggeredCall {
        headers,
        body: body.into(),
        idempotency_key: Some(format!("{source}:{file}:{mark}")),
        ..TriggeredCall::default()
    }
}

/// Runs a call on files off the async workers.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
