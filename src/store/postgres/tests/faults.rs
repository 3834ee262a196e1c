//! Faults: the database is away, connections are cut, calls are given up, or a string cannot be stored.

use super::*;
use crate::queue::Housekeeping as _;

fn is_unavailable<T: std::fmt::Debug>(answer: &Result<T, AcceptError>) -> bool {
    matches!(answer, Err(AcceptError::Unavailable(_)))
}

#[tokio::test]
async fn a_call_whose_connection_is_cut_fails_and_the_next_one_works() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let lease = lease(&store).await;
    let first = put(&store, message("first")).await;
    let blocker = raw(&schema).await;
    // Both tasks are blocked in their transactions.
    blocker.batch("BEGIN; LOCK TABLE @outcomes, @messages IN EXCLUSIVE MODE").await.unwrap();
    let cut = async {
        let watcher = raw(&schema).await;
        let waiting = format!("{} AND wait_event_type = 'Lock'", connections_of(&schema));
        until(&watcher, &waiting, 2).await;
        watcher
            .query(&waiting.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"), &[])
            .await
            .unwrap();
    };
    let (accepted, frozen, ()) = tokio::join!(
        store.accept(vec![message("a")]),
        store.freeze_one(&lease, first, plan(vec![])),
        cut
    );
    assert!(is_unavailable(&accepted), "{accepted:?}");
    assert!(matches!(frozen, Err(WorkError::Unavailable(_))), "{frozen:?}");
    blocker.batch("COMMIT").await.unwrap();
    assert_eq!(store.accept(vec![message("a")]).await.unwrap(), [Accepted::New]);
    store.freeze_one(&lease, first, plan(vec![])).await.unwrap();
    assert_eq!(heads(&store).await.len(), 1);
}

#[tokio::test]
async fn calls_that_are_given_up_leave_no_transaction_open() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let lease = lease(&store).await;
    let seq = put(&store, message("a")).await;
    for n in 0..100 {
        // Each call is dropped a little later than the previous one, and so during another statement.
        let patience = Duration::from_micros(50 * n);
        let calls: [std::pin::Pin<Box<dyn Future<Output = ()> + Send>>; 5] = [
            Box::pin(async { drop(store.accept(vec![message("b")]).await) }),
            Box::pin(async { drop(store.open(seq).await) }),
            Box::pin(async { drop(store.depth(DESTINATION).await) }),
            Box::pin(async { drop(store.by_message_id(message_hash("a"), "a").await) }),
            Box::pin(async { drop(store.settle(&lease, settlement_of_nothing()).await) }),
        ];
        for call in calls {
            drop(tokio::time::timeout(patience, call).await);
        }
    }
    assert_eq!(store.accept(vec![message("c")]).await.unwrap(), [Accepted::New]);
    let watcher = raw(&schema).await;
    let open = format!("{} AND state LIKE 'idle in transaction%'", connections_of(&schema));
    until(&watcher, &open, 0).await;
    assert_eq!(heads(&store).await.len(), 3);
}

fn settlement_of_nothing() -> Settlement {
    let consequence = crate::queue::Consequence::Delivered;
    Settlement {
        request: crate::queue::RequestId(1),
        now: at(0),
        attempt: None,
        consequence,
        contact: None,
        awaiting: None,
    }
}

#[tokio::test]
async fn keeps_texts_that_the_database_cannot_hold() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let odd = NewMessage { event: Some("Signed\0Up".into()), ..message("a\0b") };
    assert_eq!(store.accept(vec![odd.clone(), message("a")]).await.unwrap(), [Accepted::New; 2]);
    assert_eq!(store.accept(vec![odd]).await.unwrap(), [Accepted::Duplicate]);
    let found = store.by_message_id(message_hash("a\0b"), "a\0b").await.unwrap();
    assert_eq!(found[0].message_id, "a\u{2400}b");
    let lease = lease(&store).await;
    let detail = "no\0such".to_owned();
    let failure = crate::queue::Failure { detail, ..failure() };
    let planned = plan(vec![delivery("one", Err(failure))]);
    store.freeze_one(&lease, found[0].seq, planned).await.unwrap();
}

