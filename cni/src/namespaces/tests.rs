//! Makes real namespaces, in a mount namespace of the test's own: nothing can be left behind.

use std::sync::mpsc::sync_channel;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::unistd::{geteuid, gettid};

use super::*;

/// Runs `test` on a thread with mounts of its own, all private, and a fresh tmpfs on the directory it is given.
fn with_own_mounts(test: impl FnOnce(&Path) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: making namespaces needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        test(&path);
    });
    thread.join().unwrap();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn a_namespace_is_made_found_listed_and_removed() {
    with_own_mounts(|dir| {
        let namespaces = Namespaces::prepare(&dir.join("netns")).unwrap();
        assert!(!namespaces.exists("a"));
        block_on(namespaces.create("a")).unwrap();
        assert!(namespaces.exists("a"));
        assert_eq!(namespaces.list().unwrap(), ["a"]);
        let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert_ne!(fs::metadata(namespaces.path("a")).unwrap().ino(), own);

        block_on(namespaces.remove("a")).unwrap();
        block_on(namespaces.remove("a")).unwrap();
        assert!(!namespaces.exists("a") && namespaces.list().unwrap().is_empty());
    });
}

#[test]
fn lo_is_up_inside() {
    with_own_mounts(|dir| {
        let namespaces = Namespaces::prepare(dir).unwrap();
        block_on(namespaces.create("a")).unwrap();
        setns(File::open(namespaces.path("a")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let lo = getifaddrs().unwrap().find(|i| i.interface_name == "lo").unwrap();
        assert!(lo.flags.contains(InterfaceFlags::IFF_UP));
    });
}

#[test]
fn a_namespace_that_is_there_is_not_made_again() {
    with_own_mounts(|dir| {
        let namespaces = Namespaces::prepare(dir).unwrap();
        block_on(namespaces.create("a")).unwrap();
        assert!(block_on(namespaces.create("a")).unwrap_err().to_string().contains("a: create: File exists"));
        assert!(namespaces.exists("a"), "the one that is there stays");
    });
}

#[test]
fn preparing_again_mounts_nothing_more() {
    with_own_mounts(|dir| {
        let dir = dir.join("netns");
        let mounts = || {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table
                .lines()
                .filter(|line| line.contains(dir.to_str().unwrap()))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Namespaces::prepare(&dir).unwrap();
        let once = mounts();
        assert_eq!(once.len(), 1);
        assert!(once[0].contains(" shared:"), "{once:?}");
        Namespaces::prepare(&dir).unwrap();
        assert_eq!(mounts(), once);
    });
}

#[test]
fn a_bare_file_is_no_namespace_and_can_be_removed() {
    with_own_mounts(|dir| {
        let namespaces = Namespaces::prepare(dir).unwrap();
        fs::write(namespaces.path("a"), "").unwrap();
        assert!(!namespaces.exists("a"));
        block_on(namespaces.remove("a")).unwrap();
        assert!(namespaces.list().unwrap().is_empty());
    });
}

/// As under a systemd unit with `ProtectSystem=`: our mounts are a copy of the host's, as slaves.
#[test]
fn a_process_in_the_parent_mount_namespace_sees_the_namespaces() {
    with_own_mounts(|dir| {
        mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let host = PathBuf::from(format!("/proc/self/task/{}/ns/mnt", gettid()));
        let netns = dir.join("netns");
        let (made, wait_made) = sync_channel(0);
        let (go_on, wait_go_on) = sync_channel::<()>(0);
        let unit = thread::spawn({
            let netns = netns.clone();
            move || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
                    .unwrap();
                let namespaces = Namespaces::prepare_with(&netns, &host).unwrap();
                assert!(namespaces.mounts.is_some());
                block_on(namespaces.create("a")).unwrap();
                made.send(()).unwrap();
                wait_go_on.recv().unwrap();
                block_on(namespaces.remove("a")).unwrap();
                made.send(()).unwrap();
            }
        });
        let is_namespace = || statfs(&netns.join("a")).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
        wait_made.recv().unwrap();
        assert!(is_namespace(), "the host sees it");
        go_on.send(()).unwrap();
        wait_made.recv().unwrap();
        assert!(!netns.join("a").exists(), "and sees it go");
        unit.join().unwrap();
    });
}
