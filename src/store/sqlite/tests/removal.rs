//! Purged and erased data is gone, from the file as well, and its removal delays nothing.

use super::*;

fn size(folder: &TempDir) -> u64 {
    let of = |name: &str| std::fs::metadata(folder.path().join(name)).map_or(0, |file| file.len());
    of("queue.db") + of("queue.db-wal")
}

#[tokio::test]
async fn the_file_stops_growing_once_as_much_is_purged_as_accepted() {
    // What may be left of a message: its record, or nothing.
    for (retention, bytes_kept) in
        [(LIMITS.delivered_retention, 1_000), (LIMITS.records_retention, 0)]
    {
        let folder = TempDir::new().unwrap();
        let mut sizes = Vec::new();
        for round in 0..4 {
            let store = SqliteStore::open(options(&folder)).await.unwrap();
            fill(&store, &format!("r{round}-"), 100).await;
            store.close().await;
            sizes.push(size(&folder));
            let store = SqliteStore::open(options(&folder)).await.unwrap();
            while store.purge(at(100) + retention).await.unwrap() > 0 {}
            store.close().await;
        }
        assert!(sizes[0] > 400_000, "{sizes:?}");
        // A few pages more or less come from the shape of the trees and are not growth.
        assert!(sizes[3] <= sizes[0] + 3 * 100 * bytes_kept + 4 * 4_096, "{sizes:?}");
    }
}

