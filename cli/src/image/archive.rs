//! The OCI layout as one tar stream: known length, read from the front, never whole in memory.

use std::io::{self, Cursor, Read};

use tar::{EntryType, Header};

use super::layer::Layer;
use super::spec::{self, Described};
use super::{Arch, Naming, Reference};

/// Tar writes in blocks of this many bytes.
const BLOCK: u64 = 512;
/// How many hex digits of the digest make a tag.
const TAG_DIGITS: usize = 12;

/// A finished image.
pub(crate) struct Archive {
    pub(crate) name: Reference,
    /// Digest of the manifest: the identity of the image.
    pub(crate) digest: String,
    pub(crate) arch: Arch,
    /// Length of the stream in bytes.
    pub(crate) size: u64,
    parts: Vec<Box<dyn Read>>,
}

impl Archive {
    /// The archive's bytes.
    pub(crate) fn into_reader(self) -> impl Read + 'static {
        let nothing: Box<dyn Read> = Box::new(io::empty());
        self.parts.into_iter().fold(nothing, |before, part| Box::new(before.chain(part)))
    }

    fn add(&mut self, name: &str, size: u64, content: impl Read + 'static) {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        // Our names are short: `blobs/sha256/` and 64 digits at most. A header without its name would be refused by
        // every reader, so the error could not pass unseen either.
        header.set_path(name).ok();
        header.set_cksum();
        let padding = size.next_multiple_of(BLOCK) - size;
        self.parts.push(Box::new(Cursor::new(*header.as_bytes())));
        self.parts.push(Box::new(content));
        self.parts.push(Box::new(io::repeat(0).take(padding)));
        self.size += BLOCK + size + padding;
    }

    fn add_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.add(name, bytes.len() as u64, Cursor::new(bytes));
    }

    /// Two empty blocks end a tar.
    fn end(&mut self) {
        self.parts.push(Box::new(io::repeat(0).take(2 * BLOCK)));
        self.size += 2 * BLOCK;
    }
}

/// Puts layer, config, manifest and index together.
pub(super) fn assemble(layer: Layer, config: Vec<u8>, arch: Arch, naming: Naming) -> Archive {
    let described = Described { digest: layer.digest, size: layer.size };
    let about_config = spec::describe(&config);
    let manifest = spec::manifest(&about_config, &described);
    let about_manifest = spec::describe(&manifest);
    let name = match naming {
        Naming::Given(name) => name,
        Naming::ByContent(repository) => {
            Reference::tagged(&repository, &hex(&about_manifest.digest)[..TAG_DIGITS])
        }
    };
    let index = spec::index(&about_manifest, arch, &name);
    let mut archive =
        Archive { name, digest: about_manifest.digest.clone(), arch, size: 0, parts: Vec::new() };
    archive.add_bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    archive.add_bytes("index.json", index);
    archive.add_bytes(&blob(&about_manifest.digest), manifest);
    archive.add_bytes(&blob(&about_config.digest), config);
    archive.add(&blob(&described.digest), described.size, layer.file);
    archive.end();
    archive
}

fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{}", hex(digest))
}
