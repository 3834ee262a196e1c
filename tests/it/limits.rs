//! Limits, tested just below, at, and just above each.

use std::io::{Read as _, Write as _};

use reqwest::Method;
use serde_json::json;

use crate::hostile_input::basic;
use crate::support::{Answer, ScriptedLoops, Service, Setup, WRITE_KEY, track};

const BODY_MAX: usize = 4_000;
const MESSAGE_MAX: usize = 1_000;
const BATCH_MAX: usize = 5;

async fn service() -> (ScriptedLoops, Service) {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", &BODY_MAX.to_string())
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", &MESSAGE_MAX.to_string())
        .env("SEGMENT_LOOPS__SERVER__BATCH_MESSAGES_MAX", &BATCH_MAX.to_string())
        .start();
    (loops, service)
}

/// A track with a JSON text of exactly this length.
fn track_of(length: usize, id: &str) -> String {
    let empty = track("u1", id).to_string();
    let message = empty.replace("Tested", &format!("Tested{}", "x".repeat(length - empty.len())));
    assert_eq!(message.len(), length);
    message
}

fn assert_too_large(answer: &Answer) {
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.body["success"], false);
    assert!(answer.body["message"].is_string() && answer.body["code"].is_string(), "{answer:?}");
}

pub fn gzip(text: &str) -> Vec<u8> {
    // Uses the system's `gzip`, because a stored (uncompressed) block would not test inflating.
    let mut process = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.stdout
}

#[tokio::test]
async fn a_message_may_be_as_large_as_configured_and_no_larger() {
    let (mut loops, service) = service().await;
    for (id, length) in [("below", MESSAGE_MAX - 1), ("at", MESSAGE_MAX)] {
        service.accept("/v1/track", track_of(length, id)).await;
    }
    assert_too_large(&service.post("/v1/track", track_of(MESSAGE_MAX + 1, "above")).await);
    // In a batch, only the message that is too large is rejected.
    let batch = format!(
        r#"{{"batch":[{},{},{}]}}"#,
        track_of(MESSAGE_MAX, "first"),
        track_of(MESSAGE_MAX + 1, "second"),
        track("u1", "third")
    );
    let answer = service.post("/v1/batch", batch).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["success"], true);
    assert_eq!(answer.body["rejected"].as_array().unwrap().len(), 1);
    assert_eq!(answer.body["rejected"][0]["index"], 1);
    assert!(answer.body["rejected"][0]["message"].as_str().unwrap().contains("1000"), "{answer:?}");
    assert_eq!(loops.notes(4).await, ["below", "at", "first", "third"]);
}

#[tokio::test]
async fn a_body_may_be_as_large_as_configured_plain_and_inflated() {
    let (mut loops, service) = service().await;
    let body_of = |length: usize, id: &str| {
        let batch = format!(r#"{{"batch":[{}]}}"#, track("u1", id));
        let padding = length - batch.len();
        format!("{}{batch}", " ".repeat(padding))
    };
    let post_gzip = |body: Vec<u8>| {
        let request = service.request(Method::POST, "/v1/batch");
        let request = request.basic_auth(WRITE_KEY, Some("")).header("content-encoding", "gzip");
        Service::answer(request.body(body))
    };
    for (id, length) in [("m1", BODY_MAX - 1), ("m2", BODY_MAX)] {
        service.accept("/v1/batch", body_of(length, id)).await;
    }
    assert_too_large(&service.post("/v1/batch", body_of(BODY_MAX + 1, "x")).await);
    for (id, length) in [("m3", BODY_MAX - 1), ("m4", BODY_MAX)] {
        let answer = post_gzip(gzip(&body_of(length, id))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_too_large(&post_gzip(gzip(&body_of(BODY_MAX + 1, "x"))).await);
    // A bomb: 50 MB of spaces in 50 KB.
    assert_too_large(&post_gzip(gzip(&body_of(50_000_000, "x"))).await);
    // A body that is not gzip, and gzip that is cut off.
    let answer = post_gzip(b"not gzip".to_vec()).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let mut half = gzip(&body_of(BODY_MAX, "x"));
    half.truncate(half.len() / 2);
    let answer = post_gzip(half).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(loops.notes(4).await, ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn a_context_for_all_does_not_multiply_without_bound() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "100000")
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "100000")
        .start();
    let messages: Vec<_> = (0..100).map(|n| track("u1", &format!("m{n}"))).collect();
    let batch = json!({"batch": messages, "context": {"large": "x".repeat(50_000)}});
    let answer = service.post("/v1/batch", batch).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let refused = answer.body["rejected"].as_array().unwrap();
    assert_eq!(refused.len(), 100 - 3, "three times 50,000 fit into twice 100,000");
    assert_eq!(refused[0]["code"], "too_large");
}

#[tokio::test]
async fn a_large_context_for_many_messages_does_not_keep_the_program_busy() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "1000000")
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "1000000")
        .start();
    let context: serde_json::Map<_, _> = (0..60_000).map(|n| (format!("k{n}"), json!(1))).collect();
    // Messages without a person are rejected only after they were merged with the context, which may contain one.
    let mut messages = vec![json!({"type": "track"}); 9_999];
    messages[0] = track("u1", "m1");
    let batch = json!({"batch": messages, "context": context});
    // Merging the context into each message would produce six gigabytes, and take minutes.
    let answer = service.post("/v1/batch", batch).await;
    assert_eq!(answer.status, 200, "{}", answer.status);
    let refused = answer.body["rejected"].as_array().unwrap();
    assert_eq!(refused.len(), 9_998);
    let with_code = |code: &str| refused.iter().filter(|one| one["code"] == code).count();
    assert!((1..8).contains(&with_code("nobody")), "{}", with_code("nobody"));
    assert_eq!(with_code("nobody") + with_code("too_large"), 9_998);
    // One log line reports all of them.
    let told = service.logged(|line| line["message"] == "rejected").await;
    assert_eq!(told["messages"], 9_998, "{told}");
    assert!(told["codes"].as_str().unwrap().contains("too_large"), "{told}");
    assert_eq!(service.log().iter().filter(|line| line["message"] == "rejected").count(), 1);
}

