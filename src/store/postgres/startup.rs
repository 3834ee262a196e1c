//! Checks whether a server can keep the promises of the queue, before anything is stored there.

use tracing::warn;

use super::connection::Connection;
use super::error::{Fault, OpenError};
use super::params::params;
use super::rows::get;
use crate::clock::{Clock as _, SystemClock};

const SETTINGS: &str = "
    SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
           current_setting('fsync'), current_setting('synchronous_commit'),
           pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
           floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint,
           current_setting('server_encoding')";

const IS_READ_ONLY: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";

const DURABILITY: &str =
    "SELECT current_setting('fsync') = 'off', current_setting('synchronous_commit') = 'off'";

/// The oldest version that works: 14.
const VERSION_MIN: i32 = 140_000;

/// How far the clocks of the database and of this process may differ before that is logged.
const SKEW_MAX_MS: u64 = 2_000;

/// Fails if the server may lose acknowledged commits, or is read-only.
pub(super) async fn check(connection: &Connection, address: &str) -> Result<(), OpenError> {
    let failed =
        |fault: Fault| OpenError::Open { address: address.to_owned(), source: fault.into() };
    let row = connection.query_one(SETTINGS, params![]).await.map_err(failed)?;
    let version: i32 = get(&row, 0).map_err(failed)?;
    let text = |column| get::<String>(&row, column).map_err(failed);
    let address = address.to_owned();
    if version < VERSION_MIN {
        return Err(OpenError::Old { address, version: text(1)? });
    }
    if get(&row, 4).map_err(failed)? {
        return Err(OpenError::ReadOnly { address });
    }
    let encoding = text(6)?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { address, encoding });
    }
    let (fsync, commit) = (text(2)?, text(3)?);
    if fsync == "off" {
        return Err(OpenError::NotDurable { address, setting: "fsync = off" });
    }
    match commit.as_str() {
        "off" => {
            return Err(OpenError::NotDurable { address, setting: "synchronous_commit = off" });
        }
        "local" => warn!(
            "synchronous_commit is local: messages that were acknowledged may be lost when a standby takes over"
        ),
        _ => {}
    }
    let behind_ms = SystemClock.now().as_millisecond() - get::<i64>(&row, 5).map_err(failed)?;
    if behind_ms.unsigned_abs() > SKEW_MAX_MS {
        warn!(
            behind_ms,
            "the clock of the database differs from that of this machine: correct one of them"
        );
    }
    Ok(())
}

/// Fails if the server has become read-only, such as after another one was promoted.
pub(super) async fn check_writable(connection: &Connection) -> Result<(), Fault> {
    if get(&connection.query_one(IS_READ_ONLY, params![]).await?, 0)? {
        connection.outdate();
        return Err(Fault::ReadOnly);
    }
    Ok(())
}

/// Fails if the server may lose acknowledged commits, which may be so after another one was promoted.
pub(super) async fn check_durable(connection: &Connection) -> Result<(), Fault> {
    let row = connection.query_one(DURABILITY, params![]).await?;
    if get(&row, 0)? {
        return Err(Fault::NotDurable("fsync = off"));
    }
    if get(&row, 1)? {
        return Err(Fault::NotDurable("synchronous_commit = off"));
    }
    Ok(())
}
