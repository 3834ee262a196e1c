//! The suite over SQLite, and what only SQLite can get wrong: the file, the group, the plans.

use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::queue::Consequence;
use crate::queue::suite::*;

store_suite!(Folder);

/// A folder for a database file.
struct Folder(TempDir);

impl Fixture for Folder {
    async fn empty() -> Self {
        Folder(TempDir::new().unwrap())
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(options(&self.0)).await.unwrap())
    }

    /// A closed database is one file: its log was moved into it.
    fn left_behind(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.0.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "queue.db").collect()
    }
}

fn options(folder: &TempDir) -> SqliteOptions {
    SqliteOptions {
        duplicate_window: LIMITS.duplicate_window,
        delivered_retention: LIMITS.delivered_retention,
        failed_retention: LIMITS.failed_retention,
        records_retention: LIMITS.records_retention,
        installation_key: Some(INSTALLATION_KEY),
        // So few that all tests see them sorted in.
        recent_max: 3,
        ..SqliteOptions::new(folder.path().join("queue.db"))
    }
}

async fn fresh() -> (SqliteStore, TempDir) {
    let folder = TempDir::new().unwrap();
    (SqliteStore::open(options(&folder)).await.unwrap(), folder)
}

/// The database as another program would open it.
fn raw(folder: &TempDir) -> Connection {
    let connection = Connection::open(folder.path().join("queue.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn execute(connection: &Connection, text: &str) {
    connection.execute_batch(text).unwrap();
}

/// Starts a call without waiting for its end.
async fn poll_once<T>(mut call: Pin<&mut (dyn Future<Output = T> + Send)>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
}

/// Whether an answer says that the store does not work.
trait SaysUnavailable: std::fmt::Debug {
    fn says_unavailable(&self) -> bool;
}

impl SaysUnavailable for Unavailable {
    fn says_unavailable(&self) -> bool {
        true
    }
}

impl SaysUnavailable for AcceptError {
    fn says_unavailable(&self) -> bool {
        matches!(self, AcceptError::Unavailable(_))
    }
}

fn assert_unavailable<T: std::fmt::Debug>(answer: Result<T, impl SaysUnavailable>) {
    assert!(answer.as_ref().is_err_and(SaysUnavailable::says_unavailable), "{answer:?}");
}

#[tokio::test]
async fn what_was_accepted_survives_without_close() {
    let (store, folder) = fresh().await;
    let seq = put(&store, message("a")).await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let frozen =
        store.freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))])).await.unwrap();
    // As a crash leaves it: the first store is neither closed nor dropped.
    let again = SqliteStore::open(options(&folder)).await.unwrap();
    let job = again.open(seq).await.unwrap().unwrap();
    assert_eq!((job.payload, job.requests), (message("a").payload, frozen));
    drop(store);
    assert_eq!(again.accept(vec![message("a")]).await.unwrap(), [Accepted::Duplicate]);
}

#[tokio::test]
async fn a_crash_neither_loses_nor_repeats_a_count() {
    let (store, folder) = fresh().await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let seq = put(&store, message("a")).await;
    let planned = || plan(vec![delivery("one", Ok(request(1)))]);
    let frozen = store.freeze_one(&lease, seq, planned()).await.unwrap();
    let failed = settlement(&frozen[0], 1, Consequence::Failed(failure()));
    store.settle(&lease, failed.clone()).await.unwrap();
    // As a crash leaves it: the first store is neither closed nor dropped.
    let again = SqliteStore::open(options(&folder)).await.unwrap();
    // The callers that saw no answer repeat their calls.
    assert_eq!(again.accept(vec![message("a")]).await.unwrap(), [Accepted::Duplicate]);
    again.freeze_one(&lease, seq, planned()).await.unwrap();
    again.settle(&lease, failed).await.unwrap();
    for step in TallyStep::ALL {
        let tallies = again.tallies(step, at(-3_600_000), at(3_600_000)).await.unwrap();
        let counts: Vec<_> =
            tallies.iter().map(|tally| (tally.stage.as_str(), tally.count)).collect();
        assert_eq!(counts, [("delivery_failed", 1), ("failed", 1), ("received", 1)], "{step:?}");
    }
    drop(store);
}

