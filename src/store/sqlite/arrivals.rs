//! Contacts that Loops has now: nothing waits for them any more.

use rusqlite::{Connection, params};

use super::error::Fault;

/// ?1 destination, ?2 key. The contact exists now.
pub(super) const ARRIVED: &str = "DELETE FROM creating WHERE destination = ?1 AND contact = ?2";
/// ?1 destination, ?2 key, ?3 email. Loops has this contact now.
pub(super) const DUE: &str = "
    UPDATE held SET is_due = 1 WHERE seq IN (
        SELECT seq FROM held WHERE contact IN (?2, ?3) AND destination = ?1
        UNION ALL
        SELECT seq FROM held WHERE email IN (?2, ?3) AND destination = ?1)";

/// Records that Loops has a contact now.
pub(super) fn arrived(
    transaction: &Connection,
    destination: &str,
    key: i64,
    email: Option<i64>,
) -> Result<(), Fault> {
    transaction.prepare_cached(ARRIVED)?.execute(params![destination, key])?;
    transaction.prepare_cached(DUE)?.execute(params![destination, key, email])?;
    Ok(())
}
