//! Hints from the process that accepts messages to the process that delivers them.

use std::sync::Mutex;

use tokio::sync::watch;
use tokio_postgres::Notification;

use super::server::pooler;
use super::*;
use crate::queue::Work as _;
use crate::store::postgres::hints::channel as hints_channel;

/// Opens a store that sends hints over one URL and listens at another.
async fn open_at(schema: &Schema, url: &str, listen_url: Option<&str>) -> PostgresStore {
    let target = |url| {
        let mut target = Target::parse("store.url", url).unwrap();
        target.config.application_name(&schema.0);
        target
    };
    let listen = listen_url.map(|url| (target(url), "store.url"));
    let options = PostgresOptions { target: target(url), listen, ..options(&schema.0) };
    PostgresStore::open(options).await.unwrap()
}

async fn open_hinting(schema: &Schema) -> PostgresStore {
    open_at(schema, &server().url(), Some(&server().url())).await
}

/// Selects the connections of a schema's stores that listen.
fn listeners(schema: &Schema) -> String {
    let channel = hints_channel(&schema.0);
    format!("{} AND query = 'LISTEN \"{channel}\"' AND state = 'idle'", connections_of(schema))
}

/// Waits for a signal to the engines.
async fn arrival(arrivals: &mut watch::Receiver<u64>) {
    let changed = tokio::time::timeout(Duration::from_secs(30), arrivals.changed()).await;
    changed.expect("no hint").unwrap();
}

#[tokio::test]
async fn a_hint_wakes_the_process_that_delivers() {
    let schema = Schema::empty().await;
    let (one, other) = (open_hinting(&schema).await, open_hinting(&schema).await);
    let watcher = raw(&schema).await;
    let lease = lease(&other).await;
    // The store that delivers nothing does not listen.
    until(&watcher, &listeners(&schema), 1).await;
    let mut arrivals = other.arrivals();
    for id in ["a", "b"] {
        put(&one, message(id)).await;
        arrival(&mut arrivals).await;
        assert_eq!(record(&other, id).await.message_id, id);
    }
    // The lease changes hands, and so do the hints.
    other.release(&lease).await.unwrap();
    super::lease(&one).await;
    until(&watcher, &listeners(&schema), 2).await;
    let mut arrivals = one.arrivals();
    put(&other, message("c")).await;
    arrival(&mut arrivals).await;
    one.close().await;
    other.close().await;
    until(&watcher, &connections_of(&schema), 0).await;
}

#[tokio::test]
async fn without_hints_messages_of_others_are_found_by_reading() {
    let schema = Schema::empty().await;
    let (one, other) = (open(&schema).await, open(&schema).await);
    lease(&other).await;
    let arrivals = other.arrivals();
    put(&one, message("a")).await;
    assert_eq!(heads(&other).await.len(), 1);
    assert!(!arrivals.has_changed().unwrap());
    until(&raw(&schema).await, &listeners(&schema), 0).await;
}

#[tokio::test]
async fn a_listener_whose_connection_is_cut_comes_back() {
    let schema = Schema::empty().await;
    let (one, other) = (open_hinting(&schema).await, open_hinting(&schema).await);
    let watcher = raw(&schema).await;
    lease(&other).await;
    for id in ["a", "b", "c"] {
        until(&watcher, &listeners(&schema), 1).await;
        let mut arrivals = other.arrivals();
        put(&one, message(id)).await;
        arrival(&mut arrivals).await;
        let listener = watcher.query_one(&listeners(&schema), &[]).await.unwrap();
        let pid: i32 = rows::get(&listener, 0).unwrap();
        watcher.batch(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
        until(&watcher, &format!("SELECT FROM pg_stat_activity WHERE pid = {pid}"), 0).await;
    }
}

/// Hints name only destinations that others deliver, and their rate is bounded.
#[tokio::test]
async fn a_process_hints_at_nothing_that_it_delivers_itself() {
    let schema = Schema::empty().await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let target = Target::parse("store.url", &server().url()).unwrap();
    let sink = Arc::clone(&heard);
    let hear = move |hint: &Notification| sink.lock().unwrap().push(hint.payload().to_owned());
    let eavesdropper = Connector::new(target, &schema.0).connect_hearing(hear).await.unwrap();
    let channel = hints_channel(&schema.0);
    eavesdropper.batch(&format!("LISTEN \"{channel}\"")).await.unwrap();
    let store = open_hinting(&schema).await;
    lease(&store).await;
    put(&store, message("mine")).await;
    let of = |destination: &str, n: usize| NewMessage {
        destination: destination.to_owned(),
        ..message(&format!("{destination} {n}"))
    };
    let began = std::time::Instant::now();
    for n in 0..100 {
        store.accept(vec![of("first", n), of(DESTINATION, n), of("second", n)]).await.unwrap();
    }
    let hints = || heard.lock().unwrap().clone();
    while hints().is_empty() {
        eavesdropper.batch("SELECT").await.unwrap();
    }
    assert!(hints().iter().all(|hint| hint == "first\nsecond"), "{:?}", hints());
    let most = began.elapsed().as_millis() / 100 + 1;
    assert!(hints().len() as u128 <= most, "{} hints, at most {most}", hints().len());
}

#[tokio::test]
async fn a_flood_of_foreign_notifications_does_no_harm() {
    let schema = Schema::empty().await;
    let (one, other) = (open_hinting(&schema).await, open_hinting(&schema).await);
    let watcher = raw(&schema).await;
    lease(&other).await;
    until(&watcher, &listeners(&schema), 1).await;
    let arrivals = other.arrivals();
    let channel = hints_channel(&schema.0);
    let flood = format!(
        "SELECT pg_notify('{channel}', rpad(n::text, 7999, 'x')) FROM generate_series(1, 5000) n"
    );
    watcher.batch(&flood).await.unwrap();
    watcher.batch(&format!("NOTIFY \"{channel}\"; NOTIFY \"{channel}\", 'none'")).await.unwrap();
    assert!(!arrivals.has_changed().unwrap());
    let mut arrivals = other.arrivals();
    put(&one, message("a")).await;
    arrival(&mut arrivals).await;
    assert_eq!(heads(&other).await.len(), 1);
}

/// A pooler in transaction mode does not forward notifications; a direct connection beside it receives them.
#[tokio::test]
async fn past_a_pooler_hints_arrive_by_a_direct_connection() {
    let schema = Schema::empty().await;
    let (pooled, direct) = (pooler().url(), server().url());
    let one = open_at(&schema, &pooled, Some(&direct)).await;
    let other = open_at(&schema, &pooled, Some(&direct)).await;
    lease(&other).await;
    until(&raw(&schema).await, &listeners(&schema), 1).await;
    let mut arrivals = other.arrivals();
    put(&one, message("a")).await;
    arrival(&mut arrivals).await;
}
