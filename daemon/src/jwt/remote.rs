//! The keys of an issuer, fetched from where it has them (a JWKS URL).
//!
//! Owns when they are fetched, that never two fetches of the same keys are under way, and the copy on disk. One task does
//! all of it; requests that bear an unknown key ask it, and wait.
//!
//! ```text
//!   start: the copy on disk ──► fetch ──► keys, copy ──► by age, or asked for ──► fetch …
//!                                 └── anything wrong: old keys stay, a pause, again
//! ```
//!
//! An issuer that is down changes nothing: what was fetched counts until something else is, over restarts too. A token that
//! names a key which nobody has makes no more than one fetch in [`COOLDOWN`], whoever sends how many of them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::keys::KeySet;
use super::{JwtError, MAX_KEYS_TEXT};
use crate::pauses::Pauses;

/// How long a fetch may take, from the connection to the last byte.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a request waits for one: a little longer.
const PATIENCE: Duration = Duration::from_secs(6);

/// The time from one fetch to the next that is not due by age.
const COOLDOWN: Duration = Duration::from_secs(10);

/// The first pause behind a fetch that failed, and the longest: unless keys get old sooner.
const PAUSES: (Duration, Duration) = (COOLDOWN, Duration::from_mins(5));

/// Where copies are, in the directory of what must survive.
const DIRECTORY: &str = "jwks";

/// Keys that are fetched.
pub(super) struct Remote {
    url: Url,
    refresh: Duration,
    client: Client,
    copy: PathBuf,
    keys: ArcSwapOption<KeySet>,
    state: watch::Sender<State>,
    asked: Notify,
    /// When they were fetched, in seconds since 1970; 0 for never.
    fetched_at: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// How it is with the fetching.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// One is under way.
    fetching: bool,
    /// When the last one began.
    began: Option<Instant>,
    /// How many are over.
    done: u64,
}

/// How it is with keys that are fetched.
#[derive(Debug, Clone)]
pub struct RemoteFigures {
    /// From where.
    pub url: String,
    /// How many there are.
    pub keys: usize,
    /// When they were fetched, in seconds since 1970; 0 for never.
    pub fetched_at: u64,
    /// How often they were.
    pub succeeded: u64,
    /// How often they could not be.
    pub failed: u64,
}

impl Remote {
    /// Takes up what was kept in `state`, if anything was.
    pub(super) fn open(
        url: Url,
        refresh: Duration,
        ca: Option<&Path>,
        state: &Path,
    ) -> Result<Arc<Self>, JwtError> {
        let client = client(&url, ca).map_err(|why| JwtError::Client { url: url.to_string(), why })?;
        let name = Sha256::digest(url.as_str()).iter().take(16).fold(String::new(), |name, byte| {
            // Two digits for each byte.
            name + &format!("{byte:02x}")
        });
        let copy = state.join(DIRECTORY).join(format!("{name}.json"));
        let kept = read_copy(&copy);
        let (keys, fetched_at) = kept.map_or((None, 0), |(keys, at)| (Some(Arc::new(keys)), at));
        Ok(Arc::new(Self {
            url,
            refresh,
            client,
            copy,
            keys: ArcSwapOption::new(keys),
            state: watch::Sender::new(State::default()),
            asked: Notify::new(),
            fetched_at: fetched_at.into(),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }))
    }

    /// The keys there are. `None`: they have never been fetched.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Might this key be one that is not known yet?
    pub(super) fn lacks(&self, key: Option<&str>) -> bool {
        match (&*self.keys.load(), key) {
            (None, _) => true,
            (Some(keys), Some(key)) => !keys.has(key),
            (Some(_), None) => false,
        }
    }

    /// Has the keys fetched and waits for them: `false` if that was done only just now, or takes too long.
    pub(super) async fn refreshed(&self) -> bool {
        let mut state = self.state.subscribe();
        let now = *state.borrow_and_update();
        if !now.fetching && now.is_recent() {
            return false;
        }
        self.asked.notify_one();
        let over = state.wait_for(|state| state.done > now.done);
        matches!(timeout(PATIENCE, over).await, Ok(Ok(_)))
    }

