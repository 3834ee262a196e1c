//! The leases: who may deliver for a destination.

use async_trait::async_trait;

use super::connection::Connection;
use super::params::params;
use super::rows::{duration_ms, get, to_ms};
use super::steps::{Effects, Step};
use super::{Fault, Time};
use crate::queue::{Lease, LeaseRequest, WorkError};

/// The time in Unix milliseconds, unless the given parameter holds one.
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

/// $1 destination, $2 holder, $3 now or NULL: the time of the database, $4 time to live, $5 a time to live so long
/// that the clock must have been set back. Returns no row while another process holds the lease.
pub(super) const LEASE: &str = concat!(
    "
    INSERT INTO @leases AS l (destination, holder, token, taken_at, expires_at)
    VALUES ($1, $2, 1, ",
    now!("$3"),
    ", ",
    now!("$3"),
    " + $4)
    ON CONFLICT (destination) DO UPDATE SET
        token = CASE WHEN l.holder = excluded.holder THEN l.token ELSE l.token + 1 END,
        taken_at = CASE WHEN l.holder = excluded.holder THEN l.taken_at ELSE excluded.taken_at END,
        holder = excluded.holder,
        expires_at = excluded.expires_at
    WHERE l.holder = excluded.holder OR l.expires_at <= ",
    now!("$3"),
    " OR l.expires_at >= ",
    now!("$3"),
    " + $5
    RETURNING token"
);
/// $1 destination, $2 holder, $3 token. No process has the empty name.
const RELEASE: &str = "
    UPDATE @leases SET holder = '', expires_at = 0
    WHERE destination = $1 AND holder = $2 AND token = $3";
/// $1 destination, $2 holder, $3 token. Another process waits with taking the lease until the transaction has ended.
/// (A `KEY SHARE` lock would not keep it from that.)
const IN_FORCE: &str = "
    SELECT FROM @leases WHERE destination = $1 AND holder = $2 AND token = $3 FOR SHARE";
/// $1 destination.
pub(super) const HOLDER: &str =
    "SELECT holder, taken_at, expires_at FROM @leases WHERE destination = $1 AND holder <> ''";

/// A lease that runs this many times longer than a lease requested now was written before the clock was set
/// back. The factor is large, since processes may be configured differently.
const LEASE_TTLS_MAX: u32 = 10;

/// The lease is not (or no longer) in force. A step that returns this has written nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

impl From<Fenced> for WorkError {
    fn from(_: Fenced) -> Self {
        WorkError::Fenced
    }
}

#[async_trait]
impl Step for LeaseRequest {
    type Output = Option<Lease>;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault> {
        // The processes' clocks may differ, that of the database is the same for all.
        let now = (effects.time == Time::OfCallers).then(|| to_ms(self.now));
        let ttl = duration_ms(self.ttl);
        let longest = duration_ms(self.ttl.saturating_mul(LEASE_TTLS_MAX));
        let params = params![self.destination, self.holder, now, ttl, longest];
        let Some(row) = transaction.query_opt(LEASE, params).await? else { return Ok(None) };
        Ok(Some(Lease {
            destination: self.destination.clone(),
            holder: self.holder.clone(),
            token: get(&row, 0)?,
        }))
    }
}

pub(super) struct Release(pub(super) Lease);

#[async_trait]
impl Step for Release {
    type Output = Result<(), Fenced>;

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Self::Output, Fault> {
        let Release(Lease { destination, holder, token }) = self;
        let released = transaction.execute(RELEASE, params![*destination, *holder, *token]).await?;
        Ok(if released == 1 { Ok(()) } else { Err(Fenced) })
    }
}

/// Whether the lease is in force. It then stays so until the transaction has ended.
pub(super) async fn is_in_force(transaction: &Connection, lease: &Lease) -> Result<bool, Fault> {
    let params = params![lease.destination, lease.holder, lease.token];
    Ok(transaction.query_opt(IN_FORCE, params).await?.is_some())
}
