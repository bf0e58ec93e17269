//! `roost image`: what is on the daemon's host, and what is brought there without a registry.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::image_build::{self, BuildArgs};
use crate::api::Image;
use crate::args::Global;
use crate::client::{Client, Payload};
use crate::duration::age;
use crate::failure::Partly;
use crate::image::{self, Archive, Naming, Recipe, Reference};
use crate::output::{self, Output};

/// How many digits of a digest are shown.
const SHORT_DIGEST: usize = 19;

const EXAMPLES: &str = "\
Examples:
  roost image build ./hello -t hello:1.0
  roost image build ./rootfs -t shop:2 --cmd '/usr/bin/node /app/index.js'
  docker save shop:2 | roost image import -
  roost image list";

/// Build, import, list and remove images
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Make an image out of one static binary or one directory, without Docker
    Build(Box<BuildArgs>),
    /// Bring an archive (OCI or Docker, gzip or not) onto the daemon's host
    Import(ImportArgs),
    /// List the images on the daemon's host
    #[command(visible_alias = "ls")]
    List,
    /// Remove images that no function uses
    #[command(visible_aliases = ["rm", "delete"])]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The archive; - reads stdin
    file: PathBuf,
    /// What to call the image, instead of the name in the archive
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    name: Option<Reference>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Names of the images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub(crate) fn run(args: &ImageArgs, global: &Global, out: &mut Output) -> Result<()> {
    match &args.verb {
        ImageVerb::Build(args) => image_build::run(args, global, out),
        ImageVerb::Import(args) => import(args, global, out),
        ImageVerb::List => list(global, out),
        ImageVerb::Remove(args) => remove(args, global, out),
    }
}

fn import(args: &ImportArgs, global: &Global, out: &mut Output) -> Result<()> {
    let (reader, size): (Box<dyn Read>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let context = || format!("cannot read {}", args.file.display());
        let file = File::open(&args.file).with_context(context)?;
        let about = file.metadata().with_context(context)?;
        if about.is_dir() {
            bail!("{} is a directory; to make an image of it: roost image build", args.file.display());
        }
        let size = about.is_file().then_some(about.len());
        (Box::new(file), size)
    };
    let client = super::connect(global)?;
    let name = args.name.as_ref().map(Reference::full);
    let images = send(&client, name.as_deref(), global.namespace.as_deref(), reader, size, out)?;
    show_imported(&images, out)
}

/// Tells what is there now.
pub(super) fn show_imported(images: &[Image], out: &mut Output) -> Result<()> {
    if out.json {
        let values: Vec<Value> =
            images.iter().map(|i| json!({ "name": i.name, "digest": i.digest })).collect();
        return out.value(&values);
    }
    images.iter().try_for_each(|i| Ok(out.line(format!("Imported {} ({})", i.name, short(&i.digest)))?))
}

/// Builds with a progress line.
pub(super) fn build(source: &Path, recipe: Recipe, naming: Naming, out: &mut Output) -> Result<Archive> {
    let mut progress = |read| out.progress(format!("Packing {}", output::bytes(read)));
    let built = image::build(source, recipe, naming, &mut progress);
    out.clear();
    Ok(built?)
}

/// Sends an archive with a progress line.
pub(super) fn send(
    client: &Client,
    name: Option<&str>,
    namespace: Option<&str>,
    archive: Box<dyn Read>,
    size: Option<u64>,
    out: &mut Output,
) -> Result<Vec<Image>> {
    // The sender owns the stream, so the line is drawn from inside it.
    let live = Output::new(out.json);
    let sent = Sent { inner: archive, total: size.unwrap_or(0), done: 0, out: live };
    Ok(client.import(name, namespace, Payload::Stream(Box::new(sent), size))?)
}

/// Shows how much was sent.
struct Sent {
    inner: Box<dyn Read>,
    total: u64,
    done: u64,
    out: Output,
}

impl Read for Sent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if count == 0 || self.done == self.total {
            // The daemon unpacks now; that line must not be left out for coming too soon.
            self.out.clear();
            self.out.progress("Importing");
        } else {
            self.out.progress(format!("Sending {}", output::share(self.done, self.total)));
        }
        Ok(count)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.out.clear();
    }
}

fn list(global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let namespace = global.namespace.as_deref();
    if out.json {
        return out.value(&client.images::<Value>(namespace)?);
    }
    let mut images: Vec<Image> = client.images(namespace)?;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    if images.is_empty() {
        out.note("No images yet.");
        return Ok(());
    }
    Ok(out.table(&rows(&images, Timestamp::now()))?)
}

fn rows(images: &[Image], now: Timestamp) -> Vec<Vec<String>> {
    let head = ["NAME", "DIGEST", "SIZE", "AGE", "FROM", "USED"].map(str::to_owned).to_vec();
    let row = |i: &Image| {
        vec![
            i.name.clone(),
            short(&i.digest).to_owned(),
            output::bytes(i.size),
            age(&i.created_at, now),
            if i.imported { "import" } else { "registry" }.to_owned(),
            if i.in_use { "yes" } else { "no" }.to_owned(),
        ]
    };
    std::iter::once(head).chain(images.iter().map(row)).collect()
}

/// Enough of a digest to recognise it.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST).unwrap_or(digest)
}

fn remove(args: &RemoveArgs, global: &Global, out: &mut Output) -> Result<()> {
    let client = super::connect(global)?;
    let mut failed = 0;
    let mut values = Vec::new();
    for name in &args.names {
        let error = client.remove_image(name, global.namespace.as_deref()).err();
        failed += usize::from(error.is_some());
        match (error, out.json) {
            (error, true) => {
                values.push(json!({ "name": name, "removed": error.is_none(), "error": error.map(|e| e.to_string()) }));
            }
            (None, false) => out.line(format!("Removed {name}"))?,
            (Some(e), false) if args.names.len() == 1 => {
                return Err(anyhow::Error::from(e).context(name.clone()));
            }
            (Some(e), false) => out.note(format!("roost: {name}: {e}")),
        }
    }
    if out.json {
        out.value(&values)?;
    }
    if failed == 0 { Ok(()) } else { Err(Partly(failed, args.names.len()).into()) }
}
