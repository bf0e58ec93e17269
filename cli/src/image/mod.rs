//! Builds an OCI image out of one static binary or one directory, without Docker and without root.
//!
//! ```text
//! source ─ layer: tar → gzip → temporary file ─┐
//! recipe ─ config ─ manifest ─ index ──────────┴─ Archive: a stream of known length
//! ```
//!
//! Pure but for reading the source and one temporary file: the same input gives the same bytes, so the digest says
//! whether anything changed. Memory stays small however large the source is. Extended attributes are not kept.

mod archive;
mod elf;
mod layer;
mod reference;
mod spec;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::{env, io};

use thiserror::Error;

pub(crate) use archive::Archive;
pub(crate) use elf::Arch;
pub(crate) use reference::Reference;
pub(crate) use words::split as split_words;

/// Why no image came out.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{} is a script (#!…); an image of one file has no interpreter to run it. Put the script and its interpreter \
        into a directory and build that: roost image build DIR -t NAME --cmd '/bin/sh /{}'", path.display(), file_name(path))]
    Script { path: PathBuf },
    #[error("{} is not a Linux program (no ELF file)", path.display())]
    NotElf { path: PathBuf },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("{} needs shared libraries (its loader is {loader}), and an image of one file has none. Link it statically:\n  \
        Rust: cargo build --release --target x86_64-unknown-linux-musl\n  Go:   CGO_ENABLED=0 go build\n  C:    cc -static\n\
        or build an image of a directory that holds the libraries too", path.display())]
    Dynamic { path: PathBuf, loader: String },
    #[error("{} is built for {found}, not for {wanted}", path.display())]
    OtherArch { path: PathBuf, found: Arch, wanted: Arch },
    #[error("{} is {what}: only files, folders and links can be in an image", path.display())]
    Special { path: PathBuf, what: &'static str },
    #[error("{} changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error("an image of a directory needs a command: add --cmd '/path/in/the/image argument'")]
    NoCommand,
    #[error("the command {command} is not in {}", path.display())]
    CommandMissing { command: String, path: PathBuf },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |cause| Self::Io { path, cause }
    }
}

/// How an image is to be run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recipe {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    /// `KEY=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
    /// TCP ports the program listens on.
    pub(crate) ports: Vec<u16>,
    pub(crate) labels: crate::api::Map,
    /// What it runs on, where the files do not tell.
    pub(crate) arch: Option<Arch>,
}

/// What to call the result.
pub(crate) enum Naming {
    Given(Reference),
    /// This repository, with a tag made of the content: another content is another name.
    ByContent(String),
}

/// Builds an image of a file or a directory. `progress` hears how many bytes were read.
pub(crate) fn build(
    source: &Path,
    mut recipe: Recipe,
    naming: Naming,
    progress: &mut dyn FnMut(u64),
) -> Result<Archive, Error> {
    let kind = fs::metadata(source).map_err(Error::io(source))?;
    let layer = if kind.is_dir() {
        check_command(source, &recipe)?;
        layer::of_directory(source, progress)?
    } else {
        let arch = elf::check_static(source)?;
        if let Some(wanted) = recipe.arch.filter(|&wanted| wanted != arch) {
            return Err(Error::OtherArch { path: source.to_owned(), found: arch, wanted });
        }
        recipe.arch = Some(arch);
        if recipe.cmd.is_empty() && recipe.entrypoint.is_empty() {
            recipe.cmd = vec![format!("/{}", file_name(source))];
        }
        layer::of_file(source, progress)?
    };
    let arch = recipe.arch.or(layer.arch).unwrap_or_else(Arch::of_this_host);
    let config = spec::config(&recipe, arch, &layer.diff_id);
    Ok(archive::assemble(layer, config, arch, naming))
}

/// A command given by its full path must be in the directory.
fn check_command(source: &Path, recipe: &Recipe) -> Result<(), Error> {
    let Some(command) = recipe.entrypoint.iter().chain(&recipe.cmd).next() else {
        return Err(Error::NoCommand);
    };
    let Some(inside) = command.strip_prefix('/') else { return Ok(()) };
    // The path may lead through absolute links, which are meant inside the image: only its first step is looked at.
    let first = inside.split('/').next().unwrap_or(inside);
    match fs::symlink_metadata(source.join(first)) {
        Ok(found) if found.is_symlink() || source.join(inside).symlink_metadata().is_ok() => Ok(()),
        _ => Err(Error::CommandMissing { command: command.clone(), path: source.to_owned() }),
    }
}

