//! Reads the frozen requests of a message.

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};
use super::rows::{self, get};
use crate::queue::{FrozenRequest, Seq};

/// $1 seq. The requests that carry its pending deliveries, in the order of the deliveries.
const OPEN_DELIVERIES: &str = "
    SELECT request_id FROM @deliveries
    WHERE seq = $1 AND state = 'pending' AND request_id IS NOT NULL ORDER BY replay, position";
/// $1 ids.
const REQUESTS: &str = "
    SELECT id, path, body, idempotency_key, attempts, first_attempt_at, next_attempt_at, is_merged, expires_at
    FROM @requests WHERE id = ANY($1) AND state = 'pending'";

/// Returns the pending requests of a message, in the order of its deliveries.
pub(super) async fn frozen(connection: &Connection, seq: Seq) -> Result<Vec<FrozenRequest>, Fault> {
    let mut ids: Vec<i64> = Vec::new();
    for row in connection.query(OPEN_DELIVERIES, params![seq.0]).await? {
        let id = get(&row, 0)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = Array(ids);
    let found = connection.query(REQUESTS, params![ids]).await?;
    let mut requests: Vec<FrozenRequest> =
        found.iter().map(rows::frozen_request).collect::<Result<_, _>>()?;
    requests.sort_by_key(|request| ids.0.iter().position(|id| *id == request.id.0));
    Ok(requests)
}
