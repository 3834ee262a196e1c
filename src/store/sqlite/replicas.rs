//! The processes that share the database, and the leases they hold.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{duration_ms, from_ms, to_ms};
use crate::queue::{
    CheckIn, LeaseHolder, LeaseState, ProcessStatus, REPLICAS_KEPT, Replica, Replicas,
};

/// ?1 name, ?2 host, ?3 version, ?4 started at, ?5 now, ?6 status.
pub(super) const CHECK_IN: &str = "
    INSERT INTO replicas (name, host, version, started_at, last_seen_at, status)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (name) DO UPDATE SET last_seen_at = excluded.last_seen_at, status = excluded.status";
/// ?1 last seen before. There are few.
pub(super) const FORGET: &str = "DELETE FROM replicas WHERE last_seen_at < ?1";
/// ?1 name.
pub(super) const CHECK_OUT: &str = "DELETE FROM replicas WHERE name = ?1";
pub(super) const REPLICAS: &str = "
    SELECT name, host, version, started_at, last_seen_at, status FROM replicas ORDER BY started_at, name";
pub(super) const LEASES: &str = "
    SELECT destination, token, holder, taken_at, expires_at FROM leases ORDER BY destination";

impl Step for CheckIn {
    type Output = ();

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        let now = to_ms(self.now);
        let started_at = now.saturating_sub(duration_ms(self.uptime));
        let mut check_in = transaction.prepare_cached(CHECK_IN)?;
        let status = self.status.to_json();
        check_in.execute(params![self.name, self.host, self.version, started_at, now, status])?;
        let before = now.saturating_sub(duration_ms(REPLICAS_KEPT));
        transaction.prepare_cached(FORGET)?.execute([before])?;
        Ok(())
    }
}

/// Removes a process, by its name.
pub(super) struct CheckOut(pub(super) String);

impl Step for CheckOut {
    type Output = ();

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        transaction.prepare_cached(CHECK_OUT)?.execute([&self.0])?;
        Ok(())
    }
}

pub(super) fn replicas(snapshot: &Connection, now: Timestamp) -> Result<Replicas, Fault> {
    let mut found = Replicas { now, replicas: Vec::new(), leases: Vec::new() };
    let mut statement = snapshot.prepare_cached(REPLICAS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found.replicas.push(Replica {
            name: row.get(0)?,
            host: row.get(1)?,
            version: row.get(2)?,
            started_at: from_ms(row.get(3)?),
            last_seen_at: from_ms(row.get(4)?),
            status: ProcessStatus::from_json(&row.get::<_, String>(5)?),
        });
    }
    let mut statement = snapshot.prepare_cached(LEASES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let holder: String = row.get(2)?;
        let (since, until) = (from_ms(row.get(3)?), from_ms(row.get(4)?));
        let holder = (!holder.is_empty()).then_some(LeaseHolder { holder, since, until });
        found.leases.push(LeaseState { destination: row.get(0)?, token: row.get(1)?, holder });
    }
    Ok(found)
}
