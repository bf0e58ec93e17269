//! Bodies of calls and of answers: small ones in memory and in the database, large ones in files of their own.
//!
//! Owns the directory of these files. A file is on the disk, and its name too, before anybody is told of it; what nobody
//! was told of is removed with its writer, or at the next start.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};
use roost_proxy::{OwnBody, StoredBody};
use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;
use tracing::warn;
use uuid::Uuid;

/// The largest body that is no file, in bytes: a larger one costs the database more than a file costs.
pub(super) const INLINE: usize = 16 << 10;

/// How much of a file is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// A body that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// In memory, and in the database.
    Inline(Bytes),
    /// In a file.
    File(Named),
}

/// A file of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    name: String,
    /// Bytes.
    length: u64,
}

/// The directory. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Spool(Arc<Path>);

/// A body that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    spool: Spool,
    memory: Vec<u8>,
    file: Option<(File, Unfinished)>,
    length: u64,
}

/// A file that nobody was told of. Dropping this removes it.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            remove(&path);
        }
    }
}

impl Kept {
    /// Bytes.
    #[must_use]
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File(file) => file.length,
        }
    }

    /// Its file, if it has one.
    pub(super) fn file(&self) -> Option<&Named> {
        match self {
            Self::Inline(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

impl Spool {
    /// The directory at `path`, which may be new.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self(path.into()))
    }

    /// A body that is nowhere: whoever reads it hears so.
    #[cfg(feature = "nats")]
    pub(super) fn lost(length: u64) -> Kept {
        Kept::File(Named { name: "lost".to_owned(), length })
    }

    /// A body that is to be written.
    pub(super) fn writer(&self) -> Writer {
        Writer { spool: self.clone(), memory: Vec::new(), file: None, length: 0 }
    }

    /// A body, to be read.
    ///
    /// # Errors
    /// When it cannot be opened, or is not as long as it should be.
    pub(super) async fn read(&self, kept: &Kept) -> io::Result<OwnBody> {
        match kept {
            Kept::Inline(bytes) => Ok(OwnBody::Whole(bytes.clone())),
            Kept::File(named) => Ok(OwnBody::Stored(StoredBody::new(self.open_file(named).await?))),
        }
    }

    /// All of a body.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub(super) async fn read_all(&self, kept: &Kept) -> io::Result<Bytes> {
        match kept {
            Kept::Inline(bytes) => Ok(bytes.clone()),
            Kept::File(named) => Ok(tokio::fs::read(self.0.join(&named.name)).await?.into()),
        }
    }

    /// A body of a file, to be read piece by piece.
    pub(super) async fn open_file(&self, named: &Named) -> io::Result<FileBody> {
        let file = File::open(self.0.join(&named.name)).await?;
        let length = file.metadata().await?.len();
        if length != named.length {
            let text = format!("a body has {length} bytes and should have {}", named.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(FileBody { pieces: ReaderStream::with_capacity(file, PIECE), left: named.length })
    }

    /// Removes the file of a body that is not needed any more, if it has one. Blocks.
    pub(super) fn remove(&self, named: &Named) {
        remove(&self.0.join(&named.name));
    }

    /// The same by its name.
    pub(super) fn remove_named(&self, name: &str) {
        remove(&self.0.join(name));
    }

    /// Removes all files but these. Blocks.
    pub(super) fn retain(&self, names: &HashSet<String>) -> io::Result<usize> {
        let mut gone = 0;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !names.contains(name)) {
                remove(&entry.path());
                gone += 1;
            }
        }
        Ok(gone)
    }
}

impl Named {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("{} cannot be removed: {error}", path.display());
    }
}

impl Writer {
    /// How many bytes were written.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        if let Some((file, _)) = &mut self.file {
            return file.write_all(bytes).await;
        }
        if self.memory.len() + bytes.len() <= INLINE {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let path = self.spool.0.join(Uuid::new_v4().to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await?;
        let unfinished = Unfinished(Some(path));
        file.write_all(&std::mem::take(&mut self.memory)).await?;
        file.write_all(bytes).await?;
        self.file = Some((file, unfinished));
        Ok(())
    }

    /// Ends the body. When this returns a file is on the disk; who gets it has to remove it.
    ///
    /// # Errors
    /// When the disk does not take it: then nothing is left.
    pub(super) async fn finish(mut self) -> io::Result<Kept> {
        let Some((mut file, mut unfinished)) = self.file.take() else {
            return Ok(Kept::Inline(self.memory.into()));
        };
        file.flush().await?;
        file.sync_all().await?;
        let directory = Arc::clone(&self.spool.0);
        spawn_blocking(move || fs::File::open(&directory)?.sync_all()).await.map_err(io::Error::other)??;
        let path = unfinished.0.take().ok_or(io::ErrorKind::NotFound)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Ok(Kept::File(Named { name, length: self.length }))
    }
}

/// The bytes of a file.
pub(super) struct FileBody {
    pieces: ReaderStream<File>,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match ready!(Pin::new(&mut self.pieces).poll_next(cx)) {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            None if self.left > 0 => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn written(spool: &Spool, pieces: &[&[u8]]) -> Kept {
        let mut writer = spool.writer();
        for piece in pieces {
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    #[tokio::test]
    async fn small_bodies_stay_in_memory_and_large_ones_are_files() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(&directory.path().join("bodies")).unwrap();
        assert_eq!(written(&spool, &[b"a", b"b"]).await, Kept::Inline(Bytes::from_static(b"ab")));
        let (first, second) = (vec![1; INLINE], vec![2; 100_000]);
        let large = written(&spool, &[&first, &second]).await;
        let named = large.file().expect("a file").clone();
        assert_eq!(large.length(), (INLINE + 100_000) as u64);
        let body = spool.open_file(&named).await.unwrap();
        assert_eq!(body.size_hint().exact(), Some(large.length()));
        assert_eq!(body.collect().await.unwrap().to_bytes(), [first, second].concat());

        let other = written(&spool, &[&vec![3; INLINE + 1]]).await;
        assert_eq!(spool.retain(&HashSet::from([named.name().to_owned()])).unwrap(), 1);
        assert!(spool.read(&other).await.is_err());
        assert!(spool.read(&large).await.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_was_told_of_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        let mut writer = spool.writer();
        writer.write(&vec![0; INLINE + 1]).await.unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(writer);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
