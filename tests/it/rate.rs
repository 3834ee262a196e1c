//! Loops' rate is never passed, in any second, and a 429 is not a loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use segment_loops::clock::SystemClock;
use segment_loops::sandbox::{Sandbox, SandboxOptions};
use serde_json::{Value, json};

use crate::support::{Reply, ScriptedLoops, Service, Setup, serve_on_loopback, track};

const SECOND: Duration = Duration::from_secs(1);

/// The most of these moments within any one second.
fn most_in_a_second(moments: &[Timestamp]) -> usize {
    // Moments are told in whole milliseconds.
    let length = SECOND - Duration::from_millis(1);
    let is_within = |first: &Timestamp, at: &Timestamp| {
        Duration::try_from(at.duration_since(*first)).is_ok_and(|apart| apart < length)
    };
    let count = |first: &Timestamp| moments.iter().filter(|at| is_within(first, at)).count();
    moments.iter().map(count).max().unwrap_or(0)
}

/// Sends `count` messages of as many people; gives the moments at which all attempts at them began.
///
/// They are what the program recorded, not when a scripted Loops saw them: between the two lies a
/// machine that runs all tests at once and may hold a request up for as long as it likes.
async fn moments(service: &Service, count: usize) -> Vec<Timestamp> {
    let batch: Vec<_> = (0..count).map(|n| track(&format!("u{n}"), &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut moments = Vec::new();
    for n in 0..count {
        let message =
            service.message(&format!("m{n}"), |found| found["state"] == "delivered").await;
        let attempts = message["deliveries"][0]["request"]["attempts"].as_array().unwrap().clone();
        let began = |attempt: &Value| -> Timestamp {
            attempt["startedAt"].as_str().unwrap().parse().unwrap()
        };
        moments.extend(attempts.iter().map(began));
    }
    moments.sort();
    moments
}

#[tokio::test]
async fn never_more_than_the_configured_rate_in_any_second() {
    for rate in [5, 20] {
        let loops = ScriptedLoops::willing().await;
        let setup = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", &rate.to_string());
        let moments = moments(&setup.start(), rate * 3).await;
        assert_eq!(moments.len(), rate * 3);
        assert!(most_in_a_second(&moments) <= rate, "{moments:?}");
    }
}

#[tokio::test]
async fn ten_a_second_with_no_configuration() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).without_rate().start();
    let moments = moments(&service, 30).await;
    assert!(most_in_a_second(&moments) <= 10, "{moments:?}");
}

#[tokio::test]
async fn the_sandbox_sees_the_rate_kept() {
    let sandbox = Sandbox::new(SandboxOptions::default(), Arc::new(SystemClock));
    let address = serve_on_loopback(sandbox.router()).await;
    let base_url = format!("http://{address}/api/v1");
    let service = Setup::with_loops(&base_url).without_rate().start();
    moments(&service, 30).await;
    let mut arrivals: Vec<u64> = sandbox.requests().iter().map(|one| one.at_ms).collect();
    arrivals.sort_unstable();
    assert_eq!(sandbox.counts().events, 30);
    // The check of the key counts as well. A tenth of the second is left to a machine that holds
    // single requests up.
    let within =
        |first: &u64| arrivals.iter().filter(|at| (*first..first + 900).contains(at)).count();
    let most = arrivals.iter().map(within).max();
    assert!(most <= Some(10), "{arrivals:?}");
}

#[tokio::test]
async fn a_lower_limit_that_loops_tells_is_obeyed() {
    // The check of the key at the start tells the limit before anything is delivered.
    let loops = ScriptedLoops::start(|_| Reply::ok().with_header("x-ratelimit-limit", "4")).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let moments = moments(&service, 14).await;
    assert!(most_in_a_second(&moments) <= 4, "{moments:?}");
}

#[tokio::test]
async fn everything_arrives_in_order_when_loops_is_stricter_than_it_says() {
    // It allows four a second without telling, and refuses what is more.
    let mut accepted: Vec<Instant> = Vec::new();
    let mut loops = ScriptedLoops::start(move |_| {
        accepted.retain(|at| at.elapsed() < SECOND);
        if accepted.len() >= 4 {
            return Reply::status(429);
        }
        accepted.push(Instant::now());
        Reply::ok()
    })
    .await;
    let service = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "20").start();
    let batch: Vec<_> = (0..12).map(|n| track("u1", &format!("m{n:02}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut notes = vec![loops.next().await.note()];
    while notes.last().map(String::as_str) != Some("m11") {
        notes.push(loops.next().await.note());
    }
    notes.dedup();
    assert_eq!(notes, (0..12).map(|n| format!("m{n:02}")).collect::<Vec<_>>());
    service.message("m11", |found| found["state"] == "delivered").await;
}
