//! Days that are past their retention are dropped as a whole, except the rows that must be kept, and nobody waits for
//! that.

use jiff::Timestamp;

use super::*;
use crate::action::ActionKind;
use crate::queue::{
    Consequence, Contents, Housekeeping as _, NewDelivery, NewPlan, ReplayAsk, ReplayState,
    Replays as _,
};
use crate::segment::MessageType;
use crate::store::postgres::params::params;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns options with retentions of a few days, and with the production value of `whole_days_for`.
fn whole_days(schema: &Schema) -> PostgresOptions {
    PostgresOptions {
        duplicate_window: DAY,
        delivered_retention: DAY * 2,
        failed_retention: DAY * 5,
        records_retention: DAY * 10,
        whole_days_for: DAY + DAY / 2,
        ..options(&schema.0)
    }
}

async fn open_whole_days(schema: &Schema) -> PostgresStore {
    PostgresStore::open(whole_days(schema)).await.unwrap()
}

/// Returns a time on a day. Day 0 is 2023-11-14, and the tests begin in its evening.
fn on(day: u32, time: &str) -> Timestamp {
    let first: Timestamp = format!("2023-11-14T{time}Z").parse().unwrap();
    first + DAY * day
}

/// Waits until a connection of the stores waits for a lock.
async fn until_locked_out(raw: &Connection, schema: &Schema) {
    until(raw, &format!("{} AND wait_event_type = 'Lock'", connections_of(schema)), 1).await;
}

/// Begins to detach a table's partition while a reader uses it, and dies.
async fn die_detaching(raw: &Connection, schema: &Schema, table: &str, day: &str) {
    let reader = super::raw(schema).await;
    reader.batch(&format!("BEGIN; SELECT FROM @{table}")).await.unwrap();
    let dying = super::raw(schema).await;
    let pid: i32 = dying.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let detach = format!("ALTER TABLE @{table} DETACH PARTITION @{table}_{day} CONCURRENTLY");
    let die = async {
        let pending = format!(
            "SELECT FROM pg_inherits WHERE inhdetachpending AND inhparent = '@{table}'::regclass"
        );
        until(raw, &pending, 1).await;
        raw.query("SELECT pg_terminate_backend($1)", params![pid]).await.unwrap();
    };
    tokio::join!(dying.batch(&detach), die).0.unwrap_err();
    reader.batch("COMMIT").await.unwrap();
}

/// Plans a message and ends it.
async fn end(store: &dyn Store, lease: &Lease, seq: Seq, now: Timestamp, with: Consequence) {
    let planned = NewPlan { now, ..plan(vec![delivery("one", Ok(request(1)))]) };
    let frozen = store.freeze_one(lease, seq, planned).await.unwrap();
    let mut settlement = settlement(&frozen[0], 1, with);
    settlement.now = now;
    settlement.attempt.as_mut().unwrap().started_at = now;
    store.settle(lease, settlement).await.unwrap();
}

async fn put_at(store: &dyn Store, id: &str, received_at: Timestamp) -> Seq {
    put(store, NewMessage { received_at, ..message(id) }).await
}

async fn purge(store: &dyn Store, now: Timestamp) {
    while store.purge(now).await.unwrap() > 0 {}
}

