//! Clock, disk, files and ports.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::set;
use crate::doctor::Finding;
use crate::doctor::facts::{Disk, Facts};
use crate::files;

const MIB: u64 = 1 << 20;

/// The least that a disk has to have left, in bytes: below it nothing is pulled, and soon nothing written.
const LEAST: u64 = 100 * MIB;

/// What the installer wants to be there.
const ENOUGH: u64 = 700 * MIB;

/// The least files that can be made; a file system that has no such limit says 0 of 0.
const FEWEST_INODES: u64 = 1000;

/// Below this the daemon itself is short of files.
const FEWEST_FILES: u64 = 1024;

/// How far a clock may be behind a file that was written by it.
const TOLERANCE: Duration = Duration::from_secs(24 * 3600);

pub(in crate::doctor) fn clock(facts: &Facts) -> Finding {
    let fix = match facts.units {
        Some(_) => "timedatectl set-ntp true (if that is not supported: apt-get install systemd-timesyncd)",
        None => "apt-get install chrony, and have it started at boot",
    };
    let now = time(facts.now);
    if let Some(installed) = facts.installed.filter(|installed| facts.now + TOLERANCE < *installed) {
        let found = format!("it says {now}, and this program was put here at {}", time(installed));
        return Finding::problem(found, fix);
    }
    match &facts.synchronised {
        Ok(true) => Finding::ok(format!("{now}, kept right by the network")),
        Ok(false) => Finding::warning(format!("it says {now}, and nothing keeps it right"), fix),
        Err(why) => Finding::unknown("whether the clock is kept right", why),
    }
}

fn time(time: SystemTime) -> String {
    let seconds = jiff::Timestamp::try_from(time)
        .ok()
        .and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok());
    seconds.map_or_else(|| "a time beyond all calendars".to_owned(), |time| time.to_string())
}

pub(in crate::doctor) fn disk(facts: &Facts) -> Finding {
    Finding::all(facts.disks.iter().map(one_disk).collect())
}

fn one_disk(disk: &Disk) -> Finding {
    let (what, path) = (disk.what.join(" and "), disk.path.display());
    let space = match &disk.space {
        Ok(space) => space,
        Err(why) => return Finding::unknown(&format!("what is left for {what}"), why),
    };
    let room = "roost image list, then roost image remove; apt-get clean; journalctl --vacuum-size=100M";
    let left = format!("{path} ({what}) has {} of {} MiB left", space.free / MIB, space.total / MIB);
    if space.read_only {
        let fix = "dmesg | grep -i error tells why; after a repair: mount -o remount,rw, or reboot";
        return Finding::problem(format!("{path} ({what}) cannot be written"), fix);
    }
    if space.free < LEAST {
        return Finding::problem(left, room);
    }
    if space.inodes > 0 && space.free_inodes < FEWEST_INODES {
        let found = format!("{path} ({what}) has room for {} more files", space.free_inodes);
        return Finding::problem(found, "df -i tells where they are; remove some");
    }
    if space.free < ENOUGH {
        return Finding::warning(left, room);
    }
    Finding::ok(left)
}

pub(in crate::doctor) fn open_files(facts: &Facts) -> Finding {
    let (limit, whose) = facts.open_files;
    let (wanted, enough_for) = (facts.config.limits.connections, files::enough_for(limit));
    let needed = files::needed(wanted);
    if limit >= needed {
        let limit = if limit == u64::MAX { "any number of".to_owned() } else { limit.to_string() };
        return Finding::ok(format!("{whose} may have {limit} files open"));
    }
    let found = format!("{whose} may have {limit} files open: enough for {enough_for} connections");
    let of_unit = facts.unit("roostd.service", "LimitNOFILE").parse::<u64>().unwrap_or(0);
    let fix = match facts.units {
        // What systemd itself does not have, it cannot give.
        Some(_) if of_unit >= needed => format!(
            "the unit says {of_unit}: raise what the machine allows, or the container that it is (ulimit -Hn)"
        ),
        Some(_) => format!(
            "systemctl edit roostd, with: [Service] LimitNOFILE={needed}; then systemctl restart roostd"
        ),
        None => format!("ulimit -Hn {needed}, where roostd is started"),
    };
    if limit < FEWEST_FILES { Finding::problem(found, fix) } else { Finding::warning(found, fix) }
}

pub(in crate::doctor) fn ports(facts: &Facts) -> Finding {
    let config = &facts.config;
    let all = [
        ("server", "listen", Some(config.listen)),
        ("server", "metrics", config.metrics),
        ("tls", "listen", config.tls.as_ref().map(|tls| tls.listen)),
    ];
    let wanted = all.into_iter().filter_map(|(section, key, address)| Some((section, key, address?)));
    Finding::all(wanted.map(|(section, key, address)| port(facts, section, key, address)).collect())
}

fn port(facts: &Facts, section: &str, key: &str, address: SocketAddr) -> Finding {
    let listeners = match &facts.listeners {
        Ok(listeners) => listeners,
        Err(why) => return Finding::unknown("who listens", why),
    };
    let mut there = listeners.iter().filter(|one| one.takes(address)).peekable();
    if there.peek().is_none() {
        return Finding::ok(format!("{address} is free"));
    }
    let Some(other) = there.find(|one| !one.is_ours()) else {
        return Finding::ok(format!("{address} is ours"));
    };
    let Some(holder) = other.holders.first() else {
        return Finding::unknown(
            &format!("who listens on {address}"),
            "its process cannot be seen from here",
        );
    };
    let elsewhere = match (section, key) {
        ("server", "listen") => format!("install.sh --listen {}:PORT", address.ip()),
        _ => set(facts, section, &format!("{key} = \"{}:PORT\"", address.ip())),
    };
    Finding::problem(
        format!("{section}.{key} = {address} is in use by {} (pid {})", holder.name, holder.pid),
        format!("stop it, or choose another: {elsewhere}"),
    )
}
