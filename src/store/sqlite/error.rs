//! Why the database cannot be opened or used. Variants differ in what a person can do about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::queue::{AcceptError, Unavailable, WorkError};

/// An error while the store is in use. Cheap to clone, since every order of a group gets one.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}", advice(source))]
    Database {
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error(
        "the database file was deleted, moved or replaced while the program runs: put it back as it was, and the program recovers by itself, or restart the program to continue with the present file"
    )]
    Gone,
    #[error(
        "the files of the database cannot be checked: see the limits of this process (open files) and the system's log; the program recovers by itself once they can"
    )]
    Files {
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error(
        "the write-ahead log of the database (`-wal`, `-shm`) was deleted, moved or replaced while the program runs: the program moves what it holds into the database and recovers by itself; if it does not, end all processes that use the database"
    )]
    LogMoved,
    #[error(
        "the write-ahead log of the database (`-wal`) was cut while the program runs: messages acknowledged since it was last moved into the database may be lost. Start the program again to continue with what is left, and keep other programs from touching the files"
    )]
    LogCut,
    #[error(
        "bytes of the write-ahead log of the database (`-wal`) were overwritten while the program runs: the program moves the log into the database, checks all pages and recovers by itself. Do not kill it before, or messages acknowledged since are lost, and keep other programs from touching the files"
    )]
    LogOverwritten,
    #[error(
        "the index of the database's write-ahead log (`-shm`) was overwritten while the program runs: start the program again, which makes a new index and finds everything in the log, and keep other programs from touching the files"
    )]
    IndexOverwritten,
    #[error(
        "the write-ahead log of the database (`-wal`, `-shm`) was deleted, moved or replaced while several processes use it: end all of them, then start the program again"
    )]
    NotAlone,
    #[error(
        "the database file became shorter while the program runs: put it back as it was, and the program recovers by itself once all of it can be read, or stop the program and restore the file from a backup"
    )]
    Shorter,
    #[error(
        "a write has been running for more than two seconds: another process keeps the database locked, or the disk is too slow; the program recovers by itself"
    )]
    Stuck,
    #[error(
        "another process keeps reading the database, so that its write-ahead log cannot be moved: stop it, and the program recovers by itself"
    )]
    KeptByReader,
    #[error("the file or its disk is read-only")]
    ReadOnly,
    #[error("{0}: the database was changed from outside, or is damaged")]
    Broken(&'static str),
    #[error("a row of `{table}` holds a `{column}` that this version does not know")]
    Unreadable { table: &'static str, column: &'static str },
    #[error(
        "the schema of the database is not that of this version any more: restart the program, which then says what to do"
    )]
    Schema,
    #[error(
        "no connection to read the database became free in time: the database is slow or overloaded"
    )]
    NoReader,
    #[error(
        "the delivery backlog is full: replay the rest once messages have been delivered, or raise store.backlog_messages_max and store.backlog_bytes_max"
    )]
    Full,
    #[error(
        "the disk of the database has less than half of store.free_bytes_min left: make room, then replay the rest"
    )]
    NoSpace,
    #[error("the store was closed")]
    Closed,
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Fault::Database { source: Arc::new(source) }
    }
}

impl Fault {
    /// Wraps a system error about a file of the database.
    pub(super) fn files(source: std::io::Error) -> Self {
        Fault::Files { source: Arc::new(source) }
    }

    /// Whether the stored rows are to blame, so that a retry would fail in the same way: a row is missing, a value
    /// cannot be read, or existing rows break a constraint.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Fault::Broken(_) | Fault::Unreadable { .. } => true,
            Fault::Database { source } => match source.sqlite_error_code() {
                Some(code) => code == ErrorCode::ConstraintViolation,
                None => matches!(
                    **source,
                    rusqlite::Error::QueryReturnedNoRows
                        | rusqlite::Error::InvalidColumnType(..)
                        | rusqlite::Error::FromSqlConversionFailure(..)
                        | rusqlite::Error::IntegralValueOutOfRange(..)
                        | rusqlite::Error::Utf8Error(..)
                ),
            },
            Fault::Gone
            | Fault::Files { .. }
            | Fault::LogMoved
            | Fault::LogCut
            | Fault::LogOverwritten
            | Fault::IndexOverwritten
            | Fault::NotAlone
            | Fault::Shorter
            | Fault::Stuck
            | Fault::KeptByReader
            | Fault::ReadOnly
            | Fault::Schema
            | Fault::NoReader
            | Fault::Full
            | Fault::NoSpace
            | Fault::Closed => false,
        }
    }

    /// Whether the error shows that the database is damaged.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Fault::Database { source } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            other => matches!(other, Fault::Shorter),
        }
    }

    /// Whether the state of the machine is to blame, so that any other transaction would have failed, too. Damage does
    /// not count: a transaction that avoids the damaged page can still be written.
    pub(super) fn is_environmental(&self) -> bool {
        let Fault::Database { source } = self else { return !self.is_broken() };
        matches!(
            source.sqlite_error_code(),
            Some(
                ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OutOfMemory
                    | ErrorCode::ReadOnly
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::DiskFull
                    | ErrorCode::CannotOpen
                    | ErrorCode::NotADatabase
            )
        )
    }
}

