//! Contacts that Loops may mix up, because they share a user id or an address.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::Connection;
use super::error::Fault;
use super::params::params;
use super::rows::{from_ms, get, to_day};
use crate::queue::{ConflictKind, IdentityConflict, RequestId};
use crate::segment::PersonDigest;
use crate::store::contacts::{CONFLICTS_READ_MAX, DAY_MS, newest_of_each};

/// $1 day, $2 destination, $3 kind, $4 digest of the userId, $5 request.
pub(super) const ANOTHER_ADDRESS: &str = "
    INSERT INTO @conflicts AS c (day, destination, kind, person, count, request_id) VALUES ($1, $2, $3, $4, 2, $5)
    ON CONFLICT (day, destination, kind, person) DO UPDATE SET count = c.count + 1, request_id = $5";
/// $1 day, $2 destination, $3 kind, $4 digest of the address, $5 request, $6 how many userIds to count at most. Adds no
/// row if only one userId has the address.
pub(super) const SEVERAL_USERS: &str = "
    INSERT INTO @conflicts AS c (day, destination, kind, person, count, request_id)
    SELECT $1, $2, $3, $4, COUNT(*), $5
    FROM (SELECT FROM @contacts WHERE email = $4 AND destination = $2 LIMIT $6) c HAVING COUNT(*) > 1
    ON CONFLICT (day, destination, kind, person) DO UPDATE SET count = excluded.count, request_id = $5";
/// $1 first day, $2 limit.
pub(super) const LATEST: &str = "
    SELECT destination, kind, person, day, count, request_id FROM @conflicts
    WHERE day >= $1 AND (kind = 'user_ids' OR count > 2) ORDER BY day DESC LIMIT $2";
/// $1 destination, $2 lane.
pub(super) const OF_PERSON: &str = "
    DELETE FROM @conflicts WHERE destination = $1 AND person IN (
        SELECT $2
        UNION ALL
        SELECT contact FROM @contacts WHERE email = $2 AND destination = $1
        UNION ALL
        SELECT email FROM @contacts WHERE destination = $1 AND contact = $2 AND email IS NOT NULL)";
/// $1 before this day, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @conflicts WHERE (day, destination, kind, person) IN (
        SELECT day, destination, kind, person FROM @conflicts WHERE day < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Returns the latest conflicts since a time, newest first.
pub(super) async fn latest(
    connection: &Connection,
    since: Timestamp,
) -> Result<Vec<IdentityConflict>, Fault> {
    let found = connection.query(LATEST, params![to_day(since), CONFLICTS_READ_MAX]).await?;
    let mut conflicts = Vec::with_capacity(found.len());
    for row in &found {
        conflicts.extend(conflict(row)?);
    }
    Ok(newest_of_each(conflicts))
}

/// A row of [`LATEST`]; `None` if this release does not know its kind.
fn conflict(row: &Row) -> Result<Option<IdentityConflict>, Fault> {
    let Some(kind) = ConflictKind::parse(get(row, 1)?) else { return Ok(None) };
    Ok(Some(IdentityConflict {
        destination: get(row, 0)?,
        kind,
        person: PersonDigest(get(row, 2)?),
        day: from_ms(i64::from(get::<i32>(row, 3)?).saturating_mul(DAY_MS)),
        count: get::<i64>(row, 4)?.unsigned_abs(),
        request: RequestId(get(row, 5)?),
    }))
}
