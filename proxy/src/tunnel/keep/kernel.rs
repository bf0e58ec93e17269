//! What the kernel knows of a connection, for whoever lost count.
//!
//! Owns the counting: how many bytes of a socket were ever read by its owner, and how many were ever given to it, whoever
//! that owner was. A process that was killed between a call and its own note of it is found out by this. The numbers mean
//! nothing by themselves: differences of two readings do. Never moves a byte.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, socklen_t};

/// Where the counters stand in `struct tcp_info`, which only grows at its end.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const INFO: usize = 136;

/// States of `linux/tcp_states.h`.
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// Bytes may come between two questions: so often they are asked again.
const TRIES: usize = 1000;

/// A connection as its socket tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Bytes that were read from it.
    pub(super) consumed: u64,
    /// Bytes that were written to it, whether they are on their way or not.
    pub(super) written: u64,
    /// The connection is over. Whether an end came or went before is not known then, and each count may be one too many.
    pub(super) over: bool,
}

/// Reads the counters of a TCP socket.
///
/// # Errors
/// When it is no TCP socket, or the kernel does not count.
pub(super) fn counts(socket: BorrowedFd<'_>) -> io::Result<Counts> {
    let mut before = info(socket)?;
    for _ in 0..TRIES {
        let unread = queue(socket, libc::FIONREAD)?;
        let unacknowledged = queue(socket, libc::TIOCOUTQ)?;
        let after = info(socket)?;
        if after == before {
            let Info { state, acknowledged, received } = after;
            // An end takes a number like a byte does.
            let end_came = matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT);
            let end_sent = matches!(state, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK | TIME_WAIT);
            return Ok(Counts {
                consumed: received.wrapping_sub(unread).wrapping_sub(u64::from(end_came)),
                written: acknowledged.wrapping_add(unacknowledged).wrapping_sub(u64::from(end_sent)),
                over: state == CLOSE,
            });
        }
        before = after;
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "the connection does not hold still"))
}

/// A number that no other socket of this machine has, as long as it runs.
///
/// # Errors
/// When it is no socket.
pub(super) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = [0; 8];
    option(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Info {
    state: u8,
    acknowledged: u64,
    received: u64,
}

fn info(socket: BorrowedFd<'_>) -> io::Result<Info> {
    let mut bytes = [0; INFO];
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
    let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    Ok(Info { state: bytes[0], acknowledged: number(BYTES_ACKED), received: number(BYTES_RECEIVED) })
}

/// Fills `bytes` by an option of the socket.
fn option(socket: BorrowedFd<'_>, level: c_int, name: c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to where `bytes` is, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    match done {
        0 if length as usize == bytes.len() => Ok(()),
        0 => Err(io::Error::other("the kernel says less than it has to")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many bytes are in one of the queues of a socket.
fn queue(socket: BorrowedFd<'_>, which: libc::c_ulong) -> io::Result<u64> {
    let mut length: c_int = 0;
    // SAFETY: both requests write one int, to where `length` is.
    if unsafe { libc::ioctl(socket.as_raw_fd(), which as _, &raw mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(length).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (connected, listener.accept().unwrap().0)
    }

    #[test]
    fn what_was_read_and_written_is_counted_whatever_is_on_its_way_and_whoever_has_ended() {
        let (mut one, mut other) = pair();
        let at = |socket: &TcpStream| counts(socket.as_fd()).unwrap();
        let (one0, other0) = (at(&one), at(&other));
        let since = |socket: &TcpStream, before: Counts| {
            let now = at(socket);
            (now.consumed - before.consumed, now.written - before.written, now.over)
        };
        one.write_all(&[7; 1000]).unwrap();
        let mut some = [0; 400];
        other.read_exact(&mut some).unwrap();
        assert_eq!((since(&one, one0), since(&other, other0)), ((0, 1000, false), (400, 0, false)));
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(since(&one, one0), (0, 1000, false));
        let mut rest = Vec::new();
        other.read_to_end(&mut rest).unwrap();
        assert_eq!((rest.len(), since(&other, other0)), (600, (1000, 0, false)));
        other.write_all(&[1; 5]).unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        rest.clear();
        one.read_to_end(&mut rest).unwrap();
        let (consumed, written, over) = since(&other, other0);
        assert!(over && (1000..=1001).contains(&consumed) && (5..=6).contains(&written));
    }

    #[test]
    fn sockets_are_told_apart_and_a_copy_is_not() {
        let (one, other) = pair();
        let copy = one.try_clone().unwrap();
        assert_eq!(cookie(one.as_fd()).unwrap(), cookie(copy.as_fd()).unwrap());
        assert_ne!(cookie(one.as_fd()).unwrap(), cookie(other.as_fd()).unwrap());
        assert!(counts(io::stdin().as_fd()).is_err(), "no socket");
    }
}
