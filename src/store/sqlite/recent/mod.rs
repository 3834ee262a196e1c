//! Finds the sequence numbers of the messages with an id or of a person.
//!
//! An index over random values costs a page of the write-ahead log for each inserted row, which is most of
//! the cost of a message. So the newest messages are in the table `recent`, in the order of acceptance, and
//! sorted in memory here. Once there are enough of them, they are moved into the tables `message_ids` and
//! `persons` in sorted order, so that one page holds many rows. They are moved in slices: while the store
//! is idle, so that a burst does not pay for it, or with the groups of the writer, once there are too many
//! to wait.
//!
//! A look-up reads memory first, then adds the moved rows by SQL, so that a row which is moved in between
//! is found by both and never by neither. Memory may name messages that no longer exist.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use crate::segment::{MessageHash, PersonHash};

/// The rows that are moved with a group: somewhat more than came, so that moving keeps pace with what
/// comes and is spread all over it; at least so many, since each time costs a few statements; and at
/// most so many, so that no commit is long.
const SLICE_MIN: usize = 512;
const SLICE_MAX: usize = 16_384;

/// The rows that are moved at once while nothing comes: what comes meanwhile waits for them.
const SLICE_QUIET: usize = 1_024;

/// While nothing comes they are moved from this part of the most on. Less would cost a page for few rows.
const QUIET_PART: usize = 4;

/// Rows that are read at once: after a start there are many, and a group cannot wait for all of them.
const PAGE: usize = 4_096;

/// $1 the last place that was read, $2 limit.
pub(super) const NEW: &str =
    "SELECT seq, message_hash, person FROM recent WHERE seq > $1 ORDER BY seq LIMIT $2";
pub(super) const OLDEST: &str = "SELECT MIN(seq) FROM recent";
/// $1 places.
pub(super) const MOVE_IDS: &str = "
    INSERT OR IGNORE INTO message_ids (message_hash, seq)
    SELECT message_hash, seq FROM recent WHERE seq IN (SELECT value FROM json_each($1))
    ORDER BY message_hash";
/// $1 places.
pub(super) const MOVE_PERSONS: &str = "
    INSERT OR IGNORE INTO persons (person, seq)
    SELECT person, seq FROM recent WHERE seq IN (SELECT value FROM json_each($1)) ORDER BY person";
/// $1 the last place that was moved.
pub(super) const MOVED: &str = "DELETE FROM recent WHERE seq <= $1";

/// $1 person, $2 first, $3 last, $4 limit.
pub(super) const MOVED_OF_PERSON: &str =
    "SELECT seq FROM persons WHERE person = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq LIMIT $4";

/// Places in the order of acceptance, as one parameter of a statement; see [`json_list`].
pub(super) type Places = String;

/// Shared by the writer and the readers.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
    /// From so many on they are moved with the groups; twice as many may be here meanwhile.
    recent_max: usize,
}

/// A row of `recent`.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) message_hash: i64,
    pub(super) person: i64,
}

#[derive(Debug, Default)]
struct State {
    /// Changes when something was forgotten, so that what was read before is not taken for complete.
    generation: u64,
    /// Everything in `recent` up to this place is here.
    read: i64,
    /// What `read` was when the writer's transaction began.
    read_before: i64,
    /// Whether others may have added to `recent` behind `read`.
    is_stale: bool,
    /// What was added since the last slice was moved.
    added: usize,
    /// Nothing before this place is here.
    oldest: i64,
    by_id: BTreeSet<(i64, i64)>,
    by_person: BTreeSet<(i64, i64)>,
    moving: Option<Moving>,
}

/// How far moving has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    /// What stands behind it is left for the next time.
    until: i64,
    last_id: Option<(i64, i64)>,
    last_person: Option<(i64, i64)>,
}

/// What a transaction of the writer has done, to be noted once it is committed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moved {
    Slice(Moving),
    /// Nothing before this place is in `recent` any more.
    All(i64),
}

impl State {
    fn add(&mut self, row: Row) {
        self.by_id.insert((row.message_hash, row.seq));
        self.by_person.insert((row.person, row.seq));
        self.read = self.read.max(row.seq);
        self.added += 1;
    }

    fn retain(&mut self, keep: impl Fn(i64) -> bool) {
        self.by_id.retain(|(_, seq)| keep(*seq));
        self.by_person.retain(|(_, seq)| keep(*seq));
    }
}

