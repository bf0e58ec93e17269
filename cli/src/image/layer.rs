//! Writes one gzip-compressed layer into a temporary file, and knows its digests when it is done.
//!
//! Owner 0:0, time 0, sorted by name: nothing in it depends on who built it, where, or when.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::elf::{self, Arch};
use super::{Error, scratch_folder};

/// Mode of a program that is the only file of its image.
const PROGRAM_MODE: u32 = 0o755;
/// Mode of /tmp.
const TMP_MODE: u32 = 0o1777;

/// A finished layer.
pub(super) struct Layer {
    /// The compressed bytes; positioned at the start.
    pub(super) file: File,
    /// Length of the compressed bytes.
    pub(super) size: u64,
    /// Digest of the compressed bytes.
    pub(super) digest: String,
    /// Digest of the bytes before compression.
    pub(super) diff_id: String,
    /// What the first program in it runs on.
    pub(super) arch: Option<Arch>,
}

/// A layer of one program, and of a /tmp to write to.
pub(super) fn of_file(source: &Path, progress: &mut dyn FnMut(u64)) -> Result<Layer, Error> {
    let mut writer = LayerWriter::new(progress)?;
    let name = super::file_name(source);
    if name != "tmp" {
        writer.directory(source, Path::new("tmp"), TMP_MODE)?;
    }
    let about = fs::metadata(source).map_err(Error::io(source))?;
    writer.file(source, Path::new(&name), &about, PROGRAM_MODE)?;
    writer.finish(source)
}

/// A layer of all that is below a directory.
pub(super) fn of_directory(source: &Path, progress: &mut dyn FnMut(u64)) -> Result<Layer, Error> {
    let mut writer = LayerWriter::new(progress)?;
    // What is still to do, the next at the end. One list a folder is all that is held in memory.
    let mut left = below(source, Path::new(""))?;
    while let Some(inside) = left.pop() {
        writer.entry(&source.join(&inside), &inside)?;
        if fs::symlink_metadata(source.join(&inside)).is_ok_and(|m| m.is_dir()) {
            left.extend(below(source, &inside)?);
        }
    }
    writer.finish(source)
}

/// The entries of one folder, last name first.
fn below(source: &Path, inside: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = source.join(inside);
    let names: io::Result<Vec<OsString>> =
        fs::read_dir(&folder).and_then(|all| all.map(|e| Ok(e?.file_name())).collect());
    let mut names = names.map_err(Error::io(&folder))?;
    names.sort_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|name| inside.join(name)).collect())
}

struct LayerWriter<'a> {
    tar: tar::Builder<Hashing<GzEncoder<Hashing<BufWriter<File>>>>>,
    /// Where a file with several names was written first.
    links: HashMap<(u64, u64), PathBuf>,
    arch: Option<Arch>,
    read: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> LayerWriter<'a> {
    fn new(progress: &'a mut dyn FnMut(u64)) -> Result<Self, Error> {
        let folder = scratch_folder();
        let file = tempfile::tempfile_in(&folder).map_err(Error::io(&folder))?;
        // No name and no time in the header of the compression either.
        let gzip =
            GzBuilder::new().mtime(0).write(Hashing::new(BufWriter::new(file)), Compression::default());
        let tar = tar::Builder::new(Hashing::new(gzip));
        Ok(Self { tar, links: HashMap::new(), arch: None, read: 0, progress })
    }

    fn entry(&mut self, path: &Path, inside: &Path) -> Result<(), Error> {
        let about = fs::symlink_metadata(path).map_err(Error::io(path))?;
        let kind = about.file_type();
        let mode = about.mode() & 0o7777;
        let special = |what| Err(Error::Special { path: path.to_owned(), what });
        if kind.is_dir() {
            self.directory(path, inside, mode)
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(Error::io(path))?;
            self.link(path, inside, EntryType::Symlink, &target)
        } else if kind.is_file() {
            self.file(path, inside, &about, mode)
        } else if kind.is_socket() {
            special("a socket")
        } else if kind.is_fifo() {
            special("a named pipe")
        } else {
            special("a device")
        }
    }

    fn directory(&mut self, path: &Path, inside: &Path, mode: u32) -> Result<(), Error> {
        let mut header = header(EntryType::Directory, mode, 0);
        let name = inside.join("");
        self.tar.append_data(&mut header, name, io::empty()).map_err(Error::io(path))
    }

    fn link(&mut self, path: &Path, inside: &Path, kind: EntryType, target: &Path) -> Result<(), Error> {
        let mode = if kind == EntryType::Symlink { 0o777 } else { PROGRAM_MODE };
        let mut header = header(kind, mode, 0);
        self.tar.append_link(&mut header, inside, target).map_err(Error::io(path))
    }

    fn file(&mut self, path: &Path, inside: &Path, about: &Metadata, mode: u32) -> Result<(), Error> {
        if about.nlink() > 1 {
            let id = (about.dev(), about.ino());
            if let Some(first) = self.links.get(&id).cloned() {
                return self.link(path, inside, EntryType::Link, &first);
            }
            self.links.insert(id, inside.to_owned());
        }
        let file = File::open(path).map_err(Error::io(path))?;
        if self.arch.is_none() && mode & 0o111 != 0 {
            self.arch = elf::arch_of(&file);
        }
        let mut header = header(EntryType::Regular, mode, about.len());
        let mut counted =
            Counted { inner: file.take(about.len()), count: 0, before: self.read, progress: self.progress };
        self.tar.append_data(&mut header, inside, &mut counted).map_err(Error::io(path))?;
        // The header is written already: a file that shrank would shift all that follows.
        if counted.count != about.len() {
            return Err(Error::Changed { path: path.to_owned() });
        }
        self.read += counted.count;
        Ok(())
    }

    fn finish(self, source: &Path) -> Result<Layer, Error> {
        let arch = self.arch;
        let finish = || -> io::Result<Layer> {
            let plain = self.tar.into_inner()?;
            let diff_id = plain.digest();
            let packed = plain.inner.finish()?;
            let (digest, size) = (packed.digest(), packed.count);
            let mut file = packed.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(Layer { file, size, digest, diff_id, arch })
        };
        finish().map_err(Error::io(source))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Passes bytes on and remembers their digest and number.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    fn digest(&self) -> String {
        super::spec::name_of(self.hash.clone())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes bytes on and tells how many there were.
struct Counted<'a, R> {
    inner: R,
    count: u64,
    before: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        (self.progress)(self.before + self.count);
        Ok(count)
    }
}
