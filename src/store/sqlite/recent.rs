//! Where the messages of an id or of a person are.
//!
//! An index over random values costs a page of the write-ahead log for each row that is inserted, which
//! is most of what a message costs. So the newest messages stand in the table `recent`, in the order of
//! acceptance, and here in memory, sorted. When there are enough of them they are moved into the tables
//! `message_ids` and `persons`, in sorted order, a slice with each group of the writer: then one page is
//! written for many rows.
//!
//! What is here is read from `recent` before each look-up, so it also knows what other processes wrote.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use crate::segment::{MessageHash, PersonHash};

/// Messages that stand in `recent` before they are moved. Each takes some 50 bytes of memory here, and up
/// to twice as many may be here while they are moved.
const RECENT_MAX: usize = 64 * 1024;
/// The least rows that are moved with a group.
const SLICE_MIN: usize = 512;

/// $1 the last place that was read.
pub(super) const NEW: &str =
    "SELECT seq, message_hash, person FROM recent WHERE seq > $1 ORDER BY seq";
/// $1 message_hash.
pub(super) const OF_ID: &str = "SELECT seq FROM message_ids WHERE message_hash = $1";
/// $1 person, $2 from, $3 to, $4 limit.
pub(super) const OF_PERSON: &str = "
    SELECT seq FROM persons WHERE person = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq DESC LIMIT $4";
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

/// Places in the order of acceptance; see [`json_list`].
pub(super) type Places = String;

