//! Memory that outlives the process: a file without a name, mapped, whose descriptor somebody else keeps too.
//!
//! Owns the layout, and the only view of it: numbers that are read and written one by one, and buffers that belong to
//! whoever took them. Pages that were never used take no memory. Never knows what the numbers say.
//!
//! ```text
//!   head │ slot 0 │ slot 1 │ … │ slot 8191 ║ buffer 1 │ buffer 2 │ … │ buffer 16384
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Tunnels that there can be: the names of their descriptors have to fit into one variable of the environment.
pub(super) const SLOTS: u32 = 8192;

/// Each direction of a tunnel has at most one.
const BUFFERS: u32 = 2 * SLOTS;

/// Of one buffer: the most that is read at once.
pub(crate) const BUFFER: usize = 16 * 1024;

/// "RoostTun", and what follows it. Another layout needs another number.
const MAGIC: u64 = u64::from_be_bytes(*b"RoostTun");
const VERSION: u64 = 2;

/// The head takes as much as a slot does.
const HEAD: usize = size_of::<Slot>();
const PAGE: usize = 64 * 1024;
const BUFFERS_AT: usize = (HEAD + SLOTS as usize * size_of::<Slot>()).next_multiple_of(PAGE);
const LENGTH: usize = BUFFERS_AT + BUFFERS as usize * BUFFER;

/// The words of one state of a direction.
pub(super) const MARK: usize = 6;

/// The names of the function and of the replica, zeros behind them.
pub(super) const TEXT: usize = 24;

/// One tunnel.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) state: AtomicU32,
    pub(super) flags: AtomicU32,
    /// By which the sockets are known.
    pub(super) cookies: [AtomicU64; 2],
    /// Milliseconds since this machine has started.
    pub(super) opened: AtomicU64,
    /// When something last moved, as [`Traffic`](crate::tunnel::Traffic) counts it from `opened`.
    pub(super) moved: AtomicU64,
    pub(super) text: [AtomicU64; TEXT],
    /// From the client, and from the function.
    pub(super) lines: [LineRecord; 2],
    /// Milliseconds since this machine has started when the client's token ends, 0 for never. Where it is, an earlier version
    /// has zeros.
    pub(super) expires: AtomicU64,
}

/// One direction of a tunnel.
#[derive(Debug)]
#[repr(C)]
pub(super) struct LineRecord {
    /// Which of the marks counts.
    pub(super) which: AtomicU32,
    /// The number of the buffer that it has, 0 for none.
    pub(super) buffer: AtomicU32,
    pub(super) marks: [[AtomicU64; MARK]; 2],
}

