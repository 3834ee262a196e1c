//! The audit log: what people did.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{from_ms, to_ms};
use super::store::SqliteStore;
use crate::queue::{Audit, AuditAction, AuditEntry, AuditRecord, Unavailable};

/// ?1 at, ?2 role, ?3 session, ?4 process, ?5 action, ?6 arguments, ?7 result.
pub(super) const RECORD: &str = "
    INSERT INTO audit (at, role, session, process, action, arguments, result)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
/// ?1 before, ?2 limit.
pub(super) const LIST: &str = "
    SELECT id, at, role, session, process, action, arguments, result FROM audit
    WHERE id < ?1 ORDER BY id DESC LIMIT ?2";

impl Step for AuditEntry {
    type Output = ();

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        transaction.prepare_cached(RECORD)?.execute(params![
            to_ms(self.at),
            self.role,
            self.session,
            self.process,
            self.action.as_str(),
            self.arguments,
            self.result,
        ])?;
        effects.has_written = true;
        Ok(())
    }
}

#[async_trait]
impl Audit for SqliteStore {
    async fn audit(&self, entry: &AuditEntry) -> Result<(), Unavailable> {
        Ok(self.write(entry.clone()).await?)
    }

    async fn audit_list(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| list(snapshot, before, limit)).await?)
    }
}

fn list(snapshot: &Connection, before: Option<i64>, limit: u32) -> Result<Vec<AuditRecord>, Fault> {
    let mut list = snapshot.prepare_cached(LIST)?;
    let records = list.query_map(params![before.unwrap_or(i64::MAX), limit], |row| {
        let action: String = row.get(5)?;
        let entry = AuditEntry {
            at: from_ms(row.get(1)?),
            role: row.get(2)?,
            session: row.get(3)?,
            process: row.get(4)?,
            action: AuditAction::parse(&action).unwrap_or(AuditAction::Unknown),
            arguments: row.get(6)?,
            result: row.get(7)?,
        };
        Ok(AuditRecord { id: row.get(0)?, entry })
    })?;
    Ok(records.collect::<Result<_, _>>()?)
}
