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

/// The networks that a host may keep ready in its default namespace: as many as it does when it is not told.
const SLOTS: usize = 4;

/// How the names of these networks begin.
const SLOT: &str = "slot_openfaas-fn_";

impl Marks {
    /// Everything that is still there and should not be, in words. What belongs to the host and not to a function may stay, as
    /// the bridge does, and networks for replicas to come.
    pub(crate) fn find(&self) -> Vec<String> {
        let mut left = Vec::new();
        let slots: Vec<_> = self.slots().into_iter().take(SLOTS).collect();
        let taken = names_in(&self.dir.join("run/slots")).into_iter();
        left.extend(taken.map(|replica| format!("network taken by {replica}")));
        let shims = self.processes().into_iter().filter(|(_, line)| !line.starts_with("containerd --config"));
        left.extend(shims.map(|(pid, line)| format!("process {pid}: {line}")));
        // The daemon's directories of network namespaces and of secrets are mounts of their own, once, and not of a function.
        let own = [self.dir.join("run/netns"), self.dir.join("run/secrets")];
        let mounts = self.mounts().into_iter().filter(|mount| !own.iter().any(|own| Path::new(mount) == own));
        let of_slot =
            |mount: &String| slots.iter().any(|(slot, _)| mount.ends_with(&format!("/netns/{slot}")));
        left.extend(mounts.filter(|mount| !of_slot(mount)).map(|mount| format!("mount {mount}")));
        let copies = fs::read_dir(self.dir.join("run/secrets")).into_iter().flatten().flatten();
        left.extend(copies.map(|copy| format!("secrets in {}", copy.path().display())));
        let places = fs::read_dir(self.dir.join("run/mounts")).into_iter().flatten().flatten();
        left.extend(places.map(|place| format!("places of mounts in {}", place.path().display())));
        left.extend(self.links(slots.len()));
        let rules = self.rules().into_iter().filter(|(table, rule)| {
            let of_slot = |(_, address): &(_, String)| rule.contains(&format!(" {address}/32 "));
            !self.is_masquerade(table, rule) && !slots.iter().any(of_slot)
        });
        left.extend(rules.map(|(table, rule)| format!("rule in {table}: {rule}")));
        left.extend(self.cgroups().into_iter().map(|group| format!("control group {}", group.display())));
        let addresses = self.addresses().into_iter();
        let addresses = addresses.filter(|address| !slots.iter().any(|(_, of_slot)| of_slot == address));
        left.extend(addresses.map(|address| format!("address {address} still given")));
        left
    }

    /// The networks that are ready for replicas to come, each with its address.
    fn slots(&self) -> Vec<(String, String)> {
        let noted = self.dir.join("run/ipam").join(&self.network);
        let names = names_in(&noted).into_iter().filter(|name| name.starts_with(&self.address_prefix));
        let slots = names.filter_map(|address| {
            let owner = fs::read_to_string(noted.join(&address)).ok()?;
            let owner = owner.lines().next()?.trim().to_owned();
            owner.starts_with(SLOT).then_some((owner, address))
        });
        slots.collect()
    }