impl Recent {
    pub(super) fn new(recent_max: usize) -> Self {
        let state = State { is_stale: true, ..State::default() };
        Self { state: Mutex::new(state), recent_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can happen while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all that came since the last time.
    pub(super) async fn refresh(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        while self.read_page(connection).await? {}
        Ok(())
    }

    /// The same; between two parts the connection is there for others.
    pub(super) async fn refresh_beside(&self, readers: &SqlitePool) -> Result<(), sqlx::Error> {
        while self.read_page(&mut *readers.acquire().await?).await? {}
        Ok(())
    }

    /// Reads a part of what came since the last time; tells whether there may be more.
    pub(super) async fn read_page(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<bool, sqlx::Error> {
        let (generation, read) = {
            let state = self.state();
            (state.generation, state.read)
        };
        let page = sqlx::query_as(NEW).bind(read).bind(PAGE as i64);
        let new: Vec<Row> = page.fetch_all(connection).await?;
        let mut state = self.state();
        if state.generation != generation {
            return Ok(true);
        }
        let may_be_more = new.len() == PAGE;
        new.into_iter().for_each(|row| state.add(row));
        Ok(may_be_more)
    }

    /// The writer's transaction begins.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.read_before = state.read;
    }

    /// The places of messages whose ids have these digests, among those up to a place that is told too.
    /// What stands behind it is to be looked at in `recent`: little, if anything, but for a while after a
    /// start.
    pub(super) async fn of_ids(
        &self,
        writer: &mut SqliteConnection,
        hashes: &[i64],
    ) -> Result<(Places, i64), sqlx::Error> {
        if self.state().is_stale && !self.read_page(writer).await? {
            self.state().is_stale = false;
        }
        let state = self.state();
        Ok((places_of_ids(&state, hashes), state.read))
    }

    /// Whether there is enough to be moved while nothing comes.
    pub(super) fn has_enough(&self) -> bool {
        let state = self.state();
        state.moving.is_some() || state.by_id.len() >= (self.recent_max / QUIET_PART).max(1)
    }

    /// Moves a slice: with a group of the writer if it must be, or while it `is_quiet`.
    pub(super) async fn move_slice(
        &self,
        writer: &mut SqliteConnection,
        is_quiet: bool,
    ) -> Result<Option<Moved>, sqlx::Error> {
        let slice_min = SLICE_MIN.min(self.recent_max);
        let (moving, rows) = {
            let state = self.state();
            if !is_quiet && (state.by_id.len() < self.recent_max || state.added < slice_min) {
                return Ok(None);
            }
            let rows = match state.moving {
                _ if is_quiet => SLICE_QUIET.min(self.recent_max),
                Some(_) => (state.added + state.added / 4).clamp(slice_min, SLICE_MAX),
                // What was added before it began is no measure.
                None => slice_min,
            };
            (state.moving, rows)
        };
        let mut moving = match moving {
            Some(moving) => moving,
            None => {
                let oldest: Option<i64> =
                    sqlx::query_scalar(OLDEST).fetch_one(&mut *writer).await?;
                let state = self.state();
                let oldest = oldest.unwrap_or(state.read.saturating_add(1));
                // Another process has moved it all, or what is here was deleted.
                if oldest > state.oldest {
                    return Ok(Some(Moved::All(oldest)));
                }
                Moving { until: state.read, last_id: None, last_person: None }
            }
        };
        let (ids, persons) = {
            let mut state = self.state();
            state.added = 0;
            (
                slice(&state.by_id, moving.last_id, moving.until, rows),
                slice(&state.by_person, moving.last_person, moving.until, rows),
            )
        };
        for (text, slice) in [(MOVE_IDS, &ids), (MOVE_PERSONS, &persons)] {
            if !slice.is_empty() {
                let places = json_list(slice.iter().map(|(_, seq)| *seq));
                sqlx::query(text).bind(places).execute(&mut *writer).await?;
            }
        }
        if ids.len() < rows && persons.len() < rows {
            sqlx::query(MOVED).bind(moving.until).execute(&mut *writer).await?;
            return Ok(Some(Moved::All(moving.until.saturating_add(1))));
        }
        moving.last_id = ids.last().copied().or(moving.last_id);
        moving.last_person = persons.last().copied().or(moving.last_person);
        Ok(Some(Moved::Slice(moving)))
    }

    /// Takes note of a transaction that was committed: of the rows that it added, in order and with none
    /// between them, and of what it moved.
    pub(super) fn committed(&self, added: &[Row], moved: Option<Moved>) {
        let mut state = self.state();
        if let Some(first) = added.first() {
            if first.seq <= state.read.saturating_add(1) {
                added.iter().for_each(|row| state.add(*row));
            } else {
                state.is_stale = true;
            }
        }
        match moved {
            None => {}
            Some(Moved::Slice(moving)) => state.moving = Some(moving),
            Some(Moved::All(oldest)) => {
                state.retain(|seq| seq >= oldest);
                state.oldest = oldest;
                state.moving = None;
            }
        }
    }

    /// Forgets what was read in a transaction that was rolled back: other messages may get these places.
    pub(super) fn rolled_back(&self) {
        let mut state = self.state();
        let read_before = state.read_before;
        if state.read > read_before {
            state.generation = state.generation.wrapping_add(1);
            state.retain(|seq| seq <= read_before);
            state.read = read_before;
        }
        state.is_stale = true;
    }

    /// The places of messages whose ids have these digests, of those that may not have been moved.
    pub(super) async fn newest_of_ids(
        &self,
        readers: &SqlitePool,
        hashes: &[MessageHash],
    ) -> Result<Places, sqlx::Error> {
        self.refresh_beside(readers).await?;
        let hashes: Vec<i64> = hashes.iter().map(|hash| hash.0).collect();
        Ok(places_of_ids(&self.state(), &hashes))
    }

    /// The places of a person's messages in a range, of those that may not have been moved.
    pub(super) async fn newest_of_person(
        &self,
        connection: &mut SqliteConnection,
        person: PersonHash,
        range: RangeInclusive<i64>,
    ) -> Result<Places, sqlx::Error> {
        self.refresh(connection).await?;
        Ok(json_list(within(&self.state().by_person, person.0, range)))
    }

    /// The same, but no more than the last `limit` of them, the last one first.
    pub(super) async fn last_of_person(
        &self,
        connection: &mut SqliteConnection,
        person: PersonHash,
        range: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<i64>, sqlx::Error> {
        self.refresh(connection).await?;
        Ok(within(&self.state().by_person, person.0, range).rev().take(limit).collect())
    }

    /// The first places of a person's messages in a range, moved or not, lowest first.
    pub(super) async fn first_of_person(
        &self,
        connection: &mut SqliteConnection,
        person: PersonHash,
        range: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<i64>, sqlx::Error> {
        self.refresh(connection).await?;
        let mut places: Vec<i64> =
            within(&self.state().by_person, person.0, range.clone()).take(limit).collect();
        let moved: Vec<i64> = sqlx::query_scalar(MOVED_OF_PERSON)
            .bind(person.0)
            .bind(range.start())
            .bind(range.end())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await?;
        places.extend(moved);
        places.sort_unstable();
        places.dedup();
        places.truncate(limit);
        Ok(places)
    }
}

fn places_of_ids(state: &State, hashes: &[i64]) -> Places {
    json_list(hashes.iter().flat_map(|hash| within(&state.by_id, *hash, 0..=i64::MAX)))
}

fn within(
    set: &BTreeSet<(i64, i64)>,
    value: i64,
    range: RangeInclusive<i64>,
) -> impl DoubleEndedIterator<Item = i64> {
    let (from, to) = range.into_inner();
    // An empty range of a tree that is asked for backwards would be a panic.
    set.range((value, from)..=(value, to.max(from)))
        .map(|(_, seq)| *seq)
        .filter(move |seq| *seq <= to)
}

fn slice(
    set: &BTreeSet<(i64, i64)>,
    last: Option<(i64, i64)>,
    until: i64,
    rows: usize,
) -> Vec<(i64, i64)> {
    use std::ops::Bound::{Excluded, Unbounded};
    let from = last.map_or(Unbounded, Excluded);
    set.range((from, Unbounded)).filter(|(_, seq)| *seq <= until).take(rows).copied().collect()
}

/// Numbers as one parameter of a statement: `IN (SELECT value FROM json_each($1))`.
pub(super) fn json_list(numbers: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::from("[");
    for number in numbers {
        // Into a text, which takes all that it is given.
        let _ = write!(text, "{number},");
    }
    if text.len() > 1 {
        text.pop();
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests;
