//! The kernel: its version, what it has or can load, its control groups.

use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{Known, text};

/// What functions cannot do without, by module and by the name in the kernel's own settings.
pub(in crate::doctor) const MODULES: [(&str, &str); 4] =
    [("overlay", "OVERLAY_FS"), ("bridge", "BRIDGE"), ("veth", "VETH"), ("br_netfilter", "BRIDGE_NETFILTER")];

/// The controllers that limits of functions are kept by.
pub(in crate::doctor) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The largest text of a kernel's settings, in bytes. They have some 300,000.
const MAX_SETTINGS: u64 = 4 << 20;

/// Does a kernel have something?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::doctor) enum Presence {
    There,
    Missing,
    /// Nothing here tells.
    Unknown,
}

#[derive(Debug, Clone)]
pub(in crate::doctor) struct Kernel {
    pub(in crate::doctor) release: Known<String>,
    /// In the order of [`MODULES`].
    pub(in crate::doctor) modules: [Presence; 4],
    /// Are the modules of another kernel installed, and none of this one? Then it was upgraded since the machine booted.
    pub(in crate::doctor) upgraded: bool,
    /// Does what passes between ports of one bridge go through iptables? `None` while the module is not loaded.
    pub(in crate::doctor) bridge_filter: Option<bool>,
    /// The kernel's command line on a Raspberry Pi: a file with one line.
    pub(in crate::doctor) raspberry_line: Option<PathBuf>,
}

/// How control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::doctor) enum Hierarchy {
    V1,
    V2,
    None,
}

#[derive(Debug, Clone)]
pub(in crate::doctor) struct Cgroups {
    pub(in crate::doctor) hierarchy: Hierarchy,
    /// Those of [`CONTROLLERS`] that can be used.
    pub(in crate::doctor) usable: Vec<&'static str>,
    /// Those that the kernel has switched on, wherever they are mounted.
    pub(in crate::doctor) enabled: Vec<&'static str>,
}

pub(super) fn read() -> Kernel {
    let release = text("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
    let seen = Seen::of(release.as_deref().unwrap_or_default());
    Kernel {
        modules: MODULES.map(|(module, key)| {
            let loaded = Path::new("/sys/module").join(module).exists();
            if loaded { Presence::There } else { seen.presence(module, key) }
        }),
        bridge_filter: text("/proc/sys/net/bridge/bridge-nf-call-iptables")
            .ok()
            .map(|text| text.trim() == "1"),
        raspberry_line: raspberry_line(),
        upgraded: release.as_ref().is_ok_and(|release| upgraded(release)),
        release,
    }
}

fn upgraded(release: &str) -> bool {
    let mut others = std::fs::read_dir("/lib/modules").into_iter().flatten().flatten();
    !Path::new("/lib/modules").join(release).exists() && others.next().is_some()
}

fn raspberry_line() -> Option<PathBuf> {
    let model = std::fs::read("/proc/device-tree/model").unwrap_or_default();
    let is_raspberry = String::from_utf8_lossy(&model).contains("Raspberry Pi");
    let lines = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"].map(PathBuf::from);
    let [new, _] = &lines;
    if !is_raspberry && !new.exists() {
        return None;
    }
    lines.into_iter().find(|path| path.exists())
}

/// What tells of a kernel, where a module is not loaded yet.
struct Seen {
    file_systems: String,
    settings: Option<String>,
    /// The lists of what can be loaded and of what is built in.
    lists: Option<String>,
}

impl Seen {
    fn of(release: &str) -> Self {
        let modules = Path::new("/lib/modules").join(release);
        let list = text(modules.join("modules.dep")).ok();
        let built_in = text(modules.join("modules.builtin")).unwrap_or_default();
        Self {
            file_systems: text("/proc/filesystems").unwrap_or_default(),
            settings: own_settings().or_else(|| text(format!("/boot/config-{release}")).ok()),
            lists: list.map(|list| list + &built_in),
        }
    }

    fn presence(&self, module: &str, key: &str) -> Presence {
        let set = |to: char| {
            let line = format!("CONFIG_{key}={to}");
            self.settings.as_ref().is_some_and(|settings| settings.lines().any(|set| set == line))
        };
        if self.file_systems.split_whitespace().any(|word| word == module) || set('y') {
            return Presence::There;
        }
        let file = format!("/{module}.ko");
        match &self.lists {
            Some(lists) if lists.contains(&file) => Presence::There,
            Some(_) => Presence::Missing,
            // Without lists (in a chroot) a module may still be there; without settings nothing is known.
            None if self.settings.is_some() && !set('m') => Presence::Missing,
            None => Presence::Unknown,
        }
    }
}

fn own_settings() -> Option<String> {
    let file = std::fs::File::open("/proc/config.gz").ok()?;
    let mut settings = String::new();
    flate2::read::GzDecoder::new(file).take(MAX_SETTINGS).read_to_string(&mut settings).ok()?;
    Some(settings)
}

pub(super) fn cgroups() -> Cgroups {
    let root = Path::new("/sys/fs/cgroup");
    let enabled = enabled(&text("/proc/cgroups").unwrap_or_default());
    // runc makes the same test.
    if statfs(root).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        let listed = text(root.join("cgroup.controllers")).unwrap_or_default();
        let usable =
            CONTROLLERS.into_iter().filter(|name| listed.split_whitespace().any(|word| word == *name));
        return Cgroups { hierarchy: Hierarchy::V2, usable: usable.collect(), enabled };
    }
    let mounted = |name: &&str| root.join(name).join("cgroup.procs").exists();
    let usable: Vec<_> = CONTROLLERS.into_iter().filter(mounted).collect();
    let hierarchy = if usable.is_empty() { Hierarchy::None } else { Hierarchy::V1 };
    Cgroups { hierarchy, usable, enabled }
}

/// Which controllers are on, where `/proc/cgroups` reads so: name, hierarchy, groups, and whether it is.
fn enabled(text: &str) -> Vec<&'static str> {
    let is_on = |name: &&str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(*name) && words.nth(2) == Some("1")
        })
    };
    CONTROLLERS.into_iter().filter(is_on).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_what_is_built_in_or_can_be_loaded() {
        let seen = |settings: Option<&str>, lists: Option<&str>| Seen {
            file_systems: "nodev\tproc\nnodev\toverlay\n".into(),
            settings: settings.map(str::to_owned),
            lists: lists.map(str::to_owned),
        };
        let dep = "kernel/net/bridge/bridge.ko.xz: kernel/net/llc/llc.ko.xz\n";
        for (seen, module, key, expected) in [
            (seen(None, None), "overlay", "OVERLAY_FS", Presence::There),
            (seen(None, None), "veth", "VETH", Presence::Unknown),
            (seen(Some("CONFIG_VETH=y\n"), None), "veth", "VETH", Presence::There),
            (seen(Some("CONFIG_VETH=m\n"), None), "veth", "VETH", Presence::Unknown),
            (seen(Some("# CONFIG_VETH is not set\n"), None), "veth", "VETH", Presence::Missing),
            (seen(None, Some(dep)), "bridge", "BRIDGE", Presence::There),
            (seen(Some("CONFIG_VETH=m\n"), Some(dep)), "veth", "VETH", Presence::Missing),
        ] {
            assert_eq!(seen.presence(module, key), expected, "{module} {:?} {:?}", seen.settings, seen.lists);
        }
    }

    #[test]
    fn a_controller_that_the_kernel_has_switched_off_is_not_enabled() {
        let text =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\npids\t4\t1\t1\n";
        assert_eq!(enabled(text), ["cpu", "pids"]);
        assert_eq!(enabled(""), [""; 0]);
    }
}
