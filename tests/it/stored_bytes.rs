//! Stored bytes are bounded: by address, in total, and by the free space of the disk.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::authentication::signature;
use crate::limits::gzip;
use crate::support::{
    ADMIN_TOKEN, Answer, PATIENCE, Service, Setup, WEBHOOK_SECRET, WRITE_KEY, track,
};

const ADDRESS_BYTES_MAX: usize = 100_000;

/// A source for pages, and a source with a secret key in the environment.
const SOURCES: &str = r#"
    [server]
    trusted_proxies = ["127.0.0.0/8"]
    message_bytes_max = 100_000

    [sources.page]
    browser = true
    write_keys = ["page"]
    address_bytes_max = 100_000

    [sources.default]
"#;

/// A setup without a reachable Loops, so that accepted messages stay pending.
fn nowhere() -> Setup {
    Setup::with_loops("http://127.0.0.1:9/api/v1").config(SOURCES)
}

async fn send(service: &Service, path: &str, key: &str, address: &str, body: &str) -> Answer {
    let request = service.request(Method::POST, path).basic_auth(key, Some(""));
    let request = request.header("content-encoding", "gzip").header("x-forwarded-for", address);
    Service::answer(request.body(gzip(body))).await
}

async fn send_signed(service: &Service, message: Value) -> Answer {
    let body = message.to_string();
    let signature = signature(WEBHOOK_SECRET, &body);
    let request = service.request(Method::POST, "/webhook/default");
    Service::answer(request.header("x-signature", signature).body(body)).await
}

/// The number of stored bytes of payloads.
fn stored_bytes(service: &Service) -> usize {
    let sum = "SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM payloads";
    let sum: i64 = service.database().query_row(sum, [], |row| row.get(0)).unwrap();
    usize::try_from(sum).unwrap()
}

/// Batches of at most a kilobyte compressed, whose messages are stored as `count` times 10 KB.
fn packed(name: &str, count: usize) -> [String; 2] {
    let long = "x".repeat(10_000);
    let with = |n: usize, properties: Value| {
        json!({"type": "track", "userId": "u", "event": "E", "messageId": format!("{name}{n}"),
            "properties": properties})
    };
    let text: Vec<_> = (0..count).map(|n| with(n, json!({"x": long}))).collect();
    let shared: Vec<_> = (count..2 * count).map(|n| with(n, json!({}))).collect();
    [
        json!({"batch": text}).to_string(),
        json!({"batch": shared, "context": {"x": long}}).to_string(),
    ]
}

fn assert_too_many(answer: &Answer) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.body["code"], "too_many_requests", "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains("address_bytes_max"), "{answer:?}");
    let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

fn assert_not_now(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["code"], "not_now", "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "30", "{answer:?}");
}

