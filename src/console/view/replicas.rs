//! The processes that share the store, and their leases.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue;

/// The processes that share the store, and their leases.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replicas {
    /// The time of the store; compare the other times with it.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// The processes that are running or were killed, in the order of their start. A process not seen for a day is
    /// forgotten.
    pub replicas: Vec<Replica>,
    /// For each destination, which process delivers.
    pub leases: Vec<Lease>,
}

/// A process that uses the store.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its name, as in the log and in leases.
    pub name: String,
    /// The name of its machine or container.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it was last seen. A running process is seen every five seconds.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
    /// Free bytes on the disk of the store when it last reported; null if the disk cannot be seen.
    #[schema(required)]
    pub free_bytes: Option<u64>,
    /// When it last reloaded its configuration; null if not since its start.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub reloaded_at: Option<Timestamp>,
    /// Whether it is the process that responds.
    pub is_this: bool,
}

/// The right to deliver for a destination.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that holds the lease; null if none does. An expired lease is still shown with its last
    /// holder.
    #[schema(required)]
    pub holder: Option<String>,
    /// How often the lease has changed hands.
    pub token: i64,
    /// When the holder took the lease; null without a holder.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// When the lease expires unless it is renewed; null without a holder.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

impl Replicas {
    /// Makes the response of the process with the name `this`.
    pub(in crate::console) fn new(found: queue::Replicas, this: &str) -> Self {
        let replica = |replica: queue::Replica| {
            let queue::Replica { name, host, version, started_at, last_seen_at, status } = replica;
            let is_this = name == this;
            let queue::ProcessStatus { free_bytes, reloaded_at, .. } = status;
            Replica {
                name,
                host,
                version,
                started_at,
                last_seen_at,
                free_bytes,
                reloaded_at,
                is_this,
            }
        };
        Self {
            now: found.now,
            replicas: found.replicas.into_iter().map(replica).collect(),
            leases: found.leases.into_iter().map(Lease::from).collect(),
        }
    }
}

impl From<queue::LeaseState> for Lease {
    fn from(lease: queue::LeaseState) -> Self {
        let queue::LeaseState { destination, token, holder } = lease;
        let (since, expires_at) = holder.as_ref().map(|held| (held.since, held.until)).unzip();
        Self { destination, holder: holder.map(|held| held.holder), token, since, expires_at }
    }
}
