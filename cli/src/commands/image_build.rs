//! `roost image build`: one static binary or one directory becomes an image, here, and goes to the daemon or a file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use tempfile::NamedTempFile;

use super::deploy::pair;
use super::image;
use crate::args::Global;
use crate::failure::usage;
use crate::image::{Arch, Archive, Naming, Recipe, Reference, split_words};
use crate::output::{self, Output};

const EXAMPLES: &str = "\
Examples:
  roost image build ./target/release/hello -t hello:1.0
  roost image build ./rootfs -t shop:2 --cmd '/usr/bin/node /app/index.js' \\
    --env NODE_ENV=production --user 1000
  roost image build ./hello -t hello:1.0 -o hello.tar
  roost image import hello.tar       # elsewhere";

/// Make an image out of one static binary or one directory, without Docker
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BuildArgs {
    /// A static binary, or a directory whose content becomes /
    path: PathBuf,
    /// What to call the image
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    name: Reference,
    /// Command: words with shell-like quotes, or a JSON array
    #[arg(long, value_name = "COMMAND")]
    cmd: Option<String>,
    /// What the command is given to: words with shell-like quotes, or a JSON array
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Environment variable; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// User it runs as: a name or number, with or without a group
    #[arg(long, value_name = "USER[:GROUP]", default_value = "", hide_default_value = true)]
    user: String,
    /// Directory it starts in
    #[arg(long, value_name = "/PATH", default_value = "", hide_default_value = true)]
    workdir: String,
    /// TCP port it listens on; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Architecture, where the files do not tell: amd64, arm64, arm, …
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Label; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Write the archive to a file instead of sending it to the daemon; - writes to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &BuildArgs, global: &Global, out: &mut Output) -> Result<()> {
    let archive = image::build(&args.path, recipe(args)?, Naming::Given(args.name.clone()), out)?;
    let (size, digest, arch, name) =
        (archive.size, archive.digest.clone(), archive.arch, archive.name.full());
    match args.output.as_deref() {
        Some(path) if path == Path::new("-") => return to_stdout(archive, out),
        Some(path) => write(archive, path)?,
        None => {
            let client = super::connect(global)?;
            let reader = Box::new(archive.into_reader());
            image::send(&client, Some(&name), global.namespace.as_deref(), reader, Some(size), out)?;
        }
    }
    if out.json {
        return out.value(&json!({ "name": name, "digest": digest, "architecture": arch.name, "size": size, "file": args.output }));
    }
    let place = args
        .output
        .as_ref()
        .map_or_else(|| "imported".to_owned(), |path| format!("written to {}", path.display()));
    let about = format!("{arch}, {}, {}", output::bytes(size), image::short(&digest));
    Ok(out.line(format!("Built {name} ({about}): {place}"))?)
}

fn recipe(args: &BuildArgs) -> Result<Recipe> {
    let words = |text: &Option<String>, option: &str| {
        let words = text.as_deref().map(split_words).transpose();
        words.map(Option::unwrap_or_default).map_err(|e| usage(format!("{option}: {e}")))
    };
    Ok(Recipe {
        entrypoint: words(&args.entrypoint, "--entrypoint")?,
        cmd: words(&args.cmd, "--cmd")?,
        env: args.env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        ports: args.port.clone(),
        labels: args.label.iter().cloned().collect(),
        arch: args.arch,
    })
}

fn to_stdout(archive: Archive, out: &mut Output) -> Result<()> {
    let mut reader = archive.into_reader();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match io::Read::read(&mut reader, &mut buffer).context("cannot read the archive")? {
            0 => return Ok(()),
            count => out.raw(&buffer[..count])?,
        }
    }
}

/// The file appears when it is whole.
fn write(archive: Archive, path: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(folder)?;
        io::copy(&mut archive.into_reader(), &mut file)?;
        let file = file.persist(path)?;
        open_to_readers(&file)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A temporary file is for its owner only; an image is no secret.
fn open_to_readers(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.set_permissions(std::fs::Permissions::from_mode(0o644))?)
}
