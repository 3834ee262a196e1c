//! Implements the contract of [`crate::queue`] over SQL databases. The only module that knows SQL.
//!
//! [`sqlite`] is the default: one file, no set-up. The contract says what a store guarantees; what is
//! here says how.

pub mod sqlite;

use jiff::Timestamp;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error(
        "{path} cannot be opened or made: check that the folder exists and may be written to, and that the file is a database of segment-loops"
    )]
    Open {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// The database was made by a newer release.
    #[error(
        "{path} was made by a newer release of segment-loops: use that release, or another data folder"
    )]
    Newer {
        /// The file.
        path: String,
    },
    /// The schema cannot be brought up to this release's.
    #[error("{path} cannot be brought up to this release")]
    Migrate {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

/// A moment as it is stored.
fn to_ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A stored moment. One out of range comes from outside: it counts as the beginning.
fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
