//! A tar archive, plain or gzip, as a table of where in it each file stands.
//!
//! Owns reading it with bounded memory and disk. Nothing is ever extracted to the path that the archive names; paths
//! that lead out of it are refused all the same, as the archive of an honest tool has none. Blocking: for
//! `spawn_blocking`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::error::{ImageError, shortened};
use super::manifest::{MAX_DOCUMENT, digest_text};

/// The most files that an archive may hold.
const MAX_ENTRIES: usize = 10_000;

/// How many links may lead from one to the next.
const MAX_LINKS: usize = 4;

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Where a file stands in the archive, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) size: u64,
}

enum Entry {
    File(Range),
    Link(String),
}

/// An archive that has been looked through.
pub(super) struct Archive {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

impl Archive {
    /// Looks through `file`. What is compressed is unpacked into a file without a name in `work_dir` first, up to
    /// `limit` bytes.
    pub(super) fn open(mut file: File, work_dir: &Path, limit: u64) -> Result<Self, ImageError> {
        let mut magic = [0; 4];
        let length = file.seek(SeekFrom::End(0)).map_err(ImageError::host("read the archive"))?;
        let read = file.read_at(&mut magic, 0).map_err(ImageError::host("read the archive"))?;
        match &magic[..read] {
            [] => return Err(ImageError::archive("it is empty")),
            [0x1f, 0x8b, ..] => file = inflate(file, work_dir, limit)?,
            [0x28, 0xb5, 0x2f, 0xfd] => {
                return Err(ImageError::archive(
                    "it is compressed with zstd: unpack it with `zstd -d` first",
                ));
            }
            _ if length > limit => return Err(too_large(length, limit)),
            _ => {}
        }
        let length = file.seek(SeekFrom::End(0)).map_err(ImageError::host("read the archive"))?;
        file.rewind().map_err(ImageError::host("read the archive"))?;
        let entries = look_through(&file, length)?;
        Ok(Self { file: Arc::new(file), entries })
    }

    /// Where the file `path` stands, if the archive has it.
    pub(super) fn find(&self, path: &str) -> Option<Range> {
        let mut path = normal(Path::new(path))?;
        for _ in 0..=MAX_LINKS {
            match self.entries.get(&path)? {
                Entry::File(range) => return Some(*range),
                Entry::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    /// The file `path` as a whole, if the archive has it. Only for documents.
    pub(super) fn document(&self, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(range) = self.find(path) else { return Ok(None) };
        if range.size > MAX_DOCUMENT {
            let what = format!("{} in the archive", shortened(path, 80));
            return Err(ImageError::TooLarge { what, size: range.size, limit: MAX_DOCUMENT });
        }
        let mut bytes = vec![0; usize::try_from(range.size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, range.start).map_err(ImageError::host("read the archive"))?;
        Ok(Some(bytes))
    }

    /// The digest of a part of the archive.
    pub(super) fn digest(&self, range: Range) -> Result<String, ImageError> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while let Some(chunk) = self.chunk(range, at)? {
            at += chunk.len() as u64;
            hash.update(&chunk);
        }
        Ok(digest_text(&hash.finalize()))
    }

    /// The next bytes of a part of the archive, `at` bytes behind its start; `None` at its end.
    pub(super) fn chunk(&self, range: Range, at: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let left = range.size.saturating_sub(at);
        if left == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK)];
        self.file
            .read_exact_at(&mut bytes, range.start + at)
            .map_err(ImageError::host("read the archive"))?;
        Ok(Some(bytes))
    }
}

fn too_large(size: u64, limit: u64) -> ImageError {
    ImageError::TooLarge { what: "the image archive".to_owned(), size, limit }
}

fn inflate(mut file: File, work_dir: &Path, limit: u64) -> Result<File, ImageError> {
    file.rewind().map_err(ImageError::host("read the archive"))?;
    let mut plain = tempfile::tempfile_in(work_dir)
        .map_err(ImageError::host(format!("make a file in {}", work_dir.display())))?;
    let mut reader = flate2::read::MultiGzDecoder::new(io::BufReader::new(file)).take(limit + 1);
    let size = io::copy(&mut reader, &mut plain).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            ImageError::archive(format!("it is broken: {error}"))
        }
        _ => ImageError::host(format!("unpack the archive in {}", work_dir.display()))(error),
    })?;
    if size > limit { Err(too_large(size, limit)) } else { Ok(plain) }
}