    pub(super) fn figures(&self) -> RemoteFigures {
        RemoteFigures {
            url: self.url.to_string(),
            keys: self.keys.load().as_ref().map_or(0, |keys| keys.len()),
            fetched_at: self.fetched_at.load(Relaxed),
            succeeded: self.succeeded.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }

    /// Fetches: at once, and whenever it is time.
    pub(super) async fn run(self: Arc<Self>) {
        let pauses = || Pauses::new((PAUSES.0.min(self.refresh), PAUSES.1.min(self.refresh)));
        let (mut due, mut retries, mut told) = (Instant::now(), pauses(), String::new());
        loop {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.asked.notified() => if self.state.borrow().is_recent() { continue },
            }
            self.state.send_modify(|state| (state.fetching, state.began) = (true, Some(Instant::now())));
            match self.fetch().await {
                Ok(()) => {
                    self.succeeded.fetch_add(1, Relaxed);
                    if !told.is_empty() {
                        info!("{}: the keys of tokens could be fetched again", self.url);
                        told.clear();
                    }
                    retries = pauses();
                    due = Instant::now() + self.refresh;
                }
                Err(why) => {
                    self.failed.fetch_add(1, Relaxed);
                    if told == why {
                        debug!("{}: still: {why}", self.url);
                    } else {
                        let known = self.keys.load().as_ref().map_or(0, |keys| keys.len());
                        warn!("{}: the keys of tokens cannot be fetched, {known} stay: {why}", self.url);
                        told = why;
                    }
                    due = Instant::now() + retries.take();
                }
            }
            self.state.send_modify(|state| (state.fetching, state.done) = (false, state.done + 1));
        }
    }

    async fn fetch(&self) -> Result<(), String> {
        let text = get(&self.client, self.url.clone()).await?;
        let keys = KeySet::parse_public(&text).map_err(|why| why.to_string())?;
        let changed = self.keys.load().as_ref().is_none_or(|known| known.digest != keys.digest);
        if changed {
            for why in &keys.passed_over {
                debug!("{}: {why}", self.url);
            }
            info!("{}: {} keys of tokens from now on", self.url, keys.len());
            self.keys.store(Some(Arc::new(keys)));
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.fetched_at.store(seconds, Relaxed);
        // Also where nothing has changed: its age is that of the keys.
        let copy = self.copy.clone();
        let kept = tokio::task::spawn_blocking(move || keep(&copy, &text)).await;
        if let Err(why) = kept.map_err(io::Error::other).flatten() {
            warn!("{}: a restart without this issuer has no keys: {why}", self.copy.display());
        }
        Ok(())
    }
}

impl State {
    fn is_recent(&self) -> bool {
        self.began.is_some_and(|began| began.elapsed() < COOLDOWN)
    }
}

fn client(url: &Url, ca: Option<&Path>) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(roost_proxy::PRODUCT)
        .https_only(url.scheme() == "https")
        // Whoever answers for another address is somebody else.
        .redirect(Policy::none())
        .timeout(LIMIT)
        .pool_max_idle_per_host(0);
    if let Some(path) = ca {
        let pem = fs::read(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|why| format!("{}: expected certificates in PEM: {why}", path.display()))?;
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(|why| told(&why))
}

async fn get(client: &Client, url: Url) -> Result<Vec<u8>, String> {
    let asked = client.get(url).header("accept", "application/jwk-set+json, application/json").send();
    let mut response = asked.await.map_err(|why| told(&why.without_url()))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}, expected 200", response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|why| told(&why.without_url()))? {
        if (text.len() + piece.len()) as u64 > MAX_KEYS_TEXT {
            return Err(format!("its answer has more than {MAX_KEYS_TEXT} bytes"));
        }
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

/// An error with its causes: what reqwest says itself is only that there was one.
fn told(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What an earlier fetch has left, and when that was.
fn read_copy(path: &Path) -> Option<(KeySet, u64)> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("{}: what was kept of keys cannot be read: {error}", path.display());
            return None;
        }
    };
    let at = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let at = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    match KeySet::parse_public(&text) {
        Ok(keys) => Some((keys, at.as_secs())),
        Err(why) => {
            warn!("{}: what was kept of keys counts no longer: {why}", path.display());
            None
        }
    }
}

/// All of it or nothing.
fn keep(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
