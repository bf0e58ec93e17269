//! What the daemon is made of besides its source: the description of the API, packed, and relocations in their short form,
//! which take half a megabyte less, where the C library of this host can read them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, io};

use flate2::Compression;
use flate2::write::GzEncoder;

const DOCUMENT: &str = "src/api/openapi.json";

/// From this glibc on they are read.
const SHORT_RELOCATIONS: (u32, u32) = (2, 36);

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={DOCUMENT}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    pack(Path::new(DOCUMENT), &out.join("openapi.json.gz"))?;
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    let at_home = env::var_os("TARGET") == env::var_os("HOST") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if at_home && is("PROFILE", "release") && glibc().is_some_and(|version| version >= SHORT_RELOCATIONS) {
        println!("cargo::rustc-link-arg-bin=roostd=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

fn pack(from: &Path, to: &Path) -> io::Result<()> {
    let mut packed = GzEncoder::new(File::create(to)?, Compression::best());
    io::Write::write_all(&mut packed, &fs::read(from)?)?;
    packed.finish()?.sync_all()
}

/// The version of the C library that this runs with.
#[cfg(target_env = "gnu")]
fn glibc() -> Option<(u32, u32)> {
    unsafe extern "C" {
        fn gnu_get_libc_version() -> *const std::ffi::c_char;
    }
    // SAFETY: it takes nothing, and gives a text that is there for good.
    let version = unsafe { std::ffi::CStr::from_ptr(gnu_get_libc_version()) };
    let (major, minor) = version.to_str().ok()?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(not(target_env = "gnu"))]
fn glibc() -> Option<(u32, u32)> {
    None
}
