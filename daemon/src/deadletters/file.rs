//! The letters of one function, in one file.
//!
//! Owns its form. Records are only ever added; a letter that goes is a record too, and when most of the file is of letters
//! that are gone, it is written anew. Of each record the head, which says how long it is, has a checksum, and so has the body:
//! at the start only heads are read. What a crash has left of a last record is cut off.
//!
//! ```text
//!   file    ROOSTDL1, then records
//!   record  u32 bytes of head │ u32 bytes of body │ u32 crc of body │ u32 crc of the twelve bytes and the head │ head │ body
//!   head    JSON: a letter; an attempt to send one again; letters that are gone
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Crc;
use serde::{Deserialize, Serialize};

use super::letter::{Draft, Head, Last, Letter, LetterId};

const MAGIC: &[u8; 8] = b"ROOSTDL1";

/// The bytes of a record before its head.
const FIXED: u64 = 16;

/// The longest head that is believed.
const MAX_HEAD: u64 = 4 << 20;

/// So many bytes of letters that are gone are not worth the writing.
const SLACK: u64 = 64 << 10;

/// The file of a function's letters.
#[derive(Debug)]
pub(super) struct LetterFile {
    path: PathBuf,
    file: File,
    /// Where the next record goes.
    end: u64,
    letters: BTreeMap<LetterId, Place>,
    /// The bytes of records of letters that are there.
    live: u64,
    unsynced: bool,
}

/// Where a letter is.
#[derive(Debug)]
struct Place {
    at: u64,
    head: u32,
    body: u32,
    /// It was sent again, so often in all, and that came of the last time.
    tried: Option<Box<(u32, Last)>>,
}

/// The head of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    Letter { id: LetterId, head: Box<Head> },
    Tried { id: LetterId, attempts: u32, last: Last },
    Gone(Vec<LetterId>),
}

/// The numbers before a head.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    head: u32,
    body: u32,
    body_crc: u32,
    head_crc: u32,
}

impl Place {
    fn length(&self) -> u64 {
        FIXED + u64::from(self.head) + u64::from(self.body)
    }
}

impl Fixed {
    fn read(bytes: [u8; 16]) -> Self {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { head: number(0), body: number(4), body_crc: number(8), head_crc: number(12) }
    }

    fn length(self) -> u64 {
        FIXED + u64::from(self.head) + u64::from(self.body)
    }

    /// Is this the head that was written?
    fn fits(self, head: &[u8]) -> bool {
        self.head_crc == crc(&[&self.checked(), head])
    }