#[tokio::test]
async fn close_writes_what_waits_and_empties_the_log() {
    let (store, folder) = fresh().await;
    let mut accepting =
        (0..50).map(|n| store.accept(vec![message(&n.to_string())])).collect::<Vec<_>>();
    for accept in &mut accepting {
        assert!(poll_once(accept.as_mut()).await.is_pending());
    }
    store.close().await;
    for accept in accepting {
        assert_eq!(accept.await.unwrap(), [Accepted::New]);
    }
    assert!(!folder.path().join("queue.db-wal").exists(), "the log was not moved into the file");
    assert_unavailable(store.accept(vec![message("late")]).await);
    assert_unavailable(store.lease(ask("a", at(0))).await);
    assert_unavailable(store.ready().await);
    store.close().await;
    let again = SqliteStore::open(options(&folder)).await.unwrap();
    assert_eq!(again.depth(DESTINATION).await.unwrap().messages, 50);
}

#[tokio::test]
async fn refuses_more_than_fit_the_queue_of_the_writer() {
    let folder = TempDir::new().unwrap();
    let few =
        SqliteOptions { waiting_messages_max: 3, waiting_bytes_max: 1_000, ..options(&folder) };
    let store = SqliteStore::open(few).await.unwrap();
    let large =
        |id: &str, bytes: usize| NewMessage { payload: vec![b' '; bytes].into(), ..message(id) };
    let cases = [
        ("messages: 3 of 3", vec![message("1"), message("2")], vec![message("3")], false),
        (
            "messages: 4 of 3",
            vec![message("4"), message("5")],
            vec![message("6"), message("7")],
            true,
        ),
        ("bytes: 999", vec![large("8", 500)], vec![large("9", 499)], false),
        ("bytes: 1,000", vec![large("10", 500)], vec![large("11", 500)], false),
        ("bytes: 1,001", vec![large("12", 500)], vec![large("13", 501)], true),
        ("more than all, alone", vec![large("14", 5_000)], vec![], false),
        ("more than all, after another", vec![message("15")], vec![large("16", 5_000)], true),
    ];
    for (what, waiting, next, is_busy) in cases {
        // Locked, so that what waits goes on waiting.
        let other = raw(&folder);
        execute(&other, "BEGIN IMMEDIATE");
        let mut first = store.accept(waiting);
        assert!(poll_once(first.as_mut()).await.is_pending(), "{what}");
        let mut second = store.accept(next);
        match poll_once(second.as_mut()).await {
            Poll::Ready(answer) => {
                assert_eq!(matches!(answer, Err(AcceptError::Busy)), is_busy, "{what}");
                drop(second);
            }
            Poll::Pending => {
                assert!(!is_busy, "{what}");
                // A caller that gives up neither disturbs the others nor keeps their room.
                drop(second);
            }
        }
        execute(&other, "ROLLBACK");
        first.await.unwrap();
        drop(other);
        // A later order is answered after all before it, whose room is free by then.
        store.lease(ask("a", at(0))).await.unwrap();
        store.accept(vec![message("barrier")]).await.unwrap();
    }
    let kept = store.depth(DESTINATION).await.unwrap().messages;
    assert_eq!(kept, 9 + 3 + 1, "those that waited, those given up half-way, the barrier");
}

#[tokio::test]
async fn works_again_after_a_failure() {
    let folder = TempDir::new().unwrap();
    let hasty = SqliteOptions { busy_timeout: Duration::ZERO, ..options(&folder) };
    let store = SqliteStore::open(hasty).await.unwrap();
    let other = raw(&folder);
    execute(&other, "BEGIN IMMEDIATE");
    for _ in 0..2 {
        assert_unavailable(store.accept(vec![message("a")]).await);
        assert_unavailable(store.lease(ask("a", at(0))).await);
    }
    assert_eq!(heads(&store).await, [], "readers do not wait for the lock");
    execute(&other, "ROLLBACK");
    assert_eq!(store.accept(vec![message("a")]).await.unwrap(), [Accepted::New]);
}

