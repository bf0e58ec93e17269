//! Where a replica's output goes: the URI that the shim gets as `stdout` and `stderr`.
//!
//! Pure. The program at the other end is our own binary, with the subcommand `log-driver`.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name of the one query pair, which the shim passes as the driver's first argument.
const SUBCOMMAND: &str = "log-driver";

/// The URI of the log driver `driver`, told to keep at most `limit` bytes in the directory `dir`.
///
/// It has exactly one query pair: the shim keeps them in a map, and passes several in any order.
pub(super) fn uri(driver: &Path, limit: u64, dir: &Path) -> String {
    format!("binary://{}?{SUBCOMMAND}={limit}:{}", encoded(driver), encoded(dir))
}

/// The path with everything encoded that has, or once had, a meaning in a URI: `;` parts queries in some Go
/// versions, `+` is a space there.
fn encoded(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes everything");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_names_limit_and_directory() {
        let uri = uri(Path::new("/usr/local/bin/roostd"), 1024, Path::new("/var/lib/roost/logs/ns/echo"));
        assert_eq!(uri, "binary:///usr/local/bin/roostd?log-driver=1024:/var/lib/roost/logs/ns/echo");
    }

    #[test]
    fn what_a_uri_would_read_otherwise_is_encoded() {
        let uri = uri(Path::new("/opt/a b/r?d"), 1, Path::new("/l/a&b=c;d+e%#ä"));
        assert_eq!(uri, "binary:///opt/a%20b/r%3Fd?log-driver=1:/l/a%26b%3Dc%3Bd%2Be%25%23%C3%A4");
    }
}
