//! Partitions: each table that grows with the history has one partition for each day of its numbers.

use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::ToSpan as _;
use jiff::civil::date;
use tokio_postgres::Row;

use super::connection::Connection;
use super::error::Fault;
use super::numbers::{self, first_of_day};
use super::params::{Array, params};
use super::rows::get;
use super::statement::Statement;
use super::transaction::TRIES_MAX;

/// The partitioned tables.
pub(super) const TABLES: [&str; 6] =
    ["messages", "payloads", "outcomes", "deliveries", "requests", "attempts"];

/// How many coming days have partitions, besides today.
pub(super) const DAYS_AHEAD: i32 = 2;

/// Ensures that only one process at a time makes or drops partitions.
const LOCK: &str = "SELECT FROM @meta FOR UPDATE";
/// Another reader, such as a dump, may keep a partition locked for hours.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = 5000";
/// $1 days, $2 the qualified names of their partitions.
const MISSING: &str = "
    SELECT DISTINCT u.day FROM unnest($1, $2) u (day, partition)
    WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(u.partition) AND NOT inhdetachpending)
       OR NOT EXISTS (SELECT FROM @days d WHERE d.day = u.day AND d.has_payloads AND d.has_records)";
/// $1 day. The day may be listed already, without some of its partitions, if the clock was set back.
const MADE: &str = "
    INSERT INTO @days (day) VALUES ($1)
    ON CONFLICT (day) DO UPDATE
    SET has_payloads = true, has_records = true, kept_through = 0, stripped_through = 0";

/// Oldest first.
const DAYS: &str = "
    SELECT day, has_payloads, has_records, kept_through, stripped_through, slack_ms
    FROM @days ORDER BY day";
/// $1 the qualified name of a partition. Returns whether it exists, and whether it is being detached, or NULL if it is
/// detached.
const ATTACHED: &str = "
    SELECT to_regclass($1) IS NOT NULL,
           (SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1))";

/// $1 the qualified name of a table. Returns the qualified names of its partitions whose detaching was interrupted.
const HALF_DETACHED: &str = "
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhparent = to_regclass($1) AND i.inhdetachpending";

/// How many days one statement reads at most. The server holds a lock for each partition and each index that it reads,
/// and has room for only a few thousand.
pub(super) const DAYS_AT_ONCE: usize = 16;

/// A statement about more messages than this runs once for each of their days. Lower for tests, whose statements are
/// about few.
const AT_ONCE_MAX: usize = if cfg!(test) { 2 } else { 200 };

/// How long detaching a partition may take: it waits for everyone who began to read the table earlier.
pub(super) const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A day that has partitions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Day {
    pub(super) day: i32,
    pub(super) has_payloads: bool,
    /// Whether it has messages, outcomes and deliveries.
    pub(super) has_records: bool,
    /// Up to this number, payloads that outlive the day have been copied to `payloads_kept`.
    pub(super) kept_through: i64,
    /// The last message whose contents, except the payload, have been removed together with the day's.
    pub(super) stripped_through: i64,
    /// The largest difference between the time of one of its messages and the time of the message's number.
    pub(super) slack_ms: i64,
}

impl Day {
    /// Returns its first number.
    pub(super) fn first(&self) -> i64 {
        first_of_day(self.day)
    }

    /// Returns the first number after it.
    pub(super) fn end(&self) -> i64 {
        first_of_day(self.day + 1)
    }

    /// Whether the day ended at or before a time, so that all its numbers were given before it.
    pub(super) fn is_before(&self, ms: i64) -> bool {
        (i64::from(self.day) + 1) * 86_400_000 <= ms
    }
}

/// Returns the days that have partitions, oldest first.
pub(super) async fn days(connection: &Connection) -> Result<Vec<Day>, Fault> {
    let day = |row: &Row| {
        Ok(Day {
            day: get(row, 0)?,
            has_payloads: get(row, 1)?,
            has_records: get(row, 2)?,
            kept_through: get(row, 3)?,
            stripped_through: get(row, 4)?,
            slack_ms: get(row, 5)?,
        })
    };
    connection.query(DAYS, params![]).await?.iter().map(day).collect()
}

/// Splits a list of days, oldest first, into the ranges that one statement may read: the first number, and the one
/// after the last.
pub(super) fn parts(days: &[Day]) -> impl Iterator<Item = (i64, i64)> {
    days.chunks(DAYS_AT_ONCE).filter_map(|days| Some((days.first()?.first(), days.last()?.end())))
}

/// Returns the rows of a statement about messages. Their numbers must be sorted, in either direction; `statement`
/// builds the statement for some of them.
///
/// A statement with a list of many messages looks for each of them in every partition that may have one of them, and
/// planning takes as long again. So the statement runs once for each day, and all runs are sent before the first
/// response.
pub(super) async fn query_by_day(
    connection: &Connection,
    seqs: &[i64],
    statement: impl Fn(&[i64]) -> Statement,
) -> Result<Vec<Row>, Fault> {
    let parts: Vec<&[i64]> = match seqs.len() <= AT_ONCE_MAX {
        true => vec![seqs],
        false => seqs.chunk_by(|a, b| numbers::day(*a) == numbers::day(*b)).collect(),
    };
    let statements: Vec<Statement> = parts.into_iter().map(statement).collect();
    let answers = statements.iter().map(async |statement: &Statement| {
        connection.query(&statement.text, &statement.params()).await
    });
    Ok(try_join_all(answers).await?.into_iter().flatten().collect())
}

