//! Takes, renews and gives back the lease of one destination.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::clock::SharedClock;
use crate::queue::{Lease, LeaseHolder, LeaseRequest, Unavailable, Work, WorkError};
use crate::telemetry;

/// Another process holds the lease now. This process must not deliver any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseLost;

/// A lease that this process took. Clones share its renewals.
#[derive(Debug, Clone)]
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    until: Arc<Mutex<Until>>,
    clock: SharedClock,
}

/// Until when a lease certainly lasts, by two clocks of this process: one that stops while the machine sleeps, and one
/// that goes on, if there is one.
#[derive(Debug, Clone, Copy)]
struct Until {
    awake: Instant,
    with_sleep: Option<Duration>,
}

impl HeldLease {
    /// Returns whether the lease certainly lasts. If its renewal is late, another process may already be delivering.
    pub(super) fn is_certain(&self) -> bool {
        let Until { awake, with_sleep } = self.until();
        let has_overslept =
            with_sleep.zip(self.clock.with_sleep()).is_some_and(|(end, now)| now >= end);
        Instant::now() < awake && !has_overslept
    }

    /// Waits until the lease is in doubt.
    pub(super) async fn doubt(&self) {
        while self.is_certain() {
            sleep_until(self.until().awake).await;
        }
    }

    fn until(&self) -> Until {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed_until(&self, until: Until) {
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
    /// The clock was set. If another process holds the lease, it must get the chance to renew it first.
    ClockWasSet,
}

/// Asks for the lease of one destination in the name of this process.
pub(super) struct LeaseKeeper {
    pub(super) queue: Arc<dyn Work>,
    pub(super) clock: SharedClock,
    pub(super) destination: String,
    /// The name of this process.
    pub(super) holder: String,
    /// How long the lease lasts without renewal.
    pub(super) ttl: Duration,
    /// The lease of another process as it was last seen, and when it was seen to change.
    pub(super) seen: Mutex<Option<Seen>>,
}

/// The lease of another process.
#[derive(Debug)]
pub(super) struct Seen {
    holder: LeaseHolder,
    /// `None`: it has not changed since it was first seen.
    changed_at: Option<Instant>,
}

impl LeaseKeeper {
    /// Takes the lease, unless another process holds it.
    ///
    /// After the clock was set, every lease on disk looks expired, or as if a wrong clock had written it, until its
    /// holder has renewed it by the new time. So this process does not ask until a lease from before would have
    /// expired. Nor does it ask while it sees another process renew the lease. It may be the database's clock by which
    /// leases expire, and nobody watches whether that clock is set.
    pub(super) async fn take(&self) -> Result<Asked, Unavailable> {
        let ask = self.ask();
        if self.clock.was_set_within(self.ttl) {
            return Ok(Asked::Waiting(WaitReason::ClockWasSet));
        }
        let holder = self.queue.lease_holder(&self.destination).await?;
        if self.is_being_renewed(holder) {
            return Ok(Asked::Waiting(WaitReason::HeldByAnother));
        }
        Ok(match self.request(ask).await? {
            Some(held) => Asked::Taken(held),
            None => Asked::Waiting(WaitReason::HeldByAnother),
        })
    }

    /// Returns whether this process saw another process take or renew the lease less than [`LeaseKeeper::ttl`] ago.
    fn is_being_renewed(&self, holder: Option<LeaseHolder>) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.take();
        let Some(holder) = holder.filter(|holder| holder.holder != self.holder) else {
            return false;
        };
        let changed_at = match before {
            Some(before) if before.holder == holder => before.changed_at,
            Some(_) => Some(Instant::now()),
            None => None,
        };
        *seen = Some(Seen { holder, changed_at });
        changed_at.is_some_and(|at| at.elapsed() < self.ttl)
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
        // Read before asking, so that the lease lasts at least until then.
        let until = Until {
            awake: Instant::now() + self.ttl,
            with_sleep: self.clock.with_sleep().map(|now| now + self.ttl),
        };
        let lease = self.queue.lease(ask).await?;
        let (until, clock) = (Arc::new(Mutex::new(until)), Arc::clone(&self.clock));
        Ok(lease.map(|lease| HeldLease { lease, until, clock }))
    }

    /// Renews a lease. If the store fails, the lease is not lost yet: the next renewal may succeed.
    ///
    /// If another process had the lease and gave it back, the old lease is lost; this process then holds a new one,
    /// which is put in `held`. The lease is also lost if the renewal was late. Anything may have happened in the
    /// meantime: for example, a standby took over whose clock, and therefore its sequence numbers, are behind those
    /// that were read.
    pub(super) async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseLost> {
        let is_late = !held.is_certain();
        match self.request(self.ask()).await {
            Ok(Some(renewed)) if renewed.lease.token == held.lease.token => {
                held.renewed_until(renewed.until());
                if is_late { Err(LeaseLost) } else { Ok(()) }
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

    /// Gives the lease back, so that another process need not wait for it to expire.
    pub(super) async fn give_back(&self, lease: &Lease) {
        match self.queue.release(lease).await {
            Ok(()) => info!(destination = self.destination, "lease given back"),
            // Another process has the lease, or had it.
            Err(WorkError::Fenced) => {}
            Err(fault) => warn!(
                destination = self.destination,
                error = %telemetry::chain(&fault),
                "the lease could not be given back; it will expire"
            ),
        }
    }

    /// Logs why this process does not deliver yet.
    pub(super) fn log_wait(&self, reason: WaitReason) {
        let destination = &self.destination;
        match reason {
            WaitReason::HeldByAnother => {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let holder = seen.as_ref().map(|seen| seen.holder.holder.as_str());
                let until = seen.as_ref().map(|seen| tracing::field::display(seen.holder.until));
                info!(
                    destination,
                    holder, until, "another process holds the lease; waiting for it"
                );
            }
            WaitReason::ClockWasSet => info!(
                destination,
                wait_ms = self.ttl.as_millis() as u64,
                "the clock was set; waiting before taking the lease, so that another process can renew it first"
            ),
        }
    }
}
