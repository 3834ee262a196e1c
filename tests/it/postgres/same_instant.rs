//! The same messages arrive at two replicas at the same instant, for two destinations.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{PATIENCE, ScriptedLoops, Service, Setup, track};

use super::server::server;
use super::sql::Sql;

const ROUNDS: usize = 30;
/// The number of messages in a batch. All batches of a round have the same ids.
const MESSAGES: usize = 5;

/// Starts two replicas on a schema. Each has its own destination for the source `one`; that of `other` is `b`.
fn two(schema: &str, destinations: [&str; 2], loops: [&ScriptedLoops; 2]) -> [Service; 2] {
    destinations.map(|destination| {
        let [a, b] = loops.map(|loops| &loops.base_url);
        let config = format!(
            r#"
            sources.one = {{ write_keys = ["one"], destination = "{destination}" }}
            sources.other = {{ write_keys = ["other"], destination = "b" }}
            destinations.a = {{ api_key = "a", base_url = "{a}", rate = 1000 }}
            destinations.b = {{ api_key = "b", base_url = "{b}", rate = 1000 }}
            "#
        );
        let setup = Setup::with_loops(a).without_env().config(&config);
        let setup = setup.env("DATABASE_URL", &server().url());
        setup.env("SEGMENT_LOOPS__STORE__SCHEMA", schema).env("ADMIN_TOKEN", "t").start()
    })
}

/// Sends the batch of a round to every replica for each of these sources, all at once and each in a different order.
async fn send(round: usize, services: &[Service; 2], sources: &[&str]) {
    let mut calls = Vec::new();
    for source in sources {
        for service in services {
            let mut batch: Vec<Value> =
                (0..MESSAGES).map(|n| track(&format!("u{n}"), &format!("m{round}-{n}"))).collect();
            fastrand::shuffle(&mut batch);
            let request = service.request(reqwest::Method::POST, "/v1/batch");
            let body = json!({"batch": batch}).to_string();
            let request = request.basic_auth(source, Some("")).body(body);
            calls.push(tokio::spawn(Service::answer(request)));
        }
    }
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})), "{answer:?}");
    }
}

/// Waits until `count` different notes have arrived at Loops, and returns how often each arrived.
async fn arrived(loops: &mut ScriptedLoops, count: usize) -> BTreeMap<String, usize> {
    let mut notes = BTreeMap::new();
    while notes.len() < count {
        *notes.entry(loops.next().await.note()).or_default() += 1;
    }
    notes
}

/// Waits until nothing is pending.
async fn drained(sql: &Sql, schema: &str) {
    let began = std::time::Instant::now();
    while !sql.rows(&format!("SELECT FROM {schema}.pending LIMIT 1")).await.is_empty() {
        assert!(began.elapsed() < PATIENCE, "messages stay pending");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_destination_gets_each_message_once() {
    let (mut a, mut b) = (ScriptedLoops::willing().await, ScriptedLoops::willing().await);
    let services = two("instant", ["a", "a"], [&a, &b]);
    for round in 0..ROUNDS {
        send(round, &services, &["one", "other"]).await;
    }
    let all = ROUNDS * MESSAGES;
    let sql = Sql::connect(&server().url()).await;
    drained(&sql, "instant").await;
    for loops in [&mut a, &mut b] {
        let notes = arrived(loops, all).await;
        assert!(notes.values().all(|times| *times == 1), "{notes:?}");
        assert!(loops.rest().is_empty());
    }
    let stored: i64 = sql.rows("SELECT count(*) FROM instant.messages").await[0].get(0);
    assert_eq!(stored, 2 * all as i64);
    // Each message was counted as new by one replica.
    let mut counts = [0, 0];
    for service in &services {
        let request = service.request(reqwest::Method::GET, "/metrics").bearer_auth("t");
        let metrics = Service::answer(request).await.body;
        for line in metrics.as_str().unwrap().lines() {
            let Some((name, count)) = line.rsplit_once(' ') else { continue };
            let index = ["messages_accepted_total{", "messages_duplicate_total{"]
                .iter()
                .position(|counter| name.contains(counter));
            if let Some(index) = index {
                counts[index] += count.parse::<usize>().unwrap();
            }
        }
    }
    assert_eq!(counts, [2 * all, 2 * all]);
}

/// While a source moves to another destination, one replica has the new configuration and the other does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_destination_gets_a_message_twice_while_its_source_moves() {
    let (mut a, mut b) = (ScriptedLoops::willing().await, ScriptedLoops::willing().await);
    let services = two("moving", ["a", "b"], [&a, &b]);
    for round in 0..ROUNDS {
        send(round, &services, &["one"]).await;
    }
    let sql = Sql::connect(&server().url()).await;
    drained(&sql, "moving").await;
    let mut notes = [a.rest(), b.rest()].map(|seen| {
        let mut notes: Vec<String> = seen.iter().map(|one| one.note()).collect();
        notes.sort_unstable();
        notes
    });
    for notes in &mut notes {
        let all = notes.len();
        notes.dedup();
        assert_eq!(notes.len(), all);
    }
    let mut all = notes.concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), ROUNDS * MESSAGES);
}
