//! Reads the header of an ELF file: what it runs on, and whether it wants a loader.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use super::Error;

/// The program header entry that names the dynamic loader.
const PT_INTERP: u32 = 3;
/// The longest name of a loader that is shown.
const MAX_LOADER: usize = 256;

/// What a program runs on: `e_machine`, its OCI name and variant, and other names people use for it.
const MACHINES: [(u16, &str, Option<&str>, &[&str]); 7] = [
    (62, "amd64", None, &["x86_64", "x86-64"]),
    (183, "arm64", None, &["aarch64", "arm64/v8"]),
    (40, "arm", Some("v7"), &["armv7", "armhf", "arm/v7"]),
    (3, "386", None, &["i386", "x86"]),
    (243, "riscv64", None, &[]),
    (21, "ppc64le", None, &["powerpc64"]),
    (22, "s390x", None, &[]),
];

/// A processor architecture, as images name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arch {
    pub(crate) name: &'static str,
    pub(crate) variant: Option<&'static str>,
}

impl Arch {
    /// The architecture this program runs on.
    pub(crate) fn of_this_host() -> Self {
        std::env::consts::ARCH.parse().unwrap_or(Self { name: std::env::consts::ARCH, variant: None })
    }

    fn of_machine(machine: u16) -> Option<Self> {
        let (_, name, variant, _) = MACHINES.iter().find(|m| m.0 == machine)?;
        Some(Self { name, variant: *variant })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix("linux/").unwrap_or(text);
        let known = MACHINES.iter().find(|m| m.1 == text || m.3.contains(&text));
        known.map(|m| Self { name: m.1, variant: m.2 }).ok_or_else(|| {
            let names: Vec<_> = MACHINES.iter().map(|m| m.1).collect();
            format!("not an architecture we know; choose one of {}", names.join(", "))
        })
    }
}

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    arch: Option<Arch>,
    loader: Option<String>,
}

/// The architecture of a program that needs nothing but a kernel; everything else is refused, with the way out.
pub(super) fn check_static(path: &Path) -> Result<Arch, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut start = [0; 2];
    let short = file.read_exact_at(&mut start, 0).is_err();
    if !short && &start == b"#!" {
        return Err(Error::Script { path: path.to_owned() });
    }
    let damaged = |what| Error::Damaged { path: path.to_owned(), what };
    let elf = read(&file).map_err(damaged)?.ok_or_else(|| Error::NotElf { path: path.to_owned() })?;
    match (elf.loader, elf.arch) {
        (Some(loader), _) => Err(Error::Dynamic { path: path.to_owned(), loader }),
        (None, Some(arch)) => Ok(arch),
        (None, None) => Err(damaged("it is built for an unknown processor")),
    }
}

/// The architecture of any file that is a program; `None` for other files.
pub(super) fn arch_of(file: &File) -> Option<Arch> {
    read(file).ok().flatten()?.arch
}

fn read(file: &impl FileExt) -> Result<Option<Elf>, &'static str> {
    let mut head = [0; 64];
    let Some(count) = read_some(file, &mut head) else { return Err("it cannot be read") };
    if count < 52 || &head[..4] != b"\x7fELF" {
        return Ok(None);
    }
    let wide = match head[4] {
        1 => false,
        2 if count == 64 => true,
        _ => return Err("its header is cut or of an unknown class"),
    };
    let number = Number { big: head[5] == 2 };
    let arch = Arch::of_machine(number.half(&head[18..]));
    let (table, size, entries) = if wide {
        (number.long(&head[32..]), number.half(&head[54..]), number.half(&head[56..]))
    } else {
        (number.word(&head[28..]).into(), number.half(&head[42..]), number.half(&head[44..]))
    };
    let least = if wide { 56 } else { 32 };
    if entries > 0 && size < least {
        return Err("its program headers are too small");
    }
    for i in 0..u64::from(entries) {
        let mut entry = [0; 56];
        let entry = &mut entry[..usize::from(least)];
        let at = table.checked_add(i * u64::from(size)).ok_or("its program headers are out of range")?;
        file.read_exact_at(entry, at).map_err(|_| "its program headers are cut")?;
        if number.word(entry) == PT_INTERP {
            let (offset, length) = if wide {
                (number.long(&entry[8..]), number.long(&entry[32..]))
            } else {
                (number.word(&entry[4..]).into(), number.word(&entry[16..]).into())
            };
            return Ok(Some(Elf { arch, loader: Some(loader(file, offset, length)) }));
        }
    }
    Ok(Some(Elf { arch, loader: None }))
}

fn loader(file: &impl FileExt, offset: u64, length: u64) -> String {
    let mut name = vec![0; usize::try_from(length).unwrap_or(MAX_LOADER).min(MAX_LOADER)];
    let count = file.read_at(&mut name, offset).unwrap_or(0);
    let text = String::from_utf8_lossy(&name[..count]).into_owned();
    text.trim_end_matches('\0').replace(char::is_control, "?")
}

fn read_some(file: &impl FileExt, buffer: &mut [u8]) -> Option<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64).ok()? {
            0 => break,
            n => filled += n,
        }
    }
    Some(filled)
}

/// Numbers in the file's own byte order. Callers hand in enough bytes.
struct Number {
    big: bool,
}

impl Number {
    fn half(&self, b: &[u8]) -> u16 {
        let b = [b[0], b[1]];
        if self.big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
    }

    fn word(&self, b: &[u8]) -> u32 {
        let b = [b[0], b[1], b[2], b[3]];
        if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
    }

    fn long(&self, b: &[u8]) -> u64 {
        let b = [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
        if self.big { u64::from_be_bytes(b) } else { u64::from_le_bytes(b) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// A little 64-bit program: header, one program header of the given type, and a loader's name.
    pub(crate) fn program(machine: u16, header_type: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&header_type.to_le_bytes());
        bytes[72] = 120;
        bytes[96] = 8;
        bytes.extend(b"/lib/ld\0");
        bytes
    }

    fn check(bytes: &[u8]) -> Result<Arch, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        check_static(file.path())
    }

    #[test]
    fn a_static_program_tells_its_architecture() {
        for (machine, name) in [(62, "amd64"), (183, "arm64"), (40, "arm"), (243, "riscv64")] {
            assert_eq!(check(&program(machine, 1)).unwrap().name, name);
        }
    }

    #[test]
    fn what_cannot_run_alone_is_refused_with_the_way_out() {
        let table: [(&[u8], &str); 5] = [
            (&program(62, PT_INTERP), "its loader is /lib/ld)"),
            (b"#!/bin/sh\necho", "is a script"),
            (b"MZ\x90", "not a Linux program"),
            (b"", "not a Linux program"),
            (&program(62, 1)[..70], "damaged"),
        ];
        for (bytes, text) in table {
            let error = check(bytes).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_header_with_any_byte_changed_never_panics() {
        let sound = program(62, PT_INTERP);
        for at in 0..sound.len() {
            for value in [0, 1, 2, 0x7f, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = value;
                check(&bytes).ok();
            }
        }
    }

    #[test]
    fn architectures_have_the_names_people_use() {
        assert_eq!("x86_64".parse::<Arch>().unwrap().name, "amd64");
        assert_eq!("linux/arm64".parse::<Arch>().unwrap().name, "arm64");
        assert_eq!("armv7".parse::<Arch>().unwrap().variant, Some("v7"));
        assert!("vax".parse::<Arch>().unwrap_err().contains("amd64"));
    }
}
