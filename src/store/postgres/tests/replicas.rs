//! Several processes use one database at the same time.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;

use super::*;
use crate::queue::{Feedback as _, FeedbackRecord, KnownContact, NewFeedback, Recorded};
use crate::store::postgres::params::params;

/// Whatever three writers do at once, numbers become visible in order, and one copy of each message is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_writers_keep_order_and_find_every_duplicate() {
    const CALLS: usize = 60;
    let schema = Schema::empty().await;
    let stores = [schema.open().await, schema.open().await, schema.open().await];
    let is_over = AtomicBool::new(false);
    let watch = async {
        // Reads after the last number that it saw, as an engine does.
        let (mut seen, mut last) = (Vec::new(), Seq(0));
        loop {
            let was_over = is_over.load(Ordering::Acquire);
            let ask = [PendingAsk { after: last, limit: 10_000 }; 3];
            let heads = stores[0].pending(DESTINATION, ask).await.unwrap().concat();
            last = heads.iter().map(|head| head.seq).max().unwrap_or(last);
            seen.extend(heads.iter().map(|head| head.seq));
            if was_over && heads.is_empty() {
                return seen;
            }
        }
    };
    let write = async |writer: usize| {
        let mut new = 0;
        let mut random = fastrand::Rng::with_seed(writer as u64);
        for call in 0..CALLS {
            // The other writers send the same ids.
            let ids = (0..random.usize(1..20)).map(|n| format!("m{call} {}", n / 2));
            let messages = ids.map(|id| NewMessage { lane: lane(&id), ..message(&id) }).collect();
            let accepted = stores[writer].accept(messages).await.unwrap();
            new += accepted.iter().filter(|accepted| **accepted == Accepted::New).count();
        }
        new
    };
    let writes = async {
        let (a, b, c) = tokio::join!(write(0), write(1), write(2));
        is_over.store(true, Ordering::Release);
        a + b + c
    };
    let (new, seen) = tokio::join!(writes, watch);
    assert_eq!(seen.len(), new, "a number became visible below one that was seen");
    let all = heads(&*stores[0]).await;
    assert_eq!(all.len(), new);
    let mut copies: HashMap<i64, u32> = HashMap::new();
    for head in &all {
        *copies.entry(head.lane.0).or_default() += 1;
    }
    assert!(copies.values().all(|copies| *copies == 1), "two copies of a message");
    for store in &stores {
        store.close().await;
    }
}

/// Calls for several destinations in different orders never deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_for_several_destinations_go_on() {
    let schema = Schema::empty().await;
    let stores = [schema.open().await, schema.open().await];
    let write = async |writer: usize| {
        for call in 0..40 {
            let of = |name: &str| NewMessage {
                destination: name.to_owned(),
                ..message(&format!("{writer} {call} {name}"))
            };
            let mut names = ["a", "b", "c"].map(of).to_vec();
            if writer == 1 {
                names.reverse();
            }
            assert_eq!(stores[writer].accept(names).await.unwrap(), [Accepted::New; 3]);
        }
    };
    tokio::join!(write(0), write(1));
    for name in ["a", "b", "c"] {
        assert_eq!(stores[0].depth(name).await.unwrap().messages, 80);
    }
}

/// Calls that arrive while another process holds the lock share the next transaction, so that processes taking turns
/// write groups as large as a single process does.
#[tokio::test]
async fn calls_that_arrive_behind_a_lock_share_a_transaction() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    put(&store, message("before")).await;
    let other = raw(&schema).await;
    other.begin().await.unwrap();
    other.query("SELECT FROM @streams FOR UPDATE", &[]).await.unwrap();
    let first = store.accept(vec![message("a")]);
    let later = async {
        let watcher = raw(&schema).await;
        let waiting = connections_of(&schema) + " AND wait_event_type = 'Lock'";
        until(&watcher, &waiting, 1).await;
        let elsewhere = NewMessage { destination: "new".to_owned(), ..message("c") };
        let release = async { other.batch("COMMIT").await.unwrap() };
        let (b, c, ()) = tokio::join!(
            biased;
            store.accept(vec![message("b"), message("a")]),
            store.accept(vec![elsewhere]),
            release,
        );
        (b, c)
    };
    let (a, (b, c)) = tokio::join!(first, later);
    assert_eq!(a.unwrap(), [Accepted::New]);
    assert_eq!(b.unwrap(), [Accepted::New, Accepted::Duplicate]);
    assert_eq!(c.unwrap(), [Accepted::New]);
    let transactions = async |ids: &str| {
        let text =
            format!("SELECT COUNT(DISTINCT xmin::text) FROM @messages WHERE message_id IN ({ids})");
        rows::get::<i64>(&other.query_one(&text, &[]).await.unwrap(), 0).unwrap()
    };
    assert_eq!((transactions("'a', 'b'").await, transactions("'a', 'b', 'c'").await), (1, 2));
}

