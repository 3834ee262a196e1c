//! Whether a move to the database allows a process to use it.

use super::connection::Connection;
use super::error::{Fault, OpenError};
use super::params::params;
use super::rows::{from_ms, get, to_ms};
use crate::clock::{Clock as _, SystemClock};

/// $1 now. Returns a row if a process may open the schema. The first process records that it did.
const ADMIT: &str = "
    UPDATE @moves SET opened_at = COALESCE(opened_at, $1) WHERE finished_at IS NOT NULL RETURNING id";
const BEGAN: &str = "SELECT began_at, finished_at IS NOT NULL FROM @moves";

/// A move to the schema.
struct Move {
    began_at: i64,
    is_finished: bool,
}

/// Fails while a queue is being moved to the schema. Changes nothing.
pub(super) async fn may_admit(
    connection: &Connection,
    address: &str,
    schema: &str,
) -> Result<(), OpenError> {
    match find(connection, address).await? {
        Some(Move { began_at, is_finished: false }) => Err(being_moved(address, schema, began_at)),
        _ => Ok(()),
    }
}

/// Fails while a queue is being moved to the schema. Once a process has been admitted, the move can no longer be
/// undone.
pub(super) async fn admit(
    connection: &Connection,
    address: &str,
    schema: &str,
) -> Result<(), OpenError> {
    let Some(Move { began_at, .. }) = find(connection, address).await? else { return Ok(()) };
    let now = to_ms(SystemClock.now());
    let admitted = connection.query_opt(ADMIT, params![now]).await;
    match admitted.map_err(|fault| failed(address, fault))? {
        Some(_) => Ok(()),
        None => Err(being_moved(address, schema, began_at)),
    }
}

/// Returns the move to the schema, if there is one.
async fn find(connection: &Connection, address: &str) -> Result<Option<Move>, OpenError> {
    let read = async {
        let Some(row) = connection.query_opt(BEGAN, params![]).await? else { return Ok(None) };
        Ok(Some(Move { began_at: get(&row, 0)?, is_finished: get(&row, 1)? }))
    };
    read.await.map_err(|fault| failed(address, fault))
}

fn failed(address: &str, fault: Fault) -> OpenError {
    OpenError::Open { address: address.to_owned(), source: fault.into() }
}

fn being_moved(address: &str, schema: &str, began_at: i64) -> OpenError {
    OpenError::BeingMoved {
        address: address.to_owned(),
        schema: schema.to_owned(),
        since: format!("{:.0}", from_ms(began_at)),
    }
}