#[tokio::test]
async fn slow_lookups_keep_neither_delivery_nor_senders_nor_the_health_check_waiting() {
    let (store, _folder) = fresh().await;
    let seq = put(&store, message("a")).await;
    // One more than there are connections for.
    let (mut lookups, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..=LOOKUPS_MAX {
        let (end, ended) = mpsc::channel::<()>();
        let mut lookup = Box::pin(store.lookups.read(move |_| Ok(ended.recv().is_err())));
        assert!(poll_once(lookup.as_mut()).await.is_pending());
        lookups.push(lookup);
        ends.push(end);
    }
    assert!(store.open(seq).await.unwrap().is_some());
    assert_eq!(heads(&store).await.len(), 1);
    store.ready().await.unwrap();
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
    drop(ends);
    for lookup in lookups {
        assert!(lookup.await.unwrap());
    }
}

#[tokio::test]
async fn a_replay_that_fails_half_way_reports_its_progress() {
    let (store, folder) = fresh().await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    store.accept((0..450).map(|n| message(&format!("m{n}"))).collect()).await.unwrap();
    let plans = heads(&store).await.iter().map(|head| (head.seq, plan(vec![]))).collect();
    store.freeze(&lease, NewMerge { plans, merged: vec![] }).await.unwrap();
    let other = raw(&folder);
    execute(
        &other,
        "UPDATE messages SET has_contents = 0 WHERE message_id IN ('m10', 'm350');
         CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.message_id = 'm300'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let selection = all(ReplayState::Unmatched);
    let mut ask = ReplayAsk { selection, position: None, is_dry_run: false, now: at(1_000) };
    let first = store.replay(&ask).await.unwrap();
    assert_eq!((first.replayed, first.without_contents), (replay::MESSAGES_MAX as u64 - 1, 1));
    ask.position = first.next;
    assert_unavailable(store.replay(&ask).await);
    execute(&other, "DROP TRIGGER poison");
    let second = store.replay(&ask).await.unwrap();
    assert_eq!((second.replayed + first.replayed, second.without_contents), (448, 1));
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn one_bad_order_does_not_fail_its_group() {
    let (store, folder) = fresh().await;
    let other = raw(&folder);
    execute(
        &other,
        "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.message_id = 'poison'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let (good, bad, lease, after) = tokio::join!(
        store.accept(vec![message("a")]),
        store.accept(vec![message("b"), message("poison")]),
        store.lease(ask("a", at(0))),
        store.accept(vec![message("c")]),
    );
    assert_eq!(good.unwrap(), [Accepted::New]);
    assert_unavailable(bad);
    assert!(lease.unwrap().is_some());
    assert_eq!(after.unwrap(), [Accepted::New]);
    assert_eq!(
        store.depth(DESTINATION).await.unwrap().messages,
        2,
        "all of the bad one or nothing"
    );
    // What was rolled back with it was written again, and is counted once.
    let tallies = store.tallies(TallyStep::Hour, at(-3_600_000), at(3_600_000)).await.unwrap();
    assert_eq!((tallies.len(), tallies[0].count), (1, 2), "{tallies:?}");
}

#[tokio::test]
async fn a_merged_request_settles_all_its_messages() {
    let (store, folder) = fresh().await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let mut frozen = Vec::new();
    for id in ["a", "b"] {
        let seq = put(&store, message(id)).await;
        frozen.extend(
            store
                .freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(1)))]))
                .await
                .unwrap(),
        );
    }
    let other = raw(&folder);
    other.execute("UPDATE deliveries SET request_id = ?", [frozen[0].id.0]).unwrap();
    store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    assert!(record(&store, "a").await.is_done && record(&store, "b").await.is_done);
    assert_eq!(heads(&store).await, []);
    // Their records go one after the other; the request goes with the last.
    store.purge(at(0) + LIMITS.records_retention * 2).await.unwrap();
    let left: i64 = other.query_row("SELECT COUNT(*) FROM attempts", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn words_of_another_release_are_shown_as_unknown_and_not_acted_on() {
    use crate::action::UnmatchedReason;
    use crate::queue::{AttemptOutcome, FailureReason};
    let (store, folder) = fresh().await;
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let mut seqs = Vec::new();
    for id in ["failed", "waits"] {
        let seq = put(&store, message(id)).await;
        let planned = plan(vec![delivery("one", Ok(request(1)))]);
        let frozen = store.freeze_one(&lease, seq, planned).await.unwrap();
        let consequence = match id {
            "failed" => Consequence::Failed(failure()),
            _ => Consequence::Retry(at(100)),
        };
        store.settle(&lease, settlement(&frozen[0], 1, consequence)).await.unwrap();
        seqs.push(seq);
    }
    let seq = put(&store, message("unmatched")).await;
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    let other = raw(&folder);
    for text in [
        "UPDATE deliveries SET action = 'later', reason = iif(reason IS NULL, NULL, 'later')",
        "UPDATE attempts SET outcome = 'later'",
        "UPDATE requests SET path = '/later'",
        "UPDATE messages SET unmatched = 'later' WHERE unmatched IS NOT NULL",
    ] {
        execute(&other, text);
    }
    let shown = record(&store, "failed").await.deliveries.remove(0);
    assert_eq!((shown.action, shown.failure.unwrap().reason), (None, FailureReason::Unknown));
    let request = shown.request.unwrap();
    assert_eq!((request.endpoint, request.attempts[0].outcome), (None, AttemptOutcome::Unknown));
    let unmatched = record(&store, "unmatched").await.unmatched.unwrap();
    assert_eq!(
        (unmatched.reason, unmatched.detail.as_str()),
        (UnmatchedReason::Unknown, "turned off")
    );
    // This release does not know what such a request would do.
    let opened = store.open(seqs[1]).await;
    assert!(matches!(opened, Err(WorkError::Broken(_))), "{opened:?}");
}

/// Accepts messages with 4 KB of contents each and ends them.
async fn fill(store: &SqliteStore, prefix: &str, messages: usize) {
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    for n in 0..messages {
        let payload = format!(r#"{{"x":"{}"}}"#, prefix.repeat(4_000 / prefix.len())).into();
        let message = NewMessage { payload, ..message(&format!("{prefix}{n}")) };
        let seq = put(store, message).await;
        let planned = plan(vec![delivery("one", Ok(request(1)))]);
        let frozen = store.freeze_one(&lease, seq, planned).await.unwrap();
        store.settle(&lease, settlement(&frozen[0], 1, Consequence::Delivered)).await.unwrap();
    }
}

fn size(folder: &TempDir) -> u64 {
    let of = |name: &str| std::fs::metadata(folder.path().join(name)).map_or(0, |file| file.len());
    of("queue.db") + of("queue.db-wal")
}

#[tokio::test]
async fn the_file_stops_growing_once_as_much_is_purged_as_accepted() {
    // What may stay of a message: its record, or nothing.
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
        // A page more or less is the shape of the trees, not growth.
        assert!(sizes[3] <= sizes[0] + 3 * 100 * bytes_kept + 4 * 4_096, "{sizes:?}");
    }
}

#[tokio::test]
async fn refuses_messages_while_the_backlog_is_full() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 3, ..options(&folder) };
    let store = SqliteStore::open(few.clone()).await.unwrap();
    let is_full =
        |answer: Result<Vec<Accepted>, AcceptError>| matches!(answer, Err(AcceptError::Full));
    let first = put(&store, message("1")).await;
    // A call that begins below the bound is taken as a whole.
    store.accept(vec![message("2"), message("3"), message("4")]).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await));
    assert!(is_full(store.accept(vec![message("4")]).await), "a duplicate too");
    // What is pending is counted when the file is opened.
    store.close().await;
    let store = SqliteStore::open(few).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await));
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    store.freeze_one(&lease, first, plan(vec![])).await.unwrap();
    assert!(is_full(store.accept(vec![message("5")]).await), "three are still pending");
    store.freeze_one(&lease, Seq(first.0 + 1), plan(vec![])).await.unwrap();
    let began = std::time::Instant::now();
    while is_full(store.accept(vec![message("5")]).await) {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 3);
}

