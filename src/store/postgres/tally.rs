//! Writes tallies in the transaction that makes them true.

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};
use crate::store::tally::{Counted, Tallies};

/// $1 steps, $2 beginnings of the intervals, $3 stages, $4 destinations, $5 sources, $6 subscriptions, $7 reasons, $8
/// counts. All transactions use the same order, so that they cannot deadlock.
const ADD: &str = "
    INSERT INTO @tallies AS t (step, at, stage, destination, source, subscription, reason, count)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (step, at, stage, destination, source, subscription, reason)
    DO UPDATE SET count = t.count + excluded.count";

/// Adds to the tallies. From here to the commit, other transactions that add to the same tallies wait.
pub(super) async fn write(connection: &Connection, tallies: Tallies) -> Result<(), Fault> {
    let rows = tallies.into_rows();
    if rows.is_empty() {
        return Ok(());
    }
    let step: Array<i32> =
        rows.iter().map(|row| i32::try_from(row.step).unwrap_or(i32::MAX)).collect();
    let at: Array<i64> = rows.iter().map(|row| row.at).collect();
    let text = |of: fn(&Counted) -> &str| -> Array<&str> {
        rows.iter().map(|row| of(&row.counted)).collect()
    };
    let stage = text(|counted| counted.stage.as_str());
    let destination = text(|counted| &counted.destination);
    let source = text(|counted| &counted.source);
    let subscription = text(|counted| &counted.subscription);
    let reason = text(|counted| &counted.reason);
    let count: Array<i64> = rows.iter().map(|row| row.count).collect();
    let params = params![step, at, stage, destination, source, subscription, reason, count];
    connection.execute(ADD, params).await?;
    Ok(())
}
