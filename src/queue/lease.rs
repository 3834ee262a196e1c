//! The processes that share a store, and their leases.

use std::time::Duration;

use jiff::Timestamp;

use super::status::ProcessStatus;

/// A request for the lease of a destination.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that asks; unique.
    pub holder: String,
    /// The current time.
    pub now: Timestamp,
    /// How long the lease lasts.
    pub ttl: Duration,
}

/// The right to deliver for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that holds it.
    pub holder: String,
    /// Fencing token: grows each time the lease changes hands.
    pub token: i64,
}

/// The holder of a lease, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Name of the process.
    pub holder: String,
    /// When it took the lease.
    pub since: Timestamp,
    /// When the lease expires unless it is renewed.
    pub until: Timestamp,
}

/// Who may deliver for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Name of the destination.
    pub destination: String,
    /// The fencing token of the last lease.
    pub token: i64,
    /// The present or last holder; `None` if it gave the lease back.
    pub holder: Option<LeaseHolder>,
}

/// A running process's record of itself.
#[derive(Debug, Clone)]
pub struct CheckIn {
    /// Its name, unique, as in leases.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// How long it has been running.
    pub uptime: Duration,
    /// What it reports about itself.
    pub status: ProcessStatus,
    /// The current time.
    pub now: Timestamp,
}

/// A process that uses the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name, as in leases.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last checked in.
    pub last_seen_at: Timestamp,
    /// What it reported then.
    pub status: ProcessStatus,
}

/// The processes that share a store, and their leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// The current time, by the clock that the other times were recorded with.
    pub now: Timestamp,
    /// The processes that checked in and did not check out, in the order in which they started.
    pub replicas: Vec<Replica>,
    /// The leases by the names of their destinations.
    pub leases: Vec<LeaseState>,
}
