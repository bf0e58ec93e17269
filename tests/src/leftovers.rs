//! What a host may have left on the machine: found, told, and cleared away.
//!
//! Knows everything of a host by its directory, its bridge, its subnet and its control group, which no other host has.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{processes_with, run};

/// By what a host's belongings are known.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) dir: PathBuf,
    pub(crate) bridge: String,
    /// What the addresses begin with.
    pub(crate) address_prefix: String,
    /// The name of the network, as it stands in the comments of rules.
    pub(crate) network: String,
    /// Below the root of each hierarchy.
    pub(crate) cgroup: String,
}

impl Marks {
    /// Everything that is still there and should not be, in words. What belongs to the host and not to a function may stay, as
    /// the bridge does.
    pub(crate) fn find(&self) -> Vec<String> {
        let mut left = Vec::new();
        let shims = self.processes().into_iter().filter(|(_, line)| !line.starts_with("containerd --config"));
        left.extend(shims.map(|(pid, line)| format!("process {pid}: {line}")));
        // The daemon's directory of network namespaces is a mount of its own, once, and not one of a function.
        let namespaces = self.dir.join("run/netns");
        let mounts = self.mounts().into_iter().filter(|mount| Path::new(mount) != namespaces);
        left.extend(mounts.map(|mount| format!("mount {mount}")));
        left.extend(self.links().into_iter().map(|link| format!("link {link} on {}", self.bridge)));
        left.extend(self.rules().into_iter().map(|(table, rule)| format!("rule in {table}: {rule}")));
        left.extend(self.cgroups().into_iter().map(|group| format!("control group {}", group.display())));
        left.extend(self.addresses().into_iter().map(|address| format!("address {address} still given")));
        left
    }

    /// Removes all of it, the bridge too, as far as it goes.
    pub(crate) fn clear(&self) {
        let below: Vec<_> = hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.cgroup)).collect();
        let of_functions = below.iter().flat_map(|group| members(group));
        for pid in self.processes().into_iter().map(|(pid, _)| pid).chain(of_functions) {
            // It may have ended by itself meanwhile.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        for mount in self.mounts().iter().rev() {
            tell(run("umount", ["--lazy", mount]));
        }
        if Path::new("/sys/class/net").join(&self.bridge).exists() {
            tell(run("ip", ["link", "delete", &self.bridge]));
        }
        self.clear_rules();
        below.iter().for_each(|group| remove_groups(group));
    }

    fn clear_rules(&self) {
        let rules = self.rules();
        for (table, rule) in &rules {
            // A rule is printed with the quotes that a shell needs.
            let command = format!("iptables -w -t {table} {}", rule.replacen("-A ", "-D ", 1));
            tell(run("sh", ["-c", &command]));
        }
        for (table, rule) in &rules {
            // Masquerading has a chain of its own for each replica.
            if let Some((_, chain)) = rule.rsplit_once(" -j CNI-") {
                let command =
                    format!("iptables -w -t {table} -F CNI-{chain} && iptables -w -t {table} -X CNI-{chain}");
                tell(run("sh", ["-c", &command]));
            }
        }
    }

    /// Processes of this host: each has a path below its directory in its command line.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        processes_with(self.dir.to_str().unwrap())
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(&self.dir)).map(str::to_owned).collect()
    }

    fn links(&self) -> Vec<String> {
        let ports = fs::read_dir(Path::new("/sys/class/net").join(&self.bridge).join("brif"));
        ports
            .into_iter()
            .flatten()
            .flatten()
            .map(|port| port.file_name().to_string_lossy().into_owned())
            .collect()
    }

    fn rules(&self) -> Vec<(String, String)> {
        let mut table = String::new();
        let mut found = Vec::new();
        for line in run("iptables-save", [""; 0]).unwrap_or_default().lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if line.starts_with("-A")
                && (line.contains(&format!(" {}", self.address_prefix)) || line.contains(&self.network))
            {
                found.push((table.clone(), line.to_owned()));
            }
        }
        found
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            let base = hierarchy.join(&self.cgroup);
            let mut todo = vec![base.clone()];
            while let Some(dir) = todo.pop() {
                for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        todo.push(entry.path());
                        // The groups of the namespaces may stay, as the bridge may: they hold nothing.
                        if dir != base || !empty(&entry.path()) {
                            found.push(entry.path());
                        }
                    }
                }
            }
        }
        found
    }

    /// Addresses that `host-local` has noted as given.
    fn addresses(&self) -> Vec<String> {
        let noted = fs::read_dir(self.dir.join("ipam").join(&self.network));
        let names = noted
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&self.address_prefix)).collect()
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut all: Vec<PathBuf> =
        fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.push(root);
    all
}

/// The processes in a group and below it.
fn members(group: &Path) -> Vec<i32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<_> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()));
        }
    }
    pids
}

/// Removes a group and those below it, deepest first, as far as they are empty.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).ok();
}

/// Is there no process in this group or below it?
fn empty(group: &Path) -> bool {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    own.is_empty() && !below.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn tell(result: Result<String, String>) {
    if let Err(error) = result {
        eprintln!("clearing up: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::ports::Place;

    /// One of each, made by hand.
    #[test]
    fn whatever_is_left_is_found_and_cleared_away() {
        let place = Place::new();
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks {
            dir: dir.path().to_owned(),
            bridge: format!("rt{}", place.tag),
            address_prefix: place.address_prefix().to_owned(),
            network: format!("roost-test-{}", place.tag),
            cgroup: format!("roost-test-{}", place.tag),
        };
        assert_eq!(marks.find(), [""; 0]);

        let shown = dir.path().display();
        let address = format!("{}7", place.address_prefix());
        let port = format!("pt{}", place.tag);
        let group = hierarchies().into_iter().map(|root| root.join(&marks.cgroup).join("ns/replica"));
        let group = group.into_iter().find(|group| fs::create_dir_all(group).is_ok()).unwrap();
        fs::create_dir_all(dir.path().join("ipam").join(&marks.network)).unwrap();
        fs::write(dir.path().join("ipam").join(&marks.network).join(&address), "").unwrap();
        let script = format!(
            "mkdir {shown}/m && mount -t tmpfs none {shown}/m
             ip link add {bridge} type bridge && ip link add {port} type veth && ip link set {port} master {bridge}
             iptables -w -A INPUT -d {address} -m comment --comment 'of {network}' -j ACCEPT",
            bridge = marks.bridge,
            network = marks.network,
        );
        run("sh", ["-e", "-c", &script]).unwrap();
        let mut process = Command::new("sh")
            .args(["-c", "echo here; read never", &shown.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Until it has begun, its command line is this one's.
        let mut here = [0; 5];
        process.stdout.as_mut().unwrap().read_exact(&mut here).unwrap();

        let found = marks.find();
        for what in ["process", "mount", "link", "rule in filter", "control group", "address"] {
            assert!(found.iter().any(|text| text.starts_with(what)), "{what}: {found:#?}");
        }
        marks.clear();
        process.wait().unwrap();
        run("ip", ["link", "delete", &port]).unwrap();
        fs::remove_dir_all(dir.path().join("ipam")).unwrap();
        assert_eq!(marks.find(), [""; 0]);
        assert!(!group.exists() && !Path::new("/sys/class/net").join(&marks.bridge).exists());
    }
}
