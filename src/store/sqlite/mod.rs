//! The queue in one SQLite file: WAL, `synchronous=FULL`, group commit, no set-up.
//!
//! One thread, the `writer`, owns the writing connection. It writes all waiting orders in one transaction, so that one
//! sync to the disk serves many senders. Readers have their own connections and never wait for the writer. Several
//! processes may use one file: SQLite's lock serializes their transactions, which preserves the order.

mod accept;
mod arrivals;
mod audit;
mod awaiting;
mod background;
pub(super) mod backup;
mod catalogue;
mod conflicts;
mod connection;
mod contacts;
mod contract;
mod copied;
mod deliveries;
mod erase;
mod error;
mod event_names;
mod feedback;
mod files;
pub(super) mod folder;
mod frames;
mod freeze;
mod group;
mod health;
mod lease;
mod list;
mod log;
mod mark;
mod migrations;
pub(super) mod moving;
mod network;
mod new_contacts;
mod open;
mod opt_outs;
mod options;
mod part;
#[cfg(test)]
mod plans;
mod probe;
mod purge;
mod reader;
mod receipts;
mod recent;
mod replay;
mod replicas;
pub(super) mod restore;
mod restored;
mod rows;
mod set_aside;
mod settle;
mod space;
mod store;
mod tally;
#[cfg(test)]
pub(super) mod tests;
mod writer;
mod writing;

/// All migrations.
#[cfg(test)]
pub(super) fn migrations() -> Vec<&'static str> {
    migrations::MIGRATIONS.to_vec()
}
