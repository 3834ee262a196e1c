//! Why a queue could not be moved. The messages are for the person who runs the command, and say what to do.

use std::path::PathBuf;

/// Why a move failed, or could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// No target is configured.
    #[error(
        "there is no database to move to: set DATABASE_URL, or store.url, to the URL of the PostgreSQL database"
    )]
    NoTarget,
    /// The folder has no database.
    #[error("there is no database in {from:?}: give the data folder of the service with --from")]
    NoSource {
        /// The folder.
        from: PathBuf,
    },
    /// Another process has the source open.
    #[error(
        "the database in {from:?} is in use: stop every process that has it open (serve, import, replay, sqlite3), then run this command again"
    )]
    InUse {
        /// The folder.
        from: PathBuf,
    },
    /// The source is damaged.
    #[error(
        "the database in {from:?} is damaged ({problem}): restore it from a backup, or save what can be saved with `sqlite3 FILE .recover`, then run this command again"
    )]
    Damaged {
        /// The folder.
        from: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The source failed, or cannot be opened.
    #[error("the data folder cannot be moved")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The source has messages of more destinations than PostgreSQL's sequence numbers have room for.
    #[error(
        "the queue has messages of more than 256 destinations, which PostgreSQL cannot hold: let the service run on the data folder until the records of those no longer used have been deleted (store.records_retention_h)"
    )]
    ManyDestinations,
    /// The target's schema is already in use.
    #[error(
        "{place} is in use already: a queue is moved only to a schema that does not exist yet. Set store.schema to another name, or stop all processes that use it and drop it, if nothing in it is needed"
    )]
    Used {
        /// Host, port, database and schema.
        place: String,
    },
    /// Another queue is being moved to the target.
    #[error(
        "another queue is being moved to {place}: finish that move, or set store.schema to another name"
    )]
    OtherSource {
        /// Host, port, database and schema.
        place: String,
    },
    /// The queue was moved, or is being moved, to another database.
    #[error(
        "the queue in {from:?} {} {place}: set DATABASE_URL (store.url) and store.schema to that database",
        if *is_finished { "was moved to" } else { "is being moved to" }
    )]
    Elsewhere {
        /// The folder.
        from: PathBuf,
        /// Host, port, database and schema.
        place: String,
        /// Whether that move was finished.
        is_finished: bool,
    },
    /// The move can no longer be undone.
    #[error(
        "processes have used {place} since the move: the data folder lacks what they accepted and delivered, and would deliver its waiting messages again. To leave PostgreSQL, let the service deliver what waits, then start it on an empty data folder"
    )]
    Opened {
        /// Host, port, database and schema.
        place: String,
    },
    /// The move is being undone.
    #[error("the move was given up, but that is not finished: run this command with --undo again")]
    GivenUp,
    /// There is no move to undo.
    #[error("the queue in {from:?} was not moved: the service can be started on it")]
    NotMoved {
        /// The folder.
        from: PathBuf,
    },
    /// A row of the source contradicts itself or others.
    #[error(
        "the table `{table}` of the data folder holds a row that PostgreSQL does not accept: the database was changed from outside, or is damaged. Keep the queue in the data folder (--undo) and let the service end the message, which it sets aside, or restore a backup; then run this command again"
    )]
    Row {
        /// The table.
        table: &'static str,
        /// What PostgreSQL says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process is moving the same queue.
    #[error(
        "another process is moving this queue at the same time, from a copy of the data folder: stop one of them, then run this command again"
    )]
    Twice,
    /// Restored messages still wait. A move would lose the time of their backup, since which Loops may have received
    /// them.
    #[error(
        "{} in {from:?} from a backup that was restored: start the service on the folder, let it deliver what waits, then run this command again",
        match count {
            1 => "1 message waits".to_owned(),
            more => format!("{more} messages wait"),
        }
    )]
    Restored {
        /// The folder.
        from: PathBuf,
        /// How many messages.
        count: u64,
    },
    /// The caller stopped the move.
    #[error(
        "interrupted: run the same command again to continue, or with --undo to keep the queue in the data folder; until then, neither can be used"
    )]
    Stopped,
    /// The target cannot be opened.
    #[error(transparent)]
    Target(Box<dyn std::error::Error + Send + Sync>),
    /// The target failed.
    #[error(
        "the queue could not be copied: what was done before stays; run the same command again to continue, or with --undo to keep the queue in the data folder"
    )]
    Copy(#[source] Box<dyn std::error::Error + Send + Sync>),
}
