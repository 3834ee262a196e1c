//! Two processes on one database: one delivers, and both accept messages. When one ends, the other continues, with
//! nothing lost, nothing out of order and no event with a second key.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::Value;

use crate::support::{PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, WRITE_KEY, track};

const LEASE_TTL: &str = "SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS";

/// Starts a process that delivers, and one that stands by on the same database.
async fn two(setup: &Setup) -> (Service, Service, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let setup = setup.clone().data(data.path());
    let first = setup.start();
    first.logged(|line| line["message"] == "lease taken").await;
    let second = setup.start();
    second.logged(is_standing_by).await;
    (first, second, data)
}

fn is_standing_by(line: &Value) -> bool {
    line["message"] == "another process holds the lease; waiting for it"
}

fn is_taken(line: &Value) -> bool {
    line["message"] == "lease taken"
}

fn is_delivered(message: &Value) -> bool {
    message["state"] == "delivered"
}

#[tokio::test]
async fn the_standby_takes_messages_and_says_for_whom_it_waits_and_until_when() {
    let mut loops = ScriptedLoops::willing().await;
    let (first, second, _data) =
        two(&Setup::with_loops(&loops.base_url).env(LEASE_TTL, "20000")).await;
    let name = first.logged(|line| line["message"] == "listening").await["process"].clone();
    assert!(name.as_str().unwrap().contains(&first.id().to_string()), "{name}");
    let told = second.logged(is_standing_by).await;
    assert_eq!((&told["holder"], &told["destination"]), (&name, &Value::from("default")));
    let moment = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(moment(&told["until"]) > moment(&told["timestamp"]), "{told}");
    let metrics = second.admin("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("lease_held{destination=\"default\"} 0"));

    // The other process delivers the messages that it accepts.
    assert_eq!(second.admin("/readyz").await.status, 200);
    second.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(loops.next().await.note(), "m1");
    second.message("m1", is_delivered).await;
    assert!(!second.log().iter().any(|line| line["message"] == "attempt"));
}

/// The replicas that a process lists, itself first, and the lease.
async fn replicas(service: &Service) -> (Vec<Value>, Value) {
    let found = service.admin("/api/replicas").await.body;
    let mut replicas = found["replicas"].as_array().unwrap().clone();
    replicas.sort_by_key(|replica| replica["isThis"] == false);
    assert_eq!(found["leases"].as_array().unwrap().len(), 1, "{found}");
    (replicas, found["leases"][0].clone())
}

/// Asserts that each process lists both and shows which one delivers, and that a process leaves the list when it is
/// stopped.
pub async fn each_shows_who_is_there_and_who_delivers(on: impl FnOnce(Setup) -> Setup) {
    let setup = on(Setup::with_loops("http://127.0.0.1:9/api/v1"));
    let (mut first, second, _data) = two(&setup).await;
    let mut names = Vec::new();
    for service in [&first, &second] {
        names.push(service.logged(|line| line["message"] == "listening").await["process"].clone());
    }
    let began = Instant::now();
    let both_are_listed = async |service: &Service| loop {
        let (found, lease) = replicas(service).await;
        if found.len() == 2 {
            return (found, lease);
        }
        assert!(began.elapsed() < PATIENCE, "{found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    for (service, this, other) in [(&first, 0, 1), (&second, 1, 0)] {
        let (found, lease) = both_are_listed(service).await;
        assert_eq!([&found[0]["name"], &found[1]["name"]], [&names[this], &names[other]]);
        assert_eq!([&found[0]["isThis"], &found[1]["isThis"]], [true, false]);
        assert_eq!(found[0]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&lease["destination"], &lease["holder"]), (&"default".into(), &names[0]));
        let moment = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(moment(&lease["since"]) < moment(&lease["expiresAt"]), "{lease}");
        assert!(moment(&found[0]["startedAt"]) <= moment(&found[0]["lastSeenAt"]), "{found:?}");
    }
    assert_eq!(first.stop().await, Some(0));
    second.logged(is_taken).await;
    let (found, lease) = replicas(&second).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["name"], &lease["holder"]), (&names[1], &names[1]));
    assert_eq!(lease["token"], 2);
}

#[tokio::test]
async fn each_process_shows_who_is_there_and_who_delivers() {
    each_shows_who_is_there_and_who_delivers(|setup| setup).await;
}

#[tokio::test]
async fn after_a_stop_the_other_process_delivers_without_waiting_for_the_lease() {
    let mut loops = ScriptedLoops::willing().await;
    // The lease would expire only after an hour.
    let setup = Setup::with_loops(&loops.base_url).env(LEASE_TTL, "3600000");
    let (mut first, second, _data) = two(&setup).await;
    assert_eq!(first.stop().await, Some(0));
    second.logged(is_taken).await;
    second.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(loops.next().await.note(), "m1");
}

