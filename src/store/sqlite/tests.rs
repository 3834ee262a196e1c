//! The store keeps the contract of the queue. The cases speak to its traits alone, so that another
//! engine can run them too; what is SQLite's own (files, query plans) comes last.

use std::path::Path;

use bytes::Bytes;
use jiff::SignedDuration;
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::queue::{
    Attempt, Class, Consequence, DeliveryState, Failure, NewDelivery, NewRequest, RequestId,
};
use crate::segment::{LaneKey, MessageType};

const WINDOW: Duration = Duration::from_secs(3_600);

fn options(folder: &Path) -> SqliteOptions {
    SqliteOptions {
        path: folder.join("queue.db"),
        duplicate_window: WINDOW,
        waiting_messages_max: 100,
        waiting_bytes_max: 1 << 20,
        delivered_retention: Duration::from_secs(100),
        failed_retention: Duration::from_secs(200),
        records_retention: Duration::from_secs(300),
    }
}

async fn store() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(options(folder.path())).await.unwrap();
    (folder, store)
}

fn at(second: i64) -> Timestamp {
    Timestamp::new(1_800_000_000 + second, 0).unwrap()
}

fn message(id: &str, lane: i64) -> NewMessage {
    NewMessage {
        source: "web".to_owned(),
        destination: "main".to_owned(),
        message_id: id.to_owned(),
        message_hash: MessageHash::of(id),
        kind: MessageType::Track,
        class: Class::Live,
        lane: LaneKey(lane),
        person: PersonHash(lane),
        received_at: at(0),
        payload: Bytes::from(format!("payload of {id}")),
    }
}

async fn leased(store: &SqliteStore) -> Lease {
    ask(store, "process-1", at(0)).await.unwrap()
}

async fn ask(store: &SqliteStore, holder: &str, now: Timestamp) -> Option<Lease> {
    let ask = LeaseRequest {
        destination: "main".to_owned(),
        holder: holder.to_owned(),
        now,
        ttl: Duration::from_secs(10),
    };
    store.lease(ask).await.unwrap()
}

async fn seqs(store: &SqliteStore) -> Vec<Seq> {
    let heads = store.pending("main", Seq(0), 1_000).await.unwrap();
    heads.into_iter().map(|head| head.seq).collect()
}

fn request(key: &str) -> NewRequest {
    NewRequest {
        method: "POST".to_owned(),
        path: "/events/send".to_owned(),
        body: Bytes::from_static(b"{}"),
        idempotency_key: Some(key.to_owned()),
    }
}

fn delivery(subscription: &str, outcome: Result<NewRequest, Failure>) -> NewDelivery {
    NewDelivery {
        subscription: subscription.to_owned(),
        action: "sendEvent".to_owned(),
        warnings: vec!["a warning".to_owned()],
        outcome,
    }
}

fn plan(deliveries: Vec<NewDelivery>) -> NewPlan {
    NewPlan { now: at(1), deliveries, unmatched: None }
}

fn failure(reason: &str) -> Failure {
    Failure { reason: reason.to_owned(), detail: "why".to_owned() }
}

fn settlement(request: RequestId, consequence: Consequence) -> Settlement {
    let attempt = Attempt {
        number: 1,
        started_at: at(2),
        duration: Duration::from_millis(30),
        status: Some(200),
        outcome: "told".to_owned(),
        excerpt: "answer".to_owned(),
    };
    Settlement { request, attempt, consequence }
}

async fn record(store: &SqliteStore, id: &str) -> MessageRecord {
    store.by_message_id(MessageHash::of(id), id).await.unwrap().remove(0)
}