    /// Is this rule one of those by which all functions of the default namespace have the host's address outside?
    fn is_masquerade(&self, table: &str, rule: &str) -> bool {
        let chain = format!("ROOST-{}", self.bridge);
        table == "nat"
            && (rule == format!("-A POSTROUTING -j {chain}") || rule.starts_with(&format!("-A {chain} ")))
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
        for bridge in self.bridges() {
            tell(run("ip", ["link", "delete", &bridge]));
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
        // Masquerading has a chain of its own for each replica, keeping namespaces apart one for the host.
        let jumps = rules.iter().filter_map(|(table, rule)| Some((table, rule.rsplit_once(" -j ")?.1)));
        for (table, chain) in jumps.filter(|(_, to)| to.starts_with("CNI-") || to.starts_with("ROOST-")) {
            let command = format!("iptables -w -t {table} -F {chain} && iptables -w -t {table} -X {chain}");
            tell(run("sh", ["-c", &command]));
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

    /// The host's bridge and those of its namespaces, which are named by it.
    fn bridges(&self) -> Vec<String> {
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let names = links.map(|link| link.file_name().to_string_lossy().into_owned());
        names.filter(|name| *name == self.bridge || self.is_of_namespace(name)).collect()
    }

    fn is_of_namespace(&self, link: &str) -> bool {
        link.strip_prefix(&self.bridge).is_some_and(|rest| rest.starts_with('-'))
    }

    /// What is on the bridges, but for so many links of networks that are ready, and bridges of namespaces: these go with
    /// theirs.
    fn links(&self, slots: usize) -> Vec<String> {
        let mut found = Vec::new();
        for bridge in self.bridges() {
            let ports = names_in(&Path::new("/sys/class/net").join(&bridge).join("brif")).into_iter();
            let ports = ports.skip(if bridge == self.bridge { slots } else { 0 });
            found.extend(ports.map(|port| format!("link {port} on {bridge}")));
            if self.is_of_namespace(&bridge) {
                found.push(format!("bridge {bridge}"));
            }
        }
        found
    }

    fn rules(&self) -> Vec<(String, String)> {
        let mut table = String::new();
        let mut found = Vec::new();
        let chain = format!("ROOST-{}", self.bridge);
        let is_of_chain = |line: &str| line.split(' ').any(|word| word == chain);
        for line in run("iptables-save", [""; 0]).unwrap_or_default().lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if line.starts_with("-A")
                && (line.contains(&format!(" {}", self.address_prefix))
                    || line.contains(&self.network)
                    || is_of_chain(line))
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

    /// Addresses that `host-local` has noted as given, and networks of namespaces: these go with theirs.
    fn addresses(&self) -> Vec<String> {
        let noted = self.dir.join("run/ipam");
        let mut found = Vec::new();
        for network in names_in(&noted) {
            let given = names_in(&noted.join(&network)).into_iter();
            found.extend(given.filter(|name| name.starts_with(&self.address_prefix)));
            if network != self.network {
                found.push(format!("of network {network}"));
            }
        }
        found
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
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
            address_prefix: place.prefix.clone(),
            network: format!("roost-test-{}", place.tag),
            cgroup: format!("roost-test-{}", place.tag),
        };
        assert_eq!(marks.find(), [""; 0]);

        let shown = dir.path().display();
        let address = format!("{}7", place.prefix);
        let port = format!("pt{}", place.tag);
        let group = hierarchies().into_iter().map(|root| root.join(&marks.cgroup).join("ns/replica"));
        let group = group.into_iter().find(|group| fs::create_dir_all(group).is_ok()).unwrap();
        let noted = dir.path().join("run/ipam").join(&marks.network);
        fs::create_dir_all(&noted).unwrap();
        fs::write(noted.join(&address), "").unwrap();
        let script = format!(
            "mkdir {shown}/m && mount -t tmpfs none {shown}/m
             ip link add {bridge} type bridge && ip link add {port} type veth && ip link set {port} master {bridge}
             ip link add {bridge}-1 type bridge && iptables -w -t mangle -N ROOST-{bridge}
             iptables -w -t mangle -A ROOST-{bridge} -i {bridge}-1 -o {bridge}-1 -j RETURN
             iptables -w -t mangle -A FORWARD -j ROOST-{bridge}
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

        fs::create_dir_all(dir.path().join("run/slots")).unwrap();
        fs::write(dir.path().join("run/slots/echo-1"), "").unwrap();
        let found = marks.find();
        for what in [
            "network taken by echo-1",
            "process",
            "mount",
            "link",
            "bridge",
            "rule in filter",
            "rule in mangle: -A FORWARD",
            "control group",
            "address",
        ] {
            assert!(found.iter().any(|text| text.starts_with(what)), "{what}: {found:#?}");
        }
        // A network that is ready is the host's own, with its link.
        let ready = format!("{}9", place.prefix);
        fs::write(noted.join(&ready), "slot_openfaas-fn_1\r\neth0").unwrap();
        let found = marks.find();
        assert!(!found.iter().any(|text| text.starts_with("link") || text.contains(&ready)), "{found:#?}");
        marks.clear();
        process.wait().unwrap();
        run("ip", ["link", "delete", &port]).unwrap();
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        assert_eq!(marks.find(), [""; 0]);
        assert!(!group.exists() && !Path::new("/sys/class/net").join(&marks.bridge).exists());
    }
}
