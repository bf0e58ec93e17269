//! Who listens where.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Known, text};
use crate::config::Config;

/// How the kernel writes the state of a socket that listens.
const LISTENS: &str = "0A";

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::doctor) struct Holder {
    pub(in crate::doctor) name: String,
    pub(in crate::doctor) pid: u32,
}

/// A TCP socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::doctor) struct Listener {
    pub(in crate::doctor) address: SocketAddr,
    /// None, where others' processes are not for us to see.
    pub(in crate::doctor) holders: Vec<Holder>,
}

impl Listener {
    /// Is this in the way of who wants to listen there?
    pub(in crate::doctor) fn takes(&self, wanted: SocketAddr) -> bool {
        let (here, there) = (self.address.ip(), wanted.ip());
        // One on all addresses of IPv6 has those of IPv4, too, unless it says otherwise.
        let all = |one: IpAddr, other: IpAddr| {
            one.is_unspecified() && (one.is_ipv6() || one.is_ipv4() == other.is_ipv4())
        };
        self.address.port() == wanted.port() && (here == there || all(here, there) || all(there, here))
    }

    /// Is it ours, or held for us by systemd?
    pub(in crate::doctor) fn is_ours(&self) -> bool {
        let is_ours =
            |holder: &Holder| holder.name == "roostd" || (holder.pid == 1 && holder.name == "systemd");
        self.holders.iter().any(is_ours)
    }
}

pub(super) fn listeners() -> Known<Vec<Listener>> {
    let mut found = read(&text("/proc/net/tcp")?);
    // A machine may have no IPv6.
    found.extend(read(&text("/proc/net/tcp6").unwrap_or_default()));
    let holders = holders();
    let of = |inode: &str| holders.get(inode).cloned().unwrap_or_default();
    Ok(found.into_iter().map(|(address, inode)| Listener { address, holders: of(&inode) }).collect())
}

/// The process that answers where the settings say, if it is a daemon of ours.
pub(super) fn daemon(listeners: &[Listener], config: &Config) -> Option<u32> {
    let listener =
        listeners.iter().find(|one| one.address.port() == config.listen.port() && one.is_ours())?;
    listener.holders.iter().find(|holder| holder.name == "roostd").map(|holder| holder.pid)
}

fn read(text: &str) -> Vec<(SocketAddr, String)> {
    let listener = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = words.as_slice() else { return None };
        (*state == LISTENS).then_some(())?;
        Some((address(local)?, (*inode).to_owned()))
    };
    text.lines().filter_map(listener).collect()
}

/// `ADDRESS:PORT` in hexadecimal digits, the address in words of the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let mut bytes = [0; 16];
        for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
            place.copy_from_slice(&word(at)?);
        }
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// By the inode of a socket.
fn holders() -> HashMap<String, Vec<Holder>> {
    let mut holders: HashMap<String, Vec<Holder>> = HashMap::new();
    // Processes come and go while they are looked at, and some are not for us to see.
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(name) = fs::read_to_string(process.path().join("comm")) else { continue };
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                let of_inode = holders.entry(inode.to_owned()).or_default();
                let holder = Holder { name: name.trim().to_owned(), pid };
                if !of_inode.contains(&holder) {
                    of_inode.push(holder);
                }
            }
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_read_as_the_kernel_shows_them() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0\n\
            1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0\n\
            2: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 7 1\n";
        let expected: [(SocketAddr, String); 2] =
            [("127.0.0.1:8080".parse().unwrap(), "4242".into()), ("[::1]:80".parse().unwrap(), "7".into())];
        assert_eq!(read(text), expected);
        assert_eq!(read("1: x:y z 0A 0 0 0 0 0 0 0\n\n"), []);
    }

    #[test]
    fn one_address_is_in_the_way_of_itself_and_of_all() {
        for (here, wanted, takes) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("10.63.0.1:80", "127.0.0.1:80", false),
            ("10.63.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::1]:80", "[::]:80", true),
        ] {
            let listener = Listener { address: here.parse().unwrap(), holders: Vec::new() };
            assert_eq!(listener.takes(wanted.parse().unwrap()), takes, "{here} {wanted}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_its_holder() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listeners = listeners().unwrap();
        let listener = listeners.iter().find(|one| one.address == address).unwrap();
        assert!(listener.holders.iter().any(|holder| holder.pid == std::process::id()), "{listener:?}");
    }
}
