//! A replica whose process is there: it follows orders, until one of them ends it, or it ends by itself.
//!
//! The state diagram is in [`super`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use roost_proxy::Endpoint;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Adoptable, Cause, Checks, Event, FUNCTION_PORT, Order, Replica};
use crate::function::protocol::Protocol;
use crate::function::readiness::{self, Answer, Probe, Watched};
use crate::function::steps::Steps;
use crate::lambda::Seat;
use crate::pauses::Pauses;
use crate::runtime::Standing;

/// Connections that are left when a replica ends are closed one after the other, over this last part of its time: all at
/// once, their clients would come back all at once.
const FAREWELL: Duration = Duration::from_secs(10);

/// The pauses between tries to freeze a replica that does not.
const FREEZE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The end of a life: why, if nobody asked for it.
type End = Option<Cause>;

/// One life.
pub(super) struct Life<'a> {
    replica: &'a Replica,
    found: Adoptable,
    /// Where it polls for its events, if it does.
    seat: Option<Seat>,
    checks: Checks,
    orders: watch::Receiver<Order>,
    /// The only one: it is published, withdrawn and published again.
    endpoint: Arc<Endpoint>,
    /// Of the way to being ready, this time.
    steps: Steps,
    /// Was it judged by an earlier daemon?
    known: bool,
    /// Was it ready once?
    was_ready: bool,
}

impl<'a> Life<'a> {
    /// Of a replica that was found like this, by the making of it or, if it is `known`, by this daemon's start.
    pub(super) fn new(
        replica: &'a Replica,
        found: Adoptable,
        seat: Option<Seat>,
        checks: Checks,
        steps: Steps,
        known: bool,
    ) -> Self {
        let orders = replica.orders.clone();
        let make = match checks.probe.protocol() {
            Protocol::Http => Endpoint::of_key,
            Protocol::H2c => Endpoint::over_http2,
        };
        let address = seat.as_ref().map_or(found.address, Seat::front);
        let endpoint = make(replica.id.clone(), address, replica.replica_key.clone());
        Self { replica, found, seat, checks, orders, endpoint, steps, known, was_ready: false }
    }

    /// To the end.
    pub(super) async fn run(mut self) -> End {
        let replica = self.replica;
        let ended = tokio::select! {
            exit = replica.exit() => Err(exit),
            end = self.follow() => Ok(end),
        };
        self.endpoint.close();
        match ended {
            Ok(end) => end,
            Err((how, memory)) => {
                let how = if self.was_ready { how } else { format!("{how} before it was ready") };
                Some(if memory { Cause::OutOfMemory(how) } else { Cause::Ended(how) })
            }
        }
    }

    async fn follow(&mut self) -> End {
        let Err(end) = self.stages().await;
        end
    }

    /// What it does, one behind the other: leaves by the end alone.
    async fn stages(&mut self) -> Result<Infallible, End> {
        match self.found.standing {
            Standing::Created => {
                self.stand().await?;
                self.begin().await?;
                self.becomes_ready().await?;
            }
            Standing::Running if self.known => self.accepts().await?,
            Standing::Running => self.becomes_ready().await?,
            Standing::Paused => {
                self.was_ready = true;
                self.rest().await?;
            }
        }
        self.was_ready = true;
        loop {
            let limit = self.serve().await?;
            if self.pause(limit).await? {
                self.rest().await?;
            }
        }
    }

    /// Waits for the order to run.
    async fn stand(&mut self) -> Result<(), End> {
        if *self.orders.borrow() == Order::Run {
            return Ok(());
        }
        if self.is_to_wait() {
            self.replica.tell(Event::Created).await;
        }
        self.told_to_run().await
    }

    /// Is it neither to run nor to end, as far as was heard?
    fn is_to_wait(&self) -> bool {
        matches!(*self.orders.borrow(), Order::Stand | Order::Pause(_))
    }

