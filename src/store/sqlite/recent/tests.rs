//! All processes find messages wherever they are stored, whatever fails.

use std::path::PathBuf;

use tempfile::TempDir;

use super::super::accept::{self, Memory};
use super::super::event_names::EventNames;
use super::super::options::SqliteOptions;
use super::super::store::SqliteStore;
use super::*;
use crate::action::ActionKind;
use crate::queue::suite::{
    FreezeOne as _, INSTALLATION_KEY, ask, at, delivery, end_failed, heads, lane, message,
    of_person, plan, put, put_failed, replay_all, request, settlement,
};
use crate::queue::{
    Accepted, Consequence, Housekeeping as _, Inbox as _, Log as _, NewDelivery, NewMerge,
    NewMessage, Store as _, Work as _,
};
use crate::segment::{Digests, MessageType, PersonIdKind};
use crate::store::tally::Tallies;
use std::time::Duration;

/// Few enough that tests see messages sorted in.
const FEW: usize = 8;

async fn open(folder: &TempDir, recent_max: usize) -> SqliteStore {
    let path = folder.path().join("queue.db");
    SqliteStore::open(SqliteOptions { recent_max, ..never_quiet(path) }).await.unwrap()
}

/// Sorts only with groups, never while idle.
fn never_quiet(path: PathBuf) -> SqliteOptions {
    SqliteOptions { quiet: Duration::from_secs(3_600), ..quiet(path) }
}

fn quiet(path: PathBuf) -> SqliteOptions {
    SqliteOptions { installation_key: Some(INSTALLATION_KEY), ..SqliteOptions::new(path) }
}

/// Sorts while it is idle.
async fn open_quiet(folder: &TempDir, recent_max: usize) -> SqliteStore {
    let path = folder.path().join("queue.db");
    SqliteStore::open(SqliteOptions { recent_max, ..quiet(path) }).await.unwrap()
}

