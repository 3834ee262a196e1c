//! The leases: who may deliver for a destination.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{duration_ms, to_ms};
use crate::queue::{Lease, LeaseRequest, WorkError};

/// ?1 destination, ?2 holder, ?3 now, ?4 expiry, ?5 an expiry so far ahead that the clock must have
/// been set back. Returns no row while another process holds the lease.
pub(super) const LEASE: &str = "
    INSERT INTO leases (destination, holder, token, taken_at, expires_at) VALUES (?1, ?2, 1, ?3, ?4)
    ON CONFLICT (destination) DO UPDATE SET
        token = CASE WHEN leases.holder = excluded.holder THEN leases.token ELSE leases.token + 1 END,
        taken_at = CASE WHEN leases.holder = excluded.holder THEN leases.taken_at ELSE excluded.taken_at END,
        holder = excluded.holder,
        expires_at = excluded.expires_at
    WHERE leases.holder = excluded.holder OR leases.expires_at <= ?3 OR leases.expires_at >= ?5
    RETURNING token";
/// ?1 destination, ?2 holder, ?3 token. No process has the empty name.
pub(super) const RELEASE: &str = "
    UPDATE leases SET holder = '', expires_at = 0
    WHERE destination = ?1 AND holder = ?2 AND token = ?3";
/// ?1 destination, ?2 holder, ?3 token.
pub(super) const IN_FORCE: &str =
    "SELECT 1 FROM leases WHERE destination = ?1 AND holder = ?2 AND token = ?3";

/// A lease that ends this many lifetimes ahead was written before the clock was set back. The factor is large, since
/// processes may be configured with different lifetimes.
const LEASE_TTLS_MAX: u32 = 10;

/// The lease is not, or no longer, in force. A step that returns this has written nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

impl From<Fenced> for WorkError {
    fn from(_: Fenced) -> Self {
        WorkError::Fenced
    }
}

impl Step for LeaseRequest {
    type Output = Option<Lease>;

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Self::Output, Fault> {
        let now = to_ms(self.now);
        let parameters = params![
            self.destination,
            self.holder,
            now,
            now.saturating_add(duration_ms(self.ttl)),
            now.saturating_add(duration_ms(self.ttl.saturating_mul(LEASE_TTLS_MAX))),
        ];
        let mut lease = transaction.prepare_cached(LEASE)?;
        let token = lease.query_row(parameters, |row| row.get(0)).optional()?;
        Ok(token.map(|token| Lease {
            destination: self.destination.clone(),
            holder: self.holder.clone(),
            token,
        }))
    }
}

pub(super) struct Release(pub(super) Lease);

impl Step for Release {
    type Output = Result<(), Fenced>;

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Self::Output, Fault> {
        let Release(Lease { destination, holder, token }) = self;
        let mut release = transaction.prepare_cached(RELEASE)?;
        let released = release.execute(params![destination, holder, token])?;
        Ok(if released == 1 { Ok(()) } else { Err(Fenced) })
    }
}

pub(super) fn is_in_force(transaction: &Connection, lease: &Lease) -> Result<bool, Fault> {
    let mut in_force = transaction.prepare_cached(IN_FORCE)?;
    Ok(in_force.exists(params![lease.destination, lease.holder, lease.token])?)
}
