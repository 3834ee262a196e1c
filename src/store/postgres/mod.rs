//! The queue in a PostgreSQL database, for several processes. Every process accepts messages; each destination is
//! delivered by the process that holds its lease.
//!
//! Two tasks own the writing connections, and each writes all its waiting calls in one transaction: `accept` accepts
//! messages, `steps` writes the steps of delivery. Leases have their own connection. Reads share a few more. Every
//! statement is unnamed and no connection has a state beyond its transaction, so a pooler in transaction mode may stand
//! between.
//!
//! SQLite has only one writer at a time; here, row locks give the same guarantees. A destination's stream is locked
//! while messages get their numbers, so that numbers become visible in order and duplicates are found across processes.
//! A destination's lease is locked while a step is written, so that no other process takes it meanwhile.

mod accept;
mod arrivals;
mod audit;
mod awaiting;
mod catalogue;
mod conflicts;
mod connection;
mod contacts;
mod contents;
mod contract;
mod deliveries;
mod erase;
mod error;
mod event_names;
mod feedback;
mod freeze;
mod frozen;
mod hints;
mod housekeeping;
mod lease;
mod list;
mod migrations;
mod moved;
pub(super) mod moving;
mod new_contacts;
pub(super) mod numbers;
mod opening;
mod opt_outs;
mod options;
mod params;
mod partitions;
mod purge;
mod receipts;
mod records;
mod replay;
mod replicas;
mod rows;
mod schema;
mod set_aside;
mod settle;
mod startup;
mod statement;
mod steps;
mod store;
mod streams;
mod tally;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod transaction;
mod url;
mod work;

pub(super) use opening::{open, schema};

/// All migrations.
#[cfg(test)]
pub(super) fn migrations() -> Vec<&'static str> {
    migrations::MIGRATIONS.iter().map(|migration| migration.sql).collect()
}
