//! Has anybody changed the host's rules?
//!
//! Owns one question to the kernel: the generation of nftables' rules, a number that every change of any of them makes another.
//! Where `iptables` writes by the older way, that number tells nothing. Never reads a rule.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETGEN`, as they stand in a message's type.
const GET_GENERATION: u16 = (10 << 8) | 16;
/// The same with `NFT_MSG_NEWGEN`, which is the answer.
const GENERATION: u16 = (10 << 8) | 15;
const NLM_F_REQUEST: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
/// The length of `nlmsghdr`, in bytes, and of `nfgenmsg` behind it.
const HEADERS: usize = 16 + 4;

/// The generation of the rules of the calling thread's network namespace; `None` where the kernel does not tell.
pub(crate) fn generation() -> Option<u32> {
    match ask() {
        Ok(answer) => read(&answer),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not tell the generation of its rules");
            None
        }
    }
}

fn ask() -> io::Result<Vec<u8>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut message = Vec::with_capacity(HEADERS);
    message.extend((HEADERS as u32).to_ne_bytes());
    message.extend(GET_GENERATION.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port, which one request on a socket of its own needs not; any family, version 0, no resource.
    message.extend([0; 12]);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// The number in an answer; `None` if it is an error, or something else.
fn read(answer: &[u8]) -> Option<u32> {
    let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if short(4)? != GENERATION {
        return None;
    }
    let mut at = HEADERS;
    while let (Some(length), Some(kind)) = (short(at), short(at + 2)) {
        if kind == NFTA_GEN_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four.
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kernel answers: the attribute with the name of the asking process stands behind.
    fn answer(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; HEADERS];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        for (kind, value) in attributes {
            answer.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(*value);
            answer.resize(answer.len().next_multiple_of(4), 0);
        }
        answer
    }

    #[test]
    fn the_number_is_found_wherever_it_stands() {
        let id: (u16, &[u8]) = (NFTA_GEN_ID, &[0, 0, 1, 2]);
        assert_eq!(read(&answer(GENERATION, &[id])), Some(258));
        assert_eq!(read(&answer(GENERATION, &[(3, b"roostd\0"), id, (2, &[0; 4])])), Some(258));
    }

    #[test]
    fn anything_else_is_no_number() {
        let id: (u16, &[u8]) = (NFTA_GEN_ID, &[0, 0, 1, 2]);
        for other in [answer(2, &[id]), answer(GENERATION, &[(3, b"x")]), Vec::new(), vec![0; 17]] {
            assert_eq!(read(&other), None, "{other:?}");
        }
        let cut = answer(GENERATION, &[id]);
        assert_eq!(read(&cut[..cut.len() - 1]), None);
    }
}