/// The peak memory of the program in KiB.
#[cfg(target_os = "linux")]
fn peak_memory(service: &Service) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_body_costs_no_more_memory_than_its_length_before_it_is_taken() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    let values = vec!["{}"; 3_400_000].join(",");
    let batch = gzip(&format!(r#"{{"context":[{values}],"batch":[]}}"#));
    let message = gzip(&format!(r#"{{"context":[{values}],"type":"track","userId":"u"}}"#));
    assert!(batch.len() < 20_000, "{}", batch.len());
    // With and without a key, a body that exceeds the limit of a message is refused without being decoded.
    let cases = [
        ("/v1/batch", None, 401),
        ("/v1/track", None, 401),
        ("/v1/batch", Some(WRITE_KEY), 413),
        ("/v1/track", Some(WRITE_KEY), 413),
        ("/destination", Some(WRITE_KEY), 413),
    ];
    for (path, key, status) in cases {
        let send = || {
            let request = service.request(Method::POST, path).header("content-encoding", "gzip");
            let request = match key {
                Some(key) => request.basic_auth(key, Some("")),
                None => request,
            };
            let body = if path == "/v1/batch" { &batch } else { &message };
            Service::answer(request.body(body.clone()))
        };
        let (first, second, third) = tokio::join!(send(), send(), send());
        let answers = [first, second, third];
        assert!(
            answers.iter().any(|answer| answer.status == status),
            "{path} {key:?}: {answers:?}"
        );
        for answer in answers {
            // There is room for two of the largest bodies at a time if no key is in the header.
            let is_expected = answer.status == status || key.is_none() && answer.status == 429;
            assert!(is_expected, "{path} {key:?}: {answer:?}");
        }
        // Each of the bodies is 10 MB, and 250 MB when decoded.
        assert!(peak_memory(&service) < 300_000, "{path} {key:?}: {}", peak_memory(&service));
    }
}

#[tokio::test]
async fn senders_are_told_to_retry_what_cannot_be_stored_at_the_moment() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__BODY_BUDGET_BYTES", "160000")
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "20000")
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "20000")
        .start();
    // Bodies that never end use the whole budget.
    let address = service.base_url.trim_start_matches("http://").to_owned();
    let endless = || {
        let mut endless = std::net::TcpStream::connect(&address).unwrap();
        let head = "POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n";
        let head = format!("{head}Authorization: Basic {}\r\n\r\n", basic());
        endless.write_all(format!("{head}{}", " ".repeat(19_900)).as_bytes()).unwrap();
        endless.set_nonblocking(true).unwrap();
        endless
    };
    let mut bodies: Vec<_> = (0..10).map(|_| endless()).collect();
    let began = std::time::Instant::now();
    let answer = loop {
        let answer = service.post("/v1/track", track_of(12_000, "m1")).await;
        if answer.status != 200 {
            break answer;
        }
        // A connection that arrived when there was no room has been asked to retry.
        for body in &mut bodies {
            if body.read(&mut [0; 1]).is_ok() {
                *body = endless();
            }
        }
        assert!(began.elapsed() < crate::support::PATIENCE);
    };
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "2", "it passes within moments");
    assert_eq!(answer.body["success"], false);
    let request = service.request(Method::POST, "/destination").basic_auth(WRITE_KEY, Some(""));
    let answer = Service::answer(request.body(track_of(12_000, "m2"))).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
    // Once they are closed, there is room again.
    drop(bodies);
    while service.post("/v1/track", track_of(12_000, "m3")).await.status != 200 {
        assert!(began.elapsed() < crate::support::PATIENCE);
    }
}

#[tokio::test]
async fn a_batch_may_have_as_many_messages_as_configured_and_no_more() {
    let (mut loops, service) = service().await;
    let batch = |count: usize, prefix: &str| {
        let messages: Vec<_> = (0..count).map(|n| track("u1", &format!("{prefix}{n}"))).collect();
        json!({"batch": messages})
    };
    service.accept("/v1/batch", batch(BATCH_MAX - 1, "a")).await;
    service.accept("/v1/batch", batch(BATCH_MAX, "b")).await;
    assert_too_large(&service.post("/v1/batch", batch(BATCH_MAX + 1, "c")).await);
    service.accept("/v1/batch", json!({"batch": []})).await;
    assert_eq!(loops.notes(2 * BATCH_MAX - 1).await.len(), 9);
    assert!(loops.rest().is_empty());
}
