//! The stored catalogues of the teams at Loops.

use async_trait::async_trait;

use super::connection::Connection;
use super::error::Fault;
use super::lease::{Fenced, is_in_force};
use super::params::{params, text};
use super::rows::{from_ms, get, to_ms};
use super::steps::{Effects, Step};
use crate::queue::{AuditEntry, Lease, StoredCatalogue};

/// $1 destination, $2 when the known one was stored.
const FIND: &str = "
    SELECT account, kept_at, record FROM @catalogues
    WHERE destination = $1 AND kept_at IS DISTINCT FROM $2";
/// $1 destination, $2 account, $3 kept at, $4 record.
const KEEP: &str = "
    INSERT INTO @catalogues (destination, account, kept_at, record) VALUES ($1, $2, $3, $4)
    ON CONFLICT (destination) DO UPDATE SET account = $2, kept_at = $3, record = $4";

pub(super) async fn find(
    connection: &Connection,
    destination: &str,
    known: Option<i64>,
) -> Result<Option<StoredCatalogue>, Fault> {
    let Some(row) = connection.query_opt(FIND, params![destination, known]).await? else {
        return Ok(None);
    };
    let (account, kept_at) = (get(&row, 0)?, from_ms(get(&row, 1)?));
    Ok(Some(StoredCatalogue { account, kept_at, record: get(&row, 2)? }))
}

pub(super) struct KeepCatalogue {
    pub(super) lease: Lease,
    pub(super) catalogue: StoredCatalogue,
    pub(super) audit: Option<AuditEntry>,
}

#[async_trait]
impl Step for KeepCatalogue {
    type Output = Result<(), Fenced>;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault> {
        if !is_in_force(transaction, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let StoredCatalogue { account, kept_at, record } = &self.catalogue;
        let (destination, record) = (&self.lease.destination, text(record));
        let kept_at = to_ms(*kept_at);
        let row = params![*destination, *account, kept_at, record];
        transaction.execute(KEEP, row).await?;
        if let Some(entry) = &self.audit {
            entry.run(transaction, effects).await?;
        }
        Ok(Ok(()))
    }
}
