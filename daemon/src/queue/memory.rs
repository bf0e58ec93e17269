//! The memory that calls take, while they come in and as long as they are there.
//!
//! Owns how much there is: for all, and for those of one function, so that one that takes no calls does not leave the
//! others without. It is counted, not allocated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use roost_proxy::function::FunctionKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::intake::Refusal;

/// What memory is counted in, in bytes.
const UNIT: u64 = 1024;

/// What one function may have of all.
const SHARE: u64 = 4;

/// What a call may take besides its body and always be taken over when nothing else is there, in bytes.
const BESIDES_BODY: u64 = 64 << 10;

/// What there is.
pub(super) struct Memory {
    all: Arc<Semaphore>,
    /// Of one function, in units.
    share: usize,
    /// The shares of which something is taken.
    shares: Mutex<HashMap<FunctionKey, Weak<Semaphore>>>,
}

/// Memory that is counted for one call. Dropping it gives it back.
pub(super) struct Held {
    all: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

/// Memory that is taken as it is needed, for one call.
pub(super) struct Taking<'a> {
    all: &'a Arc<Semaphore>,
    own: Arc<Semaphore>,
    held: Option<Held>,
    bytes: u64,
    units: u64,
}

impl Memory {
    /// `bytes` in all, for calls with bodies up to `max_body` bytes.
    pub(super) fn new(bytes: u64, max_body: u64) -> Self {
        let units =
            |bytes: u64| usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let share = (bytes / SHARE).max(max_body.saturating_add(BESIDES_BODY));
        Self { all: Arc::new(Semaphore::new(units(bytes))), share: units(share), shares: Mutex::default() }
    }

    /// Nothing yet, for a call of this function.
    pub(super) fn take(&self, function: &FunctionKey) -> Taking<'_> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shares.get(function).and_then(Weak::upgrade).unwrap_or_else(|| {
            shares.retain(|_, share| share.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.share));
            shares.insert(function.clone(), Arc::downgrade(&own));
            own
        });
        Taking { all: &self.all, own, held: None, bytes: 0, units: 0 }
    }
}

impl Taking<'_> {
    /// Takes so many bytes more.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.bytes += bytes;
        let more = self.bytes.div_ceil(UNIT) - self.units;
        let count = u32::try_from(more).map_err(|_| Refusal::Full)?;
        let own = Arc::clone(&self.own).try_acquire_many_owned(count).map_err(|_| Refusal::Share)?;
        let all = Arc::clone(self.all).try_acquire_many_owned(count).map_err(|_| Refusal::Full)?;
        self.units += more;
        match &mut self.held {
            Some(held) => {
                held.all.merge(all);
                held.own.merge(own);
            }
            None => self.held = Some(Held { all, own }),
        }
        Ok(())
    }

    /// All that was taken.
    pub(super) fn held(self) -> Result<Held, Refusal> {
        self.held.ok_or(Refusal::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> FunctionKey {
        FunctionKey::from_route(name).unwrap()
    }

    #[test]
    fn memory_is_counted_in_whole_units_and_given_back() {
        let memory = Memory::new(4 * UNIT, 4 * UNIT);
        let mut call = memory.take(&key("f"));
        for (bytes, left) in [(1, 3), (UNIT - 1, 3), (1, 2), (2 * UNIT, 0), (UNIT - 1, 0)] {
            call.add(bytes).unwrap();
            assert_eq!(memory.all.available_permits(), left);
        }
        assert!(matches!(call.add(1), Err(Refusal::Full)));
        drop(call.held().unwrap_or_else(|_| panic!("nothing was held")));
        assert_eq!(memory.all.available_permits(), 4);
    }

    #[test]
    fn a_function_has_its_share_and_leaves_the_rest_to_others() {
        let memory = Memory::new(4 << 20, 1 << 10);
        let taken = |name: &str, bytes: u64| {
            let mut call = memory.take(&key(name));
            call.add(bytes).and_then(|()| call.held())
        };
        let first = taken("f", 600 << 10);
        assert!(first.is_ok() && matches!(taken("f", 500 << 10), Err(Refusal::Share)));
        let others: Vec<_> = ["g", "h", "i"].map(|name| taken(name, 1 << 20)).into();
        assert!(others.iter().all(Result::is_ok));
        assert!(matches!(taken("j", 500 << 10), Err(Refusal::Full)));
        drop((first, others));
        assert!(taken("f", 1 << 20).is_ok());
        assert!(memory.shares.lock().unwrap().len() < 4, "shares of which nothing is taken are not kept");

        let large = Memory::new(4 << 20, 2 << 20);
        assert!(large.take(&key("f")).add((2 << 20) + 5000).is_ok(), "one of the largest always fits");
    }
}