fn raw(folder: &TempDir) -> Connection {
    let connection = Connection::open(folder.path().join("queue.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn count(folder: &TempDir, text: &str) -> usize {
    let count: i64 = raw(folder).query_row(text, [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

fn rows(folder: &TempDir, table: &str) -> usize {
    count(folder, &format!("SELECT COUNT(*) FROM {table}"))
}

/// How many messages a look-up must read, because they are in no table yet.
fn unsorted(folder: &TempDir) -> usize {
    count(folder, &format!("SELECT COUNT(*) FROM messages WHERE seq > ({SORTED_THROUGH})"))
}

async fn until_sorted(folder: &TempDir) {
    for _ in 0..2_000 {
        if unsorted(folder) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not sorted in");
}

fn of(store: &SqliteStore, user: &str, id: &str) -> NewMessage {
    let email = store.digests().person(PersonIdKind::Email, &format!("{user}@example.com"));
    NewMessage { lane: lane(user), email: Some(email), ..message(id) }
}

/// The n-th message, of one of two people.
fn nth(store: &SqliteStore, n: i64) -> NewMessage {
    of(store, if n % 2 == 0 { "even" } else { "odd" }, &format!("m{n}"))
}

async fn accept(store: &SqliteStore, n: i64) {
    assert_eq!(store.accept(vec![nth(store, n)]).await.unwrap(), [Accepted::New], "{n}");
}

async fn accept_all(store: &SqliteStore, ns: std::ops::RangeInclusive<i64>) -> Vec<Accepted> {
    store.accept(ns.map(|n| nth(store, n)).collect()).await.unwrap()
}

/// All ways to find messages: by their ids, as duplicates, by their person and the address.
async fn assert_found(store: &SqliteStore, messages: i64) {
    for n in 1..=messages {
        let NewMessage { message_hash, message_id, .. } = nth(store, n);
        let found = store.by_message_id(message_hash, &message_id).await.unwrap();
        assert_eq!(found.len(), 1, "{message_id}");
    }
    let again = accept_all(store, 1..=messages).await;
    assert!(again.iter().all(|one| *one == Accepted::Duplicate), "{again:?}");
    for (user, own) in [("even", 0), ("odd", 1)] {
        let all = (1..=messages).rev().filter(|n| n % 2 == own).map(|n| format!("m{n}"));
        let all: Vec<String> = all.collect();
        assert_eq!(pages(store, user).await, all);
        let email = store.digests().person(PersonIdKind::Email, &format!("{user}@example.com"));
        let filter = crate::queue::Filter { persons: vec![email], ..Default::default() };
        let by_email = store.list(&filter, None, 20_000).await.unwrap().messages;
        let by_email: Vec<String> = by_email.into_iter().map(|found| found.message_id).collect();
        assert!(all.starts_with(&by_email) && by_email.len() >= all.len().min(2_000));
    }
}

/// The ids of a user's messages, read in pages.
async fn pages(store: &SqliteStore, user: &str) -> Vec<String> {
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = of_person(store, user, before, 3).await;
        let Some(last) = page.last() else { return ids };
        before = Some(last.seq);
        ids.extend(page.iter().map(|found| found.message_id.clone()));
    }
}

#[tokio::test]
async fn a_message_is_found_before_while_and_after_it_is_sorted_in() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, FEW).await;
    for n in 1..=50 {
        accept(&store, n).await;
        assert_found(&store, n).await;
        assert!(unsorted(&folder) <= FEW * 4, "{n}");
    }
    assert!(rows(&folder, "message_ids") >= 50 - FEW * 4);
    assert!(rows(&folder, "persons") >= 2 * (50 - FEW * 4));
    // Another process finds the same messages.
    assert_found(&open(&folder, FEW).await, 50).await;
}

#[tokio::test]
async fn large_groups_are_sorted_in_as_fast_as_they_arrive() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, SLICE_MIN).await;
    for group in 0..20 {
        accept_all(&store, group * 500 + 1..=group * 500 + 500).await;
    }
    let unsorted = unsorted(&folder);
    assert!(unsorted < 5_000, "{unsorted}");
    assert_found(&store, 10_000).await;
}

#[tokio::test]
async fn an_idle_store_sorts_before_it_must() {
    let folder = TempDir::new().unwrap();
    let store = open_quiet(&folder, 4_000).await;
    // Several slices.
    accept_all(&store, 1..=1_999).await;
    until_sorted(&folder).await;
    assert_eq!((rows(&folder, "message_ids"), rows(&folder, "persons")), (1_999, 2 * 1_999));
    // A few stay where they are.
    accept_all(&store, 2_000..=2_500).await;
    assert_found(&store, 2_500).await;
    assert_eq!(unsorted(&folder), 501);
}

#[tokio::test]
async fn two_processes_find_what_either_accepts_and_sorts_in() {
    let folder = TempDir::new().unwrap();
    let (one, other) = (open(&folder, FEW).await, open(&folder, FEW).await);
    for n in 1..=60 {
        accept(if n % 3 == 0 { &one } else { &other }, n).await;
        if n % 7 == 0 {
            assert_found(&one, n).await;
            assert_found(&other, n).await;
        }
    }
    assert!(unsorted(&folder) <= FEW * 4);
}

#[tokio::test]
async fn a_process_that_was_idle_reads_only_what_no_table_has() {
    let folder = TempDir::new().unwrap();
    let (busy, idle) = (open(&folder, FEW).await, open(&folder, FEW).await);
    for n in 1..=100 {
        accept(&busy, n).await;
    }
    let mut recent = Recent::new(FEW);
    recent.load(&raw(&folder)).unwrap();
    assert!(recent.ids.len() <= FEW * 4, "{} read", recent.ids.len());
    assert_found(&idle, 100).await;
}

#[tokio::test]
async fn what_was_replayed_is_found_at_its_new_place_and_sorted_in() {
    for recent_max in [FEW, 1_000] {
        let folder = TempDir::new().unwrap();
        let store = open_quiet(&folder, recent_max).await;
        let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
        for n in 1..=40 {
            if n <= 10 {
                accept(&store, n).await;
            } else {
                put_failed(&store, &lease, nth(&store, n)).await;
            }
        }
        assert_found(&store, 40).await;
        for _ in 0..3 {
            assert_eq!(replay_all(&store).await.0, 30);
            assert_found(&store, 40).await;
            for n in 11..=40 {
                let NewMessage { message_hash, message_id, .. } = nth(&store, n);
                let found = store.by_message_id(message_hash, &message_id).await;
                end_failed(&store, &lease, found.unwrap()[0].seq).await;
            }
        }
        if recent_max == FEW {
            while unsorted(&folder) >= FEW / QUIET_PART {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_replay_alone_is_sorted_in_too() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, FEW).await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    for n in 1..=40 {
        put_failed(&store, &lease, nth(&store, n)).await;
    }
    store.close().await;
    let command = open_quiet(&folder, FEW).await;
    assert_eq!(replay_all(&command).await.0, 40);
    until_sorted(&folder).await;
}

#[tokio::test]
async fn what_another_process_sorted_in_is_left_out() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, 1_000).await;
    accept_all(&store, 1..=20).await;
    let (mut quick, mut late) = (Recent::new(FEW), Recent::new(FEW));
    let writer = raw(&folder);
    quick.load(&writer).unwrap();
    late.load(&writer).unwrap();
    while quick.has_enough() {
        if let Some(slice) = quick.sort_slice(&writer, true).unwrap() {
            quick.sorted(slice);
        }
    }
    assert_eq!(unsorted(&folder), 0);
    assert!(late.sort_slice(&writer, true).unwrap().is_none());
    assert!(late.sorting.as_ref().unwrap().ids.is_empty());
}

#[tokio::test]
async fn what_was_rolled_back_is_not_known() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, FEW).await;
    for n in 1..FEW as i64 {
        accept(&store, n).await;
    }
    // As the writer does it, but for the end.
    let mut memory = Memory {
        recent: Recent::new(FEW),
        event_names: EventNames::default(),
        duplicate_window: Duration::ZERO,
    };
    let mut writer = raw(&folder);
    memory.recent.load(&writer).unwrap();
    let lost = of(&store, "nobody", "lost");
    for _ in 0..2 {
        let transaction = writer.transaction().unwrap();
        let mut rows = memory.recent.unknown(&transaction).unwrap();
        let calls = [std::slice::from_ref(&lost)];
        let mut tallies = Tallies::default();
        let accepted =
            accept::accept(&transaction, &mut memory, &calls, &mut rows, &mut tallies).unwrap();
        assert_eq!(accepted, [[Accepted::New]]);
        memory.recent.sort_slice(&transaction, true).unwrap();
        drop(transaction);
        memory.event_names.forget();
    }
    assert_eq!(rows(&folder, "message_ids"), 0);
    assert_eq!(memory.recent.of_id(lost.message_hash.0).count(), 0);
    // Another message gets the number, and its name of an event.
    accept(&store, FEW as i64).await;
    assert_found(&store, FEW as i64).await;
    assert_eq!(store.event_names(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_deleted_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, FEW).await;
    for n in 1..=20 {
        accept(&store, n).await;
    }
    raw(&folder).execute("DELETE FROM messages", []).unwrap();
    for table in ["message_ids", "persons", "payloads"] {
        assert_eq!(rows(&folder, table), 0, "{table}");
    }
    // Memory still names them; they are accepted as new.
    let NewMessage { message_hash, message_id, .. } = nth(&store, 20);
    assert!(store.by_message_id(message_hash, &message_id).await.unwrap().is_empty());
    for n in 1..=20 {
        accept(&store, n).await;
    }
    assert_found(&store, 20).await;
    assert_eq!(rows(&folder, "messages"), 20);
    let dangling = "SELECT COUNT(*) FROM message_ids WHERE seq NOT IN (SELECT seq FROM messages)";
    assert_eq!(count(&folder, dangling), 0);
}

