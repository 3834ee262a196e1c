//! The engine of one destination: delivers for it whenever this process holds the lease.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::backoff::RetryOptions;
use super::gauges;
use super::lease::{HeldLease, LeaseKeeper, LeaseLost};
use super::stepper::Stepper;
use super::stop::Stop;
use super::tenure::Tenure;
use crate::clock::SharedClock;
use crate::crash;
use crate::destination::Destination;
use crate::loops::Client;
use crate::queue::Work;
use crate::telemetry;

/// The longest wait before asking again for a lease that another process holds, so that a lease which a
/// stopping process gives back is taken soon.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The options of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The name of this process in leases.
    pub holder: String,
    /// How long a lease holds without renewal.
    pub lease_ttl: Duration,
    /// The most requests in flight at once.
    pub requests_max: usize,
    /// When failed requests are retried.
    pub retry: RetryOptions,
    /// How long requests in flight may take to finish after the lease was lost.
    pub grace: Duration,
}

/// The engine of one destination.
pub struct Engine {
    stepper: Arc<Stepper>,
    keeper: LeaseKeeper,
    options: EngineOptions,
}

impl Engine {
    /// Creates an engine; it does nothing until it is run.
    pub fn new(
        name: String,
        destination: watch::Receiver<Arc<Destination>>,
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
        };
        let retry = options.retry;
        let stepper = Arc::new(Stepper { name, destination, client, queue, clock, retry });
        Self { stepper, keeper, options }
    }

    /// Delivers whenever it holds the lease, until `stop` is ordered; then lets the requests in flight
    /// finish by the deadline, and gives the lease back.
    pub async fn run(self, stop: Stop) {
        let destination = &self.stepper.name;
        self.show_lease(false);
        let mut is_logged = false;
        while !stop.is_ordered() {
            let asked_at = Instant::now();
            let mut wait = self.options.lease_ttl / 3;
            match self.keeper.take().await {
                Ok(Some(held)) => {
                    is_logged = false;
                    match self.deliver(held, &stop).await {
                        Ok(()) => return,
                        Err(LeaseLost) => warn!(destination, "lease lost"),
                    }
                }
                Ok(None) => {
                    wait = wait.min(ASK_EVERY);
                    if !std::mem::replace(&mut is_logged, true) {
                        self.keeper.log_holder().await;
                    }
                }
                Err(fault) => error!(
                    destination,
                    error = %telemetry::chain(&fault),
                    "the lease cannot be asked for; trying again"
                ),
            }
            tokio::select! {
                () = sleep_until(asked_at + wait) => {}
                _ = stop.ordered() => {}
            }
        }
    }

    /// Delivers until a stop is ordered, and then gives the lease back.
    async fn deliver(&self, held: HeldLease, stop: &Stop) -> Result<(), LeaseLost> {
        let lease = held.lease.clone();
        info!(destination = lease.destination, token = lease.token, "lease taken");
        crash::point("lease.after");
        self.show_lease(true);
        let tenure = Tenure::new(&self.stepper, &self.keeper, &self.options, held);
        // Concurrently, so that delivery never waits for a count.
        let ended = tokio::select! {
            ended = tenure.run(stop) => ended,
            never = gauges::measure(&self.stepper) => match never {},
        };
        self.show_lease(false);
        ended?;
        self.keeper.give_back(&lease).await;
        Ok(())
    }

    fn show_lease(&self, is_held: bool) {
        let is_held = if is_held { 1.0 } else { 0.0 };
        gauge!(telemetry::LEASE_HELD, "destination" => self.stepper.name.clone()).set(is_held);
    }
}
