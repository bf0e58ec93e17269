//! The life of an attachment: made, checked, undone, collected after a crash.
//!
//! Owns the order in which namespace, plugins and cache are touched. Never decides who needs an attachment. The state diagram is
//! in the crate's documentation.
//!
//! Each operation runs in a task of its own: a caller that stops waiting does not stop it halfway. One operation at a time for one
//! id; different ids go in parallel.

use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use crate::cache::{Cache, Record, State};
use crate::chain::{Chain, Deleted};
use crate::namespaces::Namespaces;
use crate::plugin::{Command, Plugins};
use crate::turns::Turns;
use crate::{Conflist, Error, PluginError, id, link, result, sweep};

/// How many attachments are collected at a time. The plugins queue for the iptables lock anyway.
const COLLECT_AT_ONCE: usize = 4;

/// What a network is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The plugins and their settings.
    pub conflist: Conflist,
    /// Where the plugins are, first one first.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where is noted what is attached. On a tmpfs: neither namespaces nor addresses outlive a reboot.
    pub cache_dir: PathBuf,
    /// Where the namespaces are mounted. Becomes a mount point. Nothing else may be in it: strays are removed.
    pub netns_dir: PathBuf,
}

/// What the runtime tells the plugins about one attachment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options {
    /// Runtime settings by capability (`portMappings`, `bandwidth`, …). Each plugin sees those its `capabilities` ask for.
    pub capabilities: Map<String, Value>,
    /// `CNI_ARGS`. Plugins refuse a key they do not know unless `IgnoreUnknown` is `1`.
    pub args: Vec<(String, String)>,
}

/// A network namespace with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Chosen by the caller.
    pub id: String,
    /// The file that stands for the namespace.
    pub netns: PathBuf,
    /// Where the host reaches what listens inside.
    pub address: IpAddr,
}

/// The network of a host. Cheap to clone; all clones are the same network.
///
/// Of one cache directory there must be one network at a time.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    conflist: Conflist,
    plugins: Plugins,
    cache: Arc<Cache>,
    namespaces: Namespaces,
    turns: Arc<Turns>,
    /// Of which networks, by name, has a chain gone through? The first one of a network goes alone in it: it makes what its
    /// attachments share (bridge, its address), and the plugins do not agree among each other who makes it. The very first one
    /// goes alone everywhere: it makes what all networks share (the firewall's chains).
    made: Mutex<HashSet<String>>,
    /// Who makes or dismantles a network, by its name; under no name, who goes alone everywhere.
    makers: Arc<Turns>,
}