/// The last part of a path, as text.
fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where large temporary files go: not to /tmp, which is memory on many systems.
fn scratch_folder() -> PathBuf {
    let chosen = env::var_os("TMPDIR").filter(|v| !v.is_empty()).map(PathBuf::from);
    chosen.unwrap_or_else(|| {
        let large = Path::new("/var/tmp");
        if large.is_dir() { large.to_owned() } else { env::temp_dir() }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use flate2::read::GzDecoder;
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    fn recipe(cmd: &str) -> Recipe {
        Recipe { cmd: split_words(cmd).unwrap(), ..Recipe::default() }
    }

    fn build_it(source: &Path, recipe: Recipe) -> Result<Archive, Error> {
        build(source, recipe, Naming::Given("t:1".parse().unwrap()), &mut |_| {})
    }

    /// The files of the archive; each blob's name is checked to be its digest.
    fn files(archive: Archive) -> BTreeMap<String, Vec<u8>> {
        let size = archive.size;
        let mut bytes = Vec::new();
        archive.into_reader().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size, "the length is known beforehand");
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(spec::name_of(Sha256::new_with_prefix(&content)), format!("sha256:{hex}"));
            }
            files.insert(name, content);
        }
        files
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, described: &Value) -> &'a [u8] {
        let digest = described["digest"].as_str().unwrap();
        let content = &files[&format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())];
        assert_eq!(described["size"].as_u64().unwrap(), content.len() as u64);
        content
    }

    /// Config and layer of the one image in the archive.
    fn open(archive: Archive) -> (Value, Vec<u8>, Value) {
        let files = files(archive);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let manifest = json(blob(&files, &index["manifests"][0]));
        let config = json(blob(&files, &manifest["config"]));
        let mut layer = Vec::new();
        GzDecoder::new(blob(&files, &manifest["layers"][0])).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], spec::name_of(Sha256::new_with_prefix(&layer)));
        (config, layer, index)
    }

    fn entries(layer: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(layer);
        let line = |entry: tar::Entry<'_, &[u8]>| {
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let link = entry.link_name().unwrap().map(|l| format!(" -> {}", l.display())).unwrap_or_default();
            let kind = header.entry_type().as_byte() as char;
            format!("{kind} {:o} {}{link}", header.mode().unwrap(), entry.path().unwrap().display())
        };
        archive.entries().unwrap().map(|e| line(e.unwrap())).collect()
    }

    #[test]
    fn a_static_binary_becomes_the_command_of_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        fs::write(&path, elf::tests::program(183, 1)).unwrap();
        let (config, layer, index) = open(build_it(&path, Recipe::default()).unwrap());
        assert_eq!(entries(&layer), ["5 1777 tmp/", "0 755 hello"]);
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["Cmd"][0], "/hello");
        let notes = &index["manifests"][0]["annotations"];
        assert_eq!(notes["io.containerd.image.name"], "docker.io/library/t:1");
        assert_eq!(notes["org.opencontainers.image.ref.name"], "1");

        let other = Recipe { arch: Some("amd64".parse().unwrap()), ..Recipe::default() };
        assert!(matches!(build_it(&path, other), Err(Error::OtherArch { .. })));
    }

    #[test]
    fn a_directory_becomes_the_root_with_modes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let long = "n".repeat(150);
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("a-z")).unwrap();
        fs::write(root.join("bin/app"), elf::tests::program(62, 3)).unwrap();
        fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(root.join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root.join("a-z"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::hard_link(root.join("bin/app"), root.join("bin/twin")).unwrap();
        symlink("../bin/app", root.join("link")).unwrap();
        symlink("/gone", root.join("absolute")).unwrap();
        fs::write(root.join(&long), "x").unwrap();
        fs::set_permissions(root.join(&long), fs::Permissions::from_mode(0o644)).unwrap();

        let first = build_it(root, recipe("/bin/app --x")).unwrap();
        let digest = first.digest.clone();
        let (config, layer, _) = open(first);
        assert_eq!(config["architecture"], "amd64");
        let expected = [
            "5 700 a-z/".to_owned(),
            "2 777 absolute -> /gone".to_owned(),
            "5 755 bin/".to_owned(),
            "0 4750 bin/app".to_owned(),
            "1 755 bin/twin -> bin/app".to_owned(),
            "2 777 link -> ../bin/app".to_owned(),
            format!("0 644 {long}"),
        ];
        assert_eq!(entries(&layer), expected);

        fs::write(root.join(&long), "x").unwrap();
        assert_eq!(
            build_it(root, recipe("/bin/app --x")).unwrap().digest,
            digest,
            "the same input, the same digest"
        );
        fs::write(root.join(&long), "y").unwrap();
        assert_ne!(build_it(root, recipe("/bin/app --x")).unwrap().digest, digest);
    }

    #[test]
    fn a_directory_that_cannot_be_an_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(matches!(build_it(root, Recipe::default()), Err(Error::NoCommand)));
        assert!(matches!(build_it(root, recipe("/bin/app")), Err(Error::CommandMissing { .. })));
        let _listener = UnixListener::bind(root.join("s")).unwrap();
        let error = build_it(root, recipe("app")).err().unwrap().to_string();
        assert!(error.contains("a socket"), "{error}");
    }

    #[test]
    fn the_recipe_stands_in_the_config() {
        let recipe = Recipe {
            entrypoint: vec!["/e".into()],
            env: vec!["PATH=/x".into(), "A=1".into()],
            user: "7:8".into(),
            workdir: "/w".into(),
            ports: vec![8080],
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..Recipe::default()
        };
        let bytes = spec::config(&recipe, "armv7".parse().unwrap(), "sha256:0");
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = serde_json::json!({
            "Entrypoint": ["/e"], "Env": ["PATH=/x", "A=1"], "ExposedPorts": { "8080/tcp": {} },
            "Labels": { "k": "v" }, "User": "7:8", "WorkingDir": "/w",
        });
        assert_eq!(config["config"], expected);
        assert_eq!((&config["architecture"], &config["variant"]), (&"arm".into(), &"v7".into()));
    }

    #[test]
    fn a_name_by_content_changes_with_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        let name = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let naming = Naming::ByContent("roost.local/hello".into());
            build(&path, Recipe::default(), naming, &mut |_| {}).unwrap().name.full()
        };
        let (one, two) = (name(&elf::tests::program(62, 1)), name(&elf::tests::program(183, 1)));
        assert!(one.starts_with("roost.local/hello:") && one.len() == 18 + 12, "{one}");
        assert_ne!(one, two);
    }
}
