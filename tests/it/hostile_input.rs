//! Whatever bytes an endpoint receives, it responds with a message, and never panics, responds 500 or hangs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;

use crate::support::{PATIENCE, ScriptedLoops, Service, Setup, WRITE_KEY, track};

const PATHS: [&str; 8] = [
    "/v1/identify",
    "/v1/track",
    "/v1/batch",
    "/v1/import",
    "/v1/t",
    "/v1/b",
    "/webhook/default",
    "/destination",
];

fn bodies() -> Vec<Vec<u8>> {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let texts = [
        String::new(),
        " ".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "[null]".to_owned(),
        "{}".to_owned(),
        "\"text\"".to_owned(),
        "{\"batch\":".to_owned(),
        "{\"batch\":1}".to_owned(),
        "{\"batch\":[1,{},[],null,\"x\"]}".to_owned(),
        "{\"batch\":[{]}".to_owned(),
        deep(100_000),
        format!("{{\"type\":\"track\",\"userId\":\"u\",\"properties\":{}}}", deep(100_000)),
        format!("{{\"batch\":[{}]}}", deep(100_000)),
        "{\"userId\":1e999999999,\"type\":\"track\"}".to_owned(),
        format!("{{\"userId\":{},\"type\":\"track\",\"event\":\"x\"}}", "9".repeat(100_000)),
        "{\"userId\":NaN,\"type\":\"track\"}".to_owned(),
        "{\"userId\":\"\\ud83d\",\"type\":\"track\",\"event\":\"\\udc00\"}".to_owned(),
        "{\"type\":\"track\",\"type\":\"nope\",\"userId\":\"u\"}".to_owned(),
        "{\"userId\":\"\\u0000\",\"type\":\"track\",\"event\":\"\\u0000\"}".to_owned(),
        "{\"userId\":{\"a\":1},\"type\":[\"track\"]}".to_owned(),
        "{\"timestamp\":\"999999999-99-99\",\"sentAt\":{},\"userId\":\"u\",\"type\":\"track\"}"
            .to_owned(),
        format!(
            "{{\"messageId\":\"{}\",\"userId\":\"u\",\"type\":\"track\"}}",
            "m".repeat(100_000)
        ),
    ];
    let mut bodies: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    bodies.push(b"{\"userId\":\"\xff\xfe\",\"type\":\"track\"}".to_vec());
    bodies.push(vec![0; 1_000]);
    bodies.push((0..=255).collect());
    bodies
}