#[tokio::test]
async fn refuses_messages_while_the_backlog_is_full() {
    let schema = Schema::empty().await;
    let few = PostgresOptions { backlog_messages_max: 3, ..options(&schema.0) };
    let store = PostgresStore::open(few).await.unwrap();
    store.accept(vec![message("a"), message("b")]).await.unwrap();
    store.accept(vec![message("c"), message("d")]).await.unwrap();
    let refused = store.accept(vec![message("e")]).await;
    assert!(matches!(refused, Err(AcceptError::Full)), "{refused:?}");
    let lease = lease(&store).await;
    for head in heads(&store).await.iter().take(2) {
        store.freeze_one(&lease, head.seq, plan(vec![])).await.unwrap();
    }
    // A count that found the backlog full stays valid for a moment.
    loop {
        match store.accept(vec![message("e")]).await {
            Err(AcceptError::Full) => tokio::time::sleep(Duration::from_millis(5)).await,
            accepted => break assert_eq!(accepted.unwrap(), [Accepted::New]),
        }
    }
}

/// A demoted server accepts no writes and serves outdated reads. So every connection is replaced, to reach the server
/// to which the URL leads now.
#[tokio::test]
async fn a_server_that_becomes_read_only_is_noticed_and_left() {
    let own = Server::start("fsync=on");
    let schema = Schema("demoted".to_owned());
    let mut target = Target::parse("store.url", &own.url()).unwrap();
    let watcher = Connector::new(target.clone(), &schema.0).connect().await.unwrap();
    target.config.application_name(&schema.0);
    let store = PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await;
    let store = store.unwrap();
    put(&store, message("a")).await;
    lease(&store).await;
    store.ready().await.unwrap();
    store.list(&Default::default(), None, 1).await.unwrap();
    let before = watcher.query(&connections_of(&schema), &[]).await.unwrap();
    let before: Vec<i32> = before.iter().map(|row| rows::get(row, 0).unwrap()).collect();
    assert_eq!(before.len(), 4);

    let set = async |how: &str| {
        watcher.batch(&format!("ALTER SYSTEM {how}")).await.unwrap();
        watcher.batch("SELECT pg_reload_conf()").await.unwrap();
    };
    set("SET default_transaction_read_only = on").await;
    let refusal = async {
        loop {
            if let Err(fault) = store.ready().await {
                return crate::telemetry::chain(&fault).to_string();
            }
        }
    };
    let patience = Duration::from_secs(30);
    let text = tokio::time::timeout(patience, refusal).await.expect("it stays ready");
    assert!(text.contains("read-only") && text.contains("store.url"), "{text}");
    let refused = store.accept(vec![message("b")]).await;
    assert!(is_unavailable(&refused), "{refused:?}");
    store.lease(ask("a", at(0))).await.unwrap_err();

    set("RESET default_transaction_read_only").await;
    let ready = async { while store.ready().await.is_err() {} };
    tokio::time::timeout(patience, ready).await.expect("it is never ready again");
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
    lease(&store).await;
    assert_eq!(store.list(&Default::default(), None, 2).await.unwrap().messages.len(), 2);
    let pids = before.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    until(&watcher, &format!("SELECT FROM pg_stat_activity WHERE pid IN ({pids})"), 0).await;
    store.close().await;
}

/// Chores that wait for a lock do not make pages wait.
#[tokio::test]
async fn people_wait_for_no_chore() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    put(&store, message("a")).await;
    let (blocker, watcher) = (raw(&schema).await, raw(&schema).await);
    blocker.batch("BEGIN; LOCK TABLE @tallies, @erasures").await.unwrap();
    let look = async {
        let waiting = format!("{} AND wait_event_type = 'Lock'", connections_of(&schema));
        until(&watcher, &waiting, 2).await;
        for _ in 0..3 {
            let page = store.list(&Default::default(), None, 1).await.unwrap();
            assert_eq!(page.messages.len(), 1);
        }
        blocker.batch("COMMIT").await.unwrap();
    };
    let (purged, erased, ()) = tokio::join!(store.purge(at(0)), store.erase(at(50)), look);
    purged.unwrap();
    assert_eq!(erased.unwrap(), 0);
}

