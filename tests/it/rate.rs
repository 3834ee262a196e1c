//! Loops' rate is never passed, in any second, and a 429 is not a loss.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Reply, ScriptedLoops, Setup, track};

const SECOND: Duration = Duration::from_secs(1);

/// The most moments within any one second.
fn most_in_a_second(moments: &[Instant]) -> usize {
    let within = |first: usize| {
        moments[first..]
            .iter()
            .take_while(|at| at.duration_since(moments[first]) < SECOND)
            .count()
    };
    (0..moments.len()).map(within).max().unwrap_or(0)
}

/// Delivers `count` messages with these settings to a Loops that answers with `reply`; gives the
/// moments at which it saw all its requests, checks of the key included.
async fn moments(
    count: usize,
    settings: &[(&str, &str)],
    reply: impl Fn() -> Reply + Send + 'static,
) -> Vec<Instant> {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let script_moments = Arc::clone(&moments);
    let mut loops = ScriptedLoops::start(move |_| {
        script_moments.lock().unwrap().push(Instant::now());
        reply()
    })
    .await;
    let mut setup = Setup::with_loops(&loops.base_url);
    for (name, value) in settings {
        setup = setup.env(name, value);
    }
    let service = setup.start();
    let batch: Vec<_> = (0..count)
        .map(|n| track(&format!("u{n}"), &format!("m{n}")))
        .collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    loops.notes(count).await;
    std::mem::take(&mut moments.lock().unwrap())
}

#[tokio::test]
async fn never_more_than_the_configured_rate_in_any_second() {
    for rate in [5, 20] {
        let text = rate.to_string();
        let seen = moments(rate * 3, &[("LOOPS_RATE_LIMIT", &text)], Reply::ok).await;
        assert!(
            most_in_a_second(&seen) <= rate,
            "{} > {rate}",
            most_in_a_second(&seen)
        );
    }
}

#[tokio::test]
async fn ten_a_second_is_kept_with_no_configuration() {
    let seen = moments(30, &[("LOOPS_RATE_LIMIT", "10")], Reply::ok).await;
    assert!(most_in_a_second(&seen) <= 10, "{}", most_in_a_second(&seen));
}

#[tokio::test]
async fn a_lower_limit_that_loops_tells_is_obeyed() {
    let reply = || Reply::ok().with_header("x-ratelimit-limit", "4");
    let seen = moments(14, &[], reply).await;
    // The check of the key at the start tells the limit before anything is delivered.
    assert!(
        most_in_a_second(&seen[1..]) <= 4,
        "{}",
        most_in_a_second(&seen[1..])
    );
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
    let service = Setup::with_loops(&loops.base_url)
        .env("LOOPS_RATE_LIMIT", "20")
        .start();
    let batch: Vec<_> = (0..12).map(|n| track("u1", &format!("m{n:02}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut notes = vec![loops.next().await.note()];
    while notes.last().map(String::as_str) != Some("m11") {
        notes.push(loops.next().await.note());
    }
    notes.dedup();
    assert_eq!(
        notes,
        (0..12).map(|n| format!("m{n:02}")).collect::<Vec<_>>()
    );
    service
        .message("m11", |found| found["state"] == "delivered")
        .await;
}
