//! Removes what was kept long enough: first the contents, later the records.

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::SqliteOptions;
use crate::store::to_ms;

/// The most messages that one transaction touches, so that others need not wait long.
const ROWS_MAX: i64 = 500;

/// What is older than these moments goes; in milliseconds.
#[derive(Debug)]
pub(super) struct Times {
    delivered: i64,
    failed: i64,
    records: i64,
}

impl Times {
    pub(super) fn new(now: Timestamp, options: &SqliteOptions) -> Self {
        let before = |age: std::time::Duration| {
            to_ms(now).saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
        };
        Self {
            delivered: before(options.delivered_retention),
            failed: before(options.failed_retention),
            records: before(options.records_retention),
        }
    }
}

/// Removes a bounded number; answers how many messages it touched.
pub(super) async fn purge(
    connection: &mut SqliteConnection,
    times: &Times,
) -> Result<u64, sqlx::Error> {
    let mut touched = 0;
    for (has_failed, before) in [(0, times.delivered), (1, times.failed)] {
        touched += drop_contents(connection, has_failed, before).await?;
    }
    touched += drop_records(connection, times.records).await?;
    Ok(touched)
}

async fn drop_contents(
    connection: &mut SqliteConnection,
    has_failed: i64,
    before: i64,
) -> Result<u64, sqlx::Error> {
    // Answers of Loops may hold what the request held.
    for sql in [
        "UPDATE attempts SET excerpt = '' WHERE request_id IN (SELECT d.request_id FROM deliveries d WHERE d.seq IN
            (SELECT seq FROM messages WHERE state = 1 AND payload IS NOT NULL AND has_failed = ?1 AND done_at < ?2 ORDER BY done_at LIMIT ?3))",
        "UPDATE requests SET body = NULL WHERE id IN (SELECT d.request_id FROM deliveries d WHERE d.seq IN
            (SELECT seq FROM messages WHERE state = 1 AND payload IS NOT NULL AND has_failed = ?1 AND done_at < ?2 ORDER BY done_at LIMIT ?3))",
        "UPDATE deliveries SET detail = NULL WHERE seq IN
            (SELECT seq FROM messages WHERE state = 1 AND payload IS NOT NULL AND has_failed = ?1 AND done_at < ?2 ORDER BY done_at LIMIT ?3)",
    ] {
        sqlx::query(sql)
            .bind(has_failed)
            .bind(before)
            .bind(ROWS_MAX)
            .execute(&mut *connection)
            .await?;
    }
    let done = sqlx::query(
        "UPDATE messages SET payload = NULL WHERE seq IN
            (SELECT seq FROM messages WHERE state = 1 AND payload IS NOT NULL AND has_failed = ?1 AND done_at < ?2 ORDER BY done_at LIMIT ?3)",
    )
    .bind(has_failed)
    .bind(before)
    .bind(ROWS_MAX)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn drop_records(connection: &mut SqliteConnection, before: i64) -> Result<u64, sqlx::Error> {
    // The oldest come first in the table; one that is still pending stays, and so do all behind it
    // until the next call, which keeps this a walk over the first rows alone.
    for sql in [
        "DELETE FROM attempts WHERE request_id IN (SELECT d.request_id FROM deliveries d WHERE d.seq IN
            (SELECT seq FROM (SELECT seq, state, received_at FROM messages ORDER BY seq LIMIT ?2) WHERE state = 1 AND received_at < ?1))",
        "DELETE FROM requests WHERE id IN (SELECT d.request_id FROM deliveries d WHERE d.seq IN
            (SELECT seq FROM (SELECT seq, state, received_at FROM messages ORDER BY seq LIMIT ?2) WHERE state = 1 AND received_at < ?1))",
        "DELETE FROM deliveries WHERE seq IN
            (SELECT seq FROM (SELECT seq, state, received_at FROM messages ORDER BY seq LIMIT ?2) WHERE state = 1 AND received_at < ?1)",
    ] {
        sqlx::query(sql).bind(before).bind(ROWS_MAX).execute(&mut *connection).await?;
    }
    let done = sqlx::query(
        "DELETE FROM messages WHERE seq IN
            (SELECT seq FROM (SELECT seq, state, received_at FROM messages ORDER BY seq LIMIT ?2) WHERE state = 1 AND received_at < ?1)",
    )
    .bind(before)
    .bind(ROWS_MAX)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
