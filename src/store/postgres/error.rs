//! Why the database cannot be opened or used. Variants differ in what a person can do about them.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::queue::{AcceptError, Unavailable, WorkError};
use crate::telemetry;

/// An error while the store is in use. Cheap to clone, since every call of a group gets a copy.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "cannot connect to PostgreSQL at {address}; the program recovers by itself once it can"
    )]
    Connect {
        /// Host and port.
        address: Arc<str>,
        #[source]
        source: Reason,
    },
    #[error("{}", advice(source))]
    Database {
        #[source]
        source: Reason,
    },
    #[error("PostgreSQL did not answer in time; the program recovers by itself once it does")]
    Slow,
    #[error(
        "no connection became free in time: the database is slow, or store.connections_max is too low for its load"
    )]
    NoConnection,
    #[error("{0}: the database was changed from outside, or is damaged")]
    Broken(&'static str),
    #[error("a row of `{table}` holds a `{column}` that this version does not know")]
    Unreadable { table: &'static str, column: &'static str },
    #[error(
        "the schema of the database is not that of this version any more: restart the program, which then says what to do"
    )]
    Schema,
    #[error("{READ_ONLY}")]
    ReadOnly,
    #[error(
        "PostgreSQL runs with {0} now: it could lose messages that were acknowledged, so no message is accepted. Set it to on for this server, database and user"
    )]
    NotDurable(&'static str),
    #[error("more than 256 destinations were used with this database")]
    ManyDestinations,
    #[error(
        "the delivery backlog is full: replay the rest once messages have been delivered, or raise store.backlog_messages_max and store.backlog_bytes_max"
    )]
    Full,
    #[error("the store was closed")]
    Closed,
}

/// An error of the driver or the server. For server errors, it shows neither the details, which quote contents of rows,
/// nor the statement.
#[derive(Debug, Clone)]
pub(super) struct Reason(Arc<tokio_postgres::Error>);

impl From<tokio_postgres::Error> for Reason {
    fn from(error: tokio_postgres::Error) -> Self {
        Reason(Arc::new(error))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_db_error() {
            Some(error) => write!(f, "{} ({})", error.message(), error.code().code()),
            None => write!(f, "{}", telemetry::chain(&*self.0)),
        }
    }
}

impl std::error::Error for Reason {}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::Database { source: error.into() }
    }
}

impl Fault {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Fault::Database { source } => source.0.code(),
            _ => None,
        }
    }

    /// Whether the stored rows are to blame, so that a retry would fail in the same way: a row is missing, a value
    /// cannot be read, or existing rows break a constraint.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Fault::Broken(_) | Fault::Unreadable { .. } => true,
            // 22: data exceptions; 23: broken constraints.
            _ => self.code().is_some_and(|code| {
                (code.code().starts_with("22") || code.code().starts_with("23"))
                    && !self.is_missing_partition()
            }),
        }
    }

    /// Whether a single call of a group may be to blame, so that the others would succeed without it.
    pub(super) fn is_of_one_call(&self) -> bool {
        matches!(self, Fault::ManyDestinations) || self.is_broken()
    }

    /// Whether a row had no partition.
    pub(super) fn is_missing_partition(&self) -> bool {
        let Fault::Database { source } = self else { return false };
        source.0.as_db_error().is_some_and(|error| {
            *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none()
        })
    }

    /// Whether the server ended the transaction in favour of another one, so that a retry may succeed.
    pub(super) fn is_conflict(&self) -> bool {
        self.is_one_of(&[SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED])
    }

    /// Whether waiting for a lock timed out.
    pub(super) fn is_locked_out(&self) -> bool {
        self.is_one_of(&[SqlState::LOCK_NOT_AVAILABLE])
    }

    /// Whether the server returned one of these errors.
    pub(super) fn is_one_of(&self, states: &[SqlState]) -> bool {
        self.code().is_some_and(|code| states.contains(code))
    }

    /// Whether the server itself returned the error. Then nothing was committed, and the connection is usable after a
    /// rollback.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Fault::Database { source } => source.0.as_db_error().is_some_and(|error| {
                // 57P: an operator or a crash ends the connection, as does any FATAL error. 25006: the server has
                // become read-only; another one at the URL may not be.
                let code = error.code().code();
                !code.starts_with("57P") && code != "25006" && error.severity() != "FATAL"
            }),
            Fault::Connect { .. } | Fault::Slow | Fault::NoConnection | Fault::Closed => false,
            Fault::Broken(_)
            | Fault::Unreadable { .. }
            | Fault::Schema
            | Fault::ReadOnly
            | Fault::NotDurable(_)
            | Fault::ManyDestinations
            | Fault::Full => true,
        }
    }
}

