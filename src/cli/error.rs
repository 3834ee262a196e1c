//! Why a command failed.

use crate::app::AppError;
use crate::store::{CopyError, MoveError};

/// Why a command failed. The message and those of its sources are printed for people.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration has errors.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The program did not start, or stopped by itself.
    #[error(transparent)]
    App(#[from] AppError),
    /// The service is not healthy.
    #[error("not healthy: {0}")]
    Unhealthy(String),
    /// The faults that the sandbox was asked for make no sense.
    #[error(transparent)]
    Faults(crate::sandbox::FaultsError),
    /// The sandbox cannot send webhooks.
    #[error(transparent)]
    SandboxWebhook(crate::sandbox::SandboxWebhookError),
    /// The check found errors, and has printed all of them.
    #[error("the check found {found}")]
    Check {
        /// How many.
        found: String,
        /// Whether some of them are errors in the configuration, not in cases or at Loops.
        is_configuration: bool,
    },
    /// The arguments cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Something that the command needs is not configured.
    #[error("{0}")]
    NotConfigured(String),
    /// The input, or the database, is not what the command needs.
    #[error("{0}")]
    Input(String),
    /// Another program does this here; the message says which.
    #[error("{0}")]
    Elsewhere(String),
    /// A backup could not be made or restored.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A queue could not be moved.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The store failed.
    #[error("the database failed; what was done before stays: run the same command again")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk of the database has less free space than the reserve.
    #[error(
        "the disk of the database has only {free} of free space for messages, less than its reserve (store.free_bytes_min): make room, or lower the reserve; what was done before stays: run the same command again"
    )]
    LittleSpace {
        /// The free space, with its unit.
        free: String,
    },
    /// The comparison found a difference.
    #[error("something differs")]
    Differs,
    /// A part was done; the message says how to go on.
    #[error("{0}")]
    Partly(String),
    /// The schema is not the one of this version; the message says how it differs.
    #[error("{0}")]
    Outdated(String),
    /// The command failed; the message says why.
    #[error("{0}")]
    Failed(String),
    /// An operation of the system failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
}
