//! Clock, disk, files, ports, the service.

use super::*;

fn space(facts: &mut Facts) -> &mut Space {
    facts.disks[0].space.as_mut().unwrap()
}

#[test]
fn clock_disk_and_files_have_to_be_enough() {
    all_end_so(
        "clock",
        &[
            (|f| f.synchronised = Ok(false), Warning, "nothing keeps it right", "timedatectl set-ntp true"),
            (
                |f| {
                    f.synchronised = Ok(false);
                    f.units = None;
                },
                Warning,
                "nothing keeps it right",
                "chrony",
            ),
            (|f| f.now = SystemTime::UNIX_EPOCH, Problem, "1970-01-01T00:00:00Z", "timedatectl"),
            (|f| f.synchronised = Err("denied".into()), Warning, "cannot tell", ""),
        ],
    );
    all_end_so(
        "disk",
        &[
            (|f| space(f).free = 699 << 20, Warning, "has 699 of 30720 MiB left", "roost image remove"),
            (|f| space(f).free = 99 << 20, Problem, "has 99", "journalctl --vacuum-size=100M"),
            (|f| space(f).free_inodes = 999, Problem, "999 more files", "df -i"),
            (|f| (space(f).free_inodes, space(f).inodes) = (0, 0), Well, "", ""),
            (|f| space(f).read_only = true, Problem, "cannot be written", "remount,rw"),
            (|f| f.disks[0].space = Err("gone".into()), Warning, "cannot tell", ""),
        ],
    );
    all_end_so(
        "open files",
        &[
            (
                |f| {
                    f.open_files.0 = 20_000;
                    set(f, "roostd.service", "LimitNOFILE", "20000");
                },
                Warning,
                "20000 files open: enough for 9744 connections",
                "LimitNOFILE=131584",
            ),
            // In a container that has no more to give.
            (|f| f.open_files.0 = 20_000, Warning, "9744 connections", "the unit says 1048576"),
            (
                |f| {
                    f.open_files.0 = 20_000;
                    f.config.limits.connections = std::num::NonZeroUsize::new(9_744);
                },
                Well,
                "20000",
                "",
            ),
            (
                |f| {
                    f.open_files.0 = 1023;
                    f.units = None;
                },
                Problem,
                "1023",
                "ulimit -Hn 131584",
            ),
            (|f| f.open_files.0 = u64::MAX, Well, "any number", ""),
        ],
    );
}

fn listeners(facts: &mut Facts) -> &mut Vec<Listener> {
    facts.listeners.as_mut().unwrap()
}

#[test]
fn a_port_is_free_ours_or_a_problem() {
    all_end_so(
        "ports",
        &[
            (|f| listeners(f).clear(), Well, "127.0.0.1:8080 is free; 127.0.0.1:8082 is free", ""),
            (
                |f| listeners(f)[0] = listener("0.0.0.0:8080", "nginx", 7),
                Problem,
                "server.listen = 127.0.0.1:8080 is in use by nginx (pid 7)",
                "install.sh --listen 127.0.0.1:PORT",
            ),
            (
                |f| listeners(f).push(listener("[::]:8082", "prometheus", 7)),
                Problem,
                "server.metrics",
                "below [server]: metrics = \"127.0.0.1:PORT\"",
            ),
            (|f| listeners(f)[0] = listener("127.0.0.1:8080", "systemd", 1), Well, "is ours", ""),
            (
                |f| listeners(f)[0] = listener("127.0.0.1:8080", "systemd", 2),
                Problem,
                "in use by systemd",
                "stop it",
            ),
            (|f| listeners(f)[0].holders.clear(), Warning, "cannot tell who listens on 127.0.0.1:8080", ""),
            (|f| f.listeners = Err("no".into()), Warning, "cannot tell", ""),
        ],
    );
}

#[test]
fn the_service_comes_back_and_keeps_connections() {
    all_end_so(
        "service",
        &[
            (|f| f.units = None, Warning, "systemd does not run here", "roostd supervise"),
            (|f| f.units = Some(Err("no".into())), Warning, "cannot tell", ""),
            (
                |f| set(f, "roostd.service", "LoadState", "not-found"),
                Problem,
                "no roostd.service",
                "install.sh",
            ),
            (
                |f| set(f, "roostd.service", "UnitFileState", "disabled"),
                Problem,
                "roostd.service is not enabled",
                "systemctl enable roostd.service",
            ),
            (
                |f| set(f, "roostd.socket", "UnitFileState", "disabled"),
                Problem,
                "roostd.socket is not enabled",
                "systemctl enable roostd.socket",
            ),
            (
                |f| set(f, "roostd.service", "ActiveState", "failed"),
                Problem,
                "has failed",
                "journalctl -u roostd",
            ),
            (
                |f| set(f, "roostd.service", "ActiveState", "inactive"),
                Warning,
                "is inactive",
                "systemctl start roostd",
            ),
            (
                |f| set(f, "roostd.service", "NeedDaemonReload", "yes"),
                Warning,
                "since it changed",
                "daemon-reload",
            ),
            (
                |f| set(f, "roostd.service", "FileDescriptorStoreMax", "0"),
                Warning,
                "FileDescriptorStoreMax is 0",
                "FileDescriptorStoreMax=",
            ),
            (
                |f| {
                    set(f, "roostd.service", "FileDescriptorStoreMax", "0");
                    f.config.kept_tunnels = 0;
                },
                Well,
                "",
                "",
            ),
            (
                |f| set(f, "roostd.socket", "Listen", "127.0.0.1:9090 (Stream)"),
                Warning,
                "roostd.socket has 127.0.0.1:9090",
                "install.sh --listen 127.0.0.1:8080",
            ),
        ],
    );
}
