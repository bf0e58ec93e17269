//! Makes real mounts, in a mount namespace of the test's own: nothing can be left behind.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::*;
use crate::config::AllowedMount;
use crate::function::grants::{Allowed, Wishes};

/// Runs `test` on a thread with mounts of its own, those of the directory it is given shared as on a host.
fn with_own_mounts(test: impl FnOnce(&Path) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let thread = std::thread::spawn(move || {
        const NONE: Option<&str> = None;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE).unwrap();
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        mount(NONE, &path, NONE, MsFlags::MS_SHARED, NONE).unwrap();
        test(&path);
    });
    thread.join().unwrap();
}

/// `dir/open`, which functions may write, with the directory `own` in it; `dir/closed`; and the link `link` from the one to the
/// other.
fn allow(dir: &Path) -> Allowed {
    for path in ["open/own", "closed"] {
        fs::create_dir_all(dir.join(path)).unwrap();
        fs::write(dir.join(path).join("file"), path).unwrap();
    }
    symlink(dir.join("closed"), dir.join("open/link")).unwrap();
    Allowed::new(vec![AllowedMount { path: dir.join("open"), writable: true }], vec![])
}

fn ask(allowed: &Allowed, path: &Path) -> Result<Vec<GrantedMount>, String> {
    let text = format!("{}:/data:rw", path.display());
    let wishes = Wishes::parse(&[("roost.mount.m", text.as_str())].into_iter().collect()).unwrap();
    Ok(allowed.look(&wishes)?.mounts)
}

/// Puts what the two names stand for in each other's place.
fn swap(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

fn points(below: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(below)).map(str::to_owned).collect()
}

#[test]
fn what_is_mounted_is_what_was_judged() {
    with_own_mounts(|dir| {
        let allowed = allow(dir);
        let (own, link, replica) = (dir.join("open/own"), dir.join("open/link"), dir.join("replica"));
        let granted = ask(&allowed, &own).unwrap();
        swap(&own, &link);
        let mounts = bind_all(&replica, granted).unwrap();
        assert_eq!(fs::read_to_string(mounts[0].source.join("file")).unwrap(), "open/own");
        assert_eq!((mounts[0].target.as_path(), mounts[0].read_only), (Path::new("/data"), false));
        assert!(ask(&allowed, &own).unwrap_err().contains("functions.mounts"));
        remove_all(&replica).unwrap();
        swap(&own, &link);

        let (done, ends) = (Arc::new(AtomicBool::new(false)), (own.clone(), link));
        let told = Arc::clone(&done);
        let swapping = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                swap(&ends.0, &ends.1);
            }
        });
        for _ in 0..2000 {
            let Ok(granted) = ask(&allowed, &own) else { continue };
            let mounts = bind_all(&replica, granted).unwrap();
            assert_eq!(fs::read_to_string(mounts[0].source.join("file")).unwrap(), "open/own");
            remove_all(&replica).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
    });
}

#[test]
fn files_and_directories_are_taken_away_and_stay_where_they_are() {
    with_own_mounts(|dir| {
        let allowed = allow(dir);
        let (open, replica) = (dir.join("open"), dir.join("replica"));
        let mut granted = ask(&allowed, &open).unwrap();
        granted.extend(ask(&allowed, &open.join("own/file")).unwrap());
        let mounts = bind_all(&replica, granted).unwrap();
        assert_eq!(fs::read_to_string(&mounts[1].source).unwrap(), "open/own");
        assert_eq!(points(&replica).len(), 2);
        // What is mounted on the host meanwhile is the host's.
        let below = open.join("own");
        mount(Some("below"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert_eq!(points(&replica).len(), 2);
        remove_all(&replica).unwrap();
        remove_all(&replica).unwrap();
        assert!(points(&replica).is_empty() && !replica.exists());
        assert_eq!(points(&below).len(), 1);
        umount2(&below, MntFlags::empty()).unwrap();
        assert_eq!(fs::read_to_string(below.join("file")).unwrap(), "open/own");
    });
}

#[test]
fn strays_are_collected_and_others_kept() {
    with_own_mounts(|dir| {
        let allowed = allow(dir);
        let binds = Binds::open(dir).unwrap();
        for id in ["kept", "stray"] {
            bind_all(&binds.dir.join(id), ask(&allowed, &dir.join("open")).unwrap()).unwrap();
        }
        // As a daemon leaves it that ended in the middle: still joined to its source.
        let (open, stray) = (dir.join("open"), binds.dir.join("stray/1"));
        fs::create_dir(&stray).unwrap();
        mount(Some(&open), &stray, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let below = open.join("own");
        mount(Some("below"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir(binds.dir.join("empty")).unwrap();

        collect_all(&binds.dir, &HashSet::from(["kept".to_owned()])).unwrap();
        let kept = binds.dir.join("kept/0");
        assert_eq!(points(&binds.dir), [kept.to_str().unwrap()]);
        assert_eq!(points(&below).len(), 1);
        assert!(!binds.dir.join("stray").exists() && !binds.dir.join("empty").exists());
    });
}
