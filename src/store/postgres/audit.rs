//! The audit log: what people did.

use async_trait::async_trait;

use super::connection::Connection;
use super::error::Fault;
use super::params::{params, text};
use super::rows::{from_ms, get, to_ms};
use super::steps::{Effects, Step};
use super::store::PostgresStore;
use crate::queue::{Audit, AuditAction, AuditEntry, AuditRecord, Unavailable};

/// $1 at, $2 role, $3 session, $4 process, $5 action, $6 arguments, $7 result.
const RECORD: &str = "
    INSERT INTO @audit (at, role, session, process, action, arguments, result)
    VALUES ($1, $2, $3, $4, $5, $6, $7)";
/// $1 before, $2 limit.
const LIST: &str = "
    SELECT id, at, role, session, process, action, arguments, result FROM @audit
    WHERE id < $1 ORDER BY id DESC LIMIT $2";

#[async_trait]
impl Step for AuditEntry {
    type Output = ();

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        let (at, action) = (to_ms(self.at), self.action.as_str());
        let (role, session, process) = (text(&self.role), text(&self.session), text(&self.process));
        let (arguments, result) = (text(&self.arguments), text(&self.result));
        let params = params![at, role, session, process, action, arguments, result];
        transaction.execute(RECORD, params).await?;
        Ok(())
    }
}

#[async_trait]
impl Audit for PostgresStore {
    async fn audit(&self, entry: &AuditEntry) -> Result<(), Unavailable> {
        Ok(self.write(entry.clone()).await?)
    }

    async fn audit_list(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, Unavailable> {
        let connection = self.lookups.get().await?;
        let (before, limit) = (before.unwrap_or(i64::MAX), i64::from(limit));
        let mut found = Vec::new();
        for row in connection.query(LIST, params![before, limit]).await? {
            let action: String = get(&row, 5)?;
            let entry = AuditEntry {
                at: from_ms(get(&row, 1)?),
                role: get(&row, 2)?,
                session: get(&row, 3)?,
                process: get(&row, 4)?,
                action: AuditAction::parse(&action).unwrap_or(AuditAction::Unknown),
                arguments: get(&row, 6)?,
                result: get(&row, 7)?,
            };
            found.push(AuditRecord { id: get(&row, 0)?, entry });
        }
        connection.give_back();
        Ok(found)
    }
}