#[tokio::test]
async fn accepted_messages_are_pending_in_their_order() {
    let (_folder, store) = store().await;
    for batch in 0..3 {
        let batch: Vec<_> = (0..100).map(|n| message(&format!("{batch}-{n}"), n)).collect();
        let accepted = store.accept(batch).await.unwrap();
        assert_eq!(accepted, vec![Accepted::New; 100]);
    }
    let heads = store.pending("main", Seq(0), 1_000).await.unwrap();
    assert_eq!(heads.len(), 300);
    assert!(heads.is_sorted_by(|one, next| one.seq < next.seq));
    assert_eq!(heads.iter().map(|head| head.lane.0).collect::<Vec<_>>()[..3], [0, 1, 2]);
    let page = store.pending("main", heads[99].seq, 50).await.unwrap();
    assert_eq!(page.as_slice(), &heads[100..150]);
    assert!(store.pending("other", Seq(0), 10).await.unwrap().is_empty());
    let depth = store.depth("main").await.unwrap();
    assert_eq!((depth.messages, depth.oldest_received_at), (300, Some(at(0))));
    assert_eq!(store.depth("other").await.unwrap(), Depth::default());
    let job = store.open(heads[0].seq).await.unwrap().unwrap();
    assert_eq!(
        (job.source.as_str(), job.message_id.as_str(), job.is_planned),
        ("web", "0-0", false)
    );
    assert_eq!(job.payload.as_ref(), b"payload of 0-0");
}

#[tokio::test]
async fn a_message_id_counts_once_per_source_within_the_window() {
    let (_folder, store) = store().await;
    let window = SignedDuration::try_from(WINDOW).unwrap();
    let later = |by: SignedDuration| NewMessage {
        received_at: at(0).checked_add(by).unwrap(),
        ..message("m", 1)
    };
    let other = NewMessage { source: "app".to_owned(), ..message("m", 1) };
    let twice = vec![message("m", 1), message("m", 1), other];
    assert_eq!(
        store.accept(twice).await.unwrap(),
        [Accepted::New, Accepted::Duplicate, Accepted::New]
    );
    let ms = SignedDuration::from_millis(1);
    for (by, expected) in [
        (window - ms, Accepted::Duplicate),
        (window, Accepted::Duplicate),
        (window + ms, Accepted::New),
    ] {
        assert_eq!(store.accept(vec![later(by)]).await.unwrap(), [expected], "{by:?}");
    }
    // The same digest with another text is another message.
    let alike = NewMessage { message_id: "other text".to_owned(), ..message("m", 1) };
    assert_eq!(store.accept(vec![alike]).await.unwrap(), [Accepted::New]);
}