impl Network {
    /// Checks that every plugin is installed and makes the directories.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let Settings { conflist, plugin_dirs, cache_dir, netns_dir } = settings;
        let plugins = Plugins::new(plugin_dirs);
        require_plugins(&conflist, &plugins)?;
        let cache = Arc::new(Cache::open(cache_dir)?);
        let namespaces = Namespaces::prepare(&netns_dir)?;
        let (turns, made, makers) = Default::default();
        Ok(Self { shared: Arc::new(Shared { conflist, plugins, cache, namespaces, turns, made, makers }) })
    }

    /// Makes a namespace and attaches it. A failure undoes everything, in reverse.
    pub async fn attach(&self, id: &str) -> Result<Attachment, Error> {
        self.attach_with(id, Options::default()).await
    }

    /// The same, with something to tell the plugins.
    pub async fn attach_with(&self, id: &str, options: Options) -> Result<Attachment, Error> {
        self.attach_by(id, self.shared.conflist.clone(), options).await
    }

    /// The same, to another network than the host's usual one. Its plugins must be among those of the usual one.
    pub async fn attach_to(&self, conflist: &Conflist, id: &str) -> Result<Attachment, Error> {
        self.attach_by(id, conflist.clone(), Options::default()).await
    }

    async fn attach_by(&self, id: &str, conflist: Conflist, options: Options) -> Result<Attachment, Error> {
        validate_args(&options)?;
        self.in_turn(id, move |shared, id| async move { shared.attach(id, conflist, options).await }).await
    }

    /// Removes what the attachments of a network shared: its bridge, and the directory of its addresses. They need not be there.
    ///
    /// Refuses while something is attached to it; nothing may be attached meanwhile.
    pub async fn dismantle(&self, conflist: &Conflist) -> Result<(), Error> {
        let (shared, conflist) = (Arc::clone(&self.shared), conflist.clone());
        in_own_task("dismantle", async move { shared.dismantle(&conflist).await }).await
    }

    /// Asks the plugins whether the attachment is as it was made. Nothing is asked if the conflist disables it, or its version does
    /// not know it.
    pub async fn check(&self, id: &str) -> Result<(), Error> {
        self.in_turn(id, |shared, id| async move { shared.check(&id).await }).await
    }

    /// Undoes an attachment, complete or not. There need not be one.
    ///
    /// Goes on when a plugin fails. Then the namespace and the record stay, because the plugin needs both to try again: call it
    /// again, or leave it to [`collect`](Self::collect).
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        self.in_turn(id, |shared, id| async move { shared.detach(&id).await.map(drop) }).await
    }

    /// Is there a complete attachment of this id, made by exactly this list, and its namespace? What is inside is not looked at.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn is_attached_by(&self, conflist: &Conflist, id: &str) -> Result<bool, Error> {
        id::validate(id)?;
        let record = self.shared.read(id).await?;
        let complete = record.is_some_and(|r| r.state == State::Attached && r.conflist == *conflist);
        Ok(complete && self.shared.namespaces.exists(id))
    }

    /// All complete attachments, from the cache, by id.
    pub async fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        self.shared.attachments().await
    }

    /// Cleans up after a crash: undoes every attachment that is not in `keep` or is only half there, removes namespaces that nothing
    /// is known of, and tells whose those were.
    ///
    /// Call it before the first `attach`, or have in `keep` everything that is being attached. It goes through to the end even if
    /// some of it fails.
    pub async fn collect(&self, keep: &HashSet<String>) -> Result<Vec<String>, Error> {
        let (shared, keep) = (Arc::clone(&self.shared), keep.clone());
        in_own_task("collect", async move { shared.collect(&keep).await }).await
    }

    /// Runs an operation on one attachment when it is its turn. The turn is taken here and given to the task, so that what a caller
    /// asks for later comes later, even if it stopped waiting for this.
    async fn in_turn<T, F>(&self, id: &str, act: impl FnOnce(Arc<Shared>, String) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        id::validate(id)?;
        let turn = self.shared.turns.take(id).await;
        let act = act(Arc::clone(&self.shared), id.to_owned());
        in_own_task(id, async move {
            let done = act.await;
            drop(turn);
            done
        })
        .await
    }
}

async fn in_own_task<T: Send + 'static>(
    what: &str,
    act: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(act).await.unwrap_or_else(|_| Err(Error::CutShort { what: what.to_owned() }))
}

/// The address may have been another one's a moment ago.
async fn forget_neighbour(record: &Record, address: IpAddr) {
    let Some(bridge) = record.conflist.bridge().map(str::to_owned) else { return };
    let forgotten = spawn_blocking(move || link::forget_neighbour(&bridge, address)).await;
    if let Err(error) = forgotten.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        tracing::warn!(id = record.id, %address, %error, "the last owner of an address is not forgotten");
    }
}

impl Shared {
    async fn attach(&self, id: String, conflist: Conflist, options: Options) -> Result<Attachment, Error> {
        if self.read(&id).await?.is_some() {
            return Err(Error::AlreadyAttached { id });
        }
        let mut record =
            Record { id, state: State::Attaching, added: 0, address: None, conflist, options, result: None };
        self.write(&record).await?;
        match self.build(&mut record).await {
            Ok(address) => {
                forget_neighbour(&record, address).await;
                Ok(Attachment { netns: self.namespaces.path(&record.id), id: record.id, address })
            }
            Err(cause) => {
                if let Err(error) = self.tear_down(&mut record).await {
                    tracing::warn!(id = record.id, %error, "what a failed attach made is not fully undone");
                }
                Err(cause)
            }
        }
    }

    /// Namespace, then plugin after plugin; each step is noted before the next.
    async fn build(&self, record: &mut Record) -> Result<IpAddr, Error> {
        self.namespaces.create(&record.id).await?;
        let network = record.conflist.name().to_owned();
        let alone = if self.made().is_empty() { Some(self.makers.take("").await) } else { None };
        // Another one may have been the first meanwhile.
        let _alone = alone.filter(|_| self.made().is_empty());
        let maker = self.makers.take(&network).await;
        if self.made().contains(&network) {
            drop(maker);
            return self.add_all(record).await;
        }
        let address = self.add_all(record).await?;
        self.made().insert(network);
        Ok(address)
    }

