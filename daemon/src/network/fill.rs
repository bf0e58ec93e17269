//! Slots made, looked after and taken apart, in the background: one at a time, and never while somebody needs a network.
//!
//! Owns the doing. Which slots there are and what is to be done next is `slots.rs`' to know.

use roost_cni::{Attachment, Held};
use roost_proxy::function::Namespace;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::slots::{Next, Outcome, Task};
use super::{HostNetwork, no_network};

impl HostNetwork {
    /// Keeps slots ready until the daemon ends. What it leaves then, ready or half made, the next daemon finds.
    pub async fn keep_slots(&self) {
        if self.slots.are_off() {
            return;
        }
        loop {
            self.slots.quiet().await;
            let working = self.slots.work.lock().await;
            let until = match self.slots.next(Instant::now()) {
                Next::Do(namespace, task) => {
                    let outcome = self.work_on(&namespace, task).await;
                    self.slots.done(&namespace, outcome);
                    continue;
                }
                Next::Wait(until) => until,
            };
            drop(working);
            // Plugins have changed rules since the last look. Who takes a slot should not have to wait for the next.
            match self.hold().await {
                Ok(Held::Intact) => {}
                Ok(Held::Restored) => continue,
                Err(error) => warn!("the rules of the network cannot be kept: {error}"),
            }
            match until {
                Some(until) => {
                    tokio::select! { () = self.slots.changed() => {}, () = sleep_until(until) => {} }
                }
                None => self.slots.changed().await,
            }
        }
    }

    async fn work_on(&self, namespace: &Namespace, task: Task) -> Outcome {
        match task {
            Task::Make(slot) => self.make_slot(namespace, slot).await,
            Task::Check(slot) => self.check_slot(slot).await,
            Task::Free(slot) => match self.cni.detach(&slot).await {
                Ok(()) => Outcome::Freed,
                Err(error) => Outcome::Failed(Some(slot), error.into()),
            },
        }
    }

    async fn make_slot(&self, namespace: &Namespace, slot: String) -> Outcome {
        let Some(conflist) = self.parts.of(namespace) else {
            return Outcome::Failed(None, no_network(namespace));
        };
        match self.cni.attach_to(&conflist, &slot).await {
            Ok(attachment) => self.ready(attachment).await,
            // It undoes itself what it made, but for what failed again.
            Err(error) => {
                let left = self.cni.detach(&slot).await.is_err();
                Outcome::Failed(left.then_some(slot), error.into())
            }
        }
    }

    /// A slot is seen with its rules before anybody can have it: so it is noticed when they go.
    async fn ready(&self, slot: Attachment) -> Outcome {
        if self.are_rules_lost(Some(slot.address)).await {
            self.slots.doubt();
        }
        Outcome::Ready(slot)
    }

    async fn check_slot(&self, slot: Attachment) -> Outcome {
        match self.cni.check(&slot.id).await {
            Ok(()) => self.ready(slot).await,
            Err(error) => {
                debug!("{}: a network that was ready is no good any more: {error}", slot.id);
                Outcome::Waste(slot.id)
            }
        }
    }
}
