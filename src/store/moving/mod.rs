//! Moves a queue from SQLite to PostgreSQL.
//!
//! This process opens the source exclusively and marks it; from then on, the source does not change. Its messages and
//! requests get new numbers, which are written once, beside the old ones. Then the tables are copied in parts, each row
//! with its new numbers, in bounded transactions that also record the progress. So an interrupted move continues where
//! it stopped, and nothing is written twice.
//!
//! The two can never be in use at the same time. Once marked, the source refuses to be opened. The target refuses until
//! everything is copied and the source is marked as moved. In order:
//!
//! | step | the source | the target |
//! | --- | --- | --- |
//! | before | is used | does not exist |
//! | the schema is made, with an unfinished move | is used | refuses |
//! | numbers and the mark are written | refuses | refuses |
//! | the parts are copied | refuses | refuses |
//! | the source is marked as moved | refuses | refuses |
//! | the move is finished | refuses | is used |
//!
//! Undoing a move is the same in reverse: the target refuses, then the source is released. That is no longer possible
//! once a process has opened the target, since it may have delivered messages that still wait in the source.

mod error;
pub(super) mod part;
#[cfg(test)]
pub(super) mod tests;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::postgres::moving::{Begun, Found, Target};
use super::sqlite::moving::Source;
use crate::clock::{Clock as _, SystemClock};
use crate::config::StoreConfig;

pub use self::error::MoveError;

/// How the caller follows and stops a move.
pub struct Watch<'a> {
    /// Called repeatedly with the number of rows copied so far, and of all rows.
    pub progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    /// Stops the move between two transactions.
    pub stop: &'a CancellationToken,
}

/// A finished move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// All messages.
    pub messages: u64,
    /// The messages among them that wait to be delivered.
    pub waiting: u64,
    /// Requests to Loops.
    pub requests: u64,
    /// Whether an earlier call had finished the move, so that there was nothing left to do.
    pub was_finished: bool,
}

/// Moves the queue of a data folder to the configured PostgreSQL database, or continues an interrupted move.
///
/// Must be called inside a Tokio runtime. The error says what a person can do about it.
pub async fn move_queue(
    from: &Path,
    to: &StoreConfig,
    watch: &Watch<'_>,
) -> Result<Moved, MoveError> {
    let url = to.url.as_ref().ok_or(MoveError::NoTarget)?;
    let source = Source::open(from).await?;
    let mut target = Target::connect(to, url.expose()).await?;
    let moved = run(source, &mut target, watch).await;
    target.close().await;
    moved
}

/// Moves a queue, or continues an interrupted move.
async fn run(
    mut source: Source,
    target: &mut Target,
    watch: &Watch<'_>,
) -> Result<Moved, MoveError> {
    let begun = begin(&mut source, target).await?;
    if !begun.is_finished {
        target.migrate().await?;
        copy(&source, target, &begun, watch).await?;
        target.analyze().await?;
        // The order matters: while the source counts as being moved, nothing can have used the target.
        source.finish(SystemClock.now()).await?;
        target.finish(&begun.id, SystemClock.now()).await?;
    }
    let [messages, waiting, requests] = source.sizes().await?;
    Ok(Moved { messages, waiting, requests, was_finished: begun.is_finished })
}

/// Begins the move of a source, unless an earlier call did.
async fn begin(source: &mut Source, target: &mut Target) -> Result<Begun, MoveError> {
    let found = target.find().await?;
    let key = source.installation_key().await?;
    let unused = match (source.mark(), found) {
        (Some(_), Found::Move(begun)) if begun.is_given_up() => return Err(MoveError::GivenUp),
        (Some(mark), Found::Move(begun)) if begun.id == mark.id => return Ok(begun),
        // Someone dropped the schema: copy everything again.
        (Some(mark), Found::Nothing) if mark.finished_at.is_none() && mark.to == target.place() => {
            let (id, at) = (mark.id.clone(), mark.began_at);
            target.create(&id, at, key).await?;
            return target.begun().await;
        }
        (Some(_), _) => return Err(source.is_elsewhere()),
        (None, Found::Nothing) => None,
        // The remains of a move that was undone.
        (None, Found::Move(begun)) if begun.is_given_up() && begun.installation_key == key => {
            target.remove().await?;
            None
        }
        // Interrupted before the source was marked.
        (None, Found::Move(begun)) if begun.is_unused() && begun.installation_key == key => {
            Some(begun)
        }
        (None, Found::Move(begun)) if !begun.is_finished => {
            return Err(MoveError::OtherSource { place: target.place().to_owned() });
        }
        (None, Found::Move(_) | Found::Used) => return Err(target.is_used()),
    };
    source.verify().await?;
    let now = SystemClock.now();
    if unused.is_none() {
        let id = uuid::Uuid::now_v7().to_string();
        target.create(&id, now.as_millisecond(), key).await?;
    }
    let begun = target.begun().await?;
    source.begin(&begun.id, target.place(), now).await?;
    Ok(begun)
}

/// Copies the rows that are not copied yet.
async fn copy(
    source: &Source,
    target: &mut Target,
    begun: &Begun,
    watch: &Watch<'_>,
) -> Result<(), MoveError> {
    let Begun { id, cursor, .. } = begun;
    if cursor.is_at_end() {
        return Ok(());
    }
    let total = source.rows().await?;
    (watch.progress)(cursor.rows.unsigned_abs(), total);
    let (mut batches, reader) = source.read(*cursor);
    let copied = async {
        let mut copied = *cursor;
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            let next = batch.cursor;
            target.write(id, batch, copied).await?;
            copied = next;
            (watch.progress)(copied.rows.unsigned_abs(), total);
            if watch.stop.is_cancelled() {
                return Err(MoveError::Stopped);
            }
        }
        Ok(copied)
    };
    let copied = copied.await;
    drop(batches);
    reader.await.map_err(|error| MoveError::Source(Box::new(error)))?;
    target.end(id, copied?).await
}

/// Undoes a move, so that the queue stays in its data folder. Possible as long as no process has opened the target.
pub async fn keep_queue(from: &Path, to: &StoreConfig) -> Result<(), MoveError> {
    let url = to.url.as_ref().ok_or(MoveError::NoTarget)?;
    let source = Source::open(from).await?;
    let target = Target::connect(to, url.expose()).await?;
    let kept = keep(source, &target).await;
    target.close().await;
    kept
}

async fn keep(mut source: Source, target: &Target) -> Result<(), MoveError> {
    let found = target.find().await?;
    match (source.mark(), found) {
        // The order matters: the source must not be used before the target refuses.
        (Some(mark), Found::Move(begun)) if begun.id == mark.id => {
            target.give_up(&begun.id).await?;
            source.release().await?;
            target.remove().await
        }
        // Someone dropped the schema.
        (Some(mark), Found::Nothing) if mark.to == target.place() => source.release().await,
        (Some(_), _) => Err(source.is_elsewhere()),
        // Interrupted before the source was marked, or after it was released.
        (None, Found::Move(begun))
            if !begun.is_finished
                && begun.installation_key == source.installation_key().await? =>
        {
            target.remove().await
        }
        (None, _) => Err(source.is_not_moved()),
    }
}
