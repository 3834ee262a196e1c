//! Metrics of a destination's delivery. Looking a metric up by its labels costs more than counting, so each is looked
//! up once.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::queue::{AttemptOutcome, Class};
use crate::telemetry;

/// The metrics of one destination.
#[derive(Debug)]
pub(super) struct Meters {
    attempts: [Counter; AttemptOutcome::ALL.len()],
    latency: [Histogram; Class::COUNT],
    in_flight: Gauge,
    retrying: Gauge,
    leases: Counter,
    fenced: Counter,
}

/// Counts a request as waiting for Loops' response until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Gauge);

impl Meters {
    pub(super) fn new(destination: &str) -> Self {
        let name = || destination.to_owned();
        let retrying = gauge!(telemetry::LANES_RETRYING, "destination" => name());
        let in_flight = gauge!(telemetry::REQUESTS_IN_FLIGHT, "destination" => name());
        retrying.set(0.0);
        in_flight.set(0.0);
        Self {
            attempts: AttemptOutcome::ALL.map(|outcome| {
                counter!(telemetry::ATTEMPTS, "destination" => name(), "outcome" => outcome.as_str())
            }),
            latency: Class::ALL.map(|class| {
                histogram!(
                    telemetry::DELIVERY_SECONDS,
                    "destination" => name(),
                    "class" => class.as_str()
                )
            }),
            in_flight,
            retrying,
            leases: counter!(telemetry::LEASE_CHANGES, "destination" => name()),
            fenced: counter!(telemetry::FENCED, "destination" => name()),
        }
    }

    pub(super) fn send(&self) -> InFlight {
        self.in_flight.increment(1.0);
        InFlight(self.in_flight.clone())
    }

    pub(super) fn tried(&self, outcome: AttemptOutcome) {
        let of_outcome =
            AttemptOutcome::ALL.iter().zip(&self.attempts).find(|(of, _)| **of == outcome);
        if let Some((_, counter)) = of_outcome {
            counter.increment(1);
        }
    }

    /// Records that Loops accepted a request of a message that was accepted this long ago.
    pub(super) fn delivered(&self, class: Class, after: Duration) {
        self.latency[class.index()].record(after);
    }

    /// Counts that this process took the lease.
    pub(super) fn took_lease(&self) {
        self.leases.increment(1);
    }

    /// Counts that this process lost the lease before giving it back.
    pub(super) fn lost_lease(&self) {
        self.fenced.increment(1);
    }

    /// Sets the number of lanes whose first message waits for its next attempt.
    pub(super) fn retrying(&self, lanes: usize) {
        self.retrying.set(lanes as f64);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