/// Returns the days for which a table has partitions.
async fn days_of(raw: &Connection, schema: &Schema, table: &str) -> Vec<String> {
    let text = "
        SELECT right(c.relname, 2) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
        WHERE n.nspname = $1 AND p.relname = $2 ORDER BY 1";
    let rows = raw.query(text, params![schema.0, table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(raw: &Connection, table: &str) -> i64 {
    let row = raw.query_one(&format!("SELECT COUNT(*) FROM @{table}"), &[]).await.unwrap();
    row.get(0)
}

/// Returns what the log shows of a message's contents; `None` if there is no message.
async fn shown(store: &dyn Store, id: &str) -> Option<Vec<String>> {
    let found = store.by_message_id(message_hash(id), id).await.unwrap();
    let deliveries = found.into_iter().next()?.deliveries.into_iter();
    let texts = deliveries.flat_map(|delivery| {
        let attempts = delivery.request.map(|request| request.attempts).unwrap_or_default();
        let excerpts = attempts.into_iter().map(|attempt| attempt.excerpt);
        excerpts.chain(delivery.failure.map(|failure| failure.detail)).collect::<Vec<_>>()
    });
    Some(texts.collect())
}

#[tokio::test]
async fn a_day_goes_as_a_whole_but_for_what_is_kept() {
    let schema = Schema::empty().await;
    let store = open_whole_days(&schema).await;
    fill_two_days(&store).await;
    days_go_as_a_whole(&schema, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_goes_like_what_was_accepted_here() {
    let folder = tempfile::tempdir().unwrap();
    let source = crate::store::sqlite::tests::open_in(folder.path()).await.unwrap();
    fill_two_days(&source).await;
    source.close().await;
    let schema = Schema::empty().await;
    crate::store::moving::tests::move_to(folder.path(), &schema.0, u32::MAX).await.unwrap();
    days_go_as_a_whole(&schema, open_whole_days(&schema).await).await;
}

/// Stores a message that waits and, on each of two days, one that was delivered and one that failed.
async fn fill_two_days(store: &dyn Store) {
    let lease = lease(store).await;
    put_at(store, "late", on(0, "22:30:00")).await;
    for (day, good, bad) in [(0, "good 0", "bad 0"), (1, "good 1", "bad 1")] {
        let (received, ended) = (on(day, "22:30:00"), on(day, "23:00:00"));
        let seq = put_at(store, good, received).await;
        end(store, &lease, seq, ended, Consequence::Delivered).await;
        let seq = put_at(store, bad, received).await;
        end(store, &lease, seq, ended, Consequence::Failed(failure())).await;
    }
}

async fn days_go_as_a_whole(schema: &Schema, store: PostgresStore) {
    let raw = raw(schema).await;
    let lease = lease(&store).await;
    let late = heads(&store).await[0].seq;
    let (good, bad) =
        (Some(vec!["{}".into()]), Some(vec!["{}".into(), "`userId` is missing".into()]));
    let (gone, gone_bad): (Option<Vec<String>>, _) =
        (Some(vec![String::new()]), Some(vec![String::new(), String::new()]));

    // Past the retention of the day's actual messages, but not of every message that the day could have.
    purge(&store, on(2, "23:59:59.999")).await;
    assert_eq!(days_of(&raw, schema, "payloads").await, ["14", "15"]);
    assert_eq!(shown(&store, "good 0").await, good);
    purge(&store, on(3, "00:00:00")).await;
    assert_eq!(days_of(&raw, schema, "payloads").await, ["15"]);
    assert_eq!(days_of(&raw, schema, "messages").await, ["14", "15"]);
    assert_eq!(count(&raw, "payloads_kept").await, 2);
    let expected = [("good 0", &gone), ("bad 0", &bad), ("good 1", &good), ("bad 1", &bad)];
    for (id, expected) in expected {
        assert_eq!(shown(&store, id).await, *expected, "{id}");
    }
    let job = store.open(late).await.unwrap().unwrap();
    assert_eq!(job.payload, message("late").payload, "what waits keeps its contents");

    // Kept contents are removed exactly when their retention ends, which counts from the end of the message.
    end(&store, &lease, late, on(3, "12:00:00"), Consequence::Delivered).await;
    purge(&store, on(5, "11:59:59.999")).await;
    assert_eq!(shown(&store, "late").await, good);
    purge(&store, on(5, "12:00:00")).await;
    assert_eq!(shown(&store, "late").await, gone);
    purge(&store, on(5, "22:59:59.999")).await;
    assert_eq!(shown(&store, "bad 0").await, bad);
    purge(&store, on(5, "23:00:00")).await;
    assert_eq!(shown(&store, "bad 0").await, gone_bad);
    assert_eq!(shown(&store, "bad 1").await, bad);

    // The late message keeps the records of its day, for a while.
    purge(&store, on(12, "00:00:00")).await;
    assert_eq!(
        days_of(&raw, schema, "messages").await,
        ["14", "17"],
        "a day goes though one before it stays"
    );
    assert_eq!(shown(&store, "good 1").await, None);
    assert_eq!(shown(&store, "good 0").await, gone);
    purge(&store, on(12, "10:59:59.999")).await;
    assert_eq!(shown(&store, "good 0").await, gone);
    purge(&store, on(12, "11:00:00")).await;
    assert_eq!(shown(&store, "good 0").await, None, "then rows go one by one");
    assert_eq!(shown(&store, "late").await, gone);
    purge(&store, on(13, "12:00:00")).await;
    assert_eq!(shown(&store, "late").await, None);
    // The day on which the late message was sent.
    purge(&store, on(14, "00:00:00")).await;
    for table in partitions::TABLES {
        assert_eq!(days_of(&raw, schema, table).await, [""; 0], "{table}");
    }
    for table in ["days", "payloads_kept", "pending", "event_names", "tallies"] {
        assert_eq!(count(&raw, table).await, 0, "{table}");
    }
    // The day can begin again.
    put_at(&store, "next", on(0, "23:00:00")).await;
    store.close().await;
}

#[tokio::test]
async fn what_is_kept_can_be_replayed() {
    let schema = Schema::empty().await;
    let store = open_whole_days(&schema).await;
    let raw = raw(&schema).await;
    let lease = lease(&store).await;
    let seq = put_at(&store, "bad", on(0, "22:30:00")).await;
    end(&store, &lease, seq, on(0, "23:00:00"), Consequence::Failed(failure())).await;
    purge(&store, on(3, "00:00:00")).await;
    assert_eq!(count(&raw, "payloads_kept").await, 1);
    let contents = Contents { seq, payload: message("bad").payload };
    assert_eq!(store.contents(&[seq]).await.unwrap(), [contents]);
    let ask = ReplayAsk {
        selection: all(ReplayState::Failed),
        position: None,
        is_dry_run: false,
        choice: None,
        now: on(3, "01:00:00"),
    };
    assert_eq!(store.replay(&ask).await.unwrap().replayed, 1);
    let pending = heads(&store).await[0].seq;
    assert_eq!(store.open(pending).await.unwrap().unwrap().payload, message("bad").payload);
    assert_eq!(count(&raw, "payloads_kept").await, 0);
    // The message has the retention of its new day. Only what its first delivery sent is left of the first day.
    end(&store, &lease, pending, on(3, "02:00:00"), Consequence::Delivered).await;
    purge(&store, on(11, "00:00:00")).await;
    assert_eq!(days_of(&raw, &schema, "messages").await, ["17"]);
    let deliveries = record(&store, "bad").await.deliveries;
    let requests: Vec<bool> =
        deliveries.iter().map(|delivery| delivery.request.is_some()).collect();
    assert_eq!(requests, [false, true]);
    store.close().await;
}

/// Kept payloads are copied in parts. A part with nothing to copy may be followed by one with something.
#[tokio::test]
async fn what_is_erased_or_copied_meanwhile_costs_no_other_message_its_contents() {
    let schema = Schema::empty().await;
    let store = open_whole_days(&schema).await;
    let (other, raw) = (raw(&schema).await, raw(&schema).await);
    let lease = lease(&store).await;
    // Erased while it is about to be copied, since it was delivered late.
    let erased = put_at(&store, "erased", on(0, "22:30:00")).await;
    end(&store, &lease, erased, on(2, "12:00:00"), Consequence::Delivered).await;
    let failed = put_at(&store, "failed", on(0, "22:30:00")).await;
    end(&store, &lease, failed, on(0, "23:00:00"), Consequence::Failed(failure())).await;
    other.batch("BEGIN").await.unwrap();
    for text in
        ["SELECT FROM @outcomes WHERE seq = $1 FOR UPDATE", "DELETE FROM @payloads WHERE seq = $1"]
    {
        other.query(text, params![erased.0]).await.unwrap();
    }
    let erase = async {
        until_locked_out(&raw, &schema).await;
        other.batch("COMMIT").await.unwrap();
    };
    tokio::join!(purge(&store, on(3, "00:00:00")), erase);
    assert_eq!(days_of(&raw, &schema, "payloads").await, ["16"]);
    let kept = raw.query("SELECT seq FROM @payloads_kept", &[]).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [failed.0]);
    let contents = vec!["{}".to_owned(), failure().detail];
    assert_eq!(shown(&store, "failed").await, Some(contents));

    // Copied by another process that was believed dead.
    let batch = (0..1_001).map(|n| {
        let received_at = on(1, "22:30:00");
        NewMessage { received_at, ..message(&format!("m{n}")) }
    });
    store.accept(batch.collect()).await.unwrap();
    let copy = "
        BEGIN; INSERT INTO @payloads_kept (seq, payload)
        SELECT seq, payload FROM @payloads ORDER BY seq LIMIT 1000";
    other.batch(copy).await.unwrap();
    let copied = async {
        until_locked_out(&raw, &schema).await;
        other.batch("COMMIT").await.unwrap();
    };
    tokio::join!(purge(&store, on(4, "00:00:00")), copied);
    assert_eq!(days_of(&raw, &schema, "payloads").await, ["16"]);
    assert_eq!(count(&raw, "payloads_kept").await, 1_002);
    store.close().await;
}

/// A transaction that took its number before midnight may commit after midnight.
#[tokio::test]
async fn a_day_is_left_alone_until_an_hour_after_its_end() {
    let schema = Schema::empty().await;
    let none = Duration::ZERO;
    let nothing_kept = PostgresOptions {
        duplicate_window: none,
        delivered_retention: none,
        failed_retention: none,
        records_retention: none,
        ..whole_days(&schema)
    };
    let store = PostgresStore::open(nothing_kept).await.unwrap();
    let raw = raw(&schema).await;
    let lease = lease(&store).await;
    let seq = put_at(&store, "good", on(0, "23:59:59")).await;
    end(&store, &lease, seq, on(0, "23:59:59"), Consequence::Delivered).await;
    purge(&store, on(1, "00:59:59.999")).await;
    for table in partitions::TABLES {
        assert_eq!(days_of(&raw, &schema, table).await, ["14"], "{table}");
    }
    purge(&store, on(1, "01:00:00")).await;
    for table in partitions::TABLES {
        assert_eq!(days_of(&raw, &schema, table).await, [""; 0], "{table}");
    }
    store.close().await;
}

/// A process whose clock is ahead removes only what is past its retention by the database's clock.
#[tokio::test]
async fn days_go_by_the_clock_of_the_database() {
    let schema = Schema::empty().await;
    let of_database = PostgresOptions { time: Time::OfDatabase, ..whole_days(&schema) };
    let store = PostgresStore::open(of_database).await.unwrap();
    let raw = raw(&schema).await;
    let minute = LeaseRequest { ttl: Duration::from_secs(60), ..ask("a", at(0)) };
    let lease = store.lease(minute).await.unwrap().unwrap();
    let now = raw.query_one("SELECT floor(extract(epoch FROM now()))::bigint", &[]).await;
    let now = Timestamp::from_second(now.unwrap().get(0)).unwrap();
    let seq = put_at(&store, "good", now).await;
    end(&store, &lease, seq, now, Consequence::Delivered).await;
    for _ in 0..20 {
        store.purge(now + DAY * 100).await.unwrap();
    }
    assert_eq!(shown(&store, "good").await, Some(vec!["{}".to_owned()]));
    for table in partitions::TABLES {
        assert!(days_of(&raw, &schema, table).await.len() >= 3, "{table}");
    }
    store.close().await;
}

/// A message's day is dropped while a replay moves the message.
#[tokio::test]
async fn a_replay_moves_a_message_whole_or_not_at_all() {
    let schema = Schema::empty().await;
    let (store, purging) = (open_whole_days(&schema).await, open_whole_days(&schema).await);
    let (blocker, raw) = (raw(&schema).await, raw(&schema).await);
    let lease = lease(&store).await;
    let seq = put_at(&store, "good", on(0, "22:30:00")).await;
    end(&store, &lease, seq, on(0, "23:00:00"), Consequence::Delivered).await;
    // Makes the partitions of the day to which the message would move.
    let next = put_at(&store, "next", on(20, "00:00:00")).await;
    // Blocks the replay when it begins to move.
    blocker.batch("BEGIN; LOCK TABLE @payloads IN EXCLUSIVE MODE").await.unwrap();
    let ask = ReplayAsk {
        selection: all(ReplayState::Delivered),
        position: None,
        is_dry_run: false,
        choice: None,
        now: on(20, "00:00:00"),
    };
    let detach = async {
        until_locked_out(&raw, &schema).await;
        let release = async {
            let detached = "
                SELECT FROM pg_inherits WHERE inhdetachpending AND inhparent = '@messages'::regclass";
            until(&raw, detached, 1).await;
            blocker.batch("COMMIT").await.unwrap();
        };
        tokio::join!(purge(&purging, on(20, "00:00:00")), release)
    };
    let (chunk, _) = tokio::join!(store.replay(&ask), detach);
    assert_eq!(chunk.unwrap().replayed, 0);
    let pending: Vec<Seq> = heads(&store).await.iter().map(|head| head.seq).collect();
    assert_eq!(pending, [next]);
    for (table, rows) in [("replays", 0), ("payloads", 1), ("messages", 1), ("deliveries", 0)] {
        assert_eq!(count(&raw, table).await, rows, "{table}");
    }
    store.close().await;
    purging.close().await;
}

/// Returns a store with a delivered message on each of two days.
async fn with_two_ended_days(schema: &Schema) -> (PostgresStore, Connection, Lease) {
    let store = open_whole_days(schema).await;
    let raw = raw(schema).await;
    let lease = lease(&store).await;
    for day in [0, 1] {
        let seq = put_at(&store, &format!("good {day}"), on(day, "22:30:00")).await;
        end(&store, &lease, seq, on(day, "23:00:00"), Consequence::Delivered).await;
    }
    (store, raw, lease)
}

/// A process that dies while it removes a partition leaves it detached or half-detached.
#[tokio::test]
async fn what_a_dead_process_left_of_a_partition_is_in_nobodys_way() {
    let schema = Schema::empty().await;
    let (store, raw, lease) = with_two_ended_days(&schema).await;
    // Partitions of the later day, which is no longer past its retention, because the clock was set back.
    for table in ["payloads", "outcomes"] {
        die_detaching(&raw, &schema, table, "20231115").await;
    }
    raw.batch("ALTER TABLE @messages DETACH PARTITION @messages_20231115").await.unwrap();
    // Messages of that day are accepted.
    let seq = put_at(&store, "next", on(1, "23:30:00")).await;
    assert_eq!(store.open(seq).await.unwrap().unwrap().payload, message("next").payload);
    end(&store, &lease, seq, on(1, "23:30:00"), Consequence::Delivered).await;
    purge(&store, on(3, "00:00:00")).await;
    assert_eq!(days_of(&raw, &schema, "payloads").await, ["15"]);
    purge(&store, on(20, "00:00:00")).await;
    for table in partitions::TABLES {
        assert_eq!(days_of(&raw, &schema, table).await, [""; 0], "{table}");
    }
    store.close().await;
}

/// Even if nobody writes to its day, it does not keep other days from being dropped.
#[tokio::test]
async fn a_detach_that_was_given_up_keeps_no_other_day() {
    let schema = Schema::empty().await;
    let (store, raw, _) = with_two_ended_days(&schema).await;
    die_detaching(&raw, &schema, "payloads", "20231115").await;
    purge(&store, on(3, "00:00:00")).await;
    assert_eq!(days_of(&raw, &schema, "payloads").await, [""; 0]);
    store.close().await;
}

/// The server frees what was erased, even if the process that erased it has ended, and does not do so after each
/// deletion.
#[tokio::test]
async fn what_was_erased_is_vacuumed() {
    let schema = Schema::empty().await;
    let store = open_whole_days(&schema).await;
    let raw = raw(&schema).await;
    let held = lease(&store).await;
    let delete = async |store: &PostgresStore, id: &str| {
        let seq = put_at(store, id, on(0, "22:30:00")).await;
        end(store, &held, seq, on(0, "22:30:00"), Consequence::Delivered).await;
        let deletion = NewMessage { kind: MessageType::Delete, ..message(&format!("after {id}")) };
        let seq = put(store, deletion).await;
        let deleting = NewDelivery {
            action: Some(ActionKind::DeleteContact),
            ..delivery("deletion", Ok(request(1)))
        };
        let frozen = store.freeze_one(&held, seq, plan(vec![deleting])).await.unwrap();
        let delivered = settlement(&frozen[0], 1, Consequence::Delivered);
        store.settle(&held, delivered).await.unwrap();
        while store.erase(at(50)).await.unwrap() > 0 {}
    };
    let vacuumed = async |tables: [&str; 4]| {
        let mut counts = Vec::new();
        for table in tables {
            let text = "SELECT vacuum_count FROM pg_stat_all_tables WHERE schemaname = $1 AND relname = $2";
            let row = raw.query_one(text, params![schema.0, table]).await.unwrap();
            counts.push(row.get::<_, i64>(0));
        }
        counts
    };
    let tables = ["payloads_20231114", "messages_20231114", "deliveries_20231114", "payloads_kept"];
    delete(&store, "one").await;
    assert_eq!(vacuumed(tables).await, [0; 4]);
    store.close().await;
    let store = open_whole_days(&schema).await;
    raw.batch("UPDATE @leases SET expires_at = 0 WHERE destination = '~chores'").await.unwrap();
    purge(&store, on(0, "23:00:00")).await;
    assert_eq!(vacuumed(tables).await, [1; 4]);
    assert_eq!(count(&raw, "erased_days").await, 0);
    delete(&store, "other").await;
    purge(&store, on(0, "23:00:00")).await;
    assert_eq!(vacuumed(tables).await, [1; 4], "it was vacuumed a moment ago");
    assert!(count(&raw, "erased_days").await > 0);
    store.close().await;
}

/// A reader that never ends keeps a partition from being dropped, but nobody else waits.
#[tokio::test]
async fn nobody_waits_for_a_partition_that_goes() {
    let schema = Schema::empty().await;
    let store = open_whole_days(&schema).await;
    let lease = lease(&store).await;
    let seq = put_at(&store, "good", on(0, "22:30:00")).await;
    end(&store, &lease, seq, on(0, "23:00:00"), Consequence::Delivered).await;
    let (reader, raw) = (raw(&schema).await, raw(&schema).await);
    reader.batch("BEGIN; SELECT FROM @payloads, @messages").await.unwrap();
    let purging = tokio::time::timeout(Duration::from_secs(3_600), store.purge(on(20, "00:00:00")));
    let others = async {
        let detached =
            "SELECT FROM pg_inherits WHERE inhdetachpending AND inhparent = '@messages'::regclass";
        until(&raw, detached, 1).await;
        let seq = put_at(&store, "meanwhile", on(1, "00:00:00")).await;
        end(&store, &lease, seq, on(1, "00:00:00"), Consequence::Delivered).await;
        assert_eq!(store.list(&Default::default(), None, 10).await.unwrap().messages.len(), 1);
    };
    // The waiting process is stopped, and another one continues.
    tokio::select! {
        purged = purging => panic!("it did not wait: {purged:?}"),
        () = others => {}
    }
    reader.batch("COMMIT").await.unwrap();
    purge(&store, on(20, "00:00:00")).await;
    for table in partitions::TABLES {
        assert_eq!(days_of(&raw, &schema, table).await, [""; 0], "{table}");
    }
    store.close().await;
}

/// Only one process at a time removes data, and the others do not hinder it.
#[tokio::test]
async fn one_process_purges_at_a_time() {
    let schema = Schema::empty().await;
    let (a, b) = (open_whole_days(&schema).await, open_whole_days(&schema).await);
    let lease = lease(&a).await;
    let seq = put_at(&a, "good", on(0, "22:30:00")).await;
    end(&a, &lease, seq, on(0, "23:00:00"), Consequence::Delivered).await;
    purge(&a, on(1, "00:00:00")).await;
    assert_eq!(b.purge(on(20, "00:00:00")).await.unwrap(), 0);
    assert!(shown(&a, "good").await.is_some());
    purge(&a, on(20, "00:00:00")).await;
    assert!(shown(&a, "good").await.is_none());
    a.close().await;
    b.close().await;
}
