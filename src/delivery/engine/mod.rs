//! The engine of one destination: delivers for it whenever this process holds the lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::gauges;
use super::lease::{Asked, HeldLease, LeaseKeeper, LeaseLost};
use super::meters::Meters;
use super::options::EngineOptions;
use super::room::LargeRoom;
use super::sought::SoughtBefore;
use super::stepper::Stepper;
use super::stop::Stop;
use super::tenure::Tenure;
use super::wishes::Wishes;
use crate::clock::SharedClock;
use crate::crash;
use crate::destination::Destination;
use crate::loops::Client;
use crate::queue::Work;
use crate::telemetry;

/// The longest wait before asking again for the lease, so that a lease is taken soon after it was given back or its
/// holder died.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The engine of one destination.
pub struct Engine {
    stepper: Arc<Stepper>,
    keeper: LeaseKeeper,
    options: EngineOptions,
}

impl Engine {
    /// Creates an engine, which does nothing until it is run.
    pub fn new(
        name: String,
        destination: watch::Sender<Arc<Destination>>,
        client: Client,
        queue: Arc<dyn Work>,
        clock: SharedClock,
        options: EngineOptions,
    ) -> Self {
        let keeper = LeaseKeeper {
            queue: Arc::clone(&queue),
            clock: Arc::clone(&clock),
            destination: name.clone(),
            holder: options.holder.clone(),
            ttl: options.lease_ttl,
            seen: Mutex::default(),
        };
        let (retry, room, digests) = (options.retry, options.room.clone(), options.digests.clone());
        let large = LargeRoom::default();
        let activity = options.board.add(&name, client.pacer(), destination.subscribe());
        let stepper = Stepper {
            meters: Meters::new(&name),
            name,
            destination,
            client,
            queue,
            clock,
            digests,
            retry,
            room,
            large,
            activity,
            wishes: Wishes::default(),
            traces: options.traces.clone(),
            sought: SoughtBefore::default(),
        };
        stepper.register_counters();
        let stepper = Arc::new(stepper);
        Self { stepper, keeper, options }
    }

    /// Delivers whenever it holds the lease, until `stop` is ordered. Then lets the requests in flight finish by the
    /// deadline, and gives the lease back.
    pub async fn run(self, stop: Stop) {
        let destination = &self.stepper.name;
        self.show_lease(false);
        let mut logged = None;
        while !stop.is_ordered() {
            let asked_at = Instant::now();
            let mut wait = self.options.lease_ttl / 3;
            match self.keeper.take().await {
                Ok(Asked::Taken(held)) => {
                    logged = None;
                    match self.deliver(held, &stop).await {
                        Ok(()) => return,
                        Err(LeaseLost) => {
                            self.stepper.meters.lost_lease();
                            warn!(destination, "lease lost");
                        }
                    }
                }
                Ok(Asked::Waiting(reason)) => {
                    wait = wait.min(ASK_EVERY);
                    if logged.replace(reason) != Some(reason) {
                        self.keeper.log_wait(reason);
                    }
                }
                Err(fault) => error!(
                    destination,
                    error = %telemetry::chain(&fault),
                    "could not request the lease; trying again"
                ),
            }
            tokio::select! {
                biased;
                () = sleep_until(asked_at + wait) => {}
                _ = stop.ordered() => {}
            }
        }
    }

    /// Delivers until a stop is ordered, and then gives the lease back.
    async fn deliver(&self, held: HeldLease, stop: &Stop) -> Result<(), LeaseLost> {
        info!(destination = held.lease.destination, token = held.lease.token, "lease taken");
        self.stepper.meters.took_lease();
        crash::point("lease.after");
        self.show_lease(true);
        let tenure = Tenure::new(&self.stepper, &self.keeper, &self.options, held);
        // Both run concurrently, so that delivery never waits for a count.
        let (ended, lease) = tokio::select! {
            biased;
            ended = tenure.run(stop) => ended,
            never = gauges::measure(&self.stepper) => match never {},
        };
        self.show_lease(false);
        if ended.is_ok() || stop.is_ordered() {
            self.keeper.give_back(&lease).await;
        }
        ended
    }

    fn show_lease(&self, is_held: bool) {
        self.stepper.activity.hold(is_held);
        if !is_held {
            gauges::clear(&self.stepper.name);
            self.stepper.meters.retrying(0);
        }
        let is_held = if is_held { 1.0 } else { 0.0 };
        gauge!(telemetry::LEASE_HELD, "destination" => self.stepper.name.clone()).set(is_held);
    }
}

#[cfg(test)]
mod tests;
