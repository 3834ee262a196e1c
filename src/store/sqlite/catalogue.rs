//! The stored catalogues of the teams at Loops.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Fault;
use super::group::{Effects, Step};
use super::lease::{Fenced, is_in_force};
use super::rows::{from_ms, to_ms};
use crate::queue::{AuditEntry, Lease, StoredCatalogue};

/// ?1 destination, ?2 when the known one was stored.
pub(super) const FIND: &str = "
    SELECT account, kept_at, record FROM catalogues
    WHERE destination = ?1 AND kept_at IS NOT ?2";
/// ?1 destination, ?2 account, ?3 kept at, ?4 record.
pub(super) const KEEP: &str = "
    INSERT INTO catalogues (destination, account, kept_at, record) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (destination) DO UPDATE SET account = ?2, kept_at = ?3, record = ?4";

pub(super) fn find(
    snapshot: &Connection,
    destination: &str,
    known: Option<i64>,
) -> Result<Option<StoredCatalogue>, Fault> {
    let mut find = snapshot.prepare_cached(FIND)?;
    let found = find.query_row(params![destination, known], |row| {
        let (account, kept_at) = (row.get(0)?, from_ms(row.get(1)?));
        Ok(StoredCatalogue { account, kept_at, record: row.get(2)? })
    });
    Ok(found.optional()?)
}

pub(super) struct KeepCatalogue {
    pub(super) lease: Lease,
    pub(super) catalogue: StoredCatalogue,
    pub(super) audit: Option<AuditEntry>,
}

impl Step for KeepCatalogue {
    type Output = Result<(), Fenced>;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease)? {
            return Ok(Err(Fenced));
        }
        let StoredCatalogue { account, kept_at, record } = &self.catalogue;
        let row = params![self.lease.destination, account, to_ms(*kept_at), record];
        transaction.prepare_cached(KEEP)?.execute(row)?;
        if let Some(entry) = &self.audit {
            entry.run(transaction, effects)?;
        }
        effects.has_written = true;
        Ok(Ok(()))
    }
}
