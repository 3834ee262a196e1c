//! Contacts that Loops has now: nothing waits for them any more.

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};

/// $1 destination, $2 key. The contact exists now.
const ARRIVED: &str = "DELETE FROM @creating WHERE destination = $1 AND contact = $2";
/// $1 destination, $2 digests. Loops has this contact now.
const DUE: &str = "
    UPDATE @held SET is_due = true
    WHERE destination = $1 AND (contact = ANY($2) OR email = ANY($2)) AND NOT is_due";

/// Records that Loops has a contact now.
pub(super) async fn arrived(
    transaction: &Connection,
    destination: &str,
    key: i64,
    email: Option<i64>,
) -> Result<(), Fault> {
    transaction.execute(ARRIVED, params![destination, key]).await?;
    let digests: Array<i64> = [Some(key), email].into_iter().flatten().collect();
    transaction.execute(DUE, params![destination, digests]).await?;
    Ok(())
}