#[tokio::test]
async fn after_a_kill_the_other_process_delivers_once_the_lease_has_run_out() {
    let script = |seen: &Seen| if seen.path == "/api-key" { Reply::ok() } else { Reply::Silence };
    let mut loops = ScriptedLoops::start(script).await;
    let (mut first, second, _data) =
        two(&Setup::with_loops(&loops.base_url).env(LEASE_TTL, "3000")).await;
    first.accept("/v1/track", track("u1", "m1")).await;
    let unanswered = loops.next().await;
    first.signal("KILL");
    first.wait().await;
    loops.now(|_| Reply::ok());
    second.logged(is_taken).await;
    let again = loops.next().await;
    assert_eq!(again.raw_body, unanswered.raw_body);
    assert_eq!(again.idempotency_key(), unanswered.idempotency_key());
    second.message("m1", is_delivered).await;
}

#[tokio::test]
async fn a_process_that_lost_the_lease_no_longer_reports_a_pause() {
    let loops = ScriptedLoops::start(|_| Reply::status(401)).await;
    let (mut first, second, _data) =
        two(&Setup::with_loops(&loops.base_url).env(LEASE_TTL, "3000")).await;
    let paused =
        |value| format!("segment_loops_destination_paused{{destination=\"default\"}} {value}");
    first.accept("/v1/track", track("u1", "m1")).await;
    shows(&first, &paused(1)).await;
    first.signal("STOP");
    second.logged(is_taken).await;
    shows(&second, &paused(1)).await;
    first.signal("CONT");
    first.logged(|line| line["message"] == "lease lost").await;
    shows(&first, &paused(0)).await;
    for (service, lost) in [(&first, 1), (&second, 0)] {
        let count = |name| format!("segment_loops_{name}_total{{destination=\"default\"}}");
        shows(service, &format!("{} {lost}", count("fenced"))).await;
        shows(service, &format!("{} 1", count("lease_changes"))).await;
    }
    assert_eq!(first.stop().await, Some(0));
}

/// Waits until the metrics have a line.
async fn shows(service: &Service, line: &str) {
    let began = Instant::now();
    loop {
        let text = service.admin("/metrics").await.body.as_str().unwrap().to_owned();
        if text.lines().any(|one| one == line) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{line} not in {text}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Sends a message to the processes in turn until one accepts it.
async fn send(services: [&Service; 2], message: &Value) {
    for service in services.into_iter().cycle().take(50) {
        let request = service.request(reqwest::Method::POST, "/v1/track");
        let sent = request.basic_auth(WRITE_KEY, Some("")).body(message.to_string()).send().await;
        if sent.is_ok_and(|answer| answer.status() == 200) {
            return;
        }
    }
    panic!("nobody takes {message}");
}

/// Sends messages to both processes, and ends the first one in the middle with a signal.
pub async fn end_under_load(signal: &str, on: impl FnOnce(Setup) -> Setup) {
    // Every seventh request has no response, so that some are under way when the process ends.
    let mut count = 0;
    let mut loops = ScriptedLoops::start(move |seen| {
        count += usize::from(seen.path != "/api-key");
        if count % 7 == 6 { Reply::status(503) } else { Reply::ok() }
    })
    .await;
    let setup = on(Setup::with_loops(&loops.base_url).env(LEASE_TTL, "1500"));
    let (mut first, second, _data) = two(&setup).await;
    const ROUNDS: usize = 30;
    const PEOPLE: usize = 8;
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            first.signal(signal);
        }
        for n in 0..PEOPLE {
            let message = track(&format!("u{n}"), &format!("u{n}-{round}"));
            let services = if round % 2 == 0 { [&first, &second] } else { [&second, &first] };
            send(services, &message).await;
        }
    }
    first.wait().await;
    second.logged(is_taken).await;
    for n in 0..PEOPLE {
        for round in 0..ROUNDS {
            second.message(&format!("u{n}-{round}"), is_delivered).await;
        }
    }
    let seen = loops.rest();
    let mut keys: HashMap<String, Option<String>> = HashMap::new();
    let mut order: HashMap<String, Vec<String>> = HashMap::new();
    for one in &seen {
        let key = keys.entry(one.note()).or_insert_with(|| one.idempotency_key());
        assert_eq!(*key, one.idempotency_key(), "{}", one.note());
        assert!(key.is_some());
        let person = one.body["userId"].as_str().unwrap().to_owned();
        order.entry(person).or_default().push(one.note());
    }
    for n in 0..PEOPLE {
        let mut notes = order.remove(&format!("u{n}")).unwrap_or_default();
        // A repeated event comes before the next event of its person.
        notes.dedup();
        let expected: Vec<String> = (0..ROUNDS).map(|round| format!("u{n}-{round}")).collect();
        assert_eq!(notes, expected);
    }
}

#[tokio::test]
async fn a_kill_under_load_loses_nothing_and_keeps_order_and_keys() {
    end_under_load("KILL", |setup| setup).await;
}

#[tokio::test]
async fn a_stop_under_load_loses_nothing_and_keeps_order_and_keys() {
    end_under_load("TERM", |setup| setup).await;
}
