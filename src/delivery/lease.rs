//! Takes, renews and gives back the lease of one destination.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::clock::SharedClock;
use crate::queue::{Lease, LeaseRequest, Unavailable, Work, WorkError};
use crate::telemetry;

/// Another process holds the lease now: this one must not deliver any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseLost;

/// A lease that this process took. Clones share its renewals.
#[derive(Debug, Clone)]
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    /// Until when it certainly holds, by this process's clock.
    until: Arc<Mutex<Instant>>,
}

impl HeldLease {
    /// Whether it holds without doubt. If its renewal is late, another process may be delivering already.
    pub(super) fn is_certain(&self) -> bool {
        Instant::now() < self.until()
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// The result of asking for a lease.
#[derive(Debug)]
pub(super) enum Asked {
    Taken(HeldLease),
    Waiting(WaitReason),
}

/// Why this process does not have the lease yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitReason {
    /// Another process holds the lease.
    HeldByAnother,
    /// The clock was set: if another process holds the lease, it must be able to renew it first.
    ClockWasSet,
}

/// Asks for the lease of one destination in the name of this process.
pub(super) struct LeaseKeeper {
    pub(super) queue: Arc<dyn Work>,
    pub(super) clock: SharedClock,
    pub(super) destination: String,
    /// The name of this process.
    pub(super) holder: String,
    /// How long the lease holds without renewal.
    pub(super) ttl: Duration,
}

impl LeaseKeeper {
    /// Takes the lease, unless another process holds it.
    ///
    /// After the clock was set, every lease on disk looks expired, or written by a wrong clock, until its holder
    /// has renewed it by the new time. So this process does not ask until a lease of that age would have expired.
    pub(super) async fn take(&self) -> Result<Asked, Unavailable> {
        let ask = self.ask();
        if self.clock.was_set_within(self.ttl) {
            return Ok(Asked::Waiting(WaitReason::ClockWasSet));
        }
        Ok(match self.request(ask).await? {
            Some(held) => Asked::Taken(held),
            None => Asked::Waiting(WaitReason::HeldByAnother),
        })
    }

    fn ask(&self) -> LeaseRequest {
        LeaseRequest {
            destination: self.destination.clone(),
            holder: self.holder.clone(),
            now: self.clock.now(),
            ttl: self.ttl,
        }
    }

    async fn request(&self, ask: LeaseRequest) -> Result<Option<HeldLease>, Unavailable> {
        let until = Instant::now() + self.ttl;
        let lease = self.queue.lease(ask).await?;
        Ok(lease.map(|lease| HeldLease { lease, until: Arc::new(Mutex::new(until)) }))
    }

    /// Renews a lease. If the store fails, the lease is not lost yet: the next renewal may succeed.
    ///
    /// If another process had the lease and gave it back, this one holds a new lease, which is in `held` then,
    /// but the old one is lost.
    pub(super) async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseLost> {
        match self.request(self.ask()).await {
            Ok(Some(renewed)) if renewed.lease.token == held.lease.token => {
                held.renewed_until(renewed.until());
                Ok(())
            }
            Ok(Some(other)) => {
                *held = other;
                Err(LeaseLost)
            }
            Ok(None) => Err(LeaseLost),
            Err(fault) => {
                error!(
                    destination = self.destination,
                    error = %telemetry::chain(&fault),
                    "the lease cannot be renewed; trying again"
                );
                Ok(())
            }
        }
    }

    /// Gives the lease back, so that another process need not wait for its end.
    pub(super) async fn give_back(&self, lease: &Lease) {
        match self.queue.release(lease).await {
            Ok(()) => info!(destination = self.destination, "lease given back"),
            // Another process has it, or had it.
            Err(WorkError::Fenced) => {}
            Err(fault) => warn!(
                destination = self.destination,
                error = %telemetry::chain(&fault),
                "the lease could not be given back; it will expire"
            ),
        }
    }

    /// Logs why this process does not deliver yet.
    pub(super) async fn log_wait(&self, reason: WaitReason) {
        match reason {
            WaitReason::HeldByAnother => self.log_holder().await,
            WaitReason::ClockWasSet => info!(
                destination = self.destination,
                wait_ms = self.ttl.as_millis() as u64,
                "the clock was set; waiting before taking the lease, so that another process could renew it"
            ),
        }
    }

    /// Logs which process delivers instead of this one.
    async fn log_holder(&self) {
        let destination = &self.destination;
        match self.queue.lease_holder(destination).await {
            Ok(other) => info!(
                destination,
                holder = other.as_ref().map(|other| other.holder.as_str()),
                until = other.as_ref().map(|other| tracing::field::display(other.until)),
                "another process holds the lease; waiting for it"
            ),
            Err(fault) => warn!(
                destination,
                error = %telemetry::chain(&fault),
                "another process holds the lease; its name cannot be read"
            ),
        }
    }
}