/// Accepts the messages of a person with an address, of another with the same address, and the deletion of the
/// first, which is delivered; `messages` are those of the first, with the deletion. Returns how many calls erased
/// them.
async fn erase(store: &SqliteStore, folder: &TempDir, messages: usize, is_sorted: bool) -> usize {
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let address = store.digests().person(PersonIdKind::Email, "shared@example.com");
    let own = |id: &str| NewMessage { email: Some(address), ..message(id) };
    let mut batch: Vec<NewMessage> = (1..messages).map(|n| own(&format!("m{n}"))).collect();
    batch.insert(messages / 2, NewMessage { lane: lane("another"), ..own("another") });
    store.accept(batch).await.unwrap();
    let plans: Vec<_> = heads(store).await.iter().map(|head| (head.seq, plan(vec![]))).collect();
    store
        .freeze(
            &lease,
            NewMerge { plans, merged: Vec::new(), claims: Vec::new(), is_shadow: false, cap: None },
        )
        .await
        .unwrap();
    let deletion = put(store, NewMessage { kind: MessageType::Delete, ..own("deletion") }).await;
    if is_sorted {
        until_sorted(folder).await;
    } else {
        assert_eq!(unsorted(folder), messages + 1);
    }
    let deleting = NewDelivery {
        action: Some(ActionKind::DeleteContact),
        ..delivery("deletion", Ok(request(0)))
    };
    let frozen = store.freeze_one(&lease, deletion, plan(vec![deleting])).await.unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    let mut calls = 0;
    while store.erase(at(50)).await.unwrap() > 0 {
        calls += 1;
    }
    calls
}