/// The mapped file.
#[derive(Debug)]
pub(super) struct Memory {
    file: OwnedFd,
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone, everything in it that is shared is atomic, and a buffer has one owner.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// A new one, all zeros.
    ///
    /// # Errors
    /// When the kernel has none.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the name is a C string that outlives the call.
        let file = unsafe { libc::memfd_create(c"roost-tunnels".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let length = libc::off_t::try_from(LENGTH).map_err(io::Error::other)?;
        // SAFETY: concerns the file alone.
        if unsafe { libc::ftruncate(file.as_raw_fd(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let memory = Self::map(file)?;
        let [magic, version] = memory.head();
        version.store(VERSION, Ordering::Relaxed);
        magic.store(MAGIC, Ordering::Release);
        Ok(memory)
    }

    /// That of an earlier process.
    ///
    /// # Errors
    /// When it is not of this layout.
    pub(super) fn inherit(file: OwnedFd) -> io::Result<Self> {
        if std::fs::File::from(file.try_clone()?).metadata()?.len() != LENGTH as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another size"));
        }
        let memory = Self::map(file)?;
        match memory.head().map(|word| word.load(Ordering::Acquire)) {
            [MAGIC, VERSION] => Ok(memory),
            [MAGIC, version] => {
                let why = format!("it is of version {version}, expected {VERSION}");
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is something else")),
        }
    }

    fn map(file: OwnedFd) -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping, of a file that is as long.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, access, flags, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped to nowhere"))?;
        Ok(Self { file, base })
    }

    fn head(&self) -> [&AtomicU64; 2] {
        // SAFETY: the mapping begins at a page and is longer than this, and all zeros or not, words are words.
        [0, 1].map(|index| unsafe { self.base.cast::<AtomicU64>().add(index).as_ref() })
    }

    /// The slot `index`, which is below [`SLOTS`].
    pub(super) fn slot(&self, index: u32) -> &Slot {
        assert!(index < SLOTS, "no such slot");
        // SAFETY: within the mapping, as was just seen; aligned, as the base is a page and all sizes are those of a slot;
        // and a slot is made of atomic words, for which any bits will do.
        unsafe { self.base.add(HEAD + index as usize * size_of::<Slot>()).cast::<Slot>().as_ref() }
    }

    /// Is there a buffer of this number?
    pub(super) fn is_buffer(number: u32) -> bool {
        (1..=BUFFERS).contains(&number)
    }

    fn buffer(&self, number: u32) -> NonNull<u8> {
        assert!(Self::is_buffer(number), "no such buffer");
        // SAFETY: within the mapping, as was just seen.
        unsafe { self.base.add(BUFFERS_AT + (number as usize - 1) * BUFFER) }
    }

    /// The bytes of a buffer.
    ///
    /// # Safety
    /// Nobody writes into it meanwhile: it is the caller's, or of a process that has ended.
    pub(super) unsafe fn bytes(&self, number: u32) -> &[u8] {
        // SAFETY: within the mapping; that nobody writes is the caller's word.
        unsafe { std::slice::from_raw_parts(self.buffer(number).as_ptr(), BUFFER) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    /// Nobody reads or writes it meanwhile: it is the caller's alone.
    #[expect(clippy::mut_from_ref, reason = "that it has one owner is what the caller vouches for")]
    pub(super) unsafe fn bytes_mut(&self, number: u32) -> &mut [u8] {
        // SAFETY: within the mapping; that nobody else is there is the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.buffer(number).as_ptr(), BUFFER) }
    }

    /// Gives the pages of a buffer back: it is all zeros then.
    pub(super) fn clear(&self, number: u32) {
        // SAFETY: within the mapping; whoever gives a buffer back reads it no more.
        let given = unsafe { libc::madvise(self.buffer(number).as_ptr().cast(), BUFFER, libc::MADV_REMOVE) };
        if given != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "memory is not given back");
        }
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and all that points into it borrows `self`.
        if unsafe { libc::munmap(self.base.as_ptr().cast(), LENGTH) } != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "memory stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_the_next_finds_and_what_is_not_of_this_layout_is_refused() {
        let first = Memory::new().unwrap();
        first.slot(SLOTS - 1).opened.store(5, Ordering::Relaxed);
        // SAFETY: nobody else has the buffer.
        unsafe { first.bytes_mut(BUFFERS) }.fill(9);
        let file = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let second = Memory::inherit(file).unwrap();
        assert_eq!(second.slot(SLOTS - 1).opened.load(Ordering::Relaxed), 5);
        assert_eq!(second.slot(0).opened.load(Ordering::Relaxed), 0);
        // SAFETY: as above.
        assert!(unsafe { second.bytes(BUFFERS) }.iter().all(|byte| *byte == 9));
        second.clear(BUFFERS);
        // SAFETY: as above.
        assert!(unsafe { second.bytes(BUFFERS) }.iter().all(|byte| *byte == 0));

        second.head()[1].store(VERSION + 1, Ordering::Relaxed);
        let error = Memory::inherit(second.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "it is of version 3, expected 2");
        let other = tempfile();
        assert_eq!(Memory::inherit(other).unwrap_err().to_string(), "it is of another size");
    }

    fn tempfile() -> OwnedFd {
        // SAFETY: as in `new`.
        unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC)) }
    }
}
