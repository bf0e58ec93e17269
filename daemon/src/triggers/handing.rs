//! Handing what came from a source over to the queue, for every function that listens to it.
//!
//! Owns how long it is tried: until the queue has taken it or never will. Whoever asks for it holds the message meanwhile,
//! which is how a full queue stops a broker.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use roost_proxy::function::FunctionKey;
use tracing::{debug, warn};

use super::figures::Figures;
use super::{Deliver, Refused, TriggeredCall};
use crate::pauses::Pauses;

/// The pauses between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Hands a call over for each of these functions. Resolves when each of them has it, or never will.
pub async fn hand_over<D: Deliver>(
    deliver: &D,
    figures: &Figures,
    source: &str,
    functions: &[FunctionKey],
    call: &TriggeredCall,
) {
    let mut handing = FuturesUnordered::new();
    for function in functions {
        handing.push(to_one(deliver, figures, source, function, call));
    }
    while handing.next().await.is_some() {}
}

async fn to_one<D: Deliver>(
    deliver: &D,
    figures: &Figures,
    source: &str,
    function: &FunctionKey,
    call: &TriggeredCall,
) {
    let mut pauses = Pauses::new(PAUSES);
    loop {
        match deliver.deliver(function, call.clone()).await {
            Ok(_) => return figures.fired(function, source),
            Err(Refused::Later(why)) => {
                debug!(%function, "{function}: a call of {source} waits: {why}");
                pauses.wait().await;
            }
            Err(why @ (Refused::Gone | Refused::TooLarge(_))) => {
                warn!(%function, "{function}: a call of {source} is dropped: {why}");
                return figures.failed(function, source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::triggers::Delivered;
    use crate::triggers::figures::Counts;

    /// Answers each call with the next of these.
    #[derive(Clone)]
    struct Answers(Arc<Mutex<Vec<Result<Delivered, Refused>>>>);

    impl Deliver for Answers {
        async fn deliver(&self, _: &FunctionKey, _: TriggeredCall) -> Result<Delivered, Refused> {
            self.0.lock().unwrap().pop().expect("no more calls are made")
        }

        async fn is_open(&self, _: &FunctionKey, _: &str) -> bool {
            false
        }
    }

    async fn counted(mut answers: Vec<Result<Delivered, Refused>>) -> Counts {
        answers.reverse();
        let (answers, figures) = (Answers(Arc::new(Mutex::new(answers))), Figures::default());
        let functions = [FunctionKey::from_route("f").unwrap()];
        hand_over(&answers, &figures, "mqtt.lan", &functions, &TriggeredCall::default()).await;
        assert!(answers.0.lock().unwrap().is_empty());
        figures.counts()[0].2
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_now_is_handed_over_again_and_what_is_refused_for_ever_is_not() {
        let later = || Err(Refused::Later("full".into()));
        let taken = Ok(Delivered { call_id: "1".into() });
        assert_eq!(counted(vec![later(), later(), taken]).await, Counts { fired: 1, ..Counts::default() });
        for why in [Refused::Gone, Refused::TooLarge(1)] {
            assert_eq!(counted(vec![later(), Err(why)]).await, Counts { failed: 1, ..Counts::default() });
        }
    }
}
