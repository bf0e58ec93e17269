//! Makes moves of processes into control groups quick while a replica is made.
//!
//! Owns a trick with the kernel: the first move in a while waits until every processor has passed a quiet point, 10 to
//! 20 ms, and those right behind it do not wait. runc moves the process that becomes the replica into groups in the middle
//! of its work, and stands still there. So a move that changes nothing, of this process to the group that it is in, is
//! begun when the making begins, and is over when runc comes to its own; it is repeated until the making ends, so that
//! runc's stays one of those right behind. Where control groups are mounted with `favordynmods` no move waits, and this does
//! no harm. Where it cannot be done, nothing is lost but those milliseconds.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::cgroup::{self, Tree};
use super::host::Cgroups;

/// How long between two moves: the kernel was seen to stay ready for 10 ms after one. It tells by no event when it is not.
const PAUSE: Duration = Duration::from_millis(2);

/// Of the thread that moves, in bytes.
const STACK: usize = 64 << 10;

/// A move of oneself: the process that writes.
const SELF: &[u8] = b"0";

/// The hierarchy of v1 in which it is done: which one does not matter, all have one lock in common.
const CONTROLLER: &str = "freezer";

/// Keeps moves quick while somebody wants them to be.
#[derive(Debug)]
pub(super) struct Moves {
    tree: Tree,
    /// Of those who want it now. Never held over an await or a move.
    wanted: Mutex<Weak<Quick>>,
}

/// While it lives, moves are quick, or about to be.
#[derive(Debug)]
pub(super) struct Quick;

impl Moves {
    pub(super) fn new(tree: &Tree) -> Self {
        Self { tree: tree.clone(), wanted: Mutex::default() }
    }

    /// Begins to make moves quick, and goes on until the last guard is dropped. Does not wait.
    pub(super) fn quick(&self) -> Arc<Quick> {
        // A panic elsewhere cannot leave a pointer half-changed.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quick) = wanted.upgrade() {
            return quick;
        }
        let quick = Arc::new(Quick);
        *wanted = Arc::downgrade(&quick);
        let (tree, wanted) = (self.tree.clone(), Arc::downgrade(&quick));
        // A thread of its own: a move blocks.
        let moving = thread::Builder::new().name("moves".to_owned()).stack_size(STACK).spawn(move || {
            if let Err(error) = here(&tree).and_then(|list| stay(&list, &wanted)) {
                tracing::debug!("moves into control groups take their time: {error}");
            }
        });
        if let Err(error) = moving {
            tracing::debug!("moves into control groups take their time: no thread: {error}");
        }
        quick
    }
}

/// Moves this process to where it is, again and again, while somebody wants it.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and nothing tells when the next move is due"
)]
fn stay(list: &Path, wanted: &Weak<Quick>) -> io::Result<()> {
    while wanted.strong_count() > 0 {
        OpenOptions::new().write(true).open(list)?.write_all(SELF)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The list of processes of the group that this one is in. Looked for each time: whoever runs the host may have moved it.
fn here(tree: &Tree) -> io::Result<PathBuf> {
    let list = own_list(&fs::read_to_string("/proc/self/cgroup")?, tree);
    let list = list.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no group of one's own"))?;
    // Inside of something else the paths may be those of the outside: a list without this process would be a real move.
    if has(&cgroup::read(&list)?, std::process::id()) {
        Ok(list)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("not in {}", list.display())))
    }
}

/// The list of processes of the group that `/proc/self/cgroup`, with this text, says one is in.
fn own_list(text: &str, tree: &Tree) -> Option<PathBuf> {
    let group = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let wanted = match tree.version() {
            Cgroups::V1 { .. } => controllers.split(',').any(|name| name == CONTROLLER),
            Cgroups::V2 => controllers.is_empty(),
        };
        wanted.then_some(path)
    })?;
    Some(tree.dir(CONTROLLER, Path::new(group)).join("cgroup.procs"))
}

fn has(list: &str, process: u32) -> bool {
    list.lines().any(|line| line.trim().parse() == Ok(process))
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::tree;
    use super::*;

    const V1: Cgroups = Cgroups::V1 { swap: false };

    #[test]
    fn the_own_group_is_found_on_v1_and_on_v2() {
        let text = "9:name=systemd:/\n5:cpu,freezer:/a:b\n0::/system.slice/roostd.service\n";
        for (version, file) in
            [(V1, "freezer/a:b/cgroup.procs"), (Cgroups::V2, "system.slice/roostd.service/cgroup.procs")]
        {
            let (dir, tree) = tree(version, &[]);
            assert_eq!(own_list(text, &tree), Some(dir.path().join(file)));
            assert_eq!(own_list("5:cpu:/\n", &tree), None);
        }
    }

    #[test]
    fn nobody_is_moved_to_a_group_that_he_is_not_in() {
        assert!(has("1\n23\n", 23) && !has("1\n23\n", 2) && !has("", 0));
        let (_dir, tree) = tree(V1, &[]);
        here(&tree).unwrap_err();
    }

    #[test]
    fn one_thread_moves_for_all() {
        let (_dir, tree) = tree(V1, &[]);
        let moves = Moves::new(&tree);
        let (one, two) = (moves.quick(), moves.quick());
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        assert_eq!(Arc::strong_count(&moves.quick()), 1);
    }

    #[test]
    fn moving_ends_when_nobody_wants_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("cgroup.procs");
        fs::write(&list, "").unwrap();
        let quick = Arc::new(Quick);
        let (path, wanted) = (list.clone(), Arc::downgrade(&quick));
        let moving = thread::spawn(move || stay(&path, &wanted));
        while fs::read(&list).unwrap() != SELF {
            thread::yield_now();
        }
        assert!(!moving.is_finished());
        drop(quick);
        moving.join().unwrap().unwrap();
    }

    #[test]
    fn a_group_that_is_gone_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let quick = Arc::new(Quick);
        stay(&dir.path().join("cgroup.procs"), &Arc::downgrade(&quick)).unwrap_err();
    }
}
