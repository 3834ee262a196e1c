//! Messages are found wherever they are, by all processes, whatever fails.

use std::time::Duration;

use sqlx::ConnectOptions as _;
use tempfile::TempDir;

use super::super::{SqliteOptions, SqliteStore, accept};
use super::*;
use crate::queue::suite::{ask, at, end_failed, message, put_failed, replay_all};
use crate::queue::{Accepted, Inbox as _, Log as _, NewMessage, Store as _, Work as _};
use crate::segment::LaneKey;
use crate::segment::ids::OrderKeyKind;

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

#[tokio::test]
async fn a_page_of_a_person_reads_no_more_places_than_it_shows() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, 1_000).await;
    for n in 1..=20 {
        accept(&store, n).await;
    }
    let mut reader = store.readers.acquire().await.unwrap();
    let even = PersonHash::of("even");
    let cases: [(_, &[i64]); 3] =
        [(0..=i64::MAX, &[20, 18, 16]), (0..=17, &[16, 14, 12]), (0..=3, &[2])];
    for (range, expected) in cases {
        let places = store.recent.last_of_person(&mut reader, even, range, 3).await.unwrap();
        assert_eq!(places, expected);
    }
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
