//! The options of an engine.

use std::time::Duration;

use super::backoff::RetryOptions;
use super::board::Board;
use super::room::Room;
use crate::segment::Digests;
use crate::telemetry::Traces;

/// The options of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The name of this process in leases.
    pub holder: String,
    /// How long a lease lasts without renewal.
    pub lease_ttl: Duration,
    /// The most requests in flight at once.
    pub requests_max: usize,
    /// When failed requests are retried.
    pub retry: RetryOptions,
    /// How long requests in flight may take to finish after the lease was lost.
    pub grace: Duration,
    /// The room for preparing messages, shared by all engines of the process.
    pub room: Room,
    /// Makes the digests by which contacts are known.
    pub digests: Digests,
    /// Where the engines of the process show their activity.
    pub board: Board,
    /// Traces deliveries.
    pub traces: Traces,
}
