//! The host's resolvers, as a replica can use them.
//!
//! Owns which files name them and when these change. Never writes one.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags;

use crate::inotify::Events;

/// Where the host's resolvers are named. Behind the first: where resolver services that put themselves on a loopback
/// address say which servers they ask.
const RESOLVER_FILES: [&str; 4] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/dnsmasq/resolv.conf",
];

/// What a replica should find in its `/etc/resolv.conf`; empty if the host names no resolver that it can reach.
#[must_use]
pub fn of_host() -> String {
    choose(RESOLVER_FILES.into_iter().filter_map(|path| std::fs::read_to_string(path).ok()))
}

/// Tells when one of the files may have changed.
pub struct Changes {
    events: Events,
    names: HashSet<&'static OsStr>,
}

impl Changes {
    /// Watches the directories of the files: resolver services replace files, and a watch on a file would stay with the
    /// one that was replaced.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Self> {
        let events = Events::new()?;
        let mut names = HashSet::new();
        for path in RESOLVER_FILES.map(Path::new) {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { continue };
            names.insert(name);
            let written =
                AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
            match events.inotify().add_watch(directory, written) {
                // A service that is not there now is not the one that this host uses.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { events, names })
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let events = self.events.next().await?;
            if events.iter().any(|event| event.name.as_deref().is_some_and(|name| self.names.contains(name)))
            {
                return Ok(());
            }
        }
    }
}

/// The resolvers of the first file that names one that is not on a loopback address: inside a replica that address
/// is the replica itself. Search domains and options of that file are kept.
fn choose(files: impl Iterator<Item = String>) -> String {
    for text in files {
        let kept: Vec<&str> = text.lines().filter(|line| keeps(line)).collect();
        if kept.iter().any(|line| line.starts_with("nameserver")) {
            return kept.iter().map(|line| format!("{line}\n")).collect();
        }
    }
    String::new()
}

fn keeps(line: &str) -> bool {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("nameserver") => {
            let address = words.next().unwrap_or_default();
            // A scope (`fe80::1%eth0`) means an interface that a replica does not have.
            address.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback())
        }
        Some("search" | "options") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(files: &[&str]) -> String {
        choose(files.iter().map(|text| (*text).to_owned()))
    }

    #[test]
    fn resolvers_follow_the_host() {
        assert_eq!(
            resolved(&["# made by hand\nnameserver 192.0.2.1\nsearch lan\noptions edns0\ndomain x\n"]),
            "nameserver 192.0.2.1\nsearch lan\noptions edns0\n"
        );
    }

    #[test]
    fn a_loopback_resolver_is_replaced_by_those_that_it_asks() {
        assert_eq!(
            resolved(&[
                "nameserver 127.0.0.53\noptions edns0\n",
                "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
            ]),
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
        );
        assert_eq!(resolved(&["nameserver ::1\nnameserver 192.0.2.7\n"]), "nameserver 192.0.2.7\n");
        assert_eq!(resolved(&["nameserver 127.0.0.1\n", "nameserver fe80::1%eth0\n"]), "");
    }
}
