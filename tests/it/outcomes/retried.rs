//! Responses after which a request is tried again, and how long it waits.

use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::{after_first, attempts, outcome};
use crate::support::{Reply, ScriptedLoops, Seen, Setup, identify, track};

#[tokio::test]
async fn a_2xx_that_does_not_say_success_is_tried_again_with_the_same_body_and_key() {
    let bodies = [
        "",
        "<!doctype html><title>Welcome</title>",
        "{}",
        "null",
        r#"{"success":"true"}"#,
        r#"{"message":"ok"}"#,
        r#"[{"success":true}]"#,
        r#"{"success":true"#,
    ];
    // The note of each message contains the index of the first response's body.
    let mut answered = std::collections::HashSet::new();
    let script = move |seen: &Seen| match seen.note().split_once('-') {
        Some((_, index)) if answered.insert(seen.note()) => {
            let body = bodies[index.parse::<usize>().unwrap()];
            Reply::Status(200, Vec::new(), body.to_owned())
        }
        _ => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let ids = (0..bodies.len()).flat_map(|index| [format!("t-{index}"), format!("i-{index}")]);
    let ids: Vec<String> = ids.collect();
    let messages = ids.iter().map(|id| match id.starts_with('t') {
        true => track(id, id),
        false => identify(id, id),
    });
    service.accept("/v1/batch", json!({"batch": messages.collect::<Vec<_>>()})).await;
    let mut found = Vec::new();
    for id in &ids {
        found.push(service.message(id, |found| found["state"] == "delivered").await);
    }
    let all = loops.rest();
    for (n, (id, message)) in ids.iter().zip(found).enumerate() {
        let body = bodies[n / 2];
        let expected = [(200, "retry".to_owned()), (200, "delivered".to_owned())];
        assert_eq!(attempts(&message), expected, "{body}");
        assert_eq!(message["deliveries"][0]["request"]["attempts"][0]["answer"], body);
        let seen: Vec<&Seen> = all.iter().filter(|seen| seen.note() == *id).collect();
        assert_eq!(seen.len(), 2, "{body}");
        assert_eq!(seen[0].raw_body, seen[1].raw_body);
        assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
    }
    let (message, seen) = outcome(track("u1", "m1"), Reply::status(204), &[]).await;
    assert_eq!((attempts(&message)[0].1.as_str(), seen.len()), ("retry", 2));
}

#[tokio::test]
async fn a_429_waits_as_long_as_it_asks_and_is_tried_again() {
    let reply = Reply::status(429).with_header("retry-after", "1");
    let settings = [("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "2000")];
    let (message, seen) = outcome(track("u1", "m1"), reply, &settings).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message), [(429, "limited".to_owned()), (200, "delivered".to_owned())]);
    assert_eq!(seen[0].raw_body, seen[1].raw_body);
    let times: Vec<jiff::Timestamp> = message["deliveries"][0]["request"]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["startedAt"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(times[1].duration_since(times[0]).as_secs_f64() >= 1.0, "{times:?}");
}

/// The time in seconds that the program waits after the first attempt, by its own records, if Loops asks it to wait for
/// `retry_after`. Without that, it waits at most 0.2 seconds.
async fn waited(status: u16, retry_after: &str, longest: &str) -> f64 {
    let reply = Reply::status(status).with_header("retry-after", retry_after);
    let settings = [("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", longest)];
    let (message, seen) = outcome(track("u1", "m1"), reply, &settings).await;
    assert_eq!((&message["state"], seen.len()), (&json!("delivered"), 2), "{retry_after}");
    let attempts = &message["deliveries"][0]["request"]["attempts"];
    let at = |n: usize| -> jiff::Timestamp {
        attempts[n]["startedAt"].as_str().unwrap().parse().unwrap()
    };
    at(1).duration_since(at(0)).as_secs_f64()
}

/// An HTTP date some seconds from now.
fn date_in(seconds: i64) -> String {
    let at = SystemClock.now().as_second() + seconds;
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.unsigned_abs());
    httpdate::fmt_http_date(at)
}

#[tokio::test]
async fn a_wait_that_loops_asks_for_in_seconds_or_by_date_is_kept() {
    // The program may take a second or two to start.
    let date = date_in(8);
    let waits = tokio::join!(
        waited(429, "2", "60000"),
        waited(503, "2", "60000"),
        waited(429, &date, "60000"),
        waited(503, &date, "60000"),
    );
    let waits = [waits.0, waits.1, waits.2, waits.3];
    assert!(waits.iter().all(|wait| *wait >= 2.0), "{waits:?}");
}

#[tokio::test]
async fn a_wait_that_makes_no_sense_is_as_good_as_none() {
    // The longest wait is a minute, so that a valid request to wait would be followed.
    let past = date_in(-3_600);
    let waits = tokio::join!(
        waited(503, "-5", "60000"),
        waited(503, "soon", "60000"),
        waited(503, "99999999999999999999999", "60000"),
        waited(503, &past, "60000"),
        waited(429, "-5", "60000"),
        waited(429, "soon", "60000"),
        waited(429, "Mon, 31 Feb 2026", "60000"),
        waited(429, &past, "60000"),
    );
    let waits = [waits.0, waits.1, waits.2, waits.3, waits.4, waits.5, waits.6, waits.7];
    assert!(waits.iter().all(|wait| *wait < 4.0), "{waits:?}");
}

#[tokio::test]
async fn an_absurd_wait_is_no_longer_than_the_longest_between_two_attempts() {
    for retry_after in ["99999999".to_owned(), date_in(99_999_999)] {
        waited(503, &retry_after, "300").await;
    }
    // A 429 pauses all requests for ten minutes at most. The message shows the time of its next attempt.
    let reply = Reply::status(429).with_header("retry-after", "99999999");
    let loops = ScriptedLoops::start(after_first(reply)).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let next = |found: &Value| found["deliveries"][0]["request"]["nextAttemptAt"].clone();
    let message = service.message("m1", |found| next(found).is_string()).await;
    let next: jiff::Timestamp = next(&message).as_str().unwrap().parse().unwrap();
    assert!(next.duration_since(SystemClock.now()).as_secs_f64() < 600.0);
}

#[tokio::test]
async fn server_errors_are_tried_again_with_the_same_body_and_key() {
    for status in [408, 500, 502, 503, 504] {
        let (message, seen) = outcome(track("u1", "m1"), Reply::status(status), &[]).await;
        assert_eq!(message["state"], "delivered");
        assert_eq!(
            attempts(&message),
            [(u64::from(status), "retry".to_owned()), (200, "delivered".to_owned())]
        );
        assert_eq!(seen[0].raw_body, seen[1].raw_body);
        assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_retried() {
    let settings = [("SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS", "300")];
    let (message, seen) = outcome(track("u1", "m1"), Reply::Silence, &settings).await;
    assert_eq!(message["state"], "delivered");
    assert_eq!(attempts(&message)[0], (0, "retry".to_owned()));
    assert_eq!(seen[0].idempotency_key(), seen[1].idempotency_key());
}
