//! Why the program did not start, or stopped.

use std::net::SocketAddr;

use crate::loops::ClientError;
use crate::queue::Unavailable;
use crate::store::StoreError;

/// Why a destination cannot have `new_contacts = "known_only"`.
pub(super) const NOTHING_KNOWN: &str = "\"known_only\" would send nothing, since no contact of the destination is known: load an export of Loops' audience (segment-loops known FILE), or use \"create\" until Loops' webhooks or deliveries have made contacts known";

/// Why the program did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database cannot be used.
    #[error("the database cannot be opened")]
    Store(#[from] StoreError),
    /// A destination cannot be used.
    #[error("destination `{name}` cannot be used")]
    Destination {
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// Alerts cannot be sent.
    #[error("alerts cannot be sent: check alerts.webhook_url")]
    Alerts(#[source] ClientError),
    /// A destination may create no contacts, and none is known.
    #[error("destinations.{name}.new_contacts: {NOTHING_KNOWN}")]
    NothingKnown {
        /// Its name.
        name: String,
    },
    /// The store could not be asked whether contacts are known.
    #[error("the database cannot be read")]
    Unreadable(#[source] Unavailable),
    /// A task that must run as long as the program does has ended, because of a bug of ours.
    #[error(
        "a component stopped unexpectedly ({part}): this is a bug; start the program again, nothing that was acknowledged is lost, and please report the log lines before this one"
    )]
    BrokenOff {
        /// The part that ended.
        part: &'static str,
    },
    /// The store cannot continue safely.
    #[error("the database cannot be used any more")]
    StoreEnded(#[source] Unavailable),
    /// The address cannot be used for listening.
    #[error("cannot listen on {address}: choose another with {key}")]
    Listen {
        /// The setting that it comes from.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}
