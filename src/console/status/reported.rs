//! What the processes that share the store report about themselves.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::queue::{DestinationStatus, ProcessStatus, Replicas};

/// How many requests and messages were rejected in the last hour, by source and code. An unknown source has an empty
/// name.
pub(in crate::console) type Rejected = BTreeMap<String, BTreeMap<String, u64>>;

/// A process that has not been seen for this long does not count.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(20);

/// The destinations that processes report, each with the name of its process.
pub(super) type Reported<'r> = BTreeMap<&'r str, (&'r str, &'r DestinationStatus)>;

/// Returns the processes that were seen recently.
pub(super) fn alive(replicas: &Replicas) -> impl Iterator<Item = (&str, &ProcessStatus)> {
    let is_alive = |seen: Timestamp| replicas.now.duration_since(seen) <= SEEN_WITHIN;
    let alive = replicas.replicas.iter().filter(move |one| is_alive(one.last_seen_at));
    alive.map(|one| (one.name.as_str(), &one.status))
}

/// Returns what each delivering process reports about its destinations.
pub(super) fn reported(replicas: &Replicas) -> Reported<'_> {
    let mut reported = BTreeMap::new();
    for (process, status) in alive(replicas) {
        for (destination, one) in &status.destinations {
            if holder(replicas, destination) == Some(process) {
                reported.insert(destination.as_str(), (process, one));
            }
        }
    }
    reported
}

/// Returns the process that holds the lease of a destination, if the lease is in force.
pub(super) fn holder<'r>(replicas: &'r Replicas, destination: &str) -> Option<&'r str> {
    let lease = replicas.leases.iter().find(|lease| lease.destination == destination)?;
    let holder = lease.holder.as_ref().filter(|holder| holder.until > replicas.now)?;
    Some(&holder.holder)
}

pub(super) fn rejected_by(replicas: &Replicas) -> Rejected {
    let mut rejected = Rejected::new();
    for (_, status) in alive(replicas) {
        for (source, codes) in &status.rejected {
            for (code, count) in codes {
                *rejected.entry(source.clone()).or_default().entry(code.clone()).or_default() +=
                    count;
            }
        }
    }
    rejected
}