#[tokio::test]
async fn odd_bodies_are_answered_with_a_message() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    for path in PATHS {
        for body in bodies() {
            let request = service.request(Method::POST, path).basic_auth(WRITE_KEY, Some(""));
            let answer = Service::answer(request.body(body.clone())).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert!(answer.status < 500 || answer.status == 501, "{path} {shown}: {answer:?}");
            let has_message = answer.body["message"].is_string() && answer.body["code"].is_string();
            assert!(answer.status == 200 || has_message, "{path} {shown}: {answer:?}");
        }
    }
    // The service still works.
    service.accept("/v1/track", track("sentinel", "sentinel")).await;
    while loops.next().await.note() != "sentinel" {}
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_with_a_message() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let cases = [
        (Method::GET, "/", 404),
        (Method::POST, "/v1/nope", 404),
        (Method::POST, "/v2/track", 404),
        (Method::GET, "/v1/track", 405),
        (Method::DELETE, "/v1/batch", 405),
        (Method::GET, "/webhook/default", 405),
        (Method::PUT, "/destination", 405),
        (Method::POST, "/healthz", 405),
        (Method::POST, "/metrics", 405),
        (Method::GET, "/api/nope", 404),
        (Method::GET, "/%00%ff%2e%2e/", 404),
        (Method::POST, "/webhook/%ff", 404),
        (Method::GET, "/v1/projects/%ff/settings", 404),
        (Method::GET, "/api/messages/%ff", 401),
        (Method::POST, "/openapi.json", 405),
    ];
    for (method, path, status) in cases {
        let answer = Service::answer(service.request(method.clone(), path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.body["message"].is_string(), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_of_20_mb_is_refused() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let answer = service.post("/v1/track", " ".repeat(20_000_000)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body["message"].is_string(), "{answer:?}");
}

/// Writes `bytes` to a new connection, and reads until the program closes it.
fn raw(service: &Service, bytes: &[u8]) -> String {
    let address = service.base_url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset instead of a close is an end as well; a timeout is not.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_broken_requests_are_ended() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__HEADER_TIMEOUT_MS", "300")
        .env("SEGMENT_LOOPS__SERVER__BODY_TIMEOUT_MS", "300")
        .start();
    // Headers that never end.
    raw(&service, b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    raw(&service, b"");
    // A body that never ends. The sender is asked to retry, so that no SDK drops the message.
    let head =
        "POST /v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n";
    let answer =
        raw(&service, format!("{head}Authorization: Basic {}\r\n\r\n{{", basic()).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
    assert!(answer.contains("\"message\""), "{answer}");
    // Bytes that are not HTTP.
    raw(&service, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    raw(&service, &[0xff; 100_000]);
    service.accept("/v1/track", track("u1", "m1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_says_it_is_too_long_is_rejected_before_it_comes() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1")
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "4000")
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "4000")
        .start();
    let key = basic();
    let is_rejected = |path: &str, length: &str, coding: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{coding}Authorization: Basic {key}\r\n\r\n"
        );
        let answer = raw(&service, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 413"), "{path} {length}: {answer}");
        assert!(answer.contains("server.body_bytes_max"), "{answer}");
    };
    // All at once, since the program leaves each connection open for a moment after its answer.
    std::thread::scope(|scope| {
        for path in ["/v1/track", "/v1/batch", "/destination"] {
            for length in ["4001", "100000000", "9223372036854775808", "18446744073709551613"] {
                for coding in ["", "Content-Encoding: gzip\r\n"] {
                    let is_rejected = &is_rejected;
                    scope.spawn(move || is_rejected(path, length, coding));
                }
            }
        }
    });
    service.accept("/v1/track", track("u1", "m1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_repeat_a_method_that_nobody_knows() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    for path in ["/v1/track", "/webhook/default", "/healthz", "/metrics"] {
        let method = "INVENTED".repeat(1_500);
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(&service, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405"), "{path}: {answer}");
        assert!(answer.len() < 1_000 && !answer.contains("INVENTED"), "{path}: {answer}");
    }
}

pub fn basic() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{WRITE_KEY}:"))
}

#[tokio::test]
async fn in_a_batch_a_bad_message_never_costs_a_good_one() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let good = |id: &str| track("u1", id).to_string();
    let batch = format!(
        "{{\"batch\":[{},{{\"type\":\"track\",}},{},17,{{\"type\":\"nope\",\"userId\":\"u\"}},{{\"type\":\"track\"}},{},{{\"userId\":\"u\"}},{}]}}",
        good("m1"),
        good("m2"),
        good("m3"),
        good("m4"),
    );
    let answer = service.post("/v1/batch", batch).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let refused = answer.body["rejected"].as_array().unwrap();
    let indices: Vec<_> = refused.iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [1, 3, 4, 5, 7]);
    assert!(refused.iter().all(|one| one["message"].is_string() && one["code"].is_string()));
    assert_eq!(loops.notes(4).await, ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn requests_that_come_bytewise_within_the_time_are_served() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let body = track("u1", "m1").to_string();
    let head = format!(
        "POST /v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\nAuthorization: Basic {}\r\n\r\n",
        body.len(),
        basic()
    );
    let address = service.base_url.trim_start_matches("http://").to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        for byte in format!("{head}{body}").bytes() {
            stream.write_all(&[byte]).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(loops.next().await.note(), "m1");
}