fn look_through(file: &File, length: u64) -> Result<HashMap<String, Entry>, ImageError> {
    let broken = |error: io::Error| ImageError::archive(format!("it is no complete tar archive: {error}"));
    let mut entries = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if entries.len() >= MAX_ENTRIES {
            return Err(ImageError::archive(format!("it holds more than {MAX_ENTRIES} files")));
        }
        let path = entry.path().map_err(broken)?;
        let Some(name) = normal(&path) else {
            let shown = shortened(&path.display().to_string(), 80);
            return Err(ImageError::archive(format!("it holds the path {shown:?}, which leads out of it")));
        };
        let kind = entry.header().entry_type();
        let item = if kind.is_file() || kind.is_contiguous() {
            let range = Range { start: entry.raw_file_position(), size: entry.size() };
            if range.start.checked_add(range.size).is_none_or(|end| end > length) {
                return Err(ImageError::archive(format!("it ends in the middle of {name:?}")));
            }
            Entry::File(range)
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(broken)?.unwrap_or_default();
            let from_here = path.parent().filter(|_| kind.is_symlink()).unwrap_or(Path::new(""));
            let Some(target) = normal(&from_here.join(target)) else {
                return Err(ImageError::archive(format!("the link {name:?} leads out of it")));
            };
            Entry::Link(target)
        } else {
            // Directories say nothing that the paths do not say, and nothing else belongs into an image archive.
            continue;
        };
        entries.insert(name, item);
    }
    Ok(entries)
}

/// The path without detours, or `None` if it leads out of the archive.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A tar archive with these files; `->` in the content makes a symbolic link.
    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            // Written by hand: the builder refuses the very paths that are to be tested.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_mode(0o644);
            if let Some(target) = content.strip_prefix("->") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, io::empty()).unwrap();
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                builder.append(&header, content.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    fn open(bytes: &[u8], limit: u64) -> Result<Archive, ImageError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Archive::open(file, &std::env::temp_dir(), limit)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn files_are_found_by_their_path_plain_or_gzip() {
        let plain = tar_of(&[("./a/b.json", "hello"), ("c/layer.tar", "->../a/b.json"), ("d", "->d")]);
        for bytes in [plain.clone(), gzip(&plain)] {
            let archive = open(&bytes, 1 << 20).unwrap();
            assert_eq!(archive.document("a/b.json").unwrap().unwrap(), b"hello");
            assert_eq!(archive.document("c/layer.tar").unwrap().unwrap(), b"hello");
            assert_eq!(archive.find("d"), None, "a link that leads to itself leads nowhere");
            assert_eq!(archive.find("a/../a/b.json"), archive.find("a/b.json"));
            assert_eq!(archive.document("nothing").unwrap(), None);
            let range = archive.find("a/b.json").unwrap();
            assert_eq!(archive.digest(range).unwrap(), super::super::manifest::digest_of(b"hello"));
        }
    }

    #[test]
    fn a_bad_archive_is_refused_with_a_reason() {
        let good = tar_of(&[("a", &"x".repeat(5000))]);
        let bomb = gzip(&vec![0; 4 << 20]);
        let table = [
            (Vec::new(), "empty"),
            (b"this is no tar".repeat(100), "no complete tar"),
            (good[..3000].to_vec(), "middle"),
            (gzip(&good)[..40].to_vec(), "broken"),
            (tar_of(&[("../a", "x")]), "leads out"),
            (tar_of(&[("/etc/passwd", "x")]), "leads out"),
            (tar_of(&[("a/../../b", "x")]), "leads out"),
            (tar_of(&[("a", "->../../etc/passwd")]), "leads out"),
            (tar_of(&[("a", "->/etc/passwd")]), "leads out"),
            (vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0], "zstd"),
            (bomb, "too large"),
            (vec![b'x'; 2 << 20], "too large"),
        ];
        for (bytes, reason) in table {
            let error = open(&bytes, 1 << 20).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(reason), "expected {reason:?}: {error:?}");
        }
    }
}
