//! The streams of numbers, one for each destination.

use super::connection::Connection;
use super::error::Fault;
use super::numbers::STREAMS_MAX;
use super::params::params;
use super::rows::get;

/// $1 destinations. From here to the commit, no other transaction numbers messages of these destinations. All
/// transactions lock streams in the same order, so that they cannot deadlock.
pub(super) const LOCK_STREAMS: &str = "
    SELECT destination, no, last, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM @streams WHERE destination = ANY($1) ORDER BY no FOR UPDATE";
/// $1 destinations. Runs in a separate transaction, since it may wait for others that add streams.
const ADD_STREAM: &str = "
    INSERT INTO @streams (destination, no)
    SELECT $1, COALESCE(MAX(no) + 1, 0) FROM @streams
    ON CONFLICT DO NOTHING";
const COUNT_STREAMS: &str = "SELECT COUNT(*) FROM @streams";
/// $1 destinations, $2 last numbers.
pub(super) const ADVANCE_STREAMS: &str = "
    UPDATE @streams s SET last = u.last FROM unnest($1, $2) u (destination, last)
    WHERE s.destination = u.destination";

/// Adds the streams of new destinations.
pub(super) async fn add_streams(
    connection: &Connection,
    destinations: &[&str],
) -> Result<(), Fault> {
    for destination in destinations {
        // Another process may add the same stream, or use the number for another one; then try again.
        let count = connection.query_one(COUNT_STREAMS, params![]).await?;
        if get::<i64>(&count, 0)? >= i64::from(STREAMS_MAX) {
            return Err(Fault::ManyDestinations);
        }
        connection.execute(ADD_STREAM, params![*destination]).await?;
    }
    Ok(())
}