#[tokio::test]
async fn an_address_pays_for_what_is_stored_not_for_what_it_sends() {
    let service = nowhere().start();
    for (n, body) in packed("a", 9).iter().enumerate() {
        let address = format!("192.0.2.{n}");
        assert!(gzip(body).len() < 1_000, "{}", gzip(body).len());
        let answer = send(&service, "/v1/batch", "page", &address, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // The batch is nine tenths of what an address may store in a minute. The same again is too much on any path.
        assert_too_many(&send(&service, "/v1/batch", "page", &address, body).await);
        assert_too_many(&send(&service, "/beacon/v1/batch", "page", &address, body).await);
        let single = json!({"type": "track", "userId": "u", "event": "x".repeat(20_000)});
        let single = single.to_string();
        assert_too_many(&send(&service, "/v1/track", "page", &address, &single).await);
        assert_too_many(&send(&service, "/destination", "page", &address, &single).await);
        // Small messages still fit, and other addresses and sources are not affected.
        let small = track("u1", &format!("small{n}")).to_string();
        assert_eq!(send(&service, "/v1/track", "page", &address, &small).await.status, 200);
        for time in 0..2 {
            let body = &packed(&format!("server{n}{time}"), 9)[n];
            let answer = send(&service, "/v1/batch", WRITE_KEY, &address, body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    // A reload does not reset the limits.
    let reload = service.request(Method::POST, "/api/reload").bearer_auth(ADMIN_TOKEN);
    assert_eq!(Service::answer(reload).await.status, 200);
    assert_too_many(&send(&service, "/v1/batch", "page", "192.0.2.0", &packed("b", 9)[0]).await);
}

#[tokio::test]
async fn an_address_does_not_pay_for_what_could_not_be_stored() {
    let full = nowhere().env("SEGMENT_LOOPS__STORE__BACKLOG_MESSAGES_MAX", "1");
    let service = full.start();
    service.accept("/v1/track", track("u1", "first")).await;
    // Ten times what the address may store in a minute.
    let [batch, _] = packed("a", 9);
    for _ in 0..10 {
        assert_not_now(&send(&service, "/v1/batch", "page", "192.0.2.1", &batch).await, 429);
    }
}

#[tokio::test]
async fn a_batch_stores_no_more_than_its_address_may_in_a_minute() {
    let service = nowhere().start();
    for (n, body) in packed("a", 40).iter().enumerate() {
        let before = stored_bytes(&service);
        let address = format!("192.0.2.{n}");
        let answer = send(&service, "/v1/batch", "page", &address, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let rejected = answer.body["rejected"].as_array().unwrap();
        assert_eq!(rejected.len(), 31, "nine of forty have room");
        assert!(rejected.iter().all(|one| one["code"] == "too_large"), "{rejected:?}");
        let stored = stored_bytes(&service) - before;
        assert!((90_000..=ADDRESS_BYTES_MAX).contains(&stored), "{stored}");
    }
}

#[tokio::test]
async fn beyond_the_bytes_of_the_backlog_senders_are_asked_to_retry() {
    let bounded = nowhere().env("SEGMENT_LOOPS__STORE__BACKLOG_BYTES_MAX", "100000");
    let mut service = bounded.start();
    let large = |n: usize| {
        json!({"type": "track", "userId": "u", "event": "E", "messageId": format!("m{n}"),
            "properties": {"x": "x".repeat(10_000)}})
    };
    for n in 0..10 {
        service.accept("/v1/track", large(n)).await;
    }
    assert_not_now(&service.post("/v1/track", large(10)).await, 429);
    assert_not_now(
        &send(&service, "/destination", WRITE_KEY, "192.0.2.1", &large(10).to_string()).await,
        503,
    );
    // Pending messages are counted again at the start.
    service = service.stop_and_restart(&bounded).await;
    assert_not_now(&service.post("/v1/track", large(10)).await, 429);
    let line = format!("{}\n", large(10));
    let import = ["import", "--source", "default", "-"];
    let ran = bounded.command_on(service.data(), &import, line.as_bytes()).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("store.backlog_bytes_max"), "{ran:?}");
    let bound = (100_000..120_000).contains(&stored_bytes(&service));
    assert!(bound, "{}", stored_bytes(&service));
}

#[cfg(unix)]
#[tokio::test]
async fn when_the_disk_fills_signed_webhooks_are_the_last_to_be_turned_away() {
    let with_reserve =
        |bytes: u64| nowhere().env("SEGMENT_LOOPS__STORE__FREE_BYTES_MIN", &bytes.to_string());
    // No disk has as much free space, whatever other programs do to it.
    let beyond_any_disk = 1 << 62;
    for (reserve, statuses) in [(0, [200; 4]), (beyond_any_disk, [429, 429, 429, 200])] {
        let service = with_reserve(reserve).start();
        let answers = send_from_each(&service).await;
        assert_statuses(&answers, statuses);
        let is_short = reserve > 0;
        let line = format!("{}\n", track("u1", "m3"));
        let import = ["import", "--source", "default", "-"];
        let ran = with_reserve(reserve).command_on(service.data(), &import, line.as_bytes()).await;
        assert_eq!(ran.code, Some(i32::from(is_short)), "{ran:?}");
        for part in ["store.free_bytes_min", "iB of free space", "run the same command again"] {
            assert_eq!(ran.stderr.contains(part), is_short, "{part}: {ran:?}");
        }
        assert!(!ran.stderr.contains("failed"), "{ran:?}");
        let is_beyond = |line: &Value| line["message"].as_str().unwrap().contains("whole disk");
        assert_eq!(service.log().iter().any(is_beyond), is_short);
        if is_short {
            let line = service
                .logged(|line| line["message"].as_str().unwrap().contains("free space"))
                .await;
            assert!(line["free_bytes"].as_u64().unwrap() > 0, "{line}");
        }
    }
    // The free space is between half the reserve and all of it. Other programs use the disk as well: if the free space
    // came near either bound in the meantime, the responses prove nothing.
    let free_bytes = || {
        let disk = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    let began = Instant::now();
    loop {
        let reserve = free_bytes() / 2 * 3;
        let answers = send_from_each(&with_reserve(reserve).start()).await;
        if (reserve / 10 * 6..reserve / 10 * 8).contains(&free_bytes()) {
            break assert_statuses(&answers, [429, 429, 200, 200]);
        }
        assert!(began.elapsed() < PATIENCE, "the free space changes all the time");
    }
}

/// Sends a message from a browser, in bulk, from a server and from Segment.
async fn send_from_each(service: &Service) -> [Answer; 4] {
    let batch = json!({"batch": [track("u1", "m1")]}).to_string();
    [
        send(service, "/v1/batch", "page", "192.0.2.1", &batch).await,
        send(service, "/v1/import", WRITE_KEY, "192.0.2.1", &batch).await,
        send(service, "/v1/batch", WRITE_KEY, "192.0.2.1", &batch).await,
        send_signed(service, track("u1", "m2")).await,
    ]
}

fn assert_statuses(answers: &[Answer; 4], statuses: [u16; 4]) {
    for (answer, status) in answers.iter().zip(statuses) {
        match status {
            429 => assert_not_now(answer, 429),
            _ => assert_eq!(answer.status, status, "{answer:?}"),
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt as _;

    let service = nowhere().start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(service.data()), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(service.data()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        files += 1;
    }
    assert_eq!(files, 3, "the database, its write-ahead log and its shared memory");
}