/// The advice for a server that was demoted.
const READ_ONLY: &str =
    "the database is read-only: it is a standby, or was set so; point store.url at the primary";

/// Returns what an error in use means, and what a person can do about it.
fn advice(Reason(error): &Reason) -> &'static str {
    let Some(code) = error.code() else {
        return "the connection to PostgreSQL was lost; the program recovers by itself once it can connect again";
    };
    match code.code() {
        "53100" => {
            "the disk of the database is full: make room, and the program recovers by itself"
        }
        "53300" => {
            "the database takes no more connections: raise its max_connections, or lower store.connections_max"
        }
        "25006" => READ_ONLY,
        "55P03" => {
            "another transaction holds a lock and does not end, such as a commit that waits for a standby (pg_locks and pg_stat_activity show it); the program recovers by itself once it does"
        }
        "42501" => {
            "the user of the database may not do this: make it the owner of the schema, or grant it all rights to the schema and its tables"
        }
        "42P01" | "3F000" | "42703" | "42883" => {
            "a table or function of this program is missing or was changed: restore the database from a backup"
        }
        code if code.starts_with("57P") => {
            "the database is shut down or starting; the program recovers by itself"
        }
        code if code.starts_with("53") => "the database lacks memory, disk or connections",
        _ => "the database failed",
    }
}

impl From<Fault> for Unavailable {
    fn from(fault: Fault) -> Self {
        Unavailable(Box::new(fault))
    }
}

impl From<Fault> for AcceptError {
    fn from(fault: Fault) -> Self {
        Unavailable::from(fault).into()
    }
}

impl From<Fault> for WorkError {
    fn from(fault: Fault) -> Self {
        if fault.is_broken() {
            WorkError::Broken(Box::new(fault))
        } else {
            Unavailable::from(fault).into()
        }
    }
}

/// Why the database could not be opened. The messages are for the person who starts the program.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid. The message never shows it, since it has a password.
    #[error(
        "{key} is not a URL of a PostgreSQL database ({problem}): write it as postgres://USER:PASSWORD@HOST:5432/DATABASE"
    )]
    Url {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The server cannot be reached, or refuses the connection.
    #[error("cannot connect to PostgreSQL at {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is too old.
    #[error("PostgreSQL at {address} is version {version}: version 14 or newer is needed")]
    Old {
        /// Host and port.
        address: String,
        /// Its version.
        version: String,
    },
    /// The database cannot hold every string.
    #[error(
        "the database at {address} has the encoding {encoding}, which cannot hold every message: create one with the encoding UTF8"
    )]
    Encoding {
        /// Host and port.
        address: String,
        /// Its encoding.
        encoding: String,
    },
    /// The server is read-only.
    #[error(
        "PostgreSQL at {address} is read-only, a standby or set so: point store.url at the primary"
    )]
    ReadOnly {
        /// Host and port.
        address: String,
    },
    /// The server acknowledges commits that it may lose.
    #[error(
        "PostgreSQL at {address} runs with {setting}: it could lose messages that were acknowledged. Set it to on for this server, database and user"
    )]
    NotDurable {
        /// Host and port.
        address: String,
        /// The setting that is to blame.
        setting: &'static str,
    },
    /// The schema was made by a release that this one does not know.
    #[error(
        "the schema {schema:?} at {address} was changed by a newer version of this program (schema version {version}), and this version cannot use it: run that version or a newer one"
    )]
    Later {
        /// Host and port.
        address: String,
        /// Its name.
        schema: String,
        /// Its version.
        version: i32,
    },
    /// A part of the schema is missing.
    #[error(
        "the schema {schema:?} at {address} is incomplete: it lacks {missing}. Restore the whole schema from a backup, or set store.schema to another name to start with an empty queue"
    )]
    NotWhole {
        /// Host and port.
        address: String,
        /// Its name.
        schema: String,
        /// Tables, indices, sequences and functions.
        missing: String,
    },
    /// A queue is being moved to the schema.
    #[error(
        "a queue is being moved to the schema {schema:?} at {address}, since {since}, and the move is not finished: run `segment-loops move` again to finish it, or `segment-loops move --undo` to keep the queue in its data folder"
    )]
    BeingMoved {
        /// Host and port.
        address: String,
        /// Its name.
        schema: String,
        /// When the move began.
        since: String,
    },
    /// The schema has other objects with the same names.
    #[error(
        "the schema {schema:?} at {address} holds tables of another program, or is not whole: set store.schema to another name, or restore it from a backup"
    )]
    Foreign {
        /// Host and port.
        address: String,
        /// Its name.
        schema: String,
    },
    /// Any other error.
    #[error("the database at {address} cannot be opened")]
    Open {
        /// Host and port.
        address: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
