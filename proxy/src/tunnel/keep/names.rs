//! How a tunnel is called: in the store, and in its own record.
//!
//! Owns both forms. In the store names have to be short, as all of them together go through one variable of the
//! environment, which holds 128 KiB; so they say no more than the slot.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::{SLOTS, TEXT};
use crate::function::{FunctionKey, ReplicaId};

/// The name of a slot's sockets in the store.
pub(super) fn of(slot: u32) -> String {
    format!("t{slot:x}")
}

/// The slot of a name.
pub(super) fn slot(name: &str) -> Option<u32> {
    let slot = u32::from_str_radix(name.strip_prefix('t')?, 16).ok()?;
    (slot < SLOTS && of(slot) == name).then_some(slot)
}

/// Writes down whose a tunnel is.
///
/// # Errors
/// When that does not fit, which names of their greatest length do.
pub(super) fn write(text: &[AtomicU64; TEXT], function: &FunctionKey, replica: &ReplicaId) -> io::Result<()> {
    let line = format!("{function} {replica}");
    let mut bytes = [0; TEXT * 8];
    let place = bytes.get_mut(..line.len()).ok_or_else(|| io::Error::other("its names are too long"))?;
    place.copy_from_slice(line.as_bytes());
    for (word, bytes) in text.iter().zip(bytes.chunks_exact(8)) {
        word.store(bytes.try_into().map_or(0, u64::from_ne_bytes), Ordering::Relaxed);
    }
    Ok(())
}

/// Whose a tunnel is, if that was written down.
pub(super) fn read(text: &[AtomicU64; TEXT]) -> Option<(FunctionKey, ReplicaId)> {
    let bytes: Vec<u8> = text
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
        .take_while(|byte| *byte != 0)
        .collect();
    let (function, replica) = std::str::from_utf8(&bytes).ok()?.split_once(' ')?;
    Some((FunctionKey::from_route(function).ok()?, replica.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_read_as_they_were_written() {
        let longest = "x".repeat(63);
        for (function, replica) in [("f", "f-1"), (&*format!("{longest}.{longest}"), &*longest)] {
            let text = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
            let key = FunctionKey::from_route(function).unwrap();
            let id: ReplicaId = replica.parse().unwrap();
            write(&text, &key, &id).unwrap();
            assert_eq!(read(&text), Some((key, id)));
        }
        assert_eq!(read(&std::array::from_fn(|_| AtomicU64::new(0))), None);
        assert_eq!(read(&std::array::from_fn(|_| AtomicU64::new(u64::MAX))), None);
    }

    #[test]
    fn a_slot_has_one_name() {
        for number in [0, 9, 10, 255, SLOTS - 1] {
            assert_eq!(slot(&of(number)), Some(number));
        }
        let beyond = of(SLOTS);
        for name in ["", "t", "tunnels", "t01", "tF", "t+1", "http", &beyond] {
            assert_eq!(slot(name), None, "{name}");
        }
    }
}
