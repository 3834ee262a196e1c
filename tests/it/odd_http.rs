//! Ambiguous HTTP, which two parsers could read differently, is rejected with a message, and counted.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use serde_json::Value;

use crate::support::{PATIENCE, Service, Setup, WRITE_KEY};

/// The expected outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// 200.
    Good,
    /// This status, with a code and a message.
    Json(u16),
    /// 400, with a message and the code `bad_http`, and counted.
    Malformed,
    /// This status from hyper, without a body, and counted.
    Bare(u16),
    /// The connection is closed without a response, and counted.
    Closed,
}

use Outcome::{Bare, Closed, Good, Json, Malformed};

/// Nothing listens at this address, so accepted messages stay pending.
fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1")
        .env("SEGMENT_LOOPS__SERVER__BODY_TIMEOUT_MS", "500")
        .env("SEGMENT_LOOPS__SERVER__HEADER_TIMEOUT_MS", "500")
        .start()
}

/// Writes bytes to a new connection, and reads until the program closes it.
fn exchange(service: &Service, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(service.base_url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The program may have closed the connection before all bytes are written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset instead of a close is an end as well; a timeout is not.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it hangs");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

const MESSAGE: &str = r#"{"type":"track","userId":"u1","event":"e"}"#;

/// A POST with the write key, `Connection: close`, these headers, and this body.
fn post(headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/track HTTP/1.1\r\nConnection: close\r\n{}{headers}\r\n{body}",
        authorization()
    )
    .into_bytes()
}

fn authorization() -> String {
    let key = base64::engine::general_purpose::STANDARD.encode(format!("{WRITE_KEY}:"));
    format!("Authorization: Basic {key}\r\n")
}

/// A POST of a message with these headers, its length and a host.
fn message(headers: &str) -> Vec<u8> {
    post(&format!("Host: x\r\nContent-Length: {}\r\n{headers}", MESSAGE.len()), MESSAGE)
}

/// A POST of a message in one chunk, with these headers and a host.
fn chunked(headers: &str) -> Vec<u8> {
    post(
        &format!("Host: x\r\n{headers}"),
        &format!("{:x}\r\n{MESSAGE}\r\n0\r\n\r\n", MESSAGE.len()),
    )
}

/// A POST with this body, which is already chunked.
fn chunks(body: &str) -> Vec<u8> {
    post("Host: x\r\nTransfer-Encoding: chunked\r\n", body)
}

/// A request with this first line and these headers, and without a body.
fn bare(line: &str, headers: &str) -> Vec<u8> {
    format!("{line}\r\n{headers}\r\n").into_bytes()
}

fn cases() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let length = MESSAGE.len();
    let host = "Host: x\r\nConnection: close\r\n";
    let long = "a".repeat(70_000);
    let in_chunks = format!("{length:x};{long}\r\n{MESSAGE}\r\n0\r\n\r\n");
    let lf = String::from_utf8(message("")).unwrap().replace("\r\n", "\n");
    let twice = authorization();
    vec![
        // Host.
        ("one host", message(""), Good),
        ("no host", post(&format!("Content-Length: {length}\r\n"), MESSAGE), Malformed),
        ("two hosts", message("Host: y\r\n"), Malformed),
        ("the same host twice", message("Host: x\r\n"), Malformed),
        ("an empty host", bare("GET /healthz HTTP/1.1", "Host:\r\nConnection: close\r\n"), Good),
        ("a path as host", bare("GET /healthz HTTP/1.1", "Host: a/b\r\n"), Malformed),
        ("a user in the host", bare("GET /healthz HTTP/1.1", "Host: me@a\r\n"), Malformed),
        ("HTTP/1.0 without host", bare("GET /healthz HTTP/1.0", ""), Good),
        (
            "HTTP/1.0 with two hosts",
            bare("GET /healthz HTTP/1.0", "Host: x\r\nHost: y\r\n"),
            Malformed,
        ),
        // Headers that identify the sender.
        ("two authorizations", message(&twice), Malformed),
        ("two signatures", message("X-Signature: a\r\nX-Signature: a\r\n"), Malformed),
        ("two tokens", message("X-Webhook-Token: a\r\nX-Webhook-Token: b\r\n"), Malformed),
        ("two content types", message("Content-Type: a/b\r\nContent-Type: text/plain\r\n"), Good),
        (
            "two encodings",
            message("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n"),
            Json(415),
        ),
        ("two forwarded addresses", message("X-Forwarded-For: a\r\nX-Forwarded-For: b\r\n"), Good),
        // Headers that determine the end of the body.
        ("chunked", chunked("Transfer-Encoding: chunked\r\n"), Good),
        ("Chunked", chunked("Transfer-Encoding: Chunked\r\n"), Good),
        ("gzip, chunked", chunked("Transfer-Encoding: gzip, chunked\r\n"), Malformed),
        ("chunked twice", chunked("Transfer-Encoding: chunked, chunked\r\n"), Malformed),
        (
            "chunked in two lines",
            chunked("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            Malformed,
        ),
        ("chunked, gzip", chunked("Transfer-Encoding: chunked, gzip\r\n"), Bare(400)),
        ("identity", chunked("Transfer-Encoding: identity\r\n"), Bare(400)),
        ("no coding of ours", chunked("Transfer-Encoding: xchunked\r\n"), Bare(400)),
        ("one length twice", message(&format!("Content-Length: {length}\r\n")), Good),
        ("two lengths", message("Content-Length: 5\r\n"), Bare(400)),
        ("a list of lengths", post("Host: x\r\nContent-Length: 5, 5\r\n", MESSAGE), Bare(400)),
        ("a signed length", post("Host: x\r\nContent-Length: +5\r\n", MESSAGE), Bare(400)),
        ("a negative length", post("Host: x\r\nContent-Length: -1\r\n", MESSAGE), Bare(400)),
        (
            "too long a length",
            post("Host: x\r\nContent-Length: 99999999999999999999\r\n", ""),
            Bare(400),
        ),
        // The chunks take precedence, as RFC 9112 requires.
        (
            "a length and chunks",
            chunked("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
            Good,
        ),
        (
            "chunks and a length",
            chunked("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
            Good,
        ),
        ("a long chunk extension", chunks(&in_chunks), Json(400)),
        (
            "a size of a chunk in C",
            chunks(&format!("0x{length:x}\r\n{MESSAGE}\r\n0\r\n\r\n")),
            Json(400),
        ),
        ("too long a chunk", chunks("ffffffffffffffffff\r\nx"), Json(400)),
        ("long trailers", chunks(&format!("1\r\n \r\n0\r\nX: {long}\r\n\r\n")), Json(400)),
        ("a body that never ends", chunks(&"1\r\n \r\n".repeat(10)), Json(429)),
        // The head.
        ("empty lines before it", [b"\r\n\r\n".as_slice(), &message("")].concat(), Good),
        ("lines that end in LF", lf.into_bytes(), Good),
        ("a folded header", message("X-A: b\r\n c\r\n"), Bare(400)),
        (
            "a header that begins with a space",
            bare("GET /healthz HTTP/1.1", " Host: x\r\n"),
            Bare(400),
        ),
        ("a space before the colon", message("X-A : b\r\n"), Bare(400)),
        ("a header without a colon", message("junk\r\n"), Bare(400)),
        ("CR in a header", message("X-A: b\rX-B: c\r\n"), Bare(400)),
        ("NUL in a header", message("X-A: b\0c\r\n"), Bare(400)),
        ("too many headers", message(&"X: y\r\n".repeat(300)), Bare(431)),
        ("a long header", message(&format!("X: {}\r\n", long.repeat(10))), Bare(431)),
        ("a long path", bare(&format!("GET /{long} HTTP/1.1"), host), Bare(431)),
        ("a space in the path", bare("GET /a b HTTP/1.1", host), Bare(400)),
        // Methods and forms of the path.
        ("TRACE", bare("TRACE /v1/track HTTP/1.1", host), Json(405)),
        ("CONNECT", bare("CONNECT x:443 HTTP/1.1", host), Json(404)),
        ("OPTIONS *", bare("OPTIONS * HTTP/1.1", host), Json(404)),
        ("a method nobody knows", bare("FOO /v1/track HTTP/1.1", host), Json(405)),
        ("a whole URL", bare("GET http://elsewhere.example/healthz HTTP/1.1", host), Good),
        (
            "an upgrade",
            bare("GET /healthz HTTP/1.1", "Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"),
            Good,
        ),
        ("an unknown expectation", message("Expect: 200-ok\r\n"), Good),
        // Other protocols.
        ("HTTP/0.9", b"GET /healthz\r\n\r\n".to_vec(), Bare(400)),
        ("HTTP/1.2", bare("GET /healthz HTTP/1.2", host), Bare(400)),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), Closed),
        ("TLS", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".to_vec(), Bare(400)),
    ]
}

/// The number of malformed requests that were counted.
async fn counted(service: &Service) -> u64 {
    // Sent on a new connection, because the program soon closes idle ones.
    let request = service.request(reqwest::Method::GET, "/metrics").header("connection", "close");
    let text = Service::answer(request).await.body;
    let name = r#"segment_loops_rejected_total{source="",endpoint="unknown",code="bad_http"} "#;
    let line = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_request_has_its_answer_and_is_counted() {
    let service = service();
    let mut malformed = 0;
    for (name, bytes, expected) in cases() {
        let answer = exchange(&service, &bytes);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).map(|status| status.parse::<u16>().unwrap());
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let has_message = body["code"].is_string() && body["message"].is_string();
        let outcome = match status {
            None => Closed,
            Some(200) => Good,
            Some(400) if body["code"] == "bad_http" && has_message => Malformed,
            Some(status) if has_message => Json(status),
            Some(status) => Bare(status),
        };
        assert_eq!(outcome, expected, "{name}: {answer}");
        malformed += u64::from(matches!(expected, Malformed | Bare(_) | Closed));
        // hyper's own responses are counted once their connection has ended.
        let began = std::time::Instant::now();
        while counted(&service).await < malformed {
            assert!(began.elapsed() < PATIENCE, "{name} is not counted");
        }
        assert_eq!(counted(&service).await, malformed, "{name}");
    }
    // Many malformed requests cause few log lines.
    let is_it = |line: &&Value| line["code"] == "bad_http";
    let lines = service.log().iter().filter(is_it).count();
    assert!((1..=40).contains(&lines), "{lines}");
}

/// To a proxy that parses it differently, the bytes after such a request may be part of it.
#[test]
fn what_follows_an_ambiguous_request_on_its_connection_is_not_answered() {
    let service = service();
    let preflight = "OPTIONS /v1/track HTTP/1.1\r\nHost: x\r\nOrigin: https://shop.example\r\nAccess-Control-Request-Method: POST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    let preflight = ("a preflight", preflight.as_bytes().to_vec(), Malformed);
    // These are processed like ordinary requests, or their body turns out to be malformed.
    let others = ["a length and chunks", "chunks and a length", "a size of a chunk in C"];
    let mut tried = 0;
    for (name, bytes, expected) in cases().into_iter().chain([preflight]) {
        if !matches!(expected, Malformed | Bare(_)) && !others.contains(&name) {
            continue;
        }
        let first = String::from_utf8(bytes).unwrap_or_default();
        let first = first.replace("Connection: close\r\n", "");
        let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = exchange(&service, format!("{first}{next}").as_bytes());
        assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{name}: {answer}");
        if expected == Malformed {
            assert!(answer.contains("\r\nconnection: close\r\n"), "{name}: {answer}");
        }
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn a_page_may_read_that_its_request_was_malformed() {
    let service = service();
    let request = "POST /v1/track HTTP/1.1\r\nHost: a/b\r\nOrigin: https://shop.example\r\nConnection: close\r\n\r\n";
    let answer = exchange(&service, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://shop.example\r\n"), "{answer}");
    assert!(answer.contains("\"success\":false"), "{answer}");
}

#[test]
fn a_page_is_told_to_send_to_a_host_and_nothing_else() {
    let service = service();
    let settings = |headers: &str| {
        let line = format!("GET /v1/projects/{WRITE_KEY}/settings HTTP/1.1");
        exchange(&service, &bare(&line, &format!("{headers}Connection: close\r\n")))
    };
    let answer = settings("Host: events.example:8443\r\n");
    assert!(answer.contains("\"apiHost\":\"events.example:8443/v1\""), "{answer}");
    assert!(answer.contains("cache-control: private, no-cache\r\n"), "{answer}");
    for host in ["a/b", "a?b", "me@events.example", "<script>", "a b", "a:b"] {
        let answer = settings(&format!("Host: {host}\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && !answer.contains("apiHost"),
            "{host}: {answer}"
        );
    }
    // Headers that only a trusted proxy may set.
    let forged = "Host: x\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /p\r\n";
    let answer = settings(forged);
    assert!(answer.contains("\"apiHost\":\"x/v1\""), "{answer}");
}