#[tokio::test]
async fn once_an_answer_did_not_come_no_older_connection_is_used() {
    let target = Target::parse("store.url", &server().url()).unwrap();
    let patience = Duration::from_secs(2);
    let connector = Connector::new(target, "any").with(Manner::within(patience));
    let connections = Connections::new(connector, 2, patience);
    let process = async |connection: &Connection| {
        let row = connection.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        rows::get::<i32>(&row, 0).unwrap()
    };
    let (idle, asked) = (connections.get().await.unwrap(), connections.get().await.unwrap());
    let old = process(&idle).await;
    idle.give_back();
    let answer = asked.query("SELECT FROM pg_sleep(60)", &[]).await;
    assert!(matches!(answer, Err(Fault::Slow)), "{answer:?}");
    drop(asked);
    let next = connections.get().await.unwrap();
    assert_ne!(process(&next).await, old);
    // Statements that run this long would delay the removal of partitions in other tests.
    let sleeping = "
        SELECT FROM pg_stat_activity WHERE query = 'SELECT FROM pg_sleep(60)' AND state = 'active'";
    until(&next, sleeping, 0).await;
}

/// Selects the stores' statements that wait for a lock.
fn waiting(schema: &Schema) -> String {
    format!("{} AND wait_event_type = 'Lock'", connections_of(schema))
}

/// A pool that replaced each given-up connection at once would use up all connections of a blocked server.
#[tokio::test]
async fn a_connection_that_was_given_up_keeps_its_place_until_the_server_has_answered() {
    let schema = Schema::empty().await;
    open(&schema).await.close().await;
    let (blocker, watcher) = (raw(&schema).await, raw(&schema).await);
    blocker.batch("BEGIN; LOCK TABLE @messages").await.unwrap();
    let patience = Duration::from_millis(100);
    let connector = Connector::new(options(&schema.0).target, &schema.0).with(Manner::WRITING);
    let connections = Connections::new(connector, 1, patience);
    let stuck = connections.get().await.unwrap();
    let text = "SELECT FROM @messages";
    tokio::time::timeout(patience, stuck.query(text, &[])).await.unwrap_err();
    until(&watcher, &waiting(&schema), 1).await;
    drop(stuck);
    for _ in 0..10 {
        let another = connections.get().await;
        assert!(matches!(another, Err(Fault::NoConnection)), "{another:?}");
    }
    until(&watcher, &connections_of(&schema), 1).await;
    blocker.batch("COMMIT").await.unwrap();
    until(&watcher, &connections_of(&schema), 0).await;
    connections.get().await.unwrap().give_back();
    connections.close().await;
}

/// As when a person reloads a slow page.
#[tokio::test]
async fn a_question_that_was_given_up_is_canceled() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    put(&store, message("a")).await;
    let (blocker, watcher) = (raw(&schema).await, raw(&schema).await);
    blocker.batch("BEGIN; LOCK TABLE @messages").await.unwrap();
    for _ in 0..20 {
        let list = async { drop(store.list(&Default::default(), None, 1).await) };
        tokio::time::timeout(Duration::from_millis(20), list).await.unwrap_err();
    }
    let found = watcher.query(&waiting(&schema), &[]).await.unwrap().len();
    assert!((1..=2).contains(&found), "{found} connections wait");
    // The table is still locked.
    until(&watcher, &waiting(&schema), 0).await;
    blocker.batch("COMMIT").await.unwrap();
    assert_eq!(store.list(&Default::default(), None, 1).await.unwrap().messages.len(), 1);
    store.close().await;
}

