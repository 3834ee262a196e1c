//! Backing up a database and restoring it: the types shared by the engines that support it. The errors are for the
//! person who runs the command.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::StoreError;

/// Where a backup goes.
pub enum BackupTo<'a> {
    /// To this file. It replaces an earlier backup of this name, and nothing else.
    File(&'a Path),
    /// To a new file in a folder, named after the time.
    Folder {
        /// The folder.
        folder: &'a Path,
        /// How many of this installation's backups to keep, newest first; `None` keeps all.
        keep: Option<NonZeroUsize>,
    },
    /// To a stream, such as standard output.
    Stream(&'a mut dyn Write),
}

/// A backup that was made.
#[derive(Debug)]
pub struct BackedUp {
    /// It holds everything that was acknowledged before this time.
    pub at: Timestamp,
    /// The file; `None` if it went to a stream.
    pub path: Option<PathBuf>,
    /// Its size.
    pub bytes: u64,
    /// Earlier backups that were removed from the folder.
    pub removed: Vec<PathBuf>,
}

/// A restored queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The database file.
    pub path: PathBuf,
    /// The time of the backup. It has nothing that happened later.
    pub made_at: Timestamp,
    /// The version of the schema that it had, if that was an earlier one, which was migrated.
    pub migrated_from: Option<i32>,
    /// All messages.
    pub messages: u64,
    /// The messages among them that wait to be delivered.
    pub waiting: u64,
    /// What applying the receipts erased.
    pub erased: ReErased,
}

/// What applying the receipts of erasures did to a restored queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReErased {
    /// Receipts of people who were erased.
    pub receipts: u64,
    /// Messages that were erased, including those that waited.
    pub messages: u64,
    /// Receipts of people whom Loops had not deleted. Nothing was erased for them.
    pub open: u64,
}

/// Why a backup could not be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The database is PostgreSQL's.
    #[error("the queue is in PostgreSQL (store.url), which makes its own backups")]
    Postgres,
    /// There is nothing to back up.
    #[error("there is no database in {folder:?}: give the data folder of the service with --data")]
    NoDatabase {
        /// The folder.
        folder: PathBuf,
    },
    /// The database cannot be read.
    #[error("the database cannot be backed up")]
    Database(#[source] StoreError),
    /// The folder for the backup does not exist.
    #[error(
        "the folder {folder:?} does not exist: create it first, for the user that runs this command only (0700)"
    )]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Something else is at the path of the backup.
    #[error(
        "{path:?} exists and is not a backup made by this command: give another name with --to"
    )]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// Another process is writing the file.
    #[error(
        "another process is writing {path:?}: wait until it has finished, then run this command again"
    )]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// SQLite cannot open the path.
    #[error("the path {path:?} is not valid UTF-8: give another one")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The disk has too little space.
    #[error("there is no room for {path:?}: it needs {needed} bytes, and its disk has {free} left")]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What it needs.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// A file could not be written.
    #[error(
        "{path:?} cannot be written: check whether its disk is full, and whether this user may write there"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The stream was closed.
    #[error("the backup could not be written to standard output")]
    Stream(#[source] std::io::Error),
    /// The copy is damaged, so the database is damaged, too.
    #[error(
        "the copy is damaged ({problem}), and so is the database, or its disk: nothing was kept. Keep the backups that you have, stop the service and restore the newest one that is whole"
    )]
    BrokenCopy {
        /// What was found.
        problem: String,
    },
    /// The backup was made, but could not be noted in the database.
    #[error(
        "the backup was made ({path}), but that could not be noted in the database, so segment_loops_backup_timestamp_seconds stays as it was"
    )]
    NotNoted {
        /// The file, or standard output.
        path: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The backup was made, but older ones could not be removed.
    #[error("the backup was made ({path:?}), but older ones in its folder could not be removed")]
    NotRemoved {
        /// The backup.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The data folder already has a database.
    #[error(
        "{path:?} exists: a backup is only restored into a data folder without a database. Stop the service and move segment-loops.db, segment-loops.db-wal and segment-loops.db-shm away, or give another folder with --data"
    )]
    HasDatabase {
        /// What is there.
        path: PathBuf,
    },
    /// The file to restore cannot be read.
    #[error("{from} cannot be read")]
    Read {
        /// The file.
        from: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file to restore has a write-ahead log beside it.
    #[error(
        "{log:?} is beside the copy, so the copy was not closed, and messages may be only in that file: run `sqlite3 {from} 'PRAGMA journal_mode = DELETE'`, which moves them, then run this command again"
    )]
    HasLog {
        /// The copy.
        from: String,
        /// The log.
        log: PathBuf,
    },
    /// The file to restore is not a backup.
    #[error("{from} is not a backup of a queue: {why}")]
    NotABackup {
        /// The file.
        from: String,
        /// What it is.
        why: String,
    },
    /// The file to restore is damaged.
    #[error(
        "{from} is damaged ({problem}): restore another backup, or save what can be saved with `sqlite3 {from} .recover`"
    )]
    Damaged {
        /// The file.
        from: String,
        /// What was found.
        problem: String,
    },
    /// The data folder is on a network disk.
    #[error(transparent)]
    Folder(StoreError),
}
