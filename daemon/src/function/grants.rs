//! What of the host a function asks for and is given: files and devices.
//!
//! `roost.mount.NAME: /on/host:/inside[:ro|:rw]` and `roost.device.NAME: /dev/on-host[:/dev/inside][:rwm]`. Owns their
//! reading and the decision by the settings `functions.mounts` and `functions.devices`. Asked twice: when a function is
//! deployed, so that a refusal is told to whoever deploys it, and when a replica is made, where it really counts: what is
//! opened then is judged by where it is and handed on as it is, never by its name again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, major, minor};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::AllowedMount;
use crate::runtime::Device;

pub(super) const MOUNT: &str = "roost.mount.";
pub(super) const DEVICE: &str = "roost.device.";

/// How many mounts and devices a function may ask for.
const MAX_WISHES: usize = 32;

/// How long the host's files may take to be looked at. A file system whose server is gone never answers.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// How many looks there may be at once: one that gets no answer keeps a thread.
const MAX_LOOKS: usize = 4;

/// What is ours inside: nothing may be mounted there, below or above.
const RESERVED: [&str; 6] =
    ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/var/openfaas/secrets"];

/// What every replica has in `/dev`.
const RESERVED_DEVICES: [&str; 16] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
    "stdout", "tty", "urandom", "zero",
];

/// What a function asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    mounts: Vec<Wish>,
    devices: Vec<Wish>,
}

/// One thing of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// The annotation that asks for it.
    name: String,
    source: PathBuf,
    target: PathBuf,
    /// `ro` or `rw` for files; letters of `rwm` for a device.
    access: String,
}

impl Wishes {
    /// Reads all annotations of both kinds.
    ///
    /// # Errors
    /// With all mistakes, each named by its annotation.
    pub fn parse(settings: &BTreeMap<&str, &str>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut all = |prefix: &str, read: fn(&str, &str) -> Result<Wish, String>| {
            let mut wishes: Vec<Wish> = Vec::new();
            for (name, value) in settings.iter().filter(|(name, _)| name.starts_with(prefix)) {
                match read(name, value.trim()) {
                    Ok(wish) => wishes.push(wish),
                    Err(why) => mistakes.push(format!("{name}: {value:?}: {why}")),
                }
            }
            // What holds another is mounted before it.
            wishes.sort_by(|a, b| a.target.cmp(&b.target));
            for pair in wishes.windows(2).filter(|pair| pair[0].target == pair[1].target) {
                mistakes.push(format!("{}: has the same place inside as {}", pair[1].name, pair[0].name));
            }
            if wishes.len() > MAX_WISHES {
                mistakes.push(format!("{prefix}…: expected at most {MAX_WISHES} of them"));
            }
            wishes
        };
        let (mounts, devices) = (all(MOUNT, read_mount), all(DEVICE, read_device));
        if mistakes.is_empty() { Ok(Self { mounts, devices }) } else { Err(mistakes) }
    }
}

fn read_mount(name: &str, text: &str) -> Result<Wish, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source, target] => (source, target, "ro"),
        [source, target, access @ ("ro" | "rw")] => (source, target, access),
        _ => return Err("expected /on/host:/inside, and behind it :ro or :rw".to_owned()),
    };
    let (source, target) = (absolute(source)?, absolute(target)?);
    if RESERVED.iter().any(|ours| target.starts_with(ours) || Path::new(ours).starts_with(&target)) {
        return Err(format!("{} inside is Roost's own", target.display()));
    }
    Ok(Wish { name: name.to_owned(), source, target, access: access.to_owned() })
}

fn read_device(name: &str, text: &str) -> Result<Wish, String> {
    const EXPECTED: &str = "expected /dev/on-host, and behind it :/dev/inside, :rw, or both";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rw"),
        [source, target] if target.starts_with('/') => (source, target, "rw"),
        [source, access] => (source, source, access),
        [source, target, access] => (source, target, access),
        _ => return Err(EXPECTED.to_owned()),
    };
    if access.is_empty() || !access.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(EXPECTED.to_owned());
    }
    let (source, target) = (absolute(source)?, absolute(target)?);
    let inside = target.strip_prefix("/dev").ok().and_then(|rest| rest.components().next());
    match inside {
        None => Err("expected a path below /dev inside".to_owned()),
        Some(first) if RESERVED_DEVICES.iter().any(|ours| first.as_os_str() == *ours) => {
            Err(format!("{} inside is there already", target.display()))
        }
        Some(_) => Ok(Wish { name: name.to_owned(), source, target, access: access.to_owned() }),
    }
}