/// Leases expire by the database's clock, whatever the clock of a process says.
#[tokio::test]
async fn a_lease_ends_by_the_clock_of_the_database() {
    let schema = Schema::empty().await;
    let of_database = PostgresOptions { time: Time::OfDatabase, ..options(&schema.0) };
    let store = PostgresStore::open(of_database).await.unwrap();
    let ask = |holder: &str, now: Timestamp, ttl: Duration| LeaseRequest {
        ttl,
        ..super::ask(holder, now)
    };
    let minute = Duration::from_secs(60);
    assert!(store.lease(ask("a", at(0), minute)).await.unwrap().is_some());
    for now in [Timestamp::MIN, at(0), Timestamp::MAX] {
        assert_eq!(store.lease(ask("b", now, minute)).await.unwrap(), None, "{now}");
    }
    // The lease has no duration at all, so another process may take it.
    assert!(store.lease(ask("a", at(0), Duration::ZERO)).await.unwrap().is_some());
    let second = store.lease(ask("b", Timestamp::MIN, minute)).await.unwrap().unwrap();
    assert_eq!(second.token, 2);
    // Messages get numbers of today, too.
    let seq = put(&store, message("a")).await;
    let now = raw(&schema).await.query_one("SELECT extract(epoch FROM now())::bigint", &[]).await;
    let now_ms = rows::get::<i64>(&now.unwrap(), 0).unwrap() * 1_000;
    assert!(numbers::given_at(seq.0).abs_diff(now_ms) < 60_000);
}

/// A lease changes hands only between steps.
#[tokio::test]
async fn a_lease_is_not_taken_while_a_step_is_written() {
    let schema = Schema::empty().await;
    let (one, other) = (schema.open().await, schema.open().await);
    let lease = lease(&*one).await;
    let seq = put(&*one, message("a")).await;
    // Blocks the step of the first process after it has checked the lease.
    let blocker = raw(&schema).await;
    blocker.batch("BEGIN; LOCK TABLE @outcomes IN EXCLUSIVE MODE").await.unwrap();
    let step = one.freeze_one(&lease, seq, plan(vec![]));
    let take_over = async {
        let watcher = raw(&schema).await;
        let waiting =
            format!("{} AND wait_event_type = 'Lock' AND query LIKE", connections_of(&schema));
        until(&watcher, &format!("{waiting} '%outcomes%'"), 1).await;
        let late = other.lease(ask("b", at(500)));
        let release = async {
            until(&watcher, &format!("{waiting} '%INSERT INTO%leases%'"), 1).await;
            blocker.batch("COMMIT").await.unwrap();
        };
        tokio::join!(late, release).0
    };
    let (stepped, taken) = tokio::join!(step, take_over);
    assert_eq!(stepped.unwrap(), []);
    assert_eq!(taken.unwrap().unwrap().token, lease.token + 1);
    assert!(record(&*other, "a").await.is_done);
}

/// A process that is stopped in the middle of a transaction delays the others for a few seconds, not for ever.
#[tokio::test]
async fn a_process_that_stops_in_a_transaction_lets_go_of_its_locks() {
    // Statements that wait this long would delay the removal of partitions in other tests.
    let own = Server::start("fsync=on");
    let schema = Schema("stopped".to_owned());
    let target = Target::parse("store.url", &own.url()).unwrap();
    let stopped = Connector::new(target.clone(), &schema.0).connect().await.unwrap();
    let store = PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await;
    let store = store.unwrap();
    let held = lease(&store).await;
    let seq = put(&store, message("a")).await;
    stopped.begin().await.unwrap();
    stopped.query("SELECT FROM @streams, @leases FOR UPDATE", &[]).await.unwrap();
    // The other process can accept messages and write steps.
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
    store.freeze_one(&held, seq, plan(vec![])).await.unwrap();
    stopped.batch("COMMIT").await.unwrap_err();
}

/// A refused request must neither delay the holder nor wait for it.
#[tokio::test]
async fn a_lease_that_another_process_holds_is_refused_without_its_lock() {
    let schema = Schema::empty().await;
    let (one, other) = (open(&schema).await, open(&schema).await);
    lease(&one).await;
    let blocker = raw(&schema).await;
    blocker.batch("BEGIN; SELECT FROM @leases FOR UPDATE").await.unwrap();
    for _ in 0..3 {
        assert_eq!(other.lease(ask("b", at(0))).await.unwrap(), None);
    }
    blocker.batch("ROLLBACK").await.unwrap();
    // The lease has expired, but a step of the holder is being written.
    blocker.batch("BEGIN; SELECT FROM @leases FOR SHARE").await.unwrap();
    assert_eq!(other.lease(ask("b", at(500))).await.unwrap(), None);
    blocker.batch("ROLLBACK").await.unwrap();
    assert!(other.lease(ask("b", at(500))).await.unwrap().is_some());
}