#[tokio::test]
async fn refuses_nothing_while_few_messages_are_pending() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 8, ..options(&folder) };
    let store = SqliteStore::open(few).await.unwrap();
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    // At most four are pending at a time; all together they pass the bound again and again.
    let sender = async |sender: usize| {
        for n in 0..25 {
            let id = format!("{sender}-{n}");
            let accepted = store.accept(vec![message(&id)]).await.unwrap();
            assert_eq!(accepted, [Accepted::New], "{id}");
            let seq = record(&store, &id).await.seq;
            store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
        }
    };
    tokio::join!(sender(1), sender(2), sender(3), sender(4));
    // Duplicates are admitted too, and pend nowhere.
    for _ in 0..20 {
        assert_eq!(store.accept(vec![message("1-0")]).await.unwrap(), [Accepted::Duplicate]);
    }
}

#[tokio::test]
async fn admits_no_more_than_the_backlog_from_concurrent_senders() {
    let folder = TempDir::new().unwrap();
    let few = SqliteOptions { backlog_messages_max: 20, ..options(&folder) };
    let store = Arc::new(SqliteStore::open(few).await.unwrap());
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        senders.spawn(async move { store.accept(vec![message(&format!("m{n}"))]).await });
    }
    let answers = senders.join_all().await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let full = answers.iter().filter(|answer| matches!(answer, Err(AcceptError::Full))).count();
    assert_eq!((accepted, full), (20, 180));
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 20);
}