/// An absolute path without `..`; empty and `.` parts are left out.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.contains('\0') {
        return Err("expected absolute paths without '..'".to_owned());
    }
    Ok(path.components().collect())
}

/// What functions of this host may be given, as its settings say.
#[derive(Debug)]
pub struct Allowed {
    mounts: Vec<AllowedMount>,
    devices: Vec<PathBuf>,
    /// Held by each look at the host's files, to its end.
    looks: Arc<Semaphore>,
}

/// What a replica is given.
#[derive(Debug, Default)]
pub struct Granted {
    /// Files and directories.
    pub mounts: Vec<GrantedMount>,
    /// Devices.
    pub devices: Vec<Device>,
}

/// A file or directory that a replica is given.
#[derive(Debug)]
pub struct GrantedMount {
    /// It, open, but neither for reading nor for writing. Its name may stand for something else by now.
    pub file: File,
    /// Where it is seen inside.
    pub target: PathBuf,
    /// May it not be written?
    pub read_only: bool,
}

impl Allowed {
    /// The files and directories in `mounts`, and `devices`.
    #[must_use]
    pub fn new(mounts: Vec<AllowedMount>, devices: Vec<PathBuf>) -> Self {
        Self { mounts, devices, looks: Arc::new(Semaphore::new(MAX_LOOKS)) }
    }

    /// Gives what is asked for.
    ///
    /// # Errors
    /// With the annotation whose wish is not granted, and the setting that would grant it; or when the host's files cannot
    /// be looked at in time.
    pub async fn grant(self: &Arc<Self>, wishes: &Wishes) -> Result<Granted, String> {
        self.grant_within(LOOK_LIMIT, wishes).await
    }

    async fn grant_within(self: &Arc<Self>, limit: Duration, wishes: &Wishes) -> Result<Granted, String> {
        let Some(first) = wishes.mounts.iter().chain(&wishes.devices).next() else {
            return Ok(Granted::default());
        };
        let looked = timeout(limit, async {
            let look = Arc::clone(&self.looks).acquire_owned().await.map_err(|e| e.to_string())?;
            let (allowed, wishes) = (Arc::clone(self), wishes.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let _look = look;
                allowed.look(&wishes)
            });
            looked.await.map_err(|error| error.to_string())?
        });
        looked.await.unwrap_or_else(|_| {
            Err(format!("{}: the host's files gave no answer within {} s", first.name, limit.as_secs()))
        })
    }

    /// [`Allowed::grant`], where it may block.
    pub(super) fn look(&self, wishes: &Wishes) -> Result<Granted, String> {
        let mut granted = Granted::default();
        for wish in &wishes.mounts {
            let writable = wish.access == "rw";
            // By its text first: of what is elsewhere nothing is looked at or told, not even whether it is there.
            let judge = |path: &Path| {
                self.admit_mount(path, writable).map_err(|why| format!("{}: {path:?} {why}", wish.name))
            };
            judge(&wish.source)?;
            let (file, real) = look(wish)?;
            judge(&real)?;
            granted.mounts.push(GrantedMount { file, target: wish.target.clone(), read_only: !writable });
        }
        for wish in &wishes.devices {
            self.admit_device(wish, &wish.source)?;
            let (file, real) = look(wish)?;
            self.admit_device(wish, &real)?;
            let found = file.metadata().map_err(|why| format!("{}: {real:?}: {why}", wish.name))?;
            let block = found.file_type().is_block_device();
            if !block && !found.file_type().is_char_device() {
                return Err(format!("{}: {real:?} is no device", wish.name));
            }
            granted.devices.push(Device {
                target: wish.target.clone(),
                block,
                major: number(major(found.rdev())),
                minor: number(minor(found.rdev())),
                access: wish.access.clone(),
            });
        }
        Ok(granted)
    }

    fn admit_device(&self, wish: &Wish, path: &Path) -> Result<(), String> {
        let by_place = |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|real| path == real);
        if self.devices.iter().any(|allowed| path == allowed) || self.devices.iter().any(by_place) {
            return Ok(());
        }
        Err(format!("{}: {path:?} is none of functions.devices in roostd.toml", wish.name))
    }

    fn admit_mount(&self, path: &Path, writable: bool) -> Result<(), &'static str> {
        let by_text = |allowed: &AllowedMount| path.starts_with(&allowed.path);
        let by_place =
            |allowed: &AllowedMount| allowed.path.canonicalize().is_ok_and(|real| path.starts_with(real));
        let enough = |allowed: &&AllowedMount| allowed.writable || !writable;
        // By the text first: then a listed place that gives no answer holds nobody up who asks for another.
        if self.mounts.iter().filter(enough).any(by_text) || self.mounts.iter().filter(enough).any(by_place) {
            return Ok(());
        }
        if self.mounts.iter().any(|allowed| by_text(allowed) || by_place(allowed)) {
            return Err("may only be read: functions.mounts in roostd.toml has it without ':rw'");
        }
        Err("is not in or below any of functions.mounts in roostd.toml")
    }
}

