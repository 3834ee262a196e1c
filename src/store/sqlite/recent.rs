//! Where the messages of an id or of a person are.
//!
//! An index over random values costs a page of the write-ahead log for each row that is inserted, which
//! is most of what a message costs. So the newest messages stand in the table `recent`, in the order of
//! acceptance, and here in memory, sorted. When there are enough of them they are moved into the tables
//! `message_ids` and `persons`, in sorted order: then one page is written for many rows. They are moved
//! in slices: while nothing comes, so that a burst does not pay for it, or else with the groups of the
//! writer, once there are so many that it cannot wait.
//!
//! A look-up takes the places that memory knows and has SQL add those that were moved. Memory first: what
//! is moved between the two is found by both, not by none. It may name places that are no more.

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

    /// The same, beside whatever else is done, after a start.
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
            let ids = slice(&state.by_id, moving.last_id, moving.until, rows);
            let persons = slice(&state.by_person, moving.last_person, moving.until, rows);
            (ids, persons)
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
        self.refresh(&mut *readers.acquire().await?).await?;
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
) -> impl Iterator<Item = i64> {
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
    use std::time::Duration;

    use sqlx::ConnectOptions as _;
    use tempfile::TempDir;

    use super::super::{SqliteOptions, SqliteStore, accept};
    use super::*;
    use crate::queue::{Accepted, Inbox as _, Log as _, NewMessage, Work as _};
    use crate::segment::LaneKey;
    use crate::segment::ids::OrderKeyKind;
    use crate::store::suite::{ask, at, end_failed, message, put_failed, replay_all};

    /// So few that tests see them moved.
    const FEW: usize = 8;

    async fn open(folder: &TempDir, recent_max: usize) -> SqliteStore {
        let path = folder.path().join("queue.db");
        SqliteStore::open(SqliteOptions { recent_max, ..never_quiet(path) }).await.unwrap()
    }

    /// What is moved is moved with the groups.
    fn never_quiet(path: std::path::PathBuf) -> SqliteOptions {
        SqliteOptions { quiet: Duration::from_secs(3_600), ..SqliteOptions::new(path) }
    }

    /// What is moved is moved while nothing comes.
    async fn open_quiet(folder: &TempDir, recent_max: usize) -> SqliteStore {
        let path = folder.path().join("queue.db");
        SqliteStore::open(SqliteOptions { recent_max, ..SqliteOptions::new(path) }).await.unwrap()
    }

    async fn until_moved(store: &SqliteStore) {
        for _ in 0..2_000 {
            if rows(store, "recent").await == 0 && !store.recent.has_enough() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not moved");
    }

    async fn raw(folder: &TempDir) -> SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new();
        options.filename(folder.path().join("queue.db")).connect().await.unwrap()
    }

    fn of(person: &str, id: &str) -> NewMessage {
        NewMessage {
            person: PersonHash::of(person),
            lane: LaneKey::of(OrderKeyKind::User, person),
            received_at: at(0),
            ..message(id)
        }
    }

    /// The n-th message, of one of two people.
    fn nth(n: i64) -> NewMessage {
        of(if n % 2 == 0 { "even" } else { "odd" }, &format!("m{n}"))
    }

    async fn accept(store: &SqliteStore, n: i64) {
        assert_eq!(store.accept(vec![nth(n)]).await.unwrap(), [Accepted::New], "{n}");
    }

    /// All ways to find messages: by their ids, as duplicates, by their person.
    async fn assert_found(store: &SqliteStore, messages: i64) {
        for n in 1..=messages {
            let NewMessage { message_hash, message_id, .. } = nth(n);
            let found = store.by_message_id(message_hash, &message_id).await.unwrap();
            assert_eq!(found.len(), 1, "{message_id}");
        }
        let again: Vec<NewMessage> = (1..=messages).map(nth).collect();
        let told = store.accept(again).await.unwrap();
        assert!(told.iter().all(|one| *one == Accepted::Duplicate), "{told:?}");
        for (person, own) in [("even", 0), ("odd", 1)] {
            let all = (1..=messages).rev().filter(|n| n % 2 == own).map(|n| format!("m{n}"));
            assert_eq!(pages(store, person).await, all.collect::<Vec<_>>());
        }
    }

    /// The ids of a person's messages, read in pages.
    async fn pages(store: &SqliteStore, person: &str) -> Vec<String> {
        let (mut ids, mut before) = (Vec::new(), None);
        loop {
            let page = store.by_person(PersonHash::of(person), before, 3).await.unwrap();
            let Some(last) = page.last() else { return ids };
            before = Some(last.seq);
            ids.extend(page.iter().map(|found| found.message_id.clone()));
        }
    }

    async fn rows(store: &SqliteStore, table: &'static str) -> usize {
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&store.readers).await.unwrap();
        usize::try_from(rows).unwrap()
    }

    /// Neither the table nor memory holds more than what is new and what is being moved.
    async fn assert_bounded(store: &SqliteStore) {
        let held = store.recent.state().by_id.len();
        assert!(held <= FEW * 3, "{held} in memory");
        let held = store.recent.state().by_person.len();
        assert!(held <= FEW * 3, "{held} in memory");
        let held = rows(store, "recent").await;
        assert!(held <= FEW * 3, "{held} in the table");
    }

    #[tokio::test]
    async fn a_message_is_found_before_while_and_after_it_is_moved() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, FEW).await;
        for n in 1..=50 {
            accept(&store, n).await;
            assert_found(&store, n).await;
            assert_bounded(&store).await;
        }
        for table in ["message_ids", "persons"] {
            assert!(rows(&store, table).await >= 50 - FEW * 3, "{table}");
        }
        // Another process finds the same.
        assert_found(&open(&folder, FEW).await, 50).await;
    }

    #[tokio::test]
    async fn large_groups_are_moved_as_fast_as_they_come() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, SLICE_MIN).await;
        for group in 0..20 {
            let messages = (1..=500).map(|n| nth(group * 500 + n)).collect();
            store.accept(messages).await.unwrap();
        }
        assert!(rows(&store, "recent").await < 5_000);
        assert_found(&store, 10_000).await;
    }

    #[tokio::test]
    async fn after_a_start_a_group_reads_a_part_and_finds_all() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, 100_000).await;
        let count = 2 * i64::try_from(PAGE).unwrap() + 100;
        store.accept((1..=count).map(nth).collect()).await.unwrap();
        let recent = Recent::new(100_000);
        let mut writer = raw(&folder).await;
        for read in [PAGE, 2 * PAGE, usize::try_from(count).unwrap()] {
            let again = [nth(1), nth(count)];
            let accepted =
                accept::accept(&mut writer, &recent, &[&again], Duration::MAX).await.unwrap();
            assert_eq!(accepted.0, [[Accepted::Duplicate; 2]]);
            assert_eq!(recent.state().by_id.len(), read);
        }
        assert!(!recent.state().is_stale);
    }

    #[tokio::test]
    async fn while_nothing_comes_they_are_moved_before_they_must_be() {
        let folder = TempDir::new().unwrap();
        let store = open_quiet(&folder, 4_000).await;
        // More slices than one.
        store.accept((1..=1_999).map(nth).collect()).await.unwrap();
        until_moved(&store).await;
        for table in ["message_ids", "persons"] {
            assert_eq!(rows(&store, table).await, 1_999, "{table}");
        }
        // Few are left where they are.
        store.accept((2_000..=2_500).map(nth).collect()).await.unwrap();
        assert!(!store.recent.has_enough());
        assert_found(&store, 2_500).await;
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_is_not_tried_again_and_again() {
        let folder = TempDir::new().unwrap();
        let other = open(&folder, 100_000).await;
        other.accept((1..=100).map(nth).collect()).await.unwrap();
        let path = folder.path().join("queue.db");
        let options = SqliteOptions {
            recent_max: FEW,
            busy_timeout: Duration::ZERO,
            quiet: Duration::from_millis(200),
            ..SqliteOptions::new(path)
        };
        let mut lock = raw(&folder).await;
        let store = SqliteStore::open(options).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        // A look-up reads what the other has added: enough to be moved.
        assert_eq!(pages(&store, "even").await.len(), 50);
        store.lease(ask("a", at(0))).await.unwrap_err();
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(rows(&store, "message_ids").await, 0);
        store.lease(ask("a", at(0))).await.unwrap().unwrap();
        until_moved(&store).await;
    }

    #[tokio::test]
    async fn two_processes_find_what_either_accepts_and_moves() {
        let folder = TempDir::new().unwrap();
        let (one, other) = (open(&folder, FEW).await, open(&folder, FEW).await);
        for n in 1..=60 {
            accept(if n % 3 == 0 { &one } else { &other }, n).await;
            if n % 7 == 0 {
                assert_found(&one, n).await;
                assert_found(&other, n).await;
            }
        }
        assert_bounded(&one).await;
        assert_bounded(&other).await;
        // What the other added is not left to be gone through again and again.
        for n in 61..=62 {
            accept(&one, n).await;
        }
        assert_eq!(one.recent.state().read, 62);
    }

    #[tokio::test]
    async fn who_accepts_nothing_does_not_keep_what_another_moved() {
        let folder = TempDir::new().unwrap();
        let (busy, idle) = (open(&folder, FEW).await, open(&folder, FEW).await);
        for n in 1..=100 {
            accept(&busy, n).await;
            let NewMessage { message_hash, message_id, .. } = nth(n);
            let found = idle.by_message_id(message_hash, &message_id).await.unwrap();
            assert_eq!(found.len(), 1, "{message_id}");
            // It asks for the lease all the time.
            idle.lease(ask("idle", at(n))).await.unwrap();
        }
        assert_bounded(&idle).await;
    }

    #[tokio::test]
    async fn what_was_replayed_is_found_at_its_new_place_and_moved() {
        for recent_max in [FEW, 1_000] {
            let folder = TempDir::new().unwrap();
            let store = open_quiet(&folder, recent_max).await;
            let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
            for n in 1..=40 {
                if n <= 10 {
                    accept(&store, n).await;
                } else {
                    put_failed(&store, &lease, nth(n)).await;
                }
            }
            assert_found(&store, 40).await;
            for _ in 0..3 {
                assert_eq!(replay_all(&store).await.0, 30);
                assert_found(&store, 40).await;
                for n in 11..=40 {
                    let found = store.by_message_id(nth(n).message_hash, &nth(n).message_id).await;
                    end_failed(&store, &lease, found.unwrap()[0].seq).await;
                }
            }
            if recent_max == FEW {
                until_moved(&store).await;
            }
        }
    }

    #[tokio::test]
    async fn a_replay_by_itself_is_moved_too() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, FEW).await;
        let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
        for n in 1..=40 {
            put_failed(&store, &lease, nth(n)).await;
        }
        store.close().await;
        let command = open_quiet(&folder, FEW).await;
        assert_eq!(replay_all(&command).await.0, 40);
        until_moved(&command).await;
    }

    #[tokio::test]
    async fn what_another_has_moved_is_not_moved_again() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, 1_000).await;
        for n in 1..=20 {
            accept(&store, n).await;
        }
        let (quick, late) = (Recent::new(FEW), Recent::new(FEW));
        let mut writer = raw(&folder).await;
        late.refresh(&mut writer).await.unwrap();
        quick.refresh(&mut writer).await.unwrap();
        while quick.has_enough() {
            let moved = quick.move_slice(&mut writer, true).await.unwrap();
            quick.committed(&[], moved);
        }
        let moved = late.move_slice(&mut writer, true).await.unwrap().unwrap();
        assert!(matches!(moved, Moved::All(21)), "{moved:?}");
        late.committed(&[], Some(moved));
        assert!(late.state().by_id.is_empty());
    }

    #[tokio::test]
    async fn what_was_rolled_back_is_forgotten() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, FEW).await;
        for n in 1..=FEW as i64 - 1 {
            accept(&store, n).await;
        }
        // As the writer does it, but for the end.
        let recent = Recent::new(FEW);
        let mut writer = raw(&folder).await;
        for _ in 0..2 {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
            recent.begin();
            let lost = [of("nobody", "lost")];
            accept::accept(&mut writer, &recent, &[&lost], Duration::ZERO).await.unwrap();
            recent.refresh(&mut writer).await.unwrap();
            assert!(recent.move_slice(&mut writer, true).await.unwrap().is_some());
            sqlx::query("ROLLBACK").execute(&mut writer).await.unwrap();
            recent.rolled_back();
        }
        assert_eq!(rows(&store, "message_ids").await, 0);
        // Another message gets the place.
        accept(&store, FEW as i64).await;
        let places = |found: Places| serde_json::from_str::<Vec<i64>>(&found).unwrap();
        let hashes = |id: &str| [MessageHash::of(id)];
        let found = recent.newest_of_ids(&store.readers, &hashes("lost")).await.unwrap();
        assert!(places(found).is_empty());
        let found = recent.newest_of_ids(&store.readers, &hashes(&format!("m{FEW}"))).await;
        assert_eq!(places(found.unwrap()), [FEW as i64]);
    }

    #[tokio::test]
    async fn a_transaction_that_cannot_begin_makes_nothing_vanish() {
        let folder = TempDir::new().unwrap();
        let other = open(&folder, 100_000).await;
        let hasty = SqliteOptions {
            recent_max: FEW,
            busy_timeout: Duration::ZERO,
            ..never_quiet(folder.path().join("queue.db"))
        };
        let store = SqliteStore::open(hasty).await.unwrap();
        for n in 1..=FEW as i64 {
            accept(&store, n).await;
        }
        other.accept((21..=60).map(nth).collect()).await.unwrap();
        // It comes upon what the other added, reads it, and begins to move it.
        for n in 61..=62 {
            accept(&store, n).await;
        }
        assert!(store.recent.state().moving.is_some());
        let mut lock = raw(&folder).await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        assert!(store.lease(ask("a", at(0))).await.is_err());
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        // What comes goes on with moving.
        for n in 63..=200 {
            accept(&store, n).await;
        }
        assert!(rows(&store, "message_ids").await > 62);
        let lost = "SELECT COUNT(*) FROM messages m WHERE seq NOT IN (SELECT seq FROM message_ids)
                    AND seq NOT IN (SELECT seq FROM recent)";
        let lost: i64 = sqlx::query_scalar(lost).fetch_one(&store.readers).await.unwrap();
        assert_eq!(lost, 0);
    }

    #[tokio::test]
    async fn what_is_deleted_leaves_nothing_behind() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, FEW).await;
        for n in 1..=20 {
            accept(&store, n).await;
        }
        sqlx::query("DELETE FROM messages").execute(&mut raw(&folder).await).await.unwrap();
        for table in ["recent", "message_ids", "persons"] {
            assert_eq!(rows(&store, table).await, 0, "{table}");
        }
        // What memory still names is not there any more, and comes as new.
        let NewMessage { message_hash, message_id, .. } = nth(20);
        assert!(store.by_message_id(message_hash, &message_id).await.unwrap().is_empty());
        for n in 1..=20 {
            accept(&store, n).await;
        }
        assert_found(&store, 20).await;
        assert_bounded(&store).await;
    }
}
