//! What no plugin of the chain does for us about links: `lo` up inside a new namespace, what the host remembers of an address
//! that has a new owner, and a bridge removed at the end.
//!
//! Owns a small piece of rtnetlink: one request, one acknowledgement. (The `loopback` plugin would set `lo` up too, for the price of
//! one more process on the way to an answer.) Never makes a link.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELNEIGH: u16 = 29;
const NDA_DST: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// The length of `nlmsghdr`, in bytes.
const HEADER: usize = 16;

/// Sets an interface of the calling thread's network namespace up.
pub(crate) fn set_up(name: &str) -> io::Result<()> {
    change(&request(RTM_NEWLINK, if_nametoindex(name)?, IFF_UP))
}

/// Removes an interface of the calling thread's network namespace. It need not be there.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let done = match if_nametoindex(name) {
        Ok(index) => change(&request(RTM_DELLINK, index, 0)),
        Err(error) => Err(error.into()),
    };
    match done {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        done => done,
    }
}

/// Forgets which hardware address `address` had behind `link`, in the calling thread's network namespace. Nothing need be known.
///
/// Who gets an address that another one has had has another hardware address. The kernel would go on sending to the old one, and
/// take nine seconds to find out.
pub(crate) fn forget_neighbour(link: &str, address: IpAddr) -> io::Result<()> {
    match change(&message(RTM_DELNEIGH, &neighbour(if_nametoindex(link)?, address))) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        done => done,
    }
}

/// ndmsg (family, padding, index, state, flags and type), and its one attribute.
fn neighbour(index: u32, address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::Inet6, address.octets().to_vec()),
    };
    let mut body = vec![u8::try_from(family as i32).unwrap_or(0), 0, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend([0; 4]);
    body.extend(u16::try_from(4 + octets.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(NDA_DST.to_ne_bytes());
    body.extend(octets);
    body
}

/// A message about the link `index`: RTM_NEWLINK sets `flags`, RTM_DELLINK needs none.
fn request(kind: u16, index: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(16);
    // ifinfomsg: family and padding, type, index, flags, the mask of the flags that are meant.
    body.extend([0; 4]);
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    message(kind, &body)
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number and port: one request on a socket of its own needs neither.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn change(message: &[u8]) -> io::Result<()> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(&answer[..length])
}

/// Reads an acknowledgement: an error message whose error is 0, or a negative errno.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, field(HEADER).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw(-error).into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink answered something that is no acknowledgement",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_is_an_error() {
        assert!(set_up("no-such-link").is_err());
    }

    #[test]
    fn an_interface_that_is_not_there_is_removed_already() {
        remove("no-such-link").unwrap();
    }

    #[test]
    fn the_kernel_answers_for_an_index_that_does_not_exist() {
        let error = change(&request(RTM_NEWLINK, 0x7fff_fff0, IFF_UP)).unwrap_err();
        // Without the right to change links the refusal comes first.
        let code = error.raw_os_error();
        assert!(code == Some(Errno::ENODEV as i32) || code == Some(Errno::EPERM as i32), "{error}");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        assert!(acknowledged(&[]).is_err());
        assert!(acknowledged(&[0; 18]).is_err());
    }
}
