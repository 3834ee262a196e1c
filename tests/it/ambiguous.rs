//! Responses of Loops that leave the outcome of a request unknown: nothing is lost, and Loops recognizes every
//! repetition by its key.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{End, RawLoops, RawReply, Seen, Setup, track};

/// The time between the parts of a slow response.
const PAUSE: Duration = Duration::from_millis(20);

/// The head of a successful response, without its body.
const OK_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn conflict() -> RawReply {
    let body = r#"{"success":false,"message":"Idempotency key has been used"}"#;
    let head = "HTTP/1.1 409 Conflict\r\nconnection: close\r\n";
    RawReply::new(format!("{head}content-length: {}\r\n\r\n{body}", body.len()), End::Close)
}

/// Sends one message for each case. Loops answers its requests with the case's replies in order, and accepts it after
/// that. Returns each message in its final state, and the requests for it.
async fn outcomes(cases: Vec<Vec<RawReply>>) -> Vec<(Value, Vec<Seen>)> {
    let count = cases.len();
    let mut replies: HashMap<String, _> =
        (0..count).map(|n| format!("m{n}")).zip(cases.into_iter().map(Vec::into_iter)).collect();
    let mut loops = RawLoops::start(move |seen| {
        let replies = replies.get_mut(&seen.note());
        replies.and_then(Iterator::next).unwrap_or_else(RawReply::ok)
    })
    .await;
    let timeout = "SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS";
    let service = Setup::with_loops(&loops.base_url).env(timeout, "700").start();
    let batch: Vec<_> = (0..count).map(|n| track(&format!("u{n}"), &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    let mut messages = Vec::new();
    for n in 0..count {
        let is_over = |found: &Value| found["state"] == "delivered" || found["state"] == "failed";
        messages.push(service.message(&format!("m{n}"), is_over).await);
    }
    let seen = loops.rest();
    let of = |n: usize| -> Vec<Seen> {
        seen.iter().filter(|seen| seen.note() == format!("m{n}")).cloned().collect()
    };
    messages.into_iter().enumerate().map(|(n, message)| (message, of(n))).collect()
}

fn attempts(message: &Value) -> Vec<(u64, &str)> {
    let attempts = message["deliveries"][0]["request"]["attempts"].as_array().unwrap();
    attempts
        .iter()
        .map(|one| (one["status"].as_u64().unwrap_or(0), one["outcome"].as_str().unwrap()))
        .collect()
}

/// Asserts that one request was sent twice.
fn assert_same(seen: &[Seen]) {
    assert_eq!(seen.len(), 2);
    assert!(seen[0].idempotency_key().is_some());
    for again in &seen[1..] {
        assert_eq!(again.raw_body, seen[0].raw_body);
        assert_eq!(again.idempotency_key(), seen[0].idempotency_key());
        assert_eq!((&again.method, &again.path), (&seen[0].method, &seen[0].path));
    }
}

#[tokio::test]
async fn a_request_that_loops_took_without_an_answer_is_repeated_and_known_by_its_key() {
    // Loops reads the whole request without responding. It responds to the second that it has the first.
    let replies = vec![RawReply::new("", End::Silence), conflict()];
    for (message, seen) in outcomes(vec![replies]).await {
        assert_eq!(message["state"], "delivered");
        assert_eq!(attempts(&message), [(0, "retry"), (409, "delivered_before")]);
        assert_same(&seen);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_in_its_headers_is_no_answer() {
    let halves = ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\n"];
    let ends = [End::Reset, End::Close, End::Silence];
    let mut replies: Vec<RawReply> = halves
        .into_iter()
        .flat_map(|half| ends.iter().map(move |end| RawReply::new(half, end.clone())))
        .collect();
    replies.push(RawReply::new(OK_HEAD, End::Trickle(b"x: y\r\n".to_vec(), PAUSE)));
    replies.push(RawReply::new(OK_HEAD, End::Repeat(b"x: 0123456789\r\n".repeat(1_000))));
    let cases = replies.iter().map(|reply| vec![reply.clone(), conflict()]).collect();
    for (reply, (message, seen)) in replies.iter().zip(outcomes(cases).await) {
        assert_eq!(message["state"], "delivered", "{reply:?}");
        let expected = [(0, "retry"), (409, "delivered_before")];
        assert_eq!(attempts(&message), expected, "{reply:?}");
        assert_same(&seen);
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_count_as_no_answer() {
    let texts = ["\r\n\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 999999 ?\r\n\r\n"];
    let cases = texts.map(|text| vec![RawReply::new(text, End::Close)]).to_vec();
    for (text, (message, seen)) in texts.iter().zip(outcomes(cases).await) {
        assert_eq!(attempts(&message), [(0, "retry"), (200, "delivered")], "{text:?}");
        assert_same(&seen);
    }
}

#[tokio::test]
async fn a_success_whose_body_cannot_be_read_is_repeated_with_the_same_key() {
    let bodies = [
        // Four of ten bytes arrive.
        ("content-length: 10\r\n\r\n{\"su", End::Reset),
        ("content-length: 10\r\n\r\n{\"su", End::Close),
        ("content-length: 10\r\n\r\n{\"su", End::Silence),
        ("content-length: 0\r\n\r\n", End::Close),
        ("\r\n", End::Close),
        ("\r\n", End::Trickle(b" ".to_vec(), PAUSE)),
        ("content-length: 19\r\n\r\n<html>moment</html>", End::Close),
        ("content-length: 8\r\n\r\n{\"a\":\u{fffd}", End::Close),
        ("transfer-encoding: chunked\r\n\r\nnot a length\r\n", End::Close),
        ("transfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n", End::Reset),
        ("content-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain", End::Close),
        ("content-length: 99999999999\r\n\r\n{", End::Close),
    ];
    let reply = |(body, end): &(&str, End)| RawReply::new(format!("{OK_HEAD}{body}"), end.clone());
    let cases = bodies.iter().map(|body| vec![reply(body), conflict()]).collect();
    for (body, (message, seen)) in bodies.iter().zip(outcomes(cases).await) {
        assert_eq!(message["state"], "delivered", "{body:?}");
        let expected = [(200, "retry"), (409, "delivered_before")];
        assert_eq!(attempts(&message), expected, "{body:?}");
        assert_same(&seen);
    }
}

#[tokio::test]
async fn an_answer_without_an_end_takes_neither_memory_nor_time() {
    let endless = vec![b' '; 1 << 20];
    let mut tries = 0;
    let mut loops = RawLoops::start(move |seen| match seen.note().as_str() {
        "m1" if std::mem::replace(&mut tries, 1) == 0 => {
            RawReply::new(format!("{OK_HEAD}\r\n"), End::Repeat(endless.clone()))
        }
        _ => RawReply::ok(),
    })
    .await;
    // The timeout is longer than any test, so the size of the response ends the request.
    let timeout = "SEGMENT_LOOPS__DELIVERY__TIMEOUT_MS";
    let service = Setup::with_loops(&loops.base_url).env(timeout, "600000").start();
    service.accept("/v1/batch", json!({"batch": [track("u1", "m1"), track("u1", "m2")]})).await;
    let message = service.message("m1", |found| found["state"] == "delivered").await;
    assert_eq!(attempts(&message), [(200, "retry"), (200, "delivered")]);
    service.message("m2", |found| found["state"] == "delivered").await;
    assert_eq!(loops.rest().len(), 3);
    // The bound is above what the program reads, because the sockets buffer some.
    assert!(loops.repeated_bytes() <= 64 << 20);
    let excerpt = &message["deliveries"][0]["request"]["attempts"][0]["excerpt"];
    assert!(excerpt.as_str().is_none_or(|text| text.len() <= 500), "{message}");
}