    /// Held for a look-up, never across an await.
    fn made(&self) -> MutexGuard<'_, HashSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dismantle(&self, conflist: &Conflist) -> Result<(), Error> {
        let network = conflist.name().to_owned();
        let _maker = self.makers.take(&network).await;
        for id in self.with_cache(Cache::ids).await? {
            if self.read(&id).await.is_ok_and(|record| record.is_some_and(|r| r.conflist.name() == network)) {
                return Err(Error::InUse { network, id });
            }
        }
        self.made().remove(&network);
        let (bridge, dir) = (conflist.bridge().map(str::to_owned), conflist.ipam_dir());
        let removed = spawn_blocking(move || {
            let failed = |what: String| move |source| Error::Dismantle { network, what, source };
            if let Some(bridge) = bridge {
                link::remove(&bridge).map_err(failed.clone()(format!("the bridge {bridge}")))?;
            }
            match dir.as_ref().map(std::fs::remove_dir_all) {
                Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failed(dir.unwrap_or_default().display().to_string())(error))
                }
                _ => Ok(()),
            }
        });
        removed.await.unwrap_or_else(|_| Err(Error::CutShort { what: "dismantle".into() }))
    }

    async fn add_all(&self, record: &mut Record) -> Result<IpAddr, Error> {
        let netns = self.namespaces.path(&record.id);
        let plugins = record.conflist.plugins().len();
        loop {
            let chain = Chain::new(&self.plugins, record, Some(&netns));
            let result =
                chain.add_next().await.map_err(|source| Error::Plugin { id: record.id.clone(), source })?;
            record.added += 1;
            let last = record.added == plugins;
            if last {
                record.address = Some(self.address(record, &result)?);
                record.state = State::Attached;
            }
            record.result = Some(result);
            self.write(record).await?;
            if let Some(address) = record.address {
                return Ok(address);
            }
        }
    }

    fn address(&self, record: &Record, result: &Value) -> Result<IpAddr, Error> {
        result::address(result).map_err(|problem| {
            let plugin = record.conflist.plugins().last().map(|p| p.kind.clone()).unwrap_or_default();
            let source = PluginError::Result { plugin, command: Command::Add, problem };
            Error::Plugin { id: record.id.clone(), source }
        })
    }

    async fn check(&self, id: &str) -> Result<(), Error> {
        let Some(record) = self.read(id).await?.filter(|record| record.state == State::Attached) else {
            return Err(Error::NotAttached { id: id.to_owned() });
        };
        let netns = self.namespaces.path(id);
        if !self.namespaces.exists(id) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(Error::Namespace { path: netns, step: "find", source });
        }
        if record.conflist.check_disabled() || !record.conflist.version().knows_check() {
            return Ok(());
        }
        let chain = Chain::new(&self.plugins, &record, Some(&netns));
        chain.check().await.map_err(|source| Error::Plugin { id: id.to_owned(), source })
    }

    /// Tells whether there was anything.
    async fn detach(&self, id: &str) -> Result<bool, Error> {
        match self.read(id).await {
            Ok(Some(mut record)) => self.tear_down(&mut record).await.map(|()| true),
            Ok(None) => {
                let stray = self.namespaces.list()?.iter().any(|name| name == id);
                self.namespaces.remove(id).await?;
                Ok(stray)
            }
            Err(error) => {
                tracing::warn!(id, %error, "undone by the network's present configuration instead");
                self.tear_down(&mut self.presumed(id)).await.map(|()| true)
            }
        }
    }

    /// What the record probably said: all plugins of today, no result.
    fn presumed(&self, id: &str) -> Record {
        let conflist = self.conflist.clone();
        let added = conflist.plugins().len();
        let (state, options) = (State::Detaching, Options::default());
        Record { id: id.to_owned(), state, added, address: None, conflist, options, result: None }
    }

    /// The reverse of `build`.
    async fn tear_down(&self, record: &mut Record) -> Result<(), Error> {
        let repeated = record.state == State::Detaching;
        record.state = State::Detaching;
        self.write(record).await?;
        let netns = self.namespaces.path(&record.id);
        // Plugins give the address back without it; a path that is no namespace they refuse.
        let netns = Some(netns.as_path()).filter(|_| self.namespaces.exists(&record.id));
        let Deleted { failures, unclean } = Chain::new(&self.plugins, record, netns).del().await;
        if !failures.is_empty() {
            return Err(Error::Detach { id: record.id.clone(), failures });
        }
        // Only then can a plugin have succeeded without finding the addresses whose rules it was to remove.
        if (repeated || unclean || netns.is_none()) && record.conflist.masquerades() {
            sweep::masquerading(record.conflist.name(), &record.id).await?;
        }
        self.namespaces.remove(&record.id).await?;
        let id = record.id.clone();
        self.with_cache(move |cache| cache.remove(&id)).await
    }

    async fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let mut attachments = Vec::new();
        for id in self.with_cache(Cache::ids).await? {
            match self.read(&id).await {
                Ok(Some(Record { state: State::Attached, address: Some(address), .. })) => {
                    attachments.push(Attachment { netns: self.namespaces.path(&id), id, address });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(id, %error, "an attachment is left out; it can still be detached");
                }
            }
        }
        attachments.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(attachments)
    }

    async fn collect(self: Arc<Self>, keep: &HashSet<String>) -> Result<Vec<String>, Error> {
        let mut ids = self.with_cache(Cache::ids).await?;
        ids.extend(self.namespaces.list()?);
        ids.sort();
        ids.dedup();

        let mut collected = Collected::default();
        let mut tasks = JoinSet::new();
        for id in ids {
            if tasks.len() == COLLECT_AT_ONCE {
                collected.take(tasks.join_next().await);
            }
            let (shared, kept) = (Arc::clone(&self), keep.contains(&id));
            tasks.spawn(async move { (id.clone(), shared.collect_one(&id, kept).await) });
        }
        while !tasks.is_empty() {
            collected.take(tasks.join_next().await);
        }
        if keep.is_empty() {
            // Nothing is in use, so nothing is being written.
            self.with_cache(Cache::remove_unfinished).await?;
        }
        collected.finish()
    }

    async fn collect_one(&self, id: &str, kept: bool) -> Result<bool, Error> {
        let _turn = self.turns.take(id).await;
        // Someone in `keep` that is only half there would never work; a namespace without a record may be another's work.
        if kept {
            match self.read(id).await {
                Ok(Some(record)) if record.state != State::Attached => {}
                _ => return Ok(false),
            }
        }
        self.detach(id).await
    }

    async fn read(&self, id: &str) -> Result<Option<Record>, Error> {
        let id = id.to_owned();
        self.with_cache(move |cache| cache.read(&id)).await
    }

    async fn write(&self, record: &Record) -> Result<(), Error> {
        let record = record.clone();
        self.with_cache(move |cache| cache.write(&record)).await
    }

    /// The disk may be slow: it gets a thread that may wait.
    async fn with_cache<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Cache) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cache = Arc::clone(&self.cache);
        let done = spawn_blocking(move || act(&cache)).await;
        done.unwrap_or_else(|_| Err(Error::CutShort { what: "network cache".into() }))
    }
}

