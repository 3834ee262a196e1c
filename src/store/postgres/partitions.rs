//! Partitions: each table that grows with the history has one for each day of its numbers.

use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::date;
use tokio_postgres::Row;

use super::Fault;
use super::accept::TRIES_MAX;
use super::connection::Connection;
use super::numbers::first_of_day;
use super::params::{Array, params};
use super::rows::get;

/// The partitioned tables.
pub(super) const TABLES: [&str; 6] =
    ["messages", "payloads", "outcomes", "deliveries", "requests", "attempts"];

/// How many days have partitions before they begin, beside today.
pub(super) const DAYS_AHEAD: i32 = 2;

/// Lets one process at a time change partitions.
const LOCK: &str = "SELECT FROM @meta FOR UPDATE";
/// $1 days.
const MISSING: &str = "
    SELECT s.day FROM unnest($1) s (day)
    WHERE NOT EXISTS (SELECT FROM @days d WHERE d.day = s.day AND d.has_payloads AND d.has_records)";
/// $1 day. It may have lost some of its partitions, if the clock was set back since.
const MADE: &str = "
    INSERT INTO @days (day) VALUES ($1)
    ON CONFLICT (day) DO UPDATE SET has_payloads = true, has_records = true, stripped_through = 0";

/// Oldest first.
const DAYS: &str = "
    SELECT day, has_payloads, has_records, stripped_through, slack_ms FROM @days ORDER BY day";
/// $1 the qualified name of a partition. Whether it exists, and whether it is being detached; NULL: it is detached.
const ATTACHED: &str = "
    SELECT to_regclass($1) IS NOT NULL,
           (SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1))";

/// How many days one statement reads at most. The server holds a lock for each partition and for each of its indices
/// that it looks at, and has room for some thousand of them.
pub(super) const DAYS_AT_ONCE: usize = 16;

/// How long a partition may take to be detached: that waits for all who began to read its table before.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A day that has partitions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Day {
    pub(super) day: i32,
    pub(super) has_payloads: bool,
    /// Whether it has messages, outcomes and deliveries.
    pub(super) has_records: bool,
    /// The last message of which everything but the payload was removed with the contents of the day.
    pub(super) stripped_through: i64,
    /// How far the times of its messages are from those of their numbers at most.
    pub(super) slack_ms: i64,
}

impl Day {
    /// Its first number.
    pub(super) fn first(&self) -> i64 {
        first_of_day(self.day)
    }

    /// The first number behind it.
    pub(super) fn end(&self) -> i64 {
        first_of_day(self.day + 1)
    }

    /// Whether all its numbers were given so long before a time that a retention is over.
    pub(super) fn is_before(&self, ms: i64) -> bool {
        (i64::from(self.day) + 1) * 86_400_000 <= ms
    }
}

/// The days that have partitions, oldest first.
pub(super) async fn days(connection: &Connection) -> Result<Vec<Day>, Fault> {
    let day = |row: &Row| {
        Ok(Day {
            day: get(row, 0)?,
            has_payloads: get(row, 1)?,
            has_records: get(row, 2)?,
            stripped_through: get(row, 3)?,
            slack_ms: get(row, 4)?,
        })
    };
    connection.query(DAYS, params![]).await?.iter().map(day).collect()
}

/// The parts of a list of days, oldest first, that one statement may read: the first number and the one behind the last.
pub(super) fn parts(days: &[Day]) -> impl Iterator<Item = (i64, i64)> {
    days.chunks(DAYS_AT_ONCE).filter_map(|days| Some((days.first()?.first(), days.last()?.end())))
}

/// Removes a table's partition, if it is there. May be called again after it was given up in the middle.
///
/// No one waits for it: a partition is detached without a lock that keeps others from the table, and then nobody reads
/// it.
pub(super) async fn remove(connection: &Connection, table: &str, day: i32) -> Result<(), Fault> {
    let removed = tokio::time::timeout(REMOVE_TIMEOUT, async {
        let mut tries = 0;
        loop {
            tries += 1;
            match try_to_remove(connection, table, day).await {
                // A connection that was given up may still be at it.
                Err(fault) if fault.is_answer() && tries < TRIES_MAX => {}
                removed => return removed,
            }
        }
    });
    removed.await.unwrap_or(Err(Fault::Slow))
}

async fn try_to_remove(connection: &Connection, table: &str, day: i32) -> Result<(), Fault> {
    let partition = connection.schema().sql(&format!("@{}", name(table, day)));
    let row = connection.query_one(ATTACHED, params![partition]).await?;
    if !get::<bool>(&row, 0)? {
        return Ok(());
    }
    if let Some(is_pending) = get::<Option<bool>>(&row, 1)? {
        let how = if is_pending { "FINALIZE" } else { "CONCURRENTLY" };
        let detach = format!("ALTER TABLE @{table} DETACH PARTITION {partition} {how}");
        connection.batch(&detach).await?;
    }
    connection.batch(&format!("DROP TABLE IF EXISTS {partition}")).await
}

/// The name of a table's partition.
pub(super) fn name(table: &str, day: i32) -> String {
    let day = date(1970, 1, 1).saturating_add(day.days());
    format!("{table}_{}", day.strftime("%Y%m%d"))
}

/// Makes the partitions of these days that are missing, in a transaction of its own.
pub(super) async fn make(connection: &Connection, days: Vec<i32>) -> Result<(), Fault> {
    let days = Array(days);
    if connection.query(MISSING, params![days]).await?.is_empty() {
        return Ok(());
    }
    connection.begin().await?;
    let made = make_locked(connection, &days).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.batch(end).await?;
    made
}

async fn make_locked(connection: &Connection, days: &Array<i32>) -> Result<(), Fault> {
    connection.query(LOCK, params![]).await?;
    for row in connection.query(MISSING, params![*days]).await? {
        let day: i32 = get(&row, 0)?;
        let (first, end) = (first_of_day(day), first_of_day(day + 1));
        for table in TABLES {
            let name = name(table, day);
            let partition = connection.schema().sql(&format!("@{name}"));
            let there = connection.query_one(ATTACHED, params![partition]).await?;
            if get(&there, 0)? {
                continue;
            }
            // Attached, since a partition that is created in its place locks the table against readers.
            let text = format!(
                "CREATE TABLE @{name} (LIKE @{table} INCLUDING ALL);
                 ALTER TABLE @{table} ATTACH PARTITION @{name} FOR VALUES FROM ({first}) TO ({end})"
            );
            connection.batch(&text).await?;
        }
        connection.execute(MADE, params![day]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day() {
        assert_eq!(name("messages", 19_675), "messages_20231114");
    }
}