#[tokio::test]
async fn more_than_may_wait_is_refused_at_once() {
    let (_folder, store) = store().await;
    let many = |count: usize| (0..count).map(|n| message(&format!("m{n}"), 1)).collect::<Vec<_>>();
    assert!(matches!(store.accept(many(101)).await, Err(QueueError::Busy)));
    let large =
        NewMessage { payload: Bytes::from(vec![b' '; (1 << 20) + 1]), ..message("large", 1) };
    assert!(matches!(store.accept(vec![large]).await, Err(QueueError::Busy)));
    // The permits came back.
    assert_eq!(store.accept(many(100)).await.unwrap().len(), 100);
    assert_eq!(store.accept(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_accepted_outlives_a_store_that_is_never_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(options(folder.path())).await.unwrap();
    store.accept(vec![message("m", 1)]).await.unwrap();
    std::mem::forget(store);
    let store = SqliteStore::open(options(folder.path())).await.unwrap();
    assert_eq!(seqs(&store).await.len(), 1);
    assert_eq!(store.accept(vec![message("m", 1)]).await.unwrap(), [Accepted::Duplicate]);
}

#[tokio::test]
async fn a_lease_has_one_holder_and_its_token_grows_with_every_change() {
    let (_folder, store) = store().await;
    let first = ask(&store, "a", at(0)).await.unwrap();
    assert_eq!(ask(&store, "b", at(9)).await, None);
    assert_eq!(ask(&store, "a", at(9)).await.as_ref(), Some(&first), "a renewal keeps the token");
    assert_eq!(ask(&store, "b", at(18)).await, None, "the renewal counts");
    let second = ask(&store, "b", at(19)).await.unwrap();
    assert!(second.token > first.token);
    assert!(matches!(store.release(&first).await, Err(QueueError::Fenced)));
    store.release(&second).await.unwrap();
    let third = ask(&store, "a", at(20)).await.unwrap();
    assert!(third.token > second.token);
    let fourth = ask(&store, "a", at(31)).await.unwrap();
    assert!(fourth.token > third.token, "taken again after it ran out");
}

#[tokio::test]
async fn a_plan_is_frozen_once_and_ends_with_its_last_delivery() {
    let (_folder, store) = store().await;
    store.accept(vec![message("m", 1)]).await.unwrap();
    let lease = leased(&store).await;
    let seq = seqs(&store).await[0];
    let deliveries = vec![
        delivery("one", Ok(request("k1"))),
        delivery("two", Err(failure("invalid"))),
        delivery("three", Ok(request("k3"))),
    ];
    let frozen = store.freeze(&lease, seq, plan(deliveries)).await.unwrap();
    let keys: Vec<_> = frozen.iter().map(|one| one.idempotency_key.clone().unwrap()).collect();
    assert_eq!(keys, ["k1", "k3"]);
    let again =
        store.freeze(&lease, seq, plan(vec![delivery("new", Ok(request("other")))])).await.unwrap();
    assert_eq!(again, frozen, "a planned message keeps its plan");
    let job = store.open(seq).await.unwrap().unwrap();
    assert!(job.is_planned);
    assert_eq!(job.requests, frozen);

    store.settle(&lease, settlement(frozen[0].id, Consequence::Delivered)).await.unwrap();
    assert_eq!(store.open(seq).await.unwrap().unwrap().requests, frozen[1..]);
    store
        .settle(&lease, settlement(frozen[1].id, Consequence::Failed(failure("refused"))))
        .await
        .unwrap();
    assert!(store.open(seq).await.unwrap().is_none());
    assert!(seqs(&store).await.is_empty());

    let record = record(&store, "m").await;
    assert!(record.is_done);
    let states: Vec<_> = record.deliveries.iter().map(|one| one.state).collect();
    assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Failed]);
    let reasons: Vec<_> = record.deliveries.iter().map(|one| one.failure.clone()).collect();
    assert_eq!(reasons, [None, Some(failure("invalid")), Some(failure("refused"))]);
    assert_eq!(record.deliveries[0].warnings, ["a warning"]);
    let attempts = &record.deliveries[0].request.as_ref().unwrap().attempts;
    assert_eq!(attempts, &[settlement(frozen[0].id, Consequence::Delivered).attempt]);
    assert!(record.deliveries[1].request.is_none());
}

#[tokio::test]
async fn a_message_without_pending_deliveries_is_done_at_once() {
    let (_folder, store) = store().await;
    store.accept(vec![message("unmatched", 1), message("invalid", 2)]).await.unwrap();
    let lease = leased(&store).await;
    let seqs_before = seqs(&store).await;
    let unmatched = NewPlan { unmatched: Some("nobody wants it".to_owned()), ..plan(Vec::new()) };
    assert!(store.freeze(&lease, seqs_before[0], unmatched).await.unwrap().is_empty());
    let invalid = plan(vec![delivery("s", Err(failure("invalid")))]);
    assert!(store.freeze(&lease, seqs_before[1], invalid).await.unwrap().is_empty());
    assert!(seqs(&store).await.is_empty());
    assert_eq!(record(&store, "unmatched").await.unmatched.as_deref(), Some("nobody wants it"));
    assert!(record(&store, "invalid").await.is_done);
}

