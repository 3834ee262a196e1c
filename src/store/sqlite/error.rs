//! What can go wrong with the file, with advice: when it is opened, and while it is in use.

use std::path::PathBuf;
use std::sync::Arc;

use super::open;
use crate::queue::{AcceptError, Unavailable, WorkError};

/// Why the file could not be opened. The texts are for the person who starts the program.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum OpenError {
    /// The data folder does not exist and cannot be created.
    #[error(
        "the data folder {folder} cannot be created: give another with --data, or allow writing there"
    )]
    NoDataFolder {
        /// The folder.
        folder: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The folder of the database file does not exist.
    #[error(
        "the folder {folder:?} for the database {path:?} does not exist: create it, or set another path"
    )]
    NoFolder {
        /// The database file.
        path: PathBuf,
        /// The folder that is not there.
        folder: PathBuf,
    },
    /// The folder is on a disk that other machines share.
    #[error(
        "store.data: the folder {folder:?} is on a network disk ({file_system}), where SQLite's locks and shared memory cannot be relied on: messages could be lost and the database damaged. Set store.data (--data) to a folder on a local disk, or accept the risk with store.allow_network_disk = true"
    )]
    NetworkDisk {
        /// The folder of the database file.
        folder: PathBuf,
        /// The type of its file system, such as `nfs4`.
        file_system: String,
    },
    /// The file or its folder cannot be written to.
    #[error(
        "the database {path:?} cannot be written: give the user that runs this program write access to the file and its folder, or set another path"
    )]
    NotWritable {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file holds something else, or is damaged.
    #[error(
        "{path:?} is not a database, or is damaged: restore it from a backup, or move it away to start with an empty one"
    )]
    NotADatabase {
        /// The database file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("{path:?} is a database of another program: set a path of its own for this one")]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file was written by a release that this one does not know.
    #[error(
        "{path:?} was written by another version of this program (schema {version}): run that version or a newer one"
    )]
    OtherVersion {
        /// The database file.
        path: PathBuf,
        /// The number of the migration that is unknown here.
        version: i64,
    },
    /// There is no room for it.
    #[error("there is no room for the database {path:?}: make room on its disk")]
    NoRoom {
        /// The database file.
        path: PathBuf,
    },
    /// Another process kept the file locked.
    #[error("the database {path:?} is locked by another process: stop that process, or try again")]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// The thread that writes could not be started.
    #[error(
        "the thread that writes the database cannot be started: raise this process's limits of threads and open files"
    )]
    NoWriter {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Anything else.
    #[error("the database {path:?} cannot be opened")]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error while the store was in use. Cheap to clone, since every order of a group gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub(in crate::store) enum Fault {
    #[error("{advice}")]
    Database {
        /// What happened, and what a person can do.
        advice: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    #[error(
        "the database file was deleted, moved or replaced while the program runs: put it back as it was, and the program recovers by itself, or restart the program to continue with the present file"
    )]
    Gone,
    #[error("{0}: the database was changed from outside, or is damaged")]
    Broken(&'static str),
    #[error("a row of `{table}` holds a `{column}` that this version does not know")]
    Unreadable { table: &'static str, column: &'static str },
    #[error("the database has schema {found:?}, this version needs {needed}")]
    Schema { found: Option<i64>, needed: i64 },
    #[error("the store was closed")]
    Closed,
}

impl Fault {
    /// Whether the stored rows are to blame, so that a retry would fail in the same way.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Fault::Broken(_) | Fault::Unreadable { .. } => true,
            Fault::Database { source, .. } => open::blames_rows(source),
            Fault::Gone | Fault::Schema { .. } | Fault::Closed => false,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(source: sqlx::Error) -> Self {
        Fault::Database { advice: open::advice(&source), source: Arc::new(source) }
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