/// Whose turn it was in a collection, and whether there was anything to undo.
type One = (String, Result<bool, Error>);

/// What a collection has done so far.
#[derive(Default)]
struct Collected {
    ids: Vec<String>,
    failures: Vec<Error>,
}

impl Collected {
    fn take(&mut self, done: Option<Result<One, JoinError>>) {
        match done {
            Some(Ok((id, Ok(true)))) => self.ids.push(id),
            Some(Ok((_, Err(error)))) => self.failures.push(error),
            Some(Err(_)) => self.failures.push(Error::CutShort { what: "collect".into() }),
            Some(Ok((_, Ok(false)))) | None => {}
        }
    }

    fn finish(mut self) -> Result<Vec<String>, Error> {
        if !self.failures.is_empty() {
            return Err(Error::Collect { failures: self.failures });
        }
        self.ids.sort();
        Ok(self.ids)
    }
}

fn require_plugins(conflist: &Conflist, plugins: &Plugins) -> Result<(), Error> {
    for (place, plugin) in conflist.plugins().iter().enumerate() {
        let named = [(Some(&plugin.kind), "type"), (plugin.ipam.as_ref(), "ipam.type")];
        for (name, key) in named {
            if let Some(name) = name
                && plugins.find(name).is_none()
            {
                let (key, plugin, dirs) =
                    (format!("plugins[{place}].{key}"), name.clone(), plugins.dirs().to_vec());
                return Err(Error::PluginMissing { key, plugin, dirs });
            }
        }
    }
    Ok(())
}

/// `CNI_ARGS` has no way to escape its separators.
fn validate_args(options: &Options) -> Result<(), Error> {
    let unsafe_part = |part: &String| part.is_empty() || part.contains([';', '=', '\0']);
    match options.args.iter().find(|(key, value)| unsafe_part(key) || unsafe_part(value)) {
        Some((key, _)) => Err(Error::InvalidArgument { key: key.clone() }),
        None => Ok(()),
    }
}
