//! What a host may have left on the machine: found, told, and cleared away.
//!
//! Knows everything of a host by its directory, its bridge, its subnet and its control group, which no other host has.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::{processes_with, run};

/// By what a host's belongings are known.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) dir: PathBuf,
    pub(crate) bridge: String,
    /// What the addresses begin with.
    pub(crate) address_prefix: String,
    /// The subnet of the default namespace.
    pub(crate) subnet: String,
    /// The name of the network, as it stands in the comments of rules.
    pub(crate) network: String,
    /// Below the root of each hierarchy.
    pub(crate) cgroup: String,
}

impl Marks {
    /// Everything that is still there and should not be, in words. What belongs to the host and not to a function may stay, as
    /// the bridge does, its way out, and the networks that are ready for replicas to come.
    pub(crate) fn find(&self) -> Vec<String> {
        let mut left = Vec::new();
        let shims = self.processes().into_iter().filter(|(_, line)| !line.starts_with("containerd --config"));
        left.extend(shims.map(|(pid, line)| format!("process {pid}: {line}")));
        let ready = self.ready_networks();
        // The daemon's directories of network namespaces and of secrets are mounts of their own, once, and not of a function.
        let mut own = vec![self.dir.join("run/netns"), self.dir.join("run/secrets")];
        own.extend(ready.iter().map(|network| self.dir.join("run/netns").join(&network.id)));
        let mounts = self.mounts().into_iter().filter(|mount| !own.iter().any(|own| Path::new(mount) == own));
        left.extend(mounts.map(|mount| format!("mount {mount}")));
        let copies = fs::read_dir(self.dir.join("run/secrets")).into_iter().flatten().flatten();
        left.extend(copies.map(|copy| format!("secrets in {}", copy.path().display())));
        let places = fs::read_dir(self.dir.join("run/mounts")).into_iter().flatten().flatten();
        left.extend(places.map(|place| format!("places of mounts in {}", place.path().display())));
        let of_ready = |text: &String| ready.iter().any(|network| network.is_of(text));
        left.extend(self.links().into_iter().filter(|link| !of_ready(link)));
        let rules = self.rules().into_iter().filter(|(_, rule)| !of_ready(rule) && !self.is_way_out(rule));
        left.extend(rules.map(|(table, rule)| format!("rule in {table}: {rule}")));
        left.extend(self.cgroups().into_iter().map(|group| format!("control group {}", group.display())));
        let addresses = self.addresses().into_iter().filter(|address| !of_ready(address));
        left.extend(addresses.map(|address| format!("address {address} still given")));
        left
    }

    /// The networks of the default namespace that are complete and no replica's. Those of others go with their namespace.
    fn ready_networks(&self) -> Vec<ReadyNetwork> {
        let entries = |dir: &str| fs::read_dir(self.dir.join(dir)).into_iter().flatten().flatten();
        let taken: Vec<PathBuf> =
            entries("run/slots").filter_map(|link| fs::read_link(link.path()).ok()).collect();
        let records = entries("run/cni").filter(|record| {
            let name = record.file_name().to_string_lossy().into_owned();
            name.starts_with("slot_openfaas-fn_")
                && !taken.contains(&PathBuf::from(name.replace(".json", "")))
        });
        records.filter_map(|record| ReadyNetwork::read(&record.path())).collect()
    }

    /// Is this rule the one by which functions of the default namespace reach what is outside?
    fn is_way_out(&self, rule: &str) -> bool {
        let (chain, subnet) = (format!("ROOST-{}", self.bridge), &self.subnet);
        rule == format!("-A POSTROUTING -j {chain}")
            || rule == format!("-A {chain} -d 224.0.0.0/4 -j RETURN")
            || rule == format!("-A {chain} -s {subnet} ! -d {subnet} -j MASQUERADE")
    }

    /// Removes all of it, the bridge too, as far as it goes.
    pub(crate) fn clear(&self) {
        self.kill();
        for mount in self.mounts().iter().rev() {
            tell(run("umount", ["--lazy", mount]));
        }
        for bridge in self.bridges() {
            tell(run("ip", ["link", "delete", &bridge]));
        }
        self.clear_rules();
        self.groups().for_each(|group| remove_groups(&group));
    }

    /// Kills the processes of this host and of its functions.
    pub(crate) fn kill(&self) {
        let of_functions = self.groups().flat_map(|group| members(&group));
        for pid in self.processes().into_iter().map(|(pid, _)| pid).chain(of_functions) {
            // It may have ended by itself meanwhile.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }

    /// Its control group in each hierarchy.
    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.cgroup))
    }

    fn clear_rules(&self) {
        let rules = self.rules();
        for (table, rule) in &rules {
            // A rule is printed with the quotes that a shell needs.
            let command = format!("iptables -w -t {table} {}", rule.replacen("-A ", "-D ", 1));
            tell(run("sh", ["-c", &command]));
        }
        // The way out and keeping namespaces apart have chains of the host's own, and so has each replica whose plugin masquerades.
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
        // Of the namespace that this thread is in, which `/sys` does not tell of.
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        names.filter(|name| *name == self.bridge || self.is_of_namespace(name)).collect()
    }

    fn is_of_namespace(&self, link: &str) -> bool {
        link.strip_prefix(&self.bridge).is_some_and(|rest| rest.starts_with('-'))
    }

    /// What is on the bridges, and bridges of namespaces: these go with theirs.
    fn links(&self) -> Vec<String> {
        let mut found = Vec::new();
        for bridge in self.bridges() {
            // A line each: `7: veth1@if2: <…`. None if the bridge has gone meanwhile.
            let ports = run("ip", ["-oneline", "link", "show", "master", &bridge]).unwrap_or_default();
            let names = ports.lines().filter_map(|line| line.split([':', '@']).nth(1));
            found.extend(names.map(|name| format!("link {} on {bridge}", name.trim())));
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
        let names = |dir: PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let noted = self.dir.join("run/ipam");
        let mut found = Vec::new();
        for network in names(noted.clone()) {
            let given = names(noted.join(&network)).into_iter();
            found.extend(given.filter(|name| name.starts_with(&self.address_prefix)));
            if network != self.network {
                found.push(format!("of network {network}"));
            }
        }
        found
    }
}

/// A network that waits for a replica.
struct ReadyNetwork {
    id: String,
    address: String,
    /// Of the host's side.
    links: Vec<String>,
}

impl ReadyNetwork {
    /// `None` if it is not complete.
    fn read(record: &Path) -> Option<Self> {
        let record: Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let interfaces = record["result"]["interfaces"].as_array()?;
        let links = interfaces.iter().filter_map(|link| text(&link["name"]));
        Some(Self {
            id: text(&record["id"]).filter(|_| record["state"] == "attached")?,
            address: text(&record["address"])?,
            links: links.filter(|name| name.starts_with("veth")).collect(),
        })
    }

    /// Does this, of what was found, belong to it: a link, a rule or an address?
    fn is_of(&self, found: &str) -> bool {
        let is = |word: &str| {
            word == self.address
                || word.strip_suffix("/32") == Some(&self.address)
                || self.links.iter().any(|link| link == word)
        };
        found.split(' ').any(is)
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
            address_prefix: place.prefix.clone(),
            subnet: place.subnet(),
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

        let found = marks.find();
        for what in [
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
        marks.clear();
        process.wait().unwrap();
        run("ip", ["link", "delete", &port]).unwrap();
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        assert_eq!(marks.find(), [""; 0]);
        assert!(!group.exists() && !Path::new("/sys/class/net").join(&marks.bridge).exists());
    }
}
