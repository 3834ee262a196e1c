//! Runs the suite over SQLite, and tests what only SQLite can get wrong: the file, the group, the plans.

use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::error::{Fault, OpenError};
use super::group::{Effects, Step};
use super::health::Next;
use super::open::FileOptions;
use super::options::SqliteOptions;
use super::store::{LOOKUPS_MAX, SqliteStore};
use super::{folder, log, migrations, open};
use crate::queue::suite::*;
use crate::queue::*;
use crate::simulation::simulation;

mod damage;
mod file;
mod removal;
mod room;
mod versions;

store_suite!(Folder);
simulation!(Folder, seeds: 200, twice: 5);

/// A folder for a database file.
struct Folder(TempDir);

impl Fixture for Folder {
    async fn empty() -> Self {
        // In memory if possible: there are many cases, and they need no disk.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Folder(folder.unwrap())
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
        // Few enough that all tests see messages sorted in.
        recent_max: 3,
        ..SqliteOptions::new(folder.path().join("queue.db"))
    }
}

/// Opens a store in a data folder, for tests that move its queue.
pub(in crate::store) async fn open_in(folder: &std::path::Path) -> Result<SqliteStore, OpenError> {
    let path = folder::file_in(folder);
    let folder = TempDir::new().unwrap();
    SqliteStore::open(SqliteOptions { path, ..options(&folder) }).await
}

async fn fresh() -> (SqliteStore, TempDir) {
    let folder = TempDir::new().unwrap();
    (SqliteStore::open(options(&folder)).await.unwrap(), folder)
}

/// Opens the database as another program would.
fn raw(folder: &TempDir) -> Connection {
    let connection = Connection::open(folder.path().join("queue.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn execute(connection: &Connection, text: &str) {
    connection.execute_batch(text).unwrap();
}

fn is_well(store: &SqliteStore) -> bool {
    matches!(store.health.next(), Next::Read)
}

/// Starts a call without waiting for its end.
async fn poll_once<T>(mut call: Pin<&mut (dyn Future<Output = T> + Send)>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
}

/// A result that can say that the store is unavailable.
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
        store.freeze_one(&lease, seq, plan(vec![delivery("one", Ok(request(0)))])).await.unwrap();
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
    // The callers without a reply repeat their calls.
    assert_eq!(again.accept(vec![message("a")]).await.unwrap(), [Accepted::Duplicate]);
    again.freeze_one(&lease, seq, planned()).await.unwrap();
    again.settle(&lease, failed).await.unwrap();
    for step in TallyStep::ALL {
        let tallies = again.tallies(step, at(-3_600_000), at(3_600_000)).await.unwrap();
        let counts: Vec<_> =
            tallies.iter().map(|tally| (tally.stage.as_str(), tally.count)).collect();
        let expected = [("delivery_failed", 1), ("failed", 1), ("received", 1), ("request", 1)];
        assert_eq!(counts, expected, "{step:?}");
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
    // One more than there are connections.
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
    store
        .freeze(
            &lease,
            NewMerge { plans, merged: vec![], claims: Vec::new(), is_shadow: false, cap: None },
        )
        .await
        .unwrap();
    let other = raw(&folder);
    execute(
        &other,
        "UPDATE messages SET has_contents = 0 WHERE message_id IN ('m10', 'm350');
         CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.message_id = 'm300'
         BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    let selection = all(ReplayState::Unmatched);
    let mut ask =
        ReplayAsk { selection, position: None, is_dry_run: false, now: at(1_000), choice: None };
    let first = store.replay(&ask).await.unwrap();
    assert_eq!(
        (first.replayed, first.without_contents),
        (crate::store::replay::MESSAGES_MAX as u64 - 1, 1)
    );
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
    // The steps that were rolled back with it were written again, and are counted once.
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
    // Their records are removed one by one, and the request with the last.
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
        assert!(!is_well(&store));
    };
    fail().await;
    store.freeze_one(&lease, frozen, plan(vec![])).await.unwrap();
    assert!(is_well(&store), "freeze");
    fail().await;
    let broken = BrokenMessage { seq: set_aside, now: at(5), failure: failure() };
    store.set_aside(&lease, broken).await.unwrap();
    assert!(is_well(&store), "set aside");
    fail().await;
    store.purge(at(0) + LIMITS.records_retention * 2).await.unwrap();
    assert!(is_well(&store), "purge");
}

/// The event of a restored message counts as tried since the backup, whether alone or merged. Events of messages
/// accepted afterwards do not.
#[tokio::test]
async fn events_that_were_restored_count_as_tried_since_their_backup() {
    let (store, folder) = fresh().await;
    for id in ["a", "b"] {
        put(&store, message(id)).await;
    }
    store.close().await;
    let restored = r#"INSERT INTO meta VALUES ('restored', '[{"made_at": 1000, "through": 2}]')"#;
    execute(&raw(&folder), restored);
    let store = SqliteStore::open(options(&folder)).await.unwrap();
    let lease = store.lease(ask("a", at(0))).await.unwrap().unwrap();
    for id in ["c", "d"] {
        put(&store, message(id)).await;
    }
    let event = || NewRequest { idempotency_key: Some("key".to_owned()), ..request(0) };
    let upsert = || NewRequest { idempotency_key: None, ..request(1) };
    let plan_of = |request| plan(vec![delivery("one", Ok(request))]);
    let merge = |plans: Vec<(i64, NewRequest)>| NewMerge {
        merged: vec![NewMergedRequest {
            request: event(),
            carries: (0..plans.len()).map(|index| (index, 0)).collect(),
        }],
        plans: plans.into_iter().map(|(seq, request)| (Seq(seq), plan_of(request))).collect(),
        claims: Vec::new(),
        is_shadow: false,
        cap: None,
    };
    let first_attempt = async |merge| {
        let frozen = store.freeze(&lease, merge).await.unwrap();
        frozen.requests[0].first_attempt_at.map(Timestamp::as_millisecond)
    };
    assert_eq!(first_attempt(merge(vec![(1, event())])).await, Some(1_000));
    // In a merged request, the event decides.
    assert_eq!(first_attempt(merge(vec![(2, upsert()), (3, event())])).await, None);
    assert_eq!(first_attempt(merge(vec![(4, event())])).await, None);
    let made_at = async |seq| store.open(Seq(seq)).await.unwrap().unwrap().restored_from;
    assert_eq!(made_at(2).await.map(Timestamp::as_millisecond), Some(1_000));
    assert_eq!(made_at(3).await, None);
    // Beginning an attempt does not change that time.
    let opened = store.open(Seq(1)).await.unwrap().unwrap();
    assert_eq!(opened.requests[0].first_attempt_at.map(Timestamp::as_millisecond), Some(1_000));
}

/// Sends orders faster than they can be written, without waiting for replies, until the store is closed.
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

async fn eventually_ready(store: &SqliteStore) {
    let began = std::time::Instant::now();
    while let Err(why) = store.ready().await {
        let why = crate::telemetry::chain(&why).to_string();
        assert!(began.elapsed() < Duration::from_secs(30), "{why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