    /// Starts the program.
    async fn begin(&mut self) -> Result<(), End> {
        let Replica { host, key, id, .. } = self.replica;
        let begun = host.runtime.begin(&key.namespace, id).await;
        begun.map_err(|error| Some(Cause::NotStarted(error.to_string())))?;
        self.steps.done("start");
        Ok(())
    }

    /// Waits until the program, which was just started, is ready.
    async fn becomes_ready(&mut self) -> Result<(), End> {
        let late = tokio::select! {
            late = self.late() => late,
            () = self.replica.told_to_end() => return Err(None),
        };
        if let Some(late) = late {
            return Err(Some(Cause::Ended(late)));
        }
        self.steps.done("ready");
        self.tell_steps();
        Ok(())
    }

    /// Waits until it is ready: `None`, or what it was like when its time was over.
    async fn late(&self) -> Option<String> {
        if let Some(seat) = &self.seat {
            return self.polls_late(seat).await;
        }
        let (probe, last): (&Probe, _) = (&self.checks.probe, Watched::default());
        let limit = self.replica.host.settings.start_timeout;
        let ready = probe.ready(self.found.address, &last);
        timeout(probe.initial_delay() + limit, ready).await.err().map(|_| {
            let found = match last.get() {
                Answer::Status(status) => format!("GET {} answers {}", probe.path(), status.as_u16()),
                Answer::NoAnswer => format!("GET {} gets no answer", probe.path()),
                Answer::Silence | Answer::Ready => format!("nothing listens on port {FUNCTION_PORT}"),
            };
            format!("not ready after {} s: {found}", limit.as_secs())
        })
    }

    /// The same for one that polls for its events: it is ready when it does.
    async fn polls_late(&self, seat: &Seat) -> Option<String> {
        let limit = self.replica.host.settings.start_timeout;
        match timeout(limit, seat.desk().ready()).await {
            Ok(ready) => ready.err(),
            Err(_) => {
                Some(format!("not ready after {} s: it does not poll the Runtime API", limit.as_secs()))
            }
        }
    }

    /// Waits until the program, which an earlier daemon started, accepts connections. It was ready then, or will be.
    async fn accepts(&self) -> Result<(), End> {
        let Replica { host, key, id, .. } = self.replica;
        host.runtime.resume(&key.namespace, id);
        let accepts = async {
            match &self.seat {
                Some(seat) => seat.desk().ready().await,
                None => {
                    readiness::accepts(self.found.address).await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            ready = accepts => ready.map_err(|why| Some(Cause::Ended(why))),
            () = self.replica.told_to_end() => Err(None),
        }
    }

    /// Takes requests, until it is told to pause: how long it may go on with what it has.
    async fn serve(&mut self) -> Result<Duration, End> {
        let Checks { probe, liveness, .. } = &self.checks;
        let address = self.found.address;
        let lost = async {
            match (liveness, &self.seat) {
                (_, Some(seat)) => seat.desk().stuck().await,
                (Some(liveness), None) => liveness.lost(address).await,
                (None, None) => std::future::pending().await,
            }
        };
        tokio::pin!(lost);
        let turn = |busy: bool| async move {
            if busy { probe.recovered(address).await } else { probe.overloaded(address).await }
        };
        let mut busy = false;
        let turned = turn(busy);
        tokio::pin!(turned);
        loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Order::Pause(limit) => return Ok(limit),
                Order::End(limit) => tokio::select! {
                    () = drain(self.replica, &self.endpoint, limit) => return Err(None),
                    how = &mut lost => return Err(Some(Cause::Ended(how))),
                },
                Order::Run | Order::Stand if busy => self.replica.tell(Event::Busy).await,
                Order::Run | Order::Stand => {
                    self.replica.tell(Event::Ready(Arc::clone(&self.endpoint))).await;
                }
            }
            tokio::select! {
                () = changed(&mut self.orders) => {}
                how = &mut lost => return Err(Some(Cause::Ended(how))),
                () = &mut turned => {
                    busy = !busy;
                    turned.set(turn(busy));
                }
            }
        }
    }