#[tokio::test]
async fn a_retry_waits_and_a_hold_does_not_start_its_window() {
    let (_folder, store) = store().await;
    store.accept(vec![message("m", 1)]).await.unwrap();
    let lease = leased(&store).await;
    let seq = seqs(&store).await[0];
    let id =
        store.freeze(&lease, seq, plan(vec![delivery("s", Ok(request("k")))])).await.unwrap()[0].id;
    let after = async |consequence| {
        store.settle(&lease, settlement(id, consequence)).await.unwrap();
        store.open(seq).await.unwrap().unwrap().requests.remove(0)
    };
    let held = after(Consequence::Hold).await;
    assert_eq!((held.attempts, held.first_attempt_at, held.next_attempt_at), (1, None, None));
    let retried = after(Consequence::Retry(at(50))).await;
    assert_eq!(
        (retried.attempts, retried.first_attempt_at, retried.next_attempt_at),
        (2, Some(at(2)), Some(at(50)))
    );
    let head = store.pending("main", Seq(0), 1).await.unwrap()[0];
    assert_eq!(head.next_attempt_at, Some(at(50)));
    assert_eq!(record(&store, "m").await.deliveries[0].request.as_ref().unwrap().attempts.len(), 2);
}

#[tokio::test]
async fn who_lost_the_lease_changes_nothing() {
    let (_folder, store) = store().await;
    store.accept(vec![message("m", 1)]).await.unwrap();
    let lost = leased(&store).await;
    let seq = seqs(&store).await[0];
    let frozen =
        store.freeze(&lost, seq, plan(vec![delivery("s", Ok(request("k")))])).await.unwrap();
    let held = ask(&store, "process-2", at(100)).await.unwrap();
    let delivered = || settlement(frozen[0].id, Consequence::Delivered);
    assert!(matches!(store.settle(&lost, delivered()).await, Err(QueueError::Fenced)));
    assert!(matches!(store.freeze(&lost, seq, plan(Vec::new())).await, Err(QueueError::Fenced)));
    assert_eq!(record(&store, "m").await.deliveries[0].state, DeliveryState::Pending);
    store.settle(&held, delivered()).await.unwrap();
    // A second outcome of the same request changes nothing.
    store
        .settle(&held, settlement(frozen[0].id, Consequence::Failed(failure("refused"))))
        .await
        .unwrap();
    assert_eq!(record(&store, "m").await.deliveries[0].state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_person_is_found_latest_first_and_page_by_page() {
    let (_folder, store) = store().await;
    let batch: Vec<_> = (0..5).map(|n| message(&format!("m{n}"), n % 2)).collect();
    store.accept(batch).await.unwrap();
    let page = store.by_person(PersonHash(0), None, 2).await.unwrap();
    let ids =
        |page: &[MessageRecord]| page.iter().map(|one| one.message_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&page), ["m4", "m2"]);
    let page = store.by_person(PersonHash(0), Some(page[1].seq), 2).await.unwrap();
    assert_eq!(ids(&page), ["m0"]);
}

#[tokio::test]
async fn contents_go_after_their_time_and_records_later() {
    let (_folder, store) = store().await;
    store.accept(vec![message("good", 1), message("bad", 2), message("waiting", 3)]).await.unwrap();
    let lease = leased(&store).await;
    let order = seqs(&store).await;
    for (seq, consequence) in
        [(order[0], Consequence::Delivered), (order[1], Consequence::Failed(failure("refused")))]
    {
        let frozen =
            store.freeze(&lease, seq, plan(vec![delivery("s", Ok(request("k")))])).await.unwrap();
        store.settle(&lease, settlement(frozen[0].id, consequence)).await.unwrap();
    }
    let contents = async || {
        let sql = "SELECT message_id FROM messages WHERE payload IS NOT NULL ORDER BY seq";
        let rows = sqlx::query(sql).fetch_all(&store.0.readers).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>()
    };
    // Done a little after second 2: the contents go 100 and 200 seconds later.
    for (second, left) in [
        (102, vec!["good", "bad", "waiting"]),
        (103, vec!["bad", "waiting"]),
        (202, vec!["bad", "waiting"]),
        (203, vec!["waiting"]),
    ] {
        while store.purge(at(second)).await.unwrap() > 0 {}
        assert_eq!(contents().await, left, "{second}");
    }
    let bodies = sqlx::query("SELECT COUNT(*) FROM requests WHERE body IS NOT NULL")
        .fetch_one(&store.0.readers)
        .await
        .unwrap();
    assert_eq!(bodies.get::<i64, _>(0), 0);
    assert_eq!(record(&store, "bad").await.deliveries[0].state, DeliveryState::Failed);
    while store.purge(at(301)).await.unwrap() > 0 {}
    assert!(store.by_message_id(MessageHash::of("bad"), "bad").await.unwrap().is_empty());
    assert_eq!(seqs(&store).await, [order[2]], "what is pending stays");
    let rest = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM deliveries) + (SELECT COUNT(*) FROM requests) + (SELECT COUNT(*) FROM attempts)",
    );
    assert_eq!(rest.fetch_one(&store.0.readers).await.unwrap().get::<i64, _>(0), 0);
}

