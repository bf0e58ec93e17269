//! Reads a mount table for one question: do mounts made below a directory stay in this mount namespace?
//!
//! Owns the parsing of `mountinfo`. Never mounts.

use std::path::{Path, PathBuf};

/// Does the mount that holds `dir` receive mounts from another mount namespace without giving any back?
///
/// That is what systemd makes for a unit with `ProtectSystem=`, `PrivateTmp=` and the like: a copy of the host's mounts, as
/// slaves. `dir` must be absolute and free of symbolic links.
pub(crate) fn is_slave(mountinfo: &str, dir: &Path) -> bool {
    mountinfo
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| dir.starts_with(&mount.point))
        // The deepest holds it; of several on one point, the last.
        .max_by_key(|mount| mount.point.as_os_str().len())
        .is_some_and(|mount| mount.slave)
}

struct Mount {
    point: PathBuf,
    slave: bool,
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime shared:1 master:2 - ext4 /dev/sda rw`: any number of fields before the dash.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let point = unescape(fields.nth(4)?).into();
        let slave =
            fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("master:"));
        Some(Self { point, slave })
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_decides() {
        let host = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                    28 27 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n";
        let bare = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        let unit = "27 1 254:0 / / rw,relatime shared:400 master:1 - ext4 /dev/vda rw\n\
                    28 27 0:25 / /run rw,nosuid shared:401 master:5 - tmpfs tmpfs rw\n\
                    29 28 0:25 /own /run/own rw - tmpfs tmpfs rw\n\
                    30 28 0:25 /x /run/a\\040b rw master:5 - tmpfs tmpfs rw\n\
                    31 28 0:25 /x /run/twice rw master:5 - tmpfs tmpfs rw\n\
                    32 31 0:25 /x /run/twice rw shared:9 - tmpfs tmpfs rw\n";
        let cases = [
            (host, "/run/roost/netns", false),
            (bare, "/run/roost/netns", false),
            (unit, "/run/roost/netns", true),
            (unit, "/var/lib/roost", true),
            (unit, "/run/own/netns", false),
            (unit, "/run/owner", true),
            (unit, "/run/a b/netns", true),
            (unit, "/run/twice", false),
            ("", "/run", false),
            ("nonsense\n\n1 2 3\n", "/run", false),
        ];
        for (table, dir, expected) in cases {
            assert_eq!(is_slave(table, Path::new(dir)), expected, "{dir} in\n{table}");
        }
    }
}