    fn checked(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (to, number) in bytes.chunks_exact_mut(4).zip([self.head, self.body, self.body_crc]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

impl LetterFile {
    /// The one at this path, which may be new. Says how many bytes at its end could not be read, and are cut off.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        let mut this = Self {
            path: path.to_owned(),
            file: file.try_clone()?,
            end: MAGIC.len() as u64,
            letters: BTreeMap::new(),
            live: 0,
            unsynced: false,
        };
        let mut magic = [0; MAGIC.len()];
        if length < MAGIC.len() as u64 {
            file.set_len(0)?;
            file.write_all_at(MAGIC, 0)?;
            return Ok((this, length));
        }
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no file of dead letters of this version",
            ));
        }
        this.scan(&mut BufReader::new(&file), length)?;
        this.drop_broken_last()?;
        let cut = length - this.end;
        if cut > 0 {
            file.set_len(this.end)?;
        }
        file.seek(SeekFrom::Start(this.end))?;
        Ok((this, cut))
    }

    /// Reads heads until one is not whole.
    fn scan(&mut self, from: &mut BufReader<&File>, length: u64) -> io::Result<()> {
        let mut head = Vec::new();
        while self.end + FIXED <= length {
            let mut bytes = [0; FIXED as usize];
            from.read_exact(&mut bytes)?;
            let fixed = Fixed::read(bytes);
            if u64::from(fixed.head) > MAX_HEAD || self.end + fixed.length() > length {
                return Ok(());
            }
            head.resize(fixed.head as usize, 0);
            from.read_exact(&mut head)?;
            if !fixed.fits(&head) {
                return Ok(());
            }
            from.seek_relative(i64::from(fixed.body))?;
            // One that is not understood was written by a later version, and is passed over.
            if let Ok(record) = serde_json::from_slice(&head) {
                self.apply(record, self.end, fixed);
            }
            self.end += fixed.length();
        }
        Ok(())
    }

    /// Of the last letter the body may not have come to the disk, though there is room for it.
    fn drop_broken_last(&mut self) -> io::Result<()> {
        let Some((&id, place)) = self.letters.last_key_value() else { return Ok(()) };
        if place.at + place.length() == self.end && self.read(id)?.is_none() {
            self.end = place.at;
            self.forget(id);
        }
        Ok(())
    }

    fn apply(&mut self, record: Record, at: u64, fixed: Fixed) {
        match record {
            Record::Letter { id, .. } => {
                self.live += fixed.length();
                self.letters.insert(id, Place { at, head: fixed.head, body: fixed.body, tried: None });
            }
            Record::Tried { id, attempts, last } => {
                if let Some(place) = self.letters.get_mut(&id) {
                    place.tried = Some(Box::new((attempts, last)));
                }
            }
            Record::Gone(ids) => ids.into_iter().for_each(|id| self.forget(id)),
        }
    }

    fn forget(&mut self, id: LetterId) {
        if let Some(place) = self.letters.remove(&id) {
            self.live -= place.length();
        }
    }

    /// Adds a letter. It is on the disk after [`sync`](Self::sync).
    pub(super) fn add(&mut self, id: LetterId, draft: Draft) -> io::Result<()> {
        self.append(Record::Letter { id, head: Box::new(draft.head) }, &draft.body)
    }

    /// Notes that a letter was sent again, in vain.
    pub(super) fn tried(&mut self, id: LetterId, attempts: u32, last: Last) -> io::Result<()> {
        self.append(Record::Tried { id, attempts, last }, &[])?;
        self.tidy()
    }

    /// Takes letters away. They are gone even if the disk does not take that.
    pub(super) fn remove(&mut self, ids: Vec<LetterId>) -> io::Result<()> {
        ids.iter().for_each(|id| self.forget(*id));
        if self.letters.is_empty() {
            return self.empty();
        }
        self.append(Record::Gone(ids), &[])?;
        self.tidy()
    }

    fn append(&mut self, record: Record, body: &[u8]) -> io::Result<()> {
        let (fixed, bytes) = encode(&record, body)?;
        let at = self.end;
        if let Err(error) = self.file.write_all_at(&bytes, at) {
            // What came to the file of it would be in the way of what comes next.
            self.file.set_len(at)?;
            return Err(error);
        }
        self.unsynced = true;
        self.end += bytes.len() as u64;
        self.apply(record, at, fixed);
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(MAGIC.len() as u64)?;
        self.end = MAGIC.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Has all of it on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        self.file.sync_data()?;
        self.unsynced = false;
        Ok(())
    }

    /// A letter, whole. `None` if there is none of that id, or it is damaged.
    pub(super) fn read(&self, id: LetterId) -> io::Result<Option<Letter>> {
        let Some((head, fixed)) = self.fixed_and_head(id)? else { return Ok(None) };
        let place = &self.letters[&id];
        let mut body = vec![0; place.body as usize];
        self.file.read_exact_at(&mut body, place.at + FIXED + u64::from(place.head))?;
        if fixed.body_crc != crc(&[&body]) {
            return Ok(None);
        }
        Ok(Some(Letter { id, head, body: Bytes::from(body) }))
    }

    /// What is known of a letter, and the length of its body.
    pub(super) fn read_head(&self, id: LetterId) -> io::Result<Option<(Head, u32)>> {
        Ok(self.fixed_and_head(id)?.map(|(head, fixed)| (head, fixed.body)))
    }

    fn fixed_and_head(&self, id: LetterId) -> io::Result<Option<(Head, Fixed)>> {
        let Some(place) = self.letters.get(&id) else { return Ok(None) };
        let mut bytes = vec![0; FIXED as usize + place.head as usize];
        self.file.read_exact_at(&mut bytes, place.at)?;
        let Some((fixed, head)) = bytes.split_first_chunk::<{ FIXED as usize }>() else { return Ok(None) };
        let fixed = Fixed::read(*fixed);
        if !fixed.fits(head) {
            return Ok(None);
        }
        let Ok(Record::Letter { mut head, .. }) = serde_json::from_slice(head) else { return Ok(None) };
        if let Some(tried) = &place.tried {
            (head.attempts, head.last) = (tried.0, tried.1.clone());
        }
        Ok(Some((*head, fixed)))
    }

    /// The ids of those behind `after`, in their order.
    pub(super) fn ids(&self, after: LetterId) -> impl Iterator<Item = LetterId> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.letters.range((Excluded(after), Unbounded)).map(|(id, _)| *id)
    }

    pub(super) fn contains(&self, id: LetterId) -> bool {
        self.letters.contains_key(&id)
    }

    /// How many letters there are.
    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    /// The bytes that they take.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn first(&self) -> Option<LetterId> {
        self.letters.first_key_value().map(|(id, _)| *id)
    }

    pub(super) fn last(&self) -> Option<LetterId> {
        self.letters.last_key_value().map(|(id, _)| *id)
    }

    /// Writes the file anew if most of it is of letters that are gone.
    fn tidy(&mut self) -> io::Result<()> {
        if self.end < 2 * self.live + SLACK {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut fresh = Self {
            path: self.path.clone(),
            file: file.try_clone()?,
            end: MAGIC.len() as u64,
            letters: BTreeMap::new(),
            live: 0,
            unsynced: false,
        };
        let mut to = BufWriter::new(&file);
        to.write_all(MAGIC)?;
        for id in self.letters.keys() {
            // A damaged one is left behind.
            let Some(Letter { id, head, body }) = self.read(*id)? else { continue };
            let record = Record::Letter { id, head: Box::new(head) };
            let (fixed, bytes) = encode(&record, &body)?;
            to.write_all(&bytes)?;
            fresh.apply(record, fresh.end, fixed);
            fresh.end += bytes.len() as u64;
        }
        to.flush()?;
        drop(to);
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        sync_directory(&self.path)?;
        *self = fresh;
        Ok(())
    }

    /// Removes the file.
    pub(super) fn delete(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// A name in a directory lasts once the directory is on the disk.
fn sync_directory(of: &Path) -> io::Result<()> {
    of.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn encode(record: &Record, body: &[u8]) -> io::Result<(Fixed, Vec<u8>)> {
    let head = serde_json::to_vec(record)?;
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it is too long"))
    };
    let mut fixed = Fixed { head: length(&head)?, body: length(body)?, body_crc: crc(&[body]), head_crc: 0 };
    fixed.head_crc = crc(&[&fixed.checked(), &head]);
    let mut bytes = Vec::with_capacity(FIXED as usize + head.len() + body.len());
    bytes.extend_from_slice(&fixed.checked());
    bytes.extend_from_slice(&fixed.head_crc.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    Ok((fixed, bytes))
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}