#[tokio::test]
async fn erases_up_to_its_bound_sorted_in_or_not() {
    for (messages, expected) in [(199, 1), (200, 1), (201, 2)] {
        for is_sorted in [true, false] {
            let what = format!("{messages} messages, sorted in: {is_sorted}");
            let folder = TempDir::new().unwrap();
            let store = match is_sorted {
                true => open_quiet(&folder, 1).await,
                false => open(&folder, 10_000).await,
            };
            let calls = erase(&store, &folder, messages, is_sorted).await;
            assert_eq!(calls, expected, "{what}");
            store.close().await;
            // All are sorted in after the next start, and only the other person's message is found.
            let store = open_quiet(&folder, 1).await;
            until_sorted(&folder).await;
            for (table, expected) in [
                ("payloads", 1),
                ("messages WHERE has_contents = 1", 1),
                ("messages WHERE COALESCE(lane, anonymous, email) IS NOT NULL", 1),
                ("persons", 2),
                ("erasures", 0),
                ("deletions", 0),
                ("message_ids", messages + 1),
            ] {
                assert_eq!(rows(&folder, table), expected, "{what}: {table}");
            }
            assert!(of_person(&store, "u1", None, 10).await.is_empty(), "{what}");
            assert_eq!(of_person(&store, "another", None, 10).await.len(), 1, "{what}");
        }
    }
}

#[test]
fn chains_hold_any_number_of_messages_of_one_digest() {
    let digests = Digests::new(&[1; 32]);
    let hash = |id: &str| digests.message_id(id).0;
    let mut recent = Recent::new(1_000);
    let row = |id: &str, seq| Row { seq, message_hash: hash(id), persons: [Some(1), None, None] };
    recent.note(&[row("a", 1), row("b", 2), row("a", 3)]);
    let of = |recent: &Recent, id: &str| recent.of_id(hash(id)).collect::<Vec<i64>>();
    assert_eq!((of(&recent, "a"), of(&recent, "b")), (vec![3, 1], vec![2]));
    recent.start_sorting(0);
    recent.note(&[row("a", 4)]);
    assert_eq!((of(&recent, "a"), of(&recent, "c")), (vec![4, 1, 3], vec![]));
}