/// Shared by the writer and the readers.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
    recent_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Grows when everything is forgotten, so that what was read before is not taken for complete.
    generation: u64,
    /// Everything in `recent` up to this place is here.
    read: i64,
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
    is_complete: bool,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self::holding(RECENT_MAX)
    }

    fn holding(recent_max: usize) -> Self {
        Self { state: Mutex::default(), recent_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can happen while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what came since the last time.
    pub(super) async fn refresh(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        loop {
            let (generation, read) = {
                let state = self.state();
                (state.generation, state.read)
            };
            let new: Vec<(i64, i64, i64)> =
                sqlx::query_as(NEW).bind(read).fetch_all(&mut *connection).await?;
            let mut state = self.state();
            if state.generation != generation {
                continue;
            }
            for (seq, hash, person) in new {
                state.by_id.insert((hash, seq));
                state.by_person.insert((person, seq));
                state.read = state.read.max(seq);
            }
            return Ok(());
        }
    }

    /// Forgets everything, since some of it may have been rolled back; the next look reads it anew.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        let generation = state.generation.wrapping_add(1);
        *state = State { generation, ..State::default() };
    }

    /// Where messages stand whose ids have these digests, among those that were read.
    pub(super) fn of_ids(&self, hashes: &[i64]) -> Vec<i64> {
        let state = self.state();
        hashes.iter().flat_map(|hash| within(&state.by_id, *hash, 0..=i64::MAX)).collect()
    }

    /// Moves a slice along with a group, once there is enough to move; see [`Recent::moved`].
    pub(super) async fn move_slice(
        &self,
        connection: &mut SqliteConnection,
        group_messages: usize,
    ) -> Result<Option<Moving>, sqlx::Error> {
        self.move_rows(connection, SLICE_MIN.max(group_messages.saturating_mul(2))).await
    }

    async fn move_rows(
        &self,
        connection: &mut SqliteConnection,
        rows: usize,
    ) -> Result<Option<Moving>, sqlx::Error> {
        let (mut moving, ids, persons) = {
            let state = self.state();
            let moving = match state.moving {
                Some(moving) => moving,
                None if state.by_id.len() < self.recent_max => return Ok(None),
                None => Moving {
                    until: state.read,
                    last_id: None,
                    last_person: None,
                    is_complete: false,
                },
            };
            let ids = slice(&state.by_id, moving.last_id, moving.until, rows);
            let persons = slice(&state.by_person, moving.last_person, moving.until, rows);
            (moving, ids, persons)
        };
        moving.is_complete = ids.len() < rows && persons.len() < rows;
        for (text, slice) in [(MOVE_IDS, &ids), (MOVE_PERSONS, &persons)] {
            if !slice.is_empty() {
                let places = json_list(slice.iter().map(|(_, seq)| *seq));
                sqlx::query(text).bind(places).execute(&mut *connection).await?;
            }
        }
        moving.last_id = ids.last().copied().or(moving.last_id);
        moving.last_person = persons.last().copied().or(moving.last_person);
        if moving.is_complete {
            sqlx::query(MOVED).bind(moving.until).execute(&mut *connection).await?;
        }
        Ok(Some(moving))
    }

    /// Takes note of a slice whose transaction was committed.
    pub(super) fn moved(&self, moving: Moving) {
        let mut state = self.state();
        if moving.is_complete {
            state.by_id.retain(|(_, seq)| *seq > moving.until);
            state.by_person.retain(|(_, seq)| *seq > moving.until);
        }
        state.moving = (!moving.is_complete).then_some(moving);
    }

    /// Where the messages stand whose ids have one of these digests.
    pub(super) async fn find_ids(
        &self,
        readers: &SqlitePool,
        hashes: &[MessageHash],
    ) -> Result<Places, sqlx::Error> {
        let mut connection = readers.acquire().await?;
        self.refresh(&mut connection).await?;
        // Memory first: what is moved between the two looks is found by both, not by none.
        let hashes: Vec<i64> = hashes.iter().map(|hash| hash.0).collect();
        let mut found = BTreeSet::from_iter(self.of_ids(&hashes));
        for hash in hashes {
            let moved: Vec<i64> =
                sqlx::query_scalar(OF_ID).bind(hash).fetch_all(&mut *connection).await?;
            found.extend(moved);
        }
        Ok(json_list(found))
    }

    /// Where the messages of a person stand: the newest `limit` of those in `range`, newest first.
    pub(super) async fn find_person(
        &self,
        connection: &mut SqliteConnection,
        person: PersonHash,
        range: RangeInclusive<i64>,
        limit: i64,
    ) -> Result<Places, sqlx::Error> {
        self.refresh(connection).await?;
        let mut found: BTreeSet<i64> = {
            let state = self.state();
            let newest = within(&state.by_person, person.0, range.clone()).rev();
            newest.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
        };
        let moved: Vec<i64> = sqlx::query_scalar(OF_PERSON)
            .bind(person.0)
            .bind(*range.start())
            .bind(*range.end())
            .bind(limit)
            .fetch_all(connection)
            .await?;
        found.extend(moved);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(json_list(found.into_iter().rev().take(limit)))
    }
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
mod tests {
    use tempfile::TempDir;

    use super::super::{SqliteOptions, SqliteStore};
    use super::*;
    use crate::queue::{Inbox as _, Log as _, NewMessage};
    use crate::segment::LaneKey;
    use crate::segment::ids::OrderKeyKind;
    use crate::store::suite::{at, message};

    /// So few that tests see them moved.
    const FEW: usize = 8;

    async fn store() -> (SqliteStore, TempDir) {
        let folder = TempDir::new().unwrap();
        let options = SqliteOptions::new(folder.path().join("queue.db"));
        (SqliteStore::open(options).await.unwrap(), folder)
    }

    fn of(person: &str, id: &str) -> NewMessage {
        NewMessage {
            person: PersonHash::of(person),
            lane: LaneKey::of(OrderKeyKind::User, person),
            received_at: at(0),
            ..message(id)
        }
    }

    /// The places that a text of JSON names.
    fn named(places: &str) -> Vec<i64> {
        serde_json::from_str(places).unwrap()
    }

    async fn rows(store: &SqliteStore, table: &'static str) -> i64 {
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        sqlx::query_scalar(count).fetch_one(&store.readers).await.unwrap()
    }

    /// Looks for each of these messages and of their persons.
    async fn assert_found(recent: &Recent, store: &SqliteStore, messages: i64) {
        for seq in 1..=messages {
            let id = MessageHash::of(&format!("m{seq}"));
            let places = recent.find_ids(&store.readers, &[id]).await.unwrap();
            assert_eq!(named(&places), [seq], "m{seq}");
        }
        let mut connection = store.readers.acquire().await.unwrap();
        for (person, own) in [("even", 0), ("odd", 1)] {
            let own = |seq: &i64| seq % 2 == own;
            let mut expected: Vec<i64> = (1..=messages).rev().filter(own).collect();
            let person = PersonHash::of(person);
            let all = recent.find_person(&mut connection, person, 0..=i64::MAX, i64::MAX).await;
            assert_eq!(named(&all.unwrap()), expected);
            expected.retain(|seq| (3..=12).contains(seq));
            let some = recent.find_person(&mut connection, person, 3..=12, 2).await.unwrap();
            expected.truncate(2);
            assert_eq!(named(&some), expected);
            let none = recent
                .find_person(&mut connection, person, RangeInclusive::new(5, 0), 10)
                .await
                .unwrap();
            assert_eq!(none, "[]");
        }
    }

    async fn accept(store: &SqliteStore, seqs: RangeInclusive<i64>) {
        let person = |seq| if seq % 2 == 0 { "even" } else { "odd" };
        let messages = seqs.map(|seq| of(person(seq), &format!("m{seq}"))).collect();
        store.accept(messages).await.unwrap();
    }

    /// Moves one slice as the writer does.
    async fn step(recent: &Recent, writer: &mut SqliteConnection, rows: usize) -> Option<Moving> {
        recent.refresh(writer).await.unwrap();
        let moving = recent.move_rows(writer, rows).await.unwrap();
        if let Some(moving) = moving {
            recent.moved(moving);
        }
        moving
    }

    #[tokio::test]
    async fn a_message_is_found_before_during_and_after_it_is_moved() {
        let (store, folder) = store().await;
        let mut writer = raw(&folder).await;
        let recent = Recent::holding(FEW);
        accept(&store, 1..=7).await;
        assert_found(&recent, &store, 7).await;
        assert!(step(&recent, &mut writer, 3).await.is_none());
        accept(&store, 8..=8).await;
        // What comes meanwhile is left for the next time.
        let moving = step(&recent, &mut writer, 3).await.unwrap();
        assert!(!moving.is_complete);
        accept(&store, 9..=20).await;
        assert_found(&recent, &store, 20).await;
        assert_eq!(rows(&store, "message_ids").await, 3);
        let moving = step(&recent, &mut writer, 3).await.unwrap();
        assert!(!moving.is_complete);
        assert_found(&recent, &store, 20).await;
        let moving = step(&recent, &mut writer, 3).await.unwrap();
        assert!(moving.is_complete);
        for (table, expected) in [("message_ids", 8), ("persons", 8), ("recent", 12)] {
            assert_eq!(rows(&store, table).await, expected, "{table}");
        }
        assert_found(&recent, &store, 20).await;
        while step(&recent, &mut writer, 5).await.is_some() {}
        assert_eq!(rows(&store, "recent").await, 0);
        assert_eq!(recent.state().by_id.len(), 0);
        assert_found(&recent, &store, 20).await;
    }

    #[tokio::test]
    async fn what_was_rolled_back_is_forgotten() {
        let (store, folder) = store().await;
        let mut writer = raw(&folder).await;
        let recent = Recent::holding(FEW);
        accept(&store, 1..=10).await;
        for text in ["BEGIN IMMEDIATE", "DELETE FROM messages WHERE seq = 10"] {
            sqlx::query(text).execute(&mut writer).await.unwrap();
        }
        recent.refresh(&mut writer).await.unwrap();
        recent.move_rows(&mut writer, 100).await.unwrap().unwrap();
        sqlx::query("ROLLBACK").execute(&mut writer).await.unwrap();
        recent.forget();
        assert_eq!(rows(&store, "message_ids").await, 0);
        assert_found(&recent, &store, 10).await;
        // A transaction that fails half-way through the moving loses nothing either.
        step(&recent, &mut writer, 4).await.unwrap();
        recent.forget();
        assert_found(&recent, &store, 10).await;
        while step(&recent, &mut writer, 4).await.is_some() {}
        assert_eq!(rows(&store, "persons").await, 10);
    }

    #[tokio::test]
    async fn two_processes_may_move_at_the_same_time() {
        let (store, folder) = store().await;
        let mut writer = raw(&folder).await;
        let (one, other) = (Recent::holding(FEW), Recent::holding(FEW));
        accept(&store, 1..=10).await;
        step(&one, &mut writer, 4).await.unwrap();
        while step(&other, &mut writer, 3).await.is_some() {}
        accept(&store, 11..=12).await;
        for recent in [&one, &other] {
            assert_found(recent, &store, 12).await;
        }
        while step(&one, &mut writer, 4).await.is_some() {}
        for recent in [&one, &other] {
            assert_found(recent, &store, 12).await;
        }
        assert_eq!(rows(&store, "message_ids").await, 10);
        assert_eq!(rows(&store, "recent").await, 2);
    }

    #[tokio::test]
    async fn what_is_deleted_leaves_nothing_behind() {
        let (store, folder) = store().await;
        let mut writer = raw(&folder).await;
        let recent = Recent::holding(FEW);
        accept(&store, 1..=9).await;
        step(&recent, &mut writer, 4).await.unwrap();
        sqlx::query("DELETE FROM messages").execute(&mut writer).await.unwrap();
        for table in ["recent", "message_ids", "persons"] {
            assert_eq!(rows(&store, table).await, 0, "{table}");
        }
        // What memory still names is not there any more.
        while step(&recent, &mut writer, 4).await.is_some() {}
        assert_eq!(rows(&store, "persons").await, 0);
        let id = "m1";
        assert!(store.by_message_id(MessageHash::of(id), id).await.unwrap().is_empty());
    }

    async fn raw(folder: &TempDir) -> SqliteConnection {
        use sqlx::ConnectOptions as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new();
        options.filename(folder.path().join("queue.db")).connect().await.unwrap()
    }
}