/// The kernel's numbers have 32 bits at most.
fn number(part: u64) -> i64 {
    i64::try_from(part).unwrap_or(i64::MAX)
}

/// Opens what a wish names, without reading it; and tells where it really is: one look for both.
fn look(wish: &Wish) -> Result<(File, PathBuf), String> {
    let failed = |why: std::io::Error| format!("{}: {:?}: {why}", wish.name, wish.source);
    let file = open(&wish.source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = File::from(file.map_err(|why| failed(why.into()))?);
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
    Ok((file, real))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn wishes(pairs: &[(&str, &str)]) -> Result<Wishes, Vec<String>> {
        Wishes::parse(&pairs.iter().copied().collect())
    }

    #[test]
    fn what_makes_no_sense_or_hides_what_is_ours_is_refused_by_name() {
        for text in [
            "/a",
            "/a:",
            "a:/b",
            "/a:b",
            "/a:/b:rx",
            "/a:/b:ro:rw",
            "/a/../b:/c",
            "/a:/b/../c",
            "/a:/",
            "/a:/proc",
            "/a:/proc/self",
            "/a:/sys/fs",
            "/a:/dev/x",
            "/a:/etc",
            "/a:/etc//hosts",
            "/a:/./etc",
            "/a:/var",
            "/a:/var/openfaas/secrets/x",
            "/a:/etc/resolv.conf",
        ] {
            let mistakes = wishes(&[("roost.mount.m", text)]).unwrap_err();
            assert!(mistakes[0].starts_with("roost.mount.m: "), "{text}: {mistakes:?}");
        }
        for text in [
            "",
            "dev/x",
            "/dev/x:",
            "/dev/x:q",
            "/dev/x:/y",
            "/dev/x:/dev",
            "/dev/x:/dev/null",
            "/dev/zero",
            "/dev/x:/dev/shm/y",
            "/dev/x:/dev/../y",
            "/dev/x:/dev/y:",
            "/dev/x:/dev/y:rw:m",
        ] {
            let mistakes = wishes(&[("roost.device.d", text)]).unwrap_err();
            assert!(mistakes[0].starts_with("roost.device.d: "), "{text}: {mistakes:?}");
        }
        let same = wishes(&[("roost.mount.a", "/a:/x/y"), ("roost.mount.b", "/b:/x//y/")]).unwrap_err();
        assert!(same[0].contains("roost.mount.a") && same[0].contains("roost.mount.b"), "{same:?}");
    }

    #[test]
    fn the_short_forms_mean_the_long_ones() {
        for (short, long) in [("/a:/b", "/a:/b:ro"), ("/a//c/:/b/.", "/a/c:/b:ro")] {
            assert_eq!(wishes(&[("roost.mount.m", short)]), wishes(&[("roost.mount.m", long)]));
        }
        for (short, long) in [("/dev/a", "/dev/a:/dev/a:rw"), ("/dev/a:r", "/dev/a:/dev/a:r")] {
            assert_eq!(wishes(&[("roost.device.d", short)]), wishes(&[("roost.device.d", long)]));
        }
        let nested = wishes(&[("roost.mount.a", "/a:/x/y"), ("roost.mount.b", "/b:/x")]).unwrap();
        assert_eq!(nested.mounts[0].target, Path::new("/x"));
    }

    #[test]
    fn a_mount_is_granted_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["read/deep", "write", "other", "reader"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        symlink(at("other"), at("read/out")).unwrap();
        symlink(at("read/deep"), at("into")).unwrap();
        symlink(at("write"), at("read/across")).unwrap();
        symlink(at("write"), at("linked")).unwrap();
        let allow = |path: &str, writable| AllowedMount { path: at(path), writable };
        let allowed = Allowed::new(vec![allow("read", false), allow("linked", true)], vec![]);
        for (path, access, refusal) in [
            ("read", "ro", None),
            ("read/deep", "ro", None),
            ("read/across", "rw", Some("without ':rw'")),
            ("read/across", "ro", None),
            ("write", "rw", None),
            ("linked", "rw", None),
            ("read/deep", "rw", Some("without ':rw'")),
            ("read/out", "ro", Some("functions.mounts")),
            ("other", "ro", Some("functions.mounts")),
            ("reader", "ro", Some("functions.mounts")),
            ("read/missing", "ro", Some("No such file")),
            // What is elsewhere is not looked at: nobody is told what is there.
            ("into", "ro", Some("functions.mounts")),
            ("missing", "ro", Some("functions.mounts")),
            ("missing", "rw", Some("functions.mounts")),
        ] {
            let text = format!("{}:/data:{access}", at(path).display());
            let result = allowed.look(&wishes(&[("roost.mount.m", &text)]).unwrap());
            match (result, refusal) {
                (Ok(granted), None) => {
                    let (is, named) = (granted.mounts[0].file.metadata(), std::fs::metadata(at(path)));
                    assert_eq!(is.unwrap().ino(), named.unwrap().ino());
                    assert_eq!(granted.mounts[0].read_only, access == "ro");
                }
                (Err(why), Some(part)) => {
                    assert!(why.starts_with("roost.mount.m: ") && why.contains(part), "{path}: {why}");
                }
                (result, _) => panic!("{path}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_device_is_granted_if_it_is_one_and_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/dev/full", &link).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let allowed = Allowed::new(vec![], vec![link.clone(), file.clone()]);
        let ask = |path: &Path| {
            let text = format!("{}:/dev/inside:r", path.display());
            allowed.look(&wishes(&[("roost.device.d", &text)]).unwrap())
        };
        for path in [&link, Path::new("/dev/full")] {
            let device = ask(path).unwrap().devices.remove(0);
            assert_eq!((device.block, device.major, device.minor), (false, 1, 7));
        }
        for path in ["/dev/zero", "/dev/nothing-of-this-name"] {
            assert!(ask(Path::new(path)).unwrap_err().contains("functions.devices"), "{path}");
        }
        assert!(ask(&file).unwrap_err().contains("no device"));
    }

    #[tokio::test]
    async fn files_that_give_no_answer_hold_up_only_those_who_ask_for_files() {
        let allowed = AllowedMount { path: "/srv".into(), writable: false };
        let allowed = Arc::new(Allowed::new(vec![allowed], vec![]));
        let asked = wishes(&[("roost.mount.m", "/srv/x:/x")]).unwrap();
        let stuck = allowed.looks.acquire_many(u32::try_from(MAX_LOOKS).unwrap()).await.unwrap();
        let why = allowed.grant_within(Duration::ZERO, &asked).await.unwrap_err();
        assert!(why.starts_with("roost.mount.m: ") && why.contains("no answer"), "{why}");
        allowed.grant(&Wishes::default()).await.unwrap();
        drop(stuck);
        assert!(!allowed.grant(&asked).await.unwrap_err().contains("no answer"));
    }
}