#[tokio::test]
async fn recovers_from_a_full_disk_without_loss_or_restart() {
    let folder = TempDir::new().unwrap();
    let small = SqliteOptions { pages_max: Some(200), ..options(&folder) };
    let store = SqliteStore::open(small).await.unwrap();
    fill(&store, "old", 20).await;
    let large = |id: &str| NewMessage { payload: vec![b' '; 50_000].into(), ..message(id) };
    let mut accepted = 0;
    let fault = loop {
        match store
            .accept(vec![large(&format!("l{accepted}")), message(&accepted.to_string())])
            .await
        {
            Ok(_) => accepted += 1,
            Err(fault) => break fault,
        }
        assert!(accepted < 100);
    };
    let mut texts = fault.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&fault);
    while let Some(error) = cause {
        texts.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(texts.contains("make room"), "{texts}");
    // All of a call or nothing, and what was accepted can be read.
    assert_eq!(store.depth(DESTINATION).await.unwrap().messages, 2 * accepted);
    store.ready().await.unwrap();
    // Contents past their time make room.
    while store.purge(at(100) + LIMITS.delivered_retention).await.unwrap() > 0 {}
    assert_eq!(store.accept(vec![large("later")]).await.unwrap(), [Accepted::New]);
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
    while store.erase().await.unwrap() > 0 {}
    execute(&reader, "ROLLBACK");
    let began = std::time::Instant::now();
    while has("canary-u1canary-u1") {
        assert!(began.elapsed() < Duration::from_secs(30), "the log was not emptied");
        store.lease(ask("a", at(0))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The ids of messages stay: their senders choose them, and these hold a digit behind the name.
    assert!(!has("canary-u1canary-u1") && !has("canary-u1\""), "without a restart");
    assert!(has("canary-u2"));
    store.close().await;
    assert!(!has("canary-u1canary-u1"));
}

/// A person's deletion that was delivered.
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
        assert_unavailable(store.erase().await);
        while store.erase().await.unwrap() > 0 {}
        assert_eq!(left(), [befores[0].0, befores[0].0 + 1]);
    }
    execute(&other, "DROP TRIGGER poison");
    while store.erase().await.unwrap() > 0 {}
    assert_eq!(left(), [0_i64; 0]);
}