/// Returns what an error in use means, and what a person can do about it.
pub(super) fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            "the disk of the database is full: make room, and the program recovers by itself"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "the database cannot be written: give the user that runs this program write access to the file and its folder, on a disk that is mounted writable; the program then recovers by itself"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the database is damaged: stop the program, and restore the file from a backup, or save what can be saved with `sqlite3 FILE .recover`; if all of it can be read again, the program recovers by itself"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk of the database fails: check whether it is full, and read the system's log; the program recovers by itself once the disk works"
        }
        Some(ErrorCode::CannotOpen) => {
            "a file of the database cannot be opened: it is gone, must not be read, or this process has too many files open (raise its limit, `ulimit -n`, or lower server.connections_max); the program recovers by itself once it can"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process keeps the database locked: stop it, and the program recovers by itself"
        }
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
        /// The missing folder.
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
        "the database {path:?} cannot be written: give the user that runs this program write access to the file and its folder, on a disk that is mounted writable, or set another path"
    )]
    NotWritable {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not a database, or is damaged.
    #[error(
        "{path:?} is not a database, or is damaged: restore it from a backup, or move it away to start with an empty one"
    )]
    NotADatabase {
        /// The database file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("{path:?} is the database of another program: set another path")]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file was written by a build from before the first release.
    #[error(
        "{path:?} was written by an earlier build of this program, from before its first release, whose databases are not migrated: let that build deliver what waits, or move the file away to start with an empty one"
    )]
    Earlier {
        /// The database file.
        path: PathBuf,
    },
    /// The file was written by an earlier release, and the command must not migrate it.
    #[error(
        "{path:?} was written by an earlier version of this program (schema {version}): use that version, or start this one on it, which upgrades it unless its queue was moved"
    )]
    Older {
        /// The database file.
        path: PathBuf,
        /// The version of its schema.
        version: i32,
    },
    /// The file was written by a release that this one does not know.
    #[error(
        "{path:?} was written by a newer version of this program (schema {version}): run that version or a newer one"
    )]
    Later {
        /// The database file.
        path: PathBuf,
        /// The version of its schema.
        version: i32,
    },
    /// The queue is being moved to PostgreSQL.
    #[error(
        "the queue in {path:?} is being moved to PostgreSQL ({to}), since {since}: run `segment-loops move` again to finish the move, or `segment-loops move --undo` to keep the queue here"
    )]
    BeingMoved {
        /// The database file.
        path: PathBuf,
        /// Host, port, database and schema.
        to: String,
        /// When the move began.
        since: String,
    },
    /// The queue was moved to PostgreSQL.
    #[error(
        "the queue in {path:?} was moved to PostgreSQL ({to}) on {at}: set DATABASE_URL (store.url) to that database. To go back, run `segment-loops move --undo`, which works as long as no process has used that database; after that, set store.data to an empty folder"
    )]
    Moved {
        /// The database file.
        path: PathBuf,
        /// Host, port, database and schema.
        to: String,
        /// When the move was finished.
        at: String,
    },
    /// The file is a backup.
    #[error(
        "{path:?} is a backup of {at}, and not ready for use: messages that wait in it may have been sent since. Move it out of the data folder, and restore it with `segment-loops restore FILE`"
    )]
    Backup {
        /// The database file.
        path: PathBuf,
        /// When it was made.
        at: String,
    },
    /// Parts of the schema are missing or were changed.
    #[error(
        "{path:?} is a database of this program, but its schema was changed, or is not whole: restore it from a backup, or move it away to start with an empty one"
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
    },
    /// The write-ahead log is shorter than its index says.
    #[error(
        "the write-ahead log {log:?} of the database was cut while another process uses it: messages that were only in the log may be lost. End all processes that use the database, then start this one again: it continues with what is left"
    )]
    LogCut {
        /// The log.
        log: PathBuf,
    },
    /// The disk failed.
    #[error(
        "the database {path:?}, or its write-ahead log (`-wal`, `-shm`), cannot be read or written: check whether the disk is full, and read the system's log"
    )]
    DiskFailed {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk has no room for the database.
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
    /// The writer's thread could not be started.
    #[error(
        "the thread that writes the database cannot be started: raise this process's limits of threads and open files"
    )]
    NoWriter {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Any other error.
    #[error("the database {path:?} cannot be opened")]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Returns what an error while opening the file means.
pub(super) fn explain(path: &Path, fault: Fault) -> OpenError {
    let path = path.to_owned();
    let source = match fault {
        Fault::Database { source } => source,
        Fault::ReadOnly => {
            return OpenError::NotWritable { path, source: Box::new(Fault::ReadOnly) };
        }
        other => return OpenError::Open { path, source: Box::new(other) },
    };
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::NotADatabase { path }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path },
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            OpenError::NotWritable { path, source: Box::new(source) }
        }
        Some(ErrorCode::DiskFull) => OpenError::NoRoom { path },
        // SQLite reads missing pages at the end of the database as zeros, so a short read means the log.
        Some(ErrorCode::SystemIoFailure) if is_short_read(&source) => {
            let mut log = path.into_os_string();
            log.push("-wal");
            OpenError::LogCut { log: log.into() }
        }
        Some(ErrorCode::SystemIoFailure) => {
            OpenError::DiskFailed { path, source: Box::new(source) }
        }
        _ => OpenError::Open { path, source: Box::new(source) },
    }
}

/// Whether a file ended before the bytes to be read.
fn is_short_read(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
}
