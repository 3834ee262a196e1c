//! The processes that share the database, and the leases they hold.

use async_trait::async_trait;
use jiff::Timestamp;

use super::connection::Connection;
use super::error::Fault;
use super::lease::now;
use super::options::Time;
use super::params::params;
use super::purge::CHORES;
use super::rows::{duration_ms, from_ms, get, to_ms};
use super::steps::{Effects, Step};
use crate::queue::{
    CheckIn, LeaseHolder, LeaseState, ProcessStatus, REPLICAS_KEPT, Replica, Replicas,
};

/// $1 name, $2 host, $3 version, $4 uptime, $5 now or NULL: the time of the database, $6 status.
const CHECK_IN: &str = concat!(
    "
    INSERT INTO @replicas AS r (name, host, version, started_at, last_seen_at, status)
    SELECT $1, $2, $3, t.now - $4, t.now, $6 FROM (SELECT ",
    now!("$5"),
    ") t (now)
    ON CONFLICT (name) DO UPDATE SET last_seen_at = excluded.last_seen_at, status = excluded.status"
);
/// $1 how long they are kept, $2 now or NULL. Rows that another process is removing are left to it.
const FORGET: &str = concat!(
    "
    DELETE FROM @replicas WHERE name IN (
        SELECT name FROM @replicas WHERE last_seen_at < ",
    now!("$2"),
    " - $1 FOR UPDATE SKIP LOCKED)"
);
/// $1 name.
const CHECK_OUT: &str = "DELETE FROM @replicas WHERE name = $1";
const REPLICAS: &str = "
    SELECT name, host, version, started_at, last_seen_at, status FROM @replicas ORDER BY started_at, name";
/// $1 the name of the chores' lease, which is not a destination.
const LEASES: &str = "
    SELECT destination, token, holder, taken_at, expires_at FROM @leases WHERE destination <> $1
    ORDER BY destination COLLATE \"C\"";
/// $1 now or NULL.
const NOW: &str = concat!("SELECT ", now!("$1"));

#[async_trait]
impl Step for CheckIn {
    type Output = ();

    async fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        let now = (effects.time == Time::OfCallers).then(|| to_ms(self.now));
        let uptime = duration_ms(self.uptime);
        let status = self.status.to_json();
        let params = params![self.name, self.host, self.version, uptime, now, status];
        transaction.execute(CHECK_IN, params).await?;
        let kept = duration_ms(REPLICAS_KEPT);
        transaction.execute(FORGET, params![kept, now]).await?;
        Ok(())
    }
}

/// Removes a process, by its name.
pub(super) struct CheckOut(pub(super) String);

#[async_trait]
impl Step for CheckOut {
    type Output = ();

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        transaction.execute(CHECK_OUT, params![self.0]).await?;
        Ok(())
    }
}

/// Returns the processes and their leases. `now` is the time, unless the database's clock is used.
pub(super) async fn replicas(
    snapshot: &Connection,
    now: Option<Timestamp>,
) -> Result<Replicas, Fault> {
    let now = now.map(to_ms);
    let now = from_ms(get(&snapshot.query_one(NOW, params![now]).await?, 0)?);
    let mut found = Replicas { now, replicas: Vec::new(), leases: Vec::new() };
    for row in snapshot.query(REPLICAS, params![]).await? {
        found.replicas.push(Replica {
            name: get(&row, 0)?,
            host: get(&row, 1)?,
            version: get(&row, 2)?,
            started_at: from_ms(get(&row, 3)?),
            last_seen_at: from_ms(get(&row, 4)?),
            status: ProcessStatus::from_json(get(&row, 5)?),
        });
    }
    for row in snapshot.query(LEASES, params![CHORES]).await? {
        let holder: String = get(&row, 2)?;
        let (since, until) = (from_ms(get(&row, 3)?), from_ms(get(&row, 4)?));
        let holder = (!holder.is_empty()).then_some(LeaseHolder { holder, since, until });
        found.leases.push(LeaseState { destination: get(&row, 0)?, token: get(&row, 1)?, holder });
    }
    Ok(found)
}
