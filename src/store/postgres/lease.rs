//! The leases: who may deliver for a destination.
//!
//! Each lease is taken, renewed and released in its own transaction, on a connection used only for leases. If these
//! were steps of delivery, a lease's row would stay locked until a whole group is written: renewals would be late, and
//! processes that ask for each other's leases would deadlock.

use std::time::Duration;

use tokio_postgres::Row;

use super::connection::{Connection, Connections};
use super::error::Fault;
use super::options::Time;
use super::params::{Param, params};
use super::rows::{duration_ms, from_ms, get, to_ms};
use crate::queue::{Lease, LeaseHolder, LeaseRequest, WorkError};

/// The given parameter, or the database's time in Unix milliseconds if that is NULL.
macro_rules! now {
    ($parameter:literal) => {
        concat!(
            "COALESCE(",
            $parameter,
            ", floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
        )
    };
}
pub(super) use now;

/// Whether $2 may take the lease `l`.
macro_rules! is_free {
    () => {
        concat!(
            "(l.holder = $2 OR l.expires_at <= ",
            now!("$3"),
            " OR l.expires_at >= ",
            now!("$3"),
            " + $5)"
        )
    };
}

/// $1 destination, $2 holder, $3 now or NULL: the time of the database, $4 time to live, $5 a time to live so long that
/// the clock must have been set back. While another process holds the lease, this returns no row, and neither locks nor
/// writes anything: a mere conflict would lock the row.
pub(super) const LEASE: &str = concat!(
    "
    INSERT INTO @leases AS l (destination, holder, token, taken_at, expires_at)
    SELECT $1, $2, 1, ",
    now!("$3"),
    ", ",
    now!("$3"),
    " + $4
    WHERE NOT EXISTS (SELECT FROM @leases l WHERE l.destination = $1 AND NOT ",
    is_free!(),
    ")
    ON CONFLICT (destination) DO UPDATE SET
        token = CASE WHEN l.holder = excluded.holder THEN l.token ELSE l.token + 1 END,
        taken_at = CASE WHEN l.holder = excluded.holder THEN l.taken_at ELSE excluded.taken_at END,
        holder = excluded.holder,
        expires_at = excluded.expires_at
    WHERE ",
    is_free!(),
    "
    RETURNING token"
);
/// $1 destination, $2 holder, $3 token. No process has the empty name.
const RELEASE: &str = "
    UPDATE @leases SET holder = '', expires_at = 0
    WHERE destination = $1 AND holder = $2 AND token = $3 RETURNING token";
/// $1 destination, $2 holder, $3 token. Keeps other processes from taking the lease until the transaction has ended. (A
/// `KEY SHARE` lock would not.)
const IN_FORCE: &str = "
    SELECT FROM @leases WHERE destination = $1 AND holder = $2 AND token = $3 FOR SHARE";
/// $1 destination.
pub(super) const HOLDER: &str =
    "SELECT holder, taken_at, expires_at FROM @leases WHERE destination = $1 AND holder <> ''";

/// A lease that ends this many lifetimes ahead was written before the clock was set back. The factor is large, since
/// processes may be configured with different lifetimes.
const LEASE_TTLS_MAX: u32 = 10;

/// How long to wait for a step that is being written under the lease. The wait is short, since all leases of a process
/// share a connection.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The lease is not, or no longer, in force. A step that returns this has written nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

impl From<Fenced> for WorkError {
    fn from(_: Fenced) -> Self {
        WorkError::Fenced
    }
}

/// Takes or renews a lease, unless another process holds it.
pub(super) async fn request(
    connections: &Connections,
    ask: &LeaseRequest,
    time: Time,
) -> Result<Option<Lease>, Fault> {
    let LeaseRequest { destination, holder, .. } = ask;
    // The clocks of processes may differ; the database's clock is the same for all.
    let now = (time == Time::OfCallers).then(|| to_ms(ask.now));
    let ttl = duration_ms(ask.ttl);
    let longest = duration_ms(ask.ttl.saturating_mul(LEASE_TTLS_MAX));
    let params = params![*destination, *holder, now, ttl, longest];
    let row = match write(connections, LEASE, params).await {
        Err(fault) if fault.is_locked_out() => {
            // The lease has expired, but its holder is still writing a step.
            let connection = connections.get().await?;
            let held = lease_holder(&connection, destination).await?;
            connection.give_back();
            return match held {
                Some(held) if held.holder != *holder => Ok(None),
                _ => Err(fault),
            };
        }
        row => row?,
    };
    let Some(row) = row else { return Ok(None) };
    let (destination, holder) = (destination.clone(), holder.clone());
    Ok(Some(Lease { destination, holder, token: get(&row, 0)? }))
}

/// Releases a lease.
pub(super) async fn release(
    connections: &Connections,
    lease: &Lease,
) -> Result<Result<(), Fenced>, Fault> {
    let params = params![lease.destination, lease.holder, lease.token];
    let released = write(connections, RELEASE, params).await?;
    Ok(released.map(drop).ok_or(Fenced))
}

/// Runs a statement in a transaction, in one round trip; returns its first row.
async fn write(
    connections: &Connections,
    text: &str,
    params: &[Param<'_>],
) -> Result<Option<Row>, Fault> {
    let connection = connections.get().await?;
    let lock_timeout = format!("SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    let (begun, limited, row, committed) = tokio::join!(
        biased;
        connection.begin(),
        connection.batch(&lock_timeout),
        connection.query_opt(text, params),
        connection.batch("COMMIT"),
    );
    let written = begun.and(limited).and(row);
    let written = written.and_then(|row| committed.map(|()| row));
    // If the statement failed, COMMIT has rolled back.
    if written.as_ref().err().is_none_or(Fault::is_answer) {
        connection.give_back();
    }
    written
}

/// Whether the lease is in force. If so, it stays in force until the transaction has ended.
pub(super) async fn is_in_force(transaction: &Connection, lease: &Lease) -> Result<bool, Fault> {
    let params = params![lease.destination, lease.holder, lease.token];
    Ok(transaction.query_opt(IN_FORCE, params).await?.is_some())
}

/// Returns the process that holds the lease of a destination.
pub(super) async fn lease_holder(
    connection: &Connection,
    destination: &str,
) -> Result<Option<LeaseHolder>, Fault> {
    let found = connection.query_opt(HOLDER, params![destination]).await?;
    let holder = |row: Row| {
        let (since, until) = (from_ms(get(&row, 1)?), from_ms(get(&row, 2)?));
        Ok(LeaseHolder { holder: get(&row, 0)?, since, until })
    };
    found.map(holder).transpose()
}