/// The server gives up first and reports why, and the connections are reused.
#[tokio::test]
async fn a_lock_that_is_held_for_long_is_named_and_makes_no_more_connections() {
    let own = Server::start("fsync=on");
    let schema = Schema("locked".to_owned());
    let mut target = Target::parse("store.url", &own.url()).unwrap();
    let (blocker, watcher) = (
        Connector::new(target.clone(), &schema.0).connect().await.unwrap(),
        Connector::new(target.clone(), &schema.0).connect().await.unwrap(),
    );
    target.config.application_name(&schema.0);
    let store = PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await;
    let store = store.unwrap();
    let (lease, seq) = (lease(&store).await, put(&store, message("a")).await);
    let ids = async || -> Vec<i32> {
        let text = format!("{} ORDER BY pid", connections_of(&schema));
        let rows = watcher.query(&text, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let before = ids().await;
    blocker.batch("BEGIN; LOCK TABLE @outcomes, @messages IN EXCLUSIVE MODE").await.unwrap();
    let (accepted, frozen) = tokio::join!(
        store.accept(vec![message("b")]),
        store.freeze_one(&lease, seq, plan(vec![])),
    );
    let texts = [
        crate::telemetry::chain(&accepted.unwrap_err()).to_string(),
        crate::telemetry::chain(&frozen.unwrap_err()).to_string(),
    ];
    for text in texts {
        assert!(text.contains("holds a lock") && text.contains("pg_locks"), "{text}");
    }
    let is_kept = |now: Vec<i32>| before.iter().all(|id| now.contains(id));
    assert!(is_kept(ids().await));
    blocker.batch("COMMIT").await.unwrap();
    store.freeze_one(&lease, seq, plan(vec![])).await.unwrap();
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
    assert!(is_kept(ids().await));
    store.close().await;
}

/// Behind some proxies, nothing accepts the connections. The paused clock advances whenever nothing else can run.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_connections_and_does_not_answer_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://ada@{}/loops", silent.local_addr().unwrap());
    let target = Target::parse("store.url", &url).unwrap();
    let opened = PostgresStore::open(PostgresOptions { target, ..options("silent") }).await;
    let text = crate::telemetry::chain(&opened.unwrap_err()).to_string();
    assert!(text.contains("did not answer in time"), "{text}");
    silent.accept().await.unwrap();
}

/// Another server may have been promoted, or the setting may have been changed.
#[tokio::test]
async fn a_server_that_would_lose_messages_gets_none() {
    let own = Server::start("fsync=on");
    let schema = Schema("careless".to_owned());
    let mut target = Target::parse("store.url", &own.url()).unwrap();
    let watcher = Connector::new(target.clone(), &schema.0).connect().await.unwrap();
    target.config.application_name(&schema.0);
    let store = PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await;
    let store = store.unwrap();
    put(&store, message("a")).await;
    let cut = connections_of(&schema).replace("SELECT pid", "SELECT pg_terminate_backend(pid)");
    for (set, expected) in [
        ("synchronous_commit = off", Some("synchronous_commit = off")),
        ("fsync = off", Some("fsync = off")),
        ("fsync = on", None),
    ] {
        own.set(set);
        if set != "synchronous_commit = off" {
            own.set("synchronous_commit = on");
        }
        let (name, value) = set.split_once(" = ").unwrap();
        let applied = format!("SELECT WHERE current_setting('{name}') = '{value}'");
        until(&watcher, &applied, 1).await;
        until(&watcher, "SELECT pg_sleep(0.1)", 1).await;
        watcher.query(&cut, &[]).await.unwrap();
        until(&watcher, &connections_of(&schema), 0).await;
        let accept = async || store.accept(vec![message("b")]).await;
        match expected {
            Some(words) => {
                let text = crate::telemetry::chain(&accept().await.unwrap_err()).to_string();
                assert!(text.contains(words), "{text}");
                accept().await.unwrap_err();
                assert_eq!(heads(&store).await.len(), 1);
            }
            None => assert_eq!(accept().await.unwrap(), [Accepted::New]),
        }
    }
    store.close().await;
}

#[tokio::test]
async fn an_error_of_the_server_is_shown_without_contents() {
    let schema = Schema::empty().await;
    open(&schema).await.close().await;
    let text = "INSERT INTO @streams (destination, no) VALUES ('secret', 1), ('secret', 2)";
    let fault = raw(&schema).await.batch(text).await.unwrap_err();
    let text = crate::telemetry::chain(&fault).to_string();
    assert!(text.contains("duplicate key") && text.contains("23505"), "{text}");
    assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
}

/// While a commit waits for a standby, it holds its locks.
#[tokio::test]
async fn a_lock_that_is_held_for_long_is_not_waited_for_by_more_and_more_connections() {
    // Statements that wait this long would delay the removal of partitions in other tests.
    let own = Server::start("fsync=on");
    let schema = Schema("held for long".to_owned());
    let mut target = Target::parse("store.url", &own.url()).unwrap();
    let connect = async || Connector::new(target.clone(), &schema.0).connect().await.unwrap();
    let (blocker, watcher) = (connect().await, connect().await);
    target.config.application_name(&schema.0);
    let store = PostgresStore::open(PostgresOptions { target, ..options(&schema.0) }).await;
    let store = store.unwrap();
    put(&store, message("a")).await;
    blocker.batch("BEGIN; LOCK TABLE @streams").await.unwrap();
    let waiting = waiting(&schema);
    for _ in 0..2 {
        let refused = store.accept(vec![message("b")]).await;
        assert!(is_unavailable(&refused), "{refused:?}");
        until(&watcher, &waiting, 0).await;
    }
    blocker.batch("COMMIT").await.unwrap();
    assert_eq!(store.accept(vec![message("b")]).await.unwrap(), [Accepted::New]);
}