#[tokio::test]
async fn a_request_that_was_taken_apart_goes_with_its_last_part_or_message() {
    use crate::queue::{FailureReason, NewMerge, NewMergedRequest};
    // The message that is set aside names the merged request, the other one its part of it.
    for first_to_go in ["set aside", "part"] {
        let (store, folder) = fresh().await;
        let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
        let set_aside = put(&store, message("set aside")).await;
        let part = put(&store, message("part")).await;
        let planned = |n| plan(vec![delivery("one", Ok(request(n)))]);
        let merge = NewMerge {
            plans: vec![(set_aside, planned(0)), (part, planned(1))],
            merged: vec![NewMergedRequest { request: request(9), carries: vec![(0, 0), (1, 0)] }],
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

#[tokio::test]
async fn every_write_shows_that_the_database_can_be_written_again() {
    let folder = TempDir::new().unwrap();
    let hasty = SqliteOptions { busy_timeout: Duration::ZERO, ..options(&folder) };
    let store = SqliteStore::open(hasty).await.unwrap();
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    let frozen = put(&store, message("frozen")).await;
    let set_aside = put(&store, message("set aside")).await;
    let other = raw(&folder);
    let fail = async || {
        execute(&other, "BEGIN IMMEDIATE");
        assert_unavailable(store.accept(vec![message("fails")]).await);
        execute(&other, "ROLLBACK");
        assert!(store.health.failure().is_some());
    };
    fail().await;
    store.freeze_one(&lease, frozen, plan(vec![])).await.unwrap();
    assert!(store.health.failure().is_none(), "freeze");
    fail().await;
    let broken = BrokenMessage { seq: set_aside, now: at(5), failure: failure() };
    store.set_aside(&lease, broken).await.unwrap();
    assert!(store.health.failure().is_none(), "set aside");
    fail().await;
    store.purge(at(0) + LIMITS.records_retention * 2).await.unwrap();
    assert!(store.health.failure().is_none(), "purge");
}

/// Sends orders without waiting for the answers, and faster than they can be written, until the store is closed.
fn keep_busy(store: &Arc<SqliteStore>, folder: &TempDir) -> tokio::task::JoinHandle<()> {
    execute(
        &raw(folder),
        "CREATE TRIGGER slow AFTER UPDATE ON leases BEGIN
             SELECT COUNT(*) FROM (
                 WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
                 SELECT n FROM n);
         END",
    );
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let send = async || poll_once(store.lease(ask("a", at(0))).as_mut()).await;
        while !matches!(send().await, Poll::Ready(Err(_))) {
            tokio::task::yield_now().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn closes_while_a_sender_goes_on() {
    let (store, folder) = fresh().await;
    let store = Arc::new(store);
    let sender = keep_busy(&store, &folder);
    put(&*store, message("a")).await;
    tokio::time::timeout(Duration::from_secs(30), store.close()).await.unwrap();
    sender.await.unwrap();
    assert!(!folder.path().join("queue.db-wal").exists());
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
    while store.erase().await.unwrap() > 0 {}
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

#[cfg(unix)]
#[tokio::test]
async fn a_damaged_page_fails_only_those_that_need_it() {
    use std::os::unix::fs::FileExt as _;
    let (store, folder) = fresh().await;
    store.close().await;
    let page: i64 = raw(&folder)
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'leases'", [], |row| row.get(0))
        .unwrap();
    let file =
        std::fs::OpenOptions::new().write(true).open(folder.path().join("queue.db")).unwrap();
    file.write_all_at(&[0xff; 4_096], (page.unsigned_abs() - 1) * 4_096).unwrap();
    drop(file);
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    // Locked, so that orders gather.
    let other = raw(&folder);
    execute(&other, "BEGIN IMMEDIATE");
    let mut calls = ["a", "b"].map(|id| store.accept(vec![message(id)]));
    let mut lease = store.lease(ask("a", at(0)));
    let [first, second] = &mut calls;
    assert!(poll_once(first.as_mut()).await.is_pending());
    assert!(poll_once(lease.as_mut()).await.is_pending());
    assert!(poll_once(second.as_mut()).await.is_pending());
    execute(&other, "ROLLBACK");
    assert_unavailable(lease.await);
    for call in calls {
        assert_eq!(call.await.unwrap(), [Accepted::New]);
    }
    assert_unavailable(store.lease(ask("a", at(0))).await);
    assert!(store.health.failure().is_some());
}

async fn refused(path: &Path) -> (OpenError, String) {
    let error = SqliteStore::open(SqliteOptions::new(path)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "names the path: {text}");
    (error, text)
}

#[tokio::test]
async fn says_what_is_wrong_with_the_file() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);

    let (error, text) = refused(&path("missing/queue.db")).await;
    assert!(matches!(error, OpenError::NoFolder { .. }) && text.contains("create it"), "{text}");

    std::fs::write(
        path("text.db"),
        "this is no database, but long enough to be looked at ".repeat(50),
    )
    .unwrap();
    let (error, _) = refused(&path("text.db")).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    let (error, _) = refused(folder.path()).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");

    let connection = Connection::open(path("foreign.db")).unwrap();
    execute(&connection, "CREATE TABLE invoices (id INTEGER)");
    let before = std::fs::read(path("foreign.db")).unwrap();
    let (error, _) = refused(&path("foreign.db")).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert!(std::fs::read(path("foreign.db")).unwrap() == before, "it was written to");

    let connection = Connection::open(path("earlier.db")).unwrap();
    execute(&connection, "CREATE TABLE _sqlx_migrations (version BIGINT)");
    execute(&connection, "CREATE TABLE messages (seq INTEGER PRIMARY KEY)");
    let (error, text) = refused(&path("earlier.db")).await;
    assert!(matches!(error, OpenError::Earlier { .. }), "{error:?}");
    assert!(text.contains("earlier build") && text.contains("move the file away"), "{text}");
}

#[tokio::test]
async fn refuses_a_schema_that_is_not_whole() {
    for damage in [
        "DROP INDEX messages_pending",
        "ALTER TABLE attempts DROP COLUMN excerpt",
        "DELETE FROM meta WHERE name = 'last_seq'",
        "UPDATE meta SET value = 'short' WHERE name = 'installation_key'",
    ] {
        let (store, folder) = fresh().await;
        store.close().await;
        execute(&raw(&folder), damage);
        let (error, text) = refused(&folder.path().join("queue.db")).await;
        assert!(matches!(error, OpenError::Damaged { .. }), "{damage}: {error:?}");
        assert!(text.contains("restore it from a backup"), "{text}");
    }
}

#[tokio::test]
async fn refuses_a_file_of_a_newer_version() {
    let (store, folder) = fresh().await;
    execute(&raw(&folder), "PRAGMA user_version = 9999");
    assert_unavailable(store.ready().await);
    let (error, text) = refused(&folder.path().join("queue.db")).await;
    assert!(matches!(error, OpenError::Later { version: 9999, .. }), "{error:?}");
    assert!(text.contains("newer"), "{text}");
}

#[cfg(unix)]
#[tokio::test]
async fn keeps_the_file_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let (store, folder) = fresh().await;
    put(&store, message("a")).await;
    for name in ["queue.db", "queue.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn says_that_a_folder_is_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
    // No user can make a file in the first. In the second, root can, and tests in containers run as root.
    let mut folders = vec![Path::new("/sys")];
    if std::fs::write(locked.join("probe"), "").is_err() {
        folders.push(&locked);
    }
    for folder in folders {
        let (error, text) = refused(&folder.join("queue.db")).await;
        assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");
        assert!(text.contains("write access"), "{text}");
    }
}