#[tokio::test]
async fn a_sequence_number_is_never_used_twice() {
    let (_folder, store) = store().await;
    store.accept(vec![message("m1", 1)]).await.unwrap();
    let lease = leased(&store).await;
    let first = seqs(&store).await[0];
    store.freeze(&lease, first, plan(Vec::new())).await.unwrap();
    while store.purge(at(1_000)).await.unwrap() > 0 {}
    store.accept(vec![message("m2", 1)]).await.unwrap();
    assert!(seqs(&store).await[0] > first);
}

#[tokio::test]
async fn two_stores_on_one_file_share_order_duplicates_and_leases() {
    let folder = tempfile::tempdir().unwrap();
    let one = SqliteStore::open(options(folder.path())).await.unwrap();
    let two = SqliteStore::open(options(folder.path())).await.unwrap();
    one.accept(vec![message("m1", 1)]).await.unwrap();
    assert_eq!(
        two.accept(vec![message("m1", 1), message("m2", 1)]).await.unwrap(),
        [Accepted::Duplicate, Accepted::New]
    );
    assert_eq!(seqs(&one).await, seqs(&two).await);
    assert!(ask(&one, "one", at(0)).await.is_some());
    assert_eq!(ask(&two, "two", at(1)).await, None);
}

#[tokio::test]
async fn arrivals_are_hinted_and_a_closed_store_says_so() {
    let (_folder, store) = store().await;
    let mut arrivals = store.arrivals();
    store.accept(vec![message("m", 1)]).await.unwrap();
    assert!(arrivals.has_changed().unwrap());
    arrivals.mark_unchanged();
    store.close().await;
    assert!(matches!(store.accept(vec![message("n", 1)]).await, Err(QueueError::Unavailable(_))));
    assert!(store.ready().await.is_err());
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queue.db");
    std::fs::write(&file, "no database at all ".repeat(500)).unwrap();
    let text = SqliteStore::open(options(folder.path())).await.unwrap_err().to_string();
    assert!(text.contains("queue.db"), "{text}");
    let text =
        SqliteStore::open(options(&folder.path().join("missing"))).await.unwrap_err().to_string();
    assert!(text.contains("missing"), "{text}");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(options(folder.path())).await.unwrap();
    store.close().await;
    let mut connection = connect_options(&options(folder.path()).path).connect().await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 0)")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = SqliteStore::open(options(folder.path())).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, _store) = store().await;
    let mode = std::fs::metadata(folder.path().join("queue.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn questions_go_by_an_index() {
    let (_folder, store) = store().await;
    let cases = [
        (read::PENDING, "messages_pending"),
        (read::FROZEN, "deliveries_by_message"),
        (read::DEPTH, "messages_pending"),
        (log::BY_ID, "messages_by_id"),
        (log::BY_PERSON, "messages_by_person"),
    ];
    for (sql, index) in cases {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(&store.0.readers).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
}