#[tokio::test]
async fn what_was_erased_is_nowhere_in_the_file() {
    let (store, folder) = fresh().await;
    let has = |what: &str| {
        ["queue.db", "queue.db-wal"].iter().any(|name| {
            let bytes = std::fs::read(folder.path().join(name)).unwrap_or_default();
            bytes.windows(what.len()).any(|window| window == what.as_bytes())
        })
    };
    fill(&store, "canary-u1", 60).await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let another = NewMessage {
        lane: crate::segment::LaneKey(2),
        payload: "canary-u2".into(),
        ..message("another")
    };
    put(&store, another).await;
    let deletion = NewMessage {
        kind: crate::segment::MessageType::Delete,
        payload: "canary-u1".into(),
        ..message("deletion")
    };
    let seq = put(&store, deletion).await;
    let deleting = crate::queue::NewDelivery {
        action: Some(crate::action::ActionKind::DeleteContact),
        ..delivery("deletion", Ok(request(0)))
    };
    let frozen = store.freeze_one(&lease, seq, plan(vec![deleting])).await.unwrap();
    assert!(has("canary-u1x") || has("canary-u1c"), "the contents are there");
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    // A reader keeps the log from being emptied at once, and the store is never idle afterwards.
    let reader = raw(&folder);
    execute(&reader, "BEGIN; SELECT COUNT(*) FROM messages");
    while store.erase(at(50)).await.unwrap() > 0 {}
    execute(&reader, "ROLLBACK");
    let began = std::time::Instant::now();
    while has("canary-u1canary-u1") {
        assert!(began.elapsed() < Duration::from_secs(30), "the log was not emptied");
        store.lease(ask("a", at(0))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Message ids stay, since their senders choose them. The ids here have a digit after the name.
    assert!(!has("canary-u1canary-u1") && !has("canary-u1\""), "without a restart");
    assert!(has("canary-u2"));
    store.close().await;
    assert!(!has("canary-u1canary-u1"));
}

/// Delivers the deletion of a person.
async fn delete_person(store: &SqliteStore, lease: &Lease, id: &str, person: i64) -> Seq {
    let of = |id: String| NewMessage { lane: crate::segment::LaneKey(person), ..message(&id) };
    put(store, of(format!("{id} before"))).await;
    let kind = crate::segment::MessageType::Delete;
    let seq = put(store, NewMessage { kind, ..of(id.to_owned()) }).await;
    let deleting = crate::queue::NewDelivery {
        action: Some(crate::action::ActionKind::DeleteContact),
        ..delivery("deletion", Ok(request(0)))
    };
    let before = Seq(seq.0 - 1);
    store.freeze_one(lease, before, plan(vec![])).await.unwrap();
    let frozen = store.freeze_one(lease, seq, plan(vec![deleting])).await.unwrap();
    store.settle(lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    before
}

#[tokio::test]
async fn an_erasure_that_fails_does_not_hold_up_the_others() {
    let (store, folder) = fresh().await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let mut befores = Vec::new();
    for (id, person) in [("1", 1), ("2", 2), ("3", 3)] {
        befores.push(delete_person(&store, &lease, id, person).await);
    }
    let other = raw(&folder);
    let left = || -> Vec<i64> {
        let mut seqs = other.prepare("SELECT seq FROM payloads ORDER BY seq").unwrap();
        seqs.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    execute(
        &other,
        &format!(
            "CREATE TRIGGER poison BEFORE DELETE ON payloads WHEN OLD.seq = {}
             BEGIN SELECT RAISE(ABORT, 'no'); END",
            befores[0].0
        ),
    );
    for _ in 0..2 {
        assert_unavailable(store.erase(at(50)).await);
        while store.erase(at(50)).await.unwrap() > 0 {}
        assert_eq!(left(), [befores[0].0, befores[0].0 + 1]);
    }
    execute(&other, "DROP TRIGGER poison");
    while store.erase(at(50)).await.unwrap() > 0 {}
    assert_eq!(left(), [0_i64; 0]);
}

#[tokio::test]
async fn a_request_that_was_taken_apart_goes_with_its_last_part_or_message() {
    use crate::queue::{FailureReason, NewMerge, NewMergedRequest};
    // The message that is set aside refers to the merged request, and the other one to its own part.
    for first_to_go in ["set aside", "part"] {
        let (store, folder) = fresh().await;
        let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
        let set_aside = put(&store, message("set aside")).await;
        let part = put(&store, message("part")).await;
        let planned = |n| plan(vec![delivery("one", Ok(request(n)))]);
        let merge = NewMerge {
            plans: vec![(set_aside, planned(0)), (part, planned(1))],
            merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
            claims: Vec::new(),
            is_shadow: false,
            cap: None,
        };
        let frozen = store.freeze(&lease, merge).await.unwrap().requests;
        let failure =
            crate::queue::Failure { reason: FailureReason::Unreadable, detail: "broken".into() };
        let broken = BrokenMessage { seq: set_aside, now: at(5), failure };
        store.set_aside(&lease, broken).await.unwrap();
        store.settle(&lease, settlement(&frozen[0], 1, Consequence::TakenApart)).await.unwrap();
        let own = store.open(part).await.unwrap().unwrap().requests;
        store.settle(&lease, settlement(&own[0], 1, Consequence::Delivered)).await.unwrap();
        let other = raw(&folder);
        let late = "UPDATE messages SET done_at = done_at + 3600000 WHERE message_id <> ?1";
        other.execute(late, [first_to_go]).unwrap();
        let count = |table: &str| -> i64 {
            other.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        let purge = async |after: i64| {
            let now = at(after) + LIMITS.records_retention;
            while store.purge(now).await.unwrap() > 0 {}
        };
        purge(600_000).await;
        assert_eq!(count("messages"), 1);
        let of_merged: i64 = other
            .query_row(
                "SELECT COUNT(*) FROM attempts WHERE request_id = ?1",
                [frozen[0].id.0],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(of_merged, 1, "{first_to_go} first");
        purge(7_200_000).await;
        assert_eq!((count("messages"), count("requests"), count("attempts")), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_purge_deletes_few_rows_at_a_time() {
    let (store, folder) = fresh().await;
    let insert = "
        WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 500)
        INSERT INTO tallies SELECT 3600000, 0, 'received', 'loops', 'web', n, '', 1 FROM n";
    execute(&raw(&folder), insert);
    let late = at(0) + LIMITS.records_retention * 2;
    let mut rows = Vec::new();
    while let more @ 1.. = store.purge(late).await.unwrap() {
        rows.push(more);
    }
    assert_eq!(rows, [200, 200, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_log_is_emptied_though_the_writer_always_has_orders() {
    let (store, folder) = fresh().await;
    let store = Arc::new(store);
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let canary = NewMessage {
        payload: "canary-u1".into(),
        lane: crate::segment::LaneKey(1),
        ..message("c")
    };
    let seq = put(&*store, canary).await;
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    delete_person(&store, &lease, "deletion", 1).await;
    // A reader keeps the log from being emptied at once.
    let reader = raw(&folder);
    execute(&reader, "BEGIN; SELECT COUNT(*) FROM messages");
    while store.erase(at(50)).await.unwrap() > 0 {}
    let sender = keep_busy(&store, &folder);
    execute(&reader, "ROLLBACK");
    let has_canary = || {
        let log = std::fs::read(folder.path().join("queue.db-wal")).unwrap_or_default();
        log.windows(9).any(|window| window == b"canary-u1")
    };
    let began = std::time::Instant::now();
    while has_canary() && began.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let is_emptied = !has_canary();
    store.close().await;
    sender.await.unwrap();
    assert!(is_emptied);
}
