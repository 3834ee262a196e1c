//! Writes tallies in the transaction that makes them true.

use rusqlite::{Connection, params};

use super::error::Fault;
use crate::store::tally::{Counted, Tallies, TallyRow};

/// ?1 step, ?2 beginning of the interval, ?3 stage, ?4 destination, ?5 source, ?6 subscription, ?7 reason,
/// ?8 count.
pub(super) const ADD: &str = "
    INSERT INTO tallies (step, at, stage, destination, source, subscription, reason, count)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT DO UPDATE SET count = count + excluded.count";

pub(super) fn write(tallies: Tallies, transaction: &Connection) -> Result<(), Fault> {
    let rows = tallies.into_rows();
    if rows.is_empty() {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(ADD)?;
    for TallyRow { step, at, counted, count } in rows {
        let Counted { stage, destination, source, subscription, reason } = counted;
        let stage = stage.as_str();
        statement.execute(params![
            step,
            at,
            stage,
            destination,
            source,
            subscription,
            reason,
            count
        ])?;
    }
    Ok(())
}
