//! Which buffers of the kept memory are free.
//!
//! Owns the order: what was used last is used next, so that few pages are ever touched, and all but a few that are warm
//! are given back to the kernel. Never looks into a buffer.

use std::sync::Mutex;

use super::lock;

/// Free buffers that keep their pages.
const WARM: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    warm: Vec<u32>,
    cold: Vec<u32>,
    /// So many were ever taken; their numbers begin with 1.
    taken: u32,
}

impl Pool {
    /// A buffer of one's own. There is one for each direction of each tunnel.
    pub(super) fn take(&self) -> u32 {
        let mut free = lock(&self.0);
        let again = free.warm.pop().or_else(|| free.cold.pop());
        again.unwrap_or_else(|| {
            free.taken += 1;
            free.taken
        })
    }

    /// Takes it back, with its pages or, through `clear`, without.
    pub(super) fn give(&self, number: u32, clear: impl FnOnce(u32)) {
        let mut free = lock(&self.0);
        if free.warm.len() < WARM {
            free.warm.push(number);
            return;
        }
        drop(free);
        // Before somebody else may have it.
        clear(number);
        lock(&self.0).cold.push(number);
    }

    /// Those that are in use at the start; all others are free.
    pub(super) fn begin(&self, mut used: Vec<u32>) {
        used.sort_unstable();
        let mut free = lock(&self.0);
        free.taken = used.last().copied().unwrap_or(0);
        free.cold = (1..=free.taken).rev().filter(|number| used.binary_search(number).is_err()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_buffer_has_two_owners_and_what_is_not_warm_is_cleared() {
        let pool = Pool::default();
        pool.begin(vec![5, 2]);
        let mut taken: Vec<u32> = (0..20).map(|_| pool.take()).collect();
        assert_eq!(taken[..4], [1, 3, 4, 6], "first those that lie between");
        taken.extend([2, 5]);
        taken.sort_unstable();
        assert_eq!(taken, (1..=22).collect::<Vec<u32>>());
        let mut cleared = Vec::new();
        for number in 1..=22 {
            pool.give(number, |number| cleared.push(number));
        }
        assert_eq!(cleared, (9..=22).collect::<Vec<u32>>());
        let mut again: Vec<u32> = (0..22).map(|_| pool.take()).collect();
        assert_eq!(again[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        again.sort_unstable();
        assert_eq!(again, (1..=22).collect::<Vec<u32>>());
        assert_eq!(pool.take(), 23);
    }
}