/// Removes a table's partition, if it exists. May be called again after an interruption.
///
/// No other process waits: the partition is detached without a lock that blocks the table, and after that nobody reads
/// it.
pub(super) async fn remove(connection: &Connection, table: &str, day: i32) -> Result<(), Fault> {
    let removed = tokio::time::timeout(REMOVE_TIMEOUT, async {
        let mut tries = 0;
        loop {
            tries += 1;
            match try_to_remove(connection, table, day).await {
                // A given-up connection may still be working on it.
                Err(fault) if fault.is_answer() && tries < TRIES_MAX => {}
                removed => return removed,
            }
        }
    });
    removed.await.unwrap_or(Err(Fault::Slow))
}

async fn try_to_remove(connection: &Connection, table: &str, day: i32) -> Result<(), Fault> {
    let parent = connection.schema().sql(&format!("@{table}"));
    // An interrupted detaching blocks every other one, so finish it. Its rows were to be removed anyway.
    for row in connection.query(HALF_DETACHED, params![parent]).await? {
        let partition: String = get(&row, 0)?;
        locked(connection, async {
            finish_detaching(connection, table, &partition).await?;
            drop_detached(connection, &partition).await
        })
        .await?;
    }
    let partition = connection.schema().sql(&format!("@{}", name(table, day)));
    if state(connection, &partition).await? == State::Attached {
        let detach = format!("ALTER TABLE @{table} DETACH PARTITION {partition} CONCURRENTLY");
        connection.batch(&detach).await?;
    }
    // Unless the partition has been created again in the meantime.
    locked(connection, async {
        match state(connection, &partition).await? {
            State::Detached => drop_detached(connection, &partition).await,
            _ => Ok(()),
        }
    })
    .await
}

/// The state of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    /// Detached, but not dropped, because the process that removed it died.
    Detached,
    /// The detaching was interrupted.
    HalfDetached,
    Attached,
}

/// $1 the qualified name of a partition.
async fn state(connection: &Connection, partition: &str) -> Result<State, Fault> {
    let row = connection.query_one(ATTACHED, params![partition]).await?;
    Ok(match (get(&row, 0)?, get(&row, 1)?) {
        (false, _) => State::None,
        (true, None) => State::Detached,
        (true, Some(true)) => State::HalfDetached,
        (true, Some(false)) => State::Attached,
    })
}

async fn finish_detaching(
    connection: &Connection,
    table: &str,
    partition: &str,
) -> Result<(), Fault> {
    connection.batch(&format!("ALTER TABLE @{table} DETACH PARTITION {partition} FINALIZE")).await
}

async fn drop_detached(connection: &Connection, partition: &str) -> Result<(), Fault> {
    connection.batch(&format!("DROP TABLE {partition}")).await
}

/// Makes or drops partitions in a separate transaction, while no other process does.
async fn locked(
    connection: &Connection,
    change: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    connection.begin().await?;
    let changed = async {
        connection.batch(LOCK_TIMEOUT).await?;
        connection.query(LOCK, params![]).await?;
        change.await
    };
    let changed = changed.await;
    let end = if changed.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.batch(end).await?;
    changed
}

/// Returns the name of a table's partition.
pub(super) fn name(table: &str, day: i32) -> String {
    let day = date(1970, 1, 1).saturating_add(day.days());
    format!("{table}_{}", day.strftime("%Y%m%d"))
}

/// Makes the missing partitions of these days, in a separate transaction.
pub(super) async fn make(connection: &Connection, days: Vec<i32>) -> Result<(), Fault> {
    if missing(connection, &days).await?.is_empty() {
        return Ok(());
    }
    locked(connection, make_locked(connection, &days)).await
}

/// Returns the days that lack partitions.
async fn missing(connection: &Connection, days: &[i32]) -> Result<Vec<i32>, Fault> {
    let of_days = days.iter().flat_map(|day| TABLES.map(|table| (*day, name(table, *day))));
    let (days, partitions): (Vec<i32>, Vec<String>) =
        of_days.map(|(day, name)| (day, connection.schema().sql(&format!("@{name}")))).unzip();
    let (days, partitions) = (Array(days), Array(partitions));
    let missing = connection.query(MISSING, params![days, partitions]).await?;
    missing.iter().map(|row| get(row, 0)).collect()
}

async fn make_locked(connection: &Connection, days: &[i32]) -> Result<(), Fault> {
    for day in missing(connection, days).await? {
        let (first, end) = (first_of_day(day), first_of_day(day + 1));
        for table in TABLES {
            let name = name(table, day);
            let partition = connection.schema().sql(&format!("@{name}"));
            let state = state(connection, &partition).await?;
            if state == State::Attached {
                continue;
            }
            // The remains of a partition that was past its retention before the clock was set back.
            if state == State::HalfDetached {
                finish_detaching(connection, table, &partition).await?;
            }
            if state != State::None {
                drop_detached(connection, &partition).await?;
            }
            // Created separately and then attached: creating it as a partition would lock the table against readers.
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
