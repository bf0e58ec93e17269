//! The letters of all functions, within their limits.
//!
//! Owns the directory. All calls block. When there is no room the oldest letters go: of the function that has too many, or, where
//! all together are too many, of the one that has most.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use roost_proxy::function::{FunctionKey, Namespace};
use tracing::warn;

use super::file::LetterFile;
use super::letter::{Draft, Head, Last, Letter, LetterId};
use super::{Settings, Wanted};

/// The ending of a file's name, behind that of the function.
const ENDING: &str = "letters";

/// The most letters of one function, however small they are: of each a few words are in memory.
const MOST: usize = 10_000;

/// All letters.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    settings: Settings,
    files: BTreeMap<FunctionKey, LetterFile>,
    last: LetterId,
}

/// A letter in a list.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its id.
    pub id: LetterId,
    /// Whose it is.
    pub function: FunctionKey,
    /// What is known of it.
    pub head: Head,
    /// How long its body is.
    pub size: u32,
}

/// What there is of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Letters.
    pub letters: usize,
    /// The bytes they take.
    pub bytes: u64,
}

impl Store {
    pub(super) fn open(directory: &Path, settings: Settings) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut store =
            Self { directory: directory.to_owned(), settings, files: BTreeMap::new(), last: LetterId::NONE };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(segment) = name.strip_suffix(ENDING).and_then(|name| name.strip_suffix('.')) else {
                // What was being written anew when the daemon ended, or is none of ours.
                continue;
            };
            let Ok(function) = FunctionKey::from_route(segment) else { continue };
            match LetterFile::open(&path) {
                Ok((file, cut)) => {
                    if cut > 0 {
                        warn!(%function, "function {function}: {cut} bytes of its dead letters were not whole, and are gone");
                    }
                    store.last = store.last.max(file.last().unwrap_or(LetterId::NONE));
                    store.files.insert(function, file);
                }
                Err(error) => warn!(%function, "{}: left as it is: {error}", path.display()),
            }
        }
        Ok(store)
    }

    /// Keeps a letter: how many others had to go for it.
    pub(super) fn add(&mut self, function: &FunctionKey, draft: Draft) -> io::Result<usize> {
        let id = LetterId::behind(self.last, draft.head.at);
        self.file(function)?.add(id, draft)?;
        self.last = id;
        self.make_room(function)
    }

    /// Keeps a letter of this id, if it is not there yet: how many others had to go for it.
    #[cfg(feature = "nats")]
    pub(super) fn add_as(&mut self, id: LetterId, function: &FunctionKey, draft: Draft) -> io::Result<usize> {
        let file = self.file(function)?;
        if file.contains(id) {
            return Ok(0);
        }
        file.add(id, draft)?;
        self.last = self.last.max(id);
        self.make_room(function)
    }

    /// Removes these letters of a function, as far as they are there.
    #[cfg(feature = "nats")]
    pub(super) fn drop_of(&mut self, function: &FunctionKey, mut ids: Vec<LetterId>) -> io::Result<()> {
        let Some(file) = self.files.get(function) else { return Ok(()) };
        ids.retain(|id| file.contains(*id));
        if ids.is_empty() { Ok(()) } else { self.take(function, ids) }
    }

    #[cfg(feature = "nats")]
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn file(&mut self, function: &FunctionKey) -> io::Result<&mut LetterFile> {
        if !self.files.contains_key(function) {
            let path = self.directory.join(format!("{function}.{ENDING}"));
            let (file, _) = LetterFile::open(&path)?;
            self.files.insert(function.clone(), file);
        }
        Ok(self.files.get_mut(function).expect("it was just put there"))
    }

    /// Has everything within its limits again after `function` got one more.
    fn make_room(&mut self, function: &FunctionKey) -> io::Result<usize> {
        let mut gone = 0;
        while let Some(id) = self.surplus(function) {
            self.take(function, vec![id])?;
            gone += 1;
        }
        while self.files.values().map(LetterFile::live).sum::<u64>() > self.settings.max_total {
            let Some((most, id)) = self.largest() else { break };
            self.take(&most, vec![id])?;
            gone += 1;
        }
        Ok(gone)
    }

    /// The oldest letter of a function that has too many.
    fn surplus(&self, function: &FunctionKey) -> Option<LetterId> {
        let file = self.files.get(function)?;
        let too_many = file.live() > self.settings.max_size || file.len() > MOST;
        if too_many { file.first() } else { None }
    }

    /// The oldest letter of the function that has most.
    fn largest(&self) -> Option<(FunctionKey, LetterId)> {
        let (function, file) = self.files.iter().max_by_key(|(_, file)| file.live())?;
        Some((function.clone(), file.first()?))
    }

    /// Removes letters that are too old: how many.
    pub(super) fn expire(&mut self, now: Timestamp) -> io::Result<usize> {
        let age = SignedDuration::try_from(self.settings.max_age).unwrap_or(SignedDuration::MAX);
        let Ok(oldest) = now.checked_sub(age) else { return Ok(0) };
        let oldest = LetterId::first_at(oldest);
        let old =
            |file: &LetterFile| file.ids(LetterId::NONE).take_while(|id| *id < oldest).collect::<Vec<_>>();
        let old: Vec<_> = self.files.iter().map(|(function, file)| (function.clone(), old(file))).collect();
        let mut gone = 0;
        for (function, ids) in old.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            gone += ids.len();
            self.take(&function, ids)?;
        }
        Ok(gone)
    }

    /// Removes letters, and the file with the last of them.
    fn take(&mut self, function: &FunctionKey, ids: Vec<LetterId>) -> io::Result<()> {
        let Some(file) = self.files.get_mut(function) else { return Ok(()) };
        file.remove(ids)?;
        if file.len() == 0
            && let Some(file) = self.files.remove(function)
        {
            file.delete()?;
        }
        Ok(())
    }

    /// Has all of it on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.files.values_mut().try_for_each(LetterFile::sync)
    }

    pub(super) fn list(&self, wanted: &Wanted, limit: usize) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for (id, function) in self.ids(wanted, limit) {
            // One that is damaged is not shown; it goes when it is old.
            if let Some((head, size)) = self.files[&function].read_head(id)? {
                found.push(Found { id, function, head, size });
            }
        }
        Ok(found)
    }

    /// Up to `limit` ids of those that are wanted, in their order.
    pub(super) fn ids(&self, wanted: &Wanted, limit: usize) -> Vec<(LetterId, FunctionKey)> {
        let fits = |function: &FunctionKey| {
            function.namespace == wanted.namespace
                && wanted.function.as_ref().is_none_or(|only| only == function)
        };
        let after = wanted.after.unwrap_or(LetterId::NONE);
        let of = |(function, file): (&FunctionKey, &LetterFile)| {
            file.ids(after).take(limit).map(|id| (id, function.clone())).collect::<Vec<_>>()
        };
        let mut ids: Vec<_> = self.files.iter().filter(|(function, _)| fits(function)).flat_map(of).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        ids
    }

    pub(super) fn get(
        &self,
        namespace: &Namespace,
        id: LetterId,
    ) -> io::Result<Option<(FunctionKey, Letter)>> {
        let Some(function) = self.whose(namespace, id) else { return Ok(None) };
        Ok(self.files[&function].read(id)?.map(|letter| (function, letter)))
    }

    /// The function that has the letter of this id.
    pub(super) fn whose(&self, namespace: &Namespace, id: LetterId) -> Option<FunctionKey> {
        let mut files = self.files.iter();
        let (function, _) =
            files.find(|(function, file)| function.namespace == *namespace && file.contains(id))?;
        Some(function.clone())
    }

    pub(super) fn remove(&mut self, namespace: &Namespace, id: LetterId) -> io::Result<bool> {
        let Some(function) = self.whose(namespace, id) else { return Ok(false) };
        self.take(&function, vec![id])?;
        self.sync()?;
        Ok(true)
    }

    /// The ids of all letters of a function.
    pub(super) fn all_of(&self, function: &FunctionKey) -> Vec<LetterId> {
        self.files.get(function).map_or_else(Vec::new, |file| file.ids(LetterId::NONE).collect())
    }

    pub(super) fn remove_all(&mut self, function: &FunctionKey) -> io::Result<usize> {
        let ids = self.all_of(function);
        let count = ids.len();
        self.take(function, ids)?;
        Ok(count)
    }

    /// Notes what came of one that was sent again.
    pub(super) fn tried(
        &mut self,
        function: &FunctionKey,
        id: LetterId,
        attempts: u32,
        last: Last,
    ) -> io::Result<()> {
        match self.files.get_mut(function) {
            Some(file) if file.contains(id) => {
                file.tried(id, attempts, last)?;
                file.sync()
            }
            // Somebody has removed it meanwhile.
            _ => Ok(()),
        }
    }

    /// What there is, by function.
    pub(super) fn kept(&self) -> Vec<(FunctionKey, Kept)> {
        let kept = |file: &LetterFile| Kept { letters: file.len(), bytes: file.live() };
        self.files.iter().map(|(function, file)| (function.clone(), kept(file))).collect()
    }
}