/// Each process holds the lease that the other one requests, and writes steps under its own.
#[tokio::test]
async fn processes_that_ask_for_leases_of_each_other_do_not_wait_for_each_other() {
    const ROUNDS: usize = 5;
    let own = Server::start("fsync=on");
    let target = Target::parse("store.url", &own.url()).unwrap();
    let watcher = Connector::new(target.clone(), "any").connect().await.unwrap();
    let schema = Schema("crossed".to_owned());
    let open = async || {
        let mut target = target.clone();
        target.config.application_name(&schema.0);
        PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await.unwrap()
    };
    let stores = [("x", "y", open().await), ("y", "x", open().await)];
    let ask = |name: &str, holder: &str| LeaseRequest {
        destination: name.to_owned(),
        ..super::ask(holder, at(0))
    };
    let mut held = Vec::new();
    for (name, _, store) in &stores {
        let lease = store.lease(ask(name, name)).await.unwrap().unwrap();
        let mut seqs = Vec::new();
        for round in 0..ROUNDS {
            let id = format!("{name} {round}");
            let message = NewMessage { destination: (*name).to_owned(), ..message(&id) };
            seqs.push(put(store, message).await);
        }
        held.push((lease, seqs));
    }
    for round in 0..ROUNDS {
        let act = async |index: usize| {
            let (name, of_other, store) = &stores[index];
            let (lease, seqs) = &held[index];
            // These would be in one group if both were steps.
            let (refused, frozen) = tokio::join!(
                store.lease(ask(of_other, name)),
                store.freeze_one(lease, seqs[round], plan(vec![])),
            );
            assert_eq!(refused.unwrap(), None);
            frozen.unwrap();
        };
        tokio::join!(act(0), act(1));
    }
    for (_, _, store) in &stores {
        store.close().await;
    }
    // A server process reports its statistics when it ends, at the latest.
    until(&watcher, &connections_of(&schema), 0).await;
    let text = "SELECT FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0";
    assert_eq!(watcher.query(text, &[]).await.unwrap().len(), 0, "they waited for each other");
}

/// The groups of two processes lock the same contacts in opposite orders.
#[tokio::test]
async fn a_group_that_deadlocks_is_written_again_as_a_whole() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let persons = [user("ada"), user("bob")];
    let known: Vec<_> = persons.iter().map(|key| KnownContact { key: *key, email: None }).collect();
    store.make_known(DESTINATION, &known, at(1)).await.unwrap();
    let [ada, bob] = persons.map(|person| {
        let record = FeedbackRecord {
            destination: DESTINATION.to_owned(),
            webhook_id: format!("webhook {}", person.0),
            received_at: at(2),
            at: at(2),
            event: "contact.unsubscribed".to_owned(),
            user: Some(person),
            email: None,
            contact_id: None,
            origin: None,
            email_id: None,
        };
        NewFeedback { record, forward: None }
    });
    // The other process has changed Bob, and then changes Ada.
    let lock = "SELECT FROM @contacts WHERE contact = $1 FOR UPDATE";
    let other = raw(&schema).await;
    other.begin().await.unwrap();
    other.query(lock, params![persons[1].0]).await.unwrap();
    let watcher = raw(&schema).await;
    let change = async {
        let waiting = connections_of(&schema) + " AND wait_event_type = 'Lock'";
        until(&watcher, &waiting, 1).await;
        // On a machine that was busy for a second, the server may end this transaction in place of the group.
        let _ = other.query(lock, params![persons[0].0]).await;
        other.batch("COMMIT").await.unwrap();
    };
    // Both are sent before the task that writes them runs.
    let (ada, bob, ()) = tokio::join!(biased; store.record(ada), store.record(bob), change);
    assert_eq!((ada.unwrap(), bob.unwrap()), (Recorded::New, Recorded::New));
    let text = "SELECT COUNT(DISTINCT xmin::text), COUNT(*) FROM @loops_events";
    let row = watcher.query_one(text, &[]).await.unwrap();
    let written: (i64, i64) = (rows::get(&row, 0).unwrap(), rows::get(&row, 1).unwrap());
    assert_eq!(written, (1, 2), "transactions, webhooks");
    store.close().await;
}

/// The order of messages depends on the isolation level, for which a database or a user may have another default.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_default_isolation_level_does_not_matter() {
    const CALLS: usize = 40;
    let schema = Schema::empty().await;
    let open = async || {
        let level = "default_transaction_isolation%3Dserializable";
        let url = format!("{}?options=-c%20{level}", server().url());
        let mut target = Target::parse("store.url", &url).unwrap();
        target.config.application_name(&schema.0);
        PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await.unwrap()
    };
    let stores = [open().await, open().await, open().await];
    let write = async |writer: usize| {
        for call in 0..CALLS {
            let accepted = stores[writer].accept(vec![message(&format!("{writer} {call}"))]).await;
            assert_eq!(accepted.unwrap(), [Accepted::New]);
        }
    };
    tokio::join!(write(0), write(1), write(2));
    assert_eq!(stores[0].depth(DESTINATION).await.unwrap().messages, 3 * CALLS as u64);
    for store in &stores {
        store.close().await;
    }
}
