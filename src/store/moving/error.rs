//! Why a queue could not be moved. The texts are for the person who runs the command, and say what to do.

use std::path::PathBuf;

/// Why a queue could not be moved, or kept.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is nothing to move the queue to.
    #[error(
        "there is no database to move to: set DATABASE_URL, or store.url, to that of the PostgreSQL database"
    )]
    NoTarget,
    /// There is nothing to move.
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
    /// The source is not whole.
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
    /// The source has names for more destinations than PostgreSQL's numbers have room for.
    #[error(
        "the queue has messages of more than 256 destinations, which PostgreSQL cannot hold: let the service run on the data folder until the records of those no longer used have been deleted (store.records_retention_h)"
    )]
    ManyDestinations,
    /// The target holds something else.
    #[error(
        "{place} is in use already: a queue is moved only to a schema that does not exist yet. Set store.schema to another name, or stop all processes that use it and drop it, if nothing in it is needed"
    )]
    Used {
        /// Host, port, database and schema.
        place: String,
    },
    /// The target is being filled from another folder.
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
        /// Whether it was moved.
        is_finished: bool,
    },
    /// There is no way back any more.
    #[error(
        "processes have used {place} since the move: what they accepted and delivered is there alone, and the data folder would deliver again what waited in it. To leave PostgreSQL, let the service deliver what waits, then start it on an empty data folder"
    )]
    Opened {
        /// Host, port, database and schema.
        place: String,
    },
    /// The queue is to stay in its folder.
    #[error("the move was given up, but that is not finished: run this command with --undo again")]
    GivenUp,
    /// There is no move to give up.
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
    /// Another process moves the same queue.
    #[error(
        "another process moves this queue at the same time, from a copy of the data folder: stop one of them, then run this command again"
    )]
    Twice,
    /// They would lose the time of the backup, since when Loops may have them.
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
    /// It was asked to stop.
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