    /// Finishes what it has within this time, and freezes; `false` if it is told to run (on) meanwhile.
    async fn pause(&mut self, limit: Duration) -> Result<bool, End> {
        let replica = self.replica;
        let Replica { host, key, id, .. } = replica;
        let endpoint = Arc::clone(&self.endpoint);
        // It was withdrawn, and is only opened again by whoever publishes it: closing it here could come too late.
        if let Some(order) = self.ordered_before(finish(replica, &endpoint, limit)).await {
            return self.leave_pause(order).await;
        }
        if endpoint.in_flight() > 0 {
            return if self.is_to_wait() { Err(None) } else { Ok(false) };
        }
        let mut pauses = Pauses::new(FREEZE_PAUSE);
        // Never cut off: a freeze that came behind a thaw would stay.
        while let Err(error) = host.runtime.freeze(&key.namespace, id).await {
            warn!(function = %key, replica = %id, "replica {id}: cannot be frozen yet: {error}");
            if let Some(order) = self.ordered_before(pauses.wait()).await {
                return self.leave_pause(order).await;
            }
        }
        Ok(true)
    }

    async fn leave_pause(&self, order: Order) -> Result<bool, End> {
        let Order::End(limit) = order else { return Ok(false) };
        drain(self.replica, &self.endpoint, limit).await;
        Err(None)
    }

    /// The order to run or to end, if there is one before `done` is.
    async fn ordered_before(&mut self, done: impl Future<Output = ()>) -> Option<Order> {
        let ordered = self.orders.wait_for(|order| matches!(order, Order::Run | Order::End(_)));
        tokio::select! {
            () = done => None,
            // An error is the end of the daemon.
            Ok(order) = ordered => Some(*order),
        }
    }

    /// Stays frozen until it is told to run, and does.
    async fn rest(&mut self) -> Result<(), End> {
        if self.is_to_wait() {
            self.replica.tell(Event::Paused).await;
        }
        self.told_to_run().await?;
        self.thaw().await?;
        if self.seat.is_some() {
            // What it polled may have been another daemon.
            self.becomes_ready().await?;
            return Ok(());
        }
        self.steps.done("thaw");
        self.tell_steps();
        Ok(())
    }

    async fn thaw(&self) -> Result<(), End> {
        let Replica { host, key, id, .. } = self.replica;
        let thawed = host.runtime.thaw(&key.namespace, id).await;
        thawed.map_err(|error| Some(Cause::NotStarted(error.to_string())))
    }

    /// Waits for the order to run: the way to being ready begins then.
    async fn told_to_run(&mut self) -> Result<(), End> {
        loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Order::Run => break,
                Order::End(_) => return Err(None),
                Order::Stand | Order::Pause(_) => changed(&mut self.orders).await,
            }
        }
        self.steps = Steps::begin();
        Ok(())
    }

    fn tell_steps(&self) {
        let Replica { host, key, id, .. } = self.replica;
        self.steps.count(&host.steps);
        info!(function = %key, replica = %id, "replica {id}: ready after {}", self.steps);
    }
}

/// Resolves when there is an order that was not looked at.
async fn changed(orders: &mut watch::Receiver<Order>) {
    if orders.changed().await.is_err() {
        // The controller is gone only when the daemon ends, and then so is this task.
        std::future::pending::<()>().await;
    }
}

/// Takes nothing new, and resolves when nothing is left of what there was, or its time is over.
async fn drain(replica: &Replica, endpoint: &Endpoint, limit: Duration) {
    endpoint.close();
    finish(replica, endpoint, limit).await;
}

/// Resolves when nothing is left of what there was, or its time is over. Nothing new comes.
async fn finish(replica: &Replica, endpoint: &Endpoint, limit: Duration) {
    let last = limit.min(FAREWELL);
    if timeout(limit - last, endpoint.drained()).await.is_ok() {
        return;
    }
    endpoint.end_tunnels(last);
    if timeout(last, endpoint.drained()).await.is_err() {
        let left = endpoint.in_flight();
        info!(
            function = %replica.key, replica = %replica.id,
            "replica {}: drained for long enough, {left} requests are left", replica.id
        );
    }
}
