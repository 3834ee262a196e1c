//! HTTP as senders, browsers and proxies write it: harmless deviations are accepted, and the sender receives the
//! response.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use reqwest::Method;
use serde_json::json;

use crate::limits::gzip;
use crate::support::{ADMIN_TOKEN, Answer, PATIENCE, Service, Setup, WRITE_KEY, track};

/// Nothing listens at this address, so accepted messages stay pending.
fn service() -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").start()
}

#[tokio::test]
async fn the_encoding_of_a_body_may_be_written_in_any_way() {
    let service = service();
    let send = |path: &str, encoding: &str, body: Vec<u8>| {
        let request = service.request(Method::POST, path).basic_auth(WRITE_KEY, Some(""));
        Service::answer(request.header("content-encoding", encoding).body(body))
    };
    let mut number = 0;
    let mut expected = Vec::new();
    let mut message = || {
        number += 1;
        expected.push(format!("m{number}"));
        track("u1", &format!("m{number}")).to_string()
    };
    for path in ["/v1/track", "/destination"] {
        for encoding in ["gzip", "GZIP", "Gzip", "x-gzip", "X-GZip"] {
            let answer = send(path, encoding, gzip(&message())).await;
            assert_eq!(answer.status, 200, "{path} {encoding}: {answer:?}");
        }
        for encoding in ["", "identity", "IDENTITY"] {
            let answer = send(path, encoding, message().into_bytes()).await;
            assert_eq!(answer.status, 200, "{path} {encoding}: {answer:?}");
        }
        for encoding in ["br", "deflate", "gzip, gzip"] {
            let answer = send(path, encoding, b"x".to_vec()).await;
            assert_eq!(answer.status, 415, "{path} {encoding}: {answer:?}");
        }
    }
    let stored = service.stored().await;
    assert_eq!(stored.len(), expected.len());
    assert!(expected.iter().all(|id| stored[id].len() == 1));
}

#[tokio::test]
async fn behind_a_proxy_that_ends_tls_a_page_is_told_to_send_over_tls() {
    let service = service();
    let settings = format!("/v1/projects/{WRITE_KEY}/settings");
    let cases = [
        (None, "http"),
        (Some("http"), "http"),
        (Some("https"), "https"),
        (Some("HTTPS"), "https"),
        (Some("https, http"), "https"),
        (Some("http, https"), "http"),
        (Some(" https ,http"), "https"),
        (Some(""), "http"),
    ];
    for (said, protocol) in cases {
        let request = service.request(Method::GET, &settings);
        let request = match said {
            Some(said) => request.header("x-forwarded-proto", said),
            None => request,
        };
        let answer = Service::answer(request).await;
        assert_eq!(answer.body["integrations"]["Segment.io"]["protocol"], protocol, "{said:?}");
    }
}

#[tokio::test]
async fn a_request_may_have_many_headers() {
    let service = service();
    let mut request = service.request(Method::POST, "/v1/track").basic_auth(WRITE_KEY, Some(""));
    for number in 0..240 {
        request = request.header(format!("x-header-{number}"), "x");
    }
    let answer = Service::answer(request.body(track("u1", "m1").to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Writes a request with the content length `length` and `written` bytes of body, and only then reads the head of the
/// response. If the program closes the connection in the meantime, the test fails.
fn write_then_read(service: &Service, head: &str, length: usize, written: usize) -> String {
    let mut stream = connect(service);
    let head = format!("{head}Host: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..written / 1_000 {
        stream.write_all(&[b' '; 1_000]).unwrap_or_else(|error| panic!("{head}: {error}"));
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{head}: {error}"));
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.base_url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_client_that_is_still_writing_gets_an_early_answer() {
    let service = service();
    let cases = [
        ("POST /webhook/nowhere HTTP/1.1\r\n", 404),
        ("POST /destination HTTP/1.1\r\n", 401),
        ("GET /destination HTTP/1.1\r\n", 405),
        ("PUT /v1/track HTTP/1.1\r\n", 405),
        ("POST /v1/nothing HTTP/1.1\r\n", 404),
        ("POST /v1 HTTP/1.1\r\n", 413),
        ("GET /v1 HTTP/1.1\r\n", 405),
        ("POST /elsewhere HTTP/1.1\r\n", 404),
        ("POST /v1/batch HTTP/1.1\r\nContent-Encoding: br\r\n", 415),
        ("POST /v1/batch HTTP/1.1\r\nContent-Encoding: gzip\r\n", 413),
        ("POST /v1/batch HTTP/1.1\r\n", 413),
    ];
    for (head, status) in cases {
        // More than the system buffers for both sides.
        let answer = write_then_read(&service, head, 20_000_000, 20_000_000);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    let no_gzip = "POST /v1/batch HTTP/1.1\r\nContent-Encoding: gzip\r\n";
    let answer = write_then_read(&service, no_gzip, 10_000_000, 10_000_000);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // The response does not wait for the missing bytes.
    let answer = write_then_read(&service, cases[0].0, 20_000_000, 1_000);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn a_client_that_is_still_writing_gets_the_answer_that_there_is_no_room() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1")
        .env("SEGMENT_LOOPS__SERVER__BODY_BUDGET_BYTES", "72000000")
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "9000000")
        .start();
    let hold = || {
        let mut held = connect(&service);
        let head = "POST /v1/m HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n";
        held.write_all(head.as_bytes()).unwrap();
        // When the write returns, the program has read all bytes that the system does not buffer.
        held.write_all(&vec![b' '; 8_900_000]).unwrap();
        held.set_nonblocking(true).unwrap();
        held
    };
    let mut all_held: Vec<_> = (0..7).map(|_| hold()).collect();
    let began = std::time::Instant::now();
    loop {
        let head = "POST /v1/track HTTP/1.1\r\n";
        let answer = write_then_read(&service, head, 9_000_000, 9_000_000);
        if answer.starts_with("HTTP/1.1 429 ") {
            break;
        }
        for held in &mut all_held {
            // If there was no room for this connection, it was asked to retry itself.
            if held.read(&mut [0]).is_ok() {
                *held = hold();
            }
        }
        assert!(began.elapsed() < PATIENCE, "{answer}");
    }
}

fn assert_no_redirect(answer: &Answer, what: &str) {
    assert!(!(300..400).contains(&answer.status), "{what}: {answer:?}");
    assert!(!answer.headers.contains_key("location"), "{what}: {answer:?}");
}

#[tokio::test]
async fn no_answer_to_a_sender_is_a_redirect() {
    let service = service();
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = client.build().unwrap();
    let document: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let described = document["paths"].as_object().unwrap().keys().cloned();
    let odd = ["/", "/v1", "/v1/", "//v1/t", "/v1//t", "/v1/t/?x=1", "/V1/T"];
    let mut paths: Vec<String> = odd.map(str::to_owned).to_vec();
    for path in described {
        paths.extend(["/", "//", "/x", "?a=b"].map(|end| format!("{path}{end}")));
        paths.push(path.to_uppercase());
        paths.push(format!("/{path}"));
        paths.push(path);
    }
    assert!(paths.len() > 150, "{}", paths.len());
    for path in &paths {
        for method in [Method::GET, Method::POST, Method::PUT, Method::OPTIONS, Method::HEAD] {
            let request = client.request(method.clone(), format!("{}{path}", service.base_url));
            let request =
                request.basic_auth(WRITE_KEY, Some("")).body(track("u1", "m").to_string());
            assert_no_redirect(&Service::answer(request).await, &format!("{method} {path}"));
        }
    }
}

#[tokio::test]
async fn a_page_may_read_a_404() {
    let service = service();
    let origin = "https://shop.example";
    for path in ["/v1/nothing", "/v1/t/nothing", "/beacon/nothing"] {
        for method in [Method::GET, Method::POST] {
            let request = service.request(method.clone(), path).header("origin", origin);
            let answer = Service::answer(request).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            assert_eq!(answer.body["success"], false, "{path}");
            assert_eq!(answer.headers["access-control-allow-origin"], origin, "{path}");
        }
        let preflight = service.request(Method::OPTIONS, path).header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "POST");
        let answer = Service::answer(preflight).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.headers["access-control-allow-origin"], origin, "{path}");
    }
}

#[tokio::test]
async fn a_request_without_a_key_is_told_how_to_authenticate_and_no_browser_asks_for_a_password() {
    let service = service();
    let cases = [
        (Method::POST, "/v1/track", r#"WriteKey realm="segment-loops""#),
        (Method::POST, "/v1/batch", r#"WriteKey realm="segment-loops""#),
        (
            Method::POST,
            "/destination",
            r#"Basic realm="segment-loops", Bearer realm="segment-loops""#,
        ),
        (
            Method::POST,
            "/webhook/default",
            r#"Basic realm="segment-loops", Bearer realm="segment-loops""#,
        ),
        (Method::GET, "/api/messages/m", r#"Bearer realm="segment-loops""#),
    ];
    for (method, path, challenge) in cases {
        let request = service.request(method, path);
        let answer = Service::answer(request.body(json!({"batch": []}).to_string())).await;
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert_eq!(answer.headers["www-authenticate"], challenge, "{path}");
    }
    let known = service.request(Method::GET, "/api/messages/m").bearer_auth(ADMIN_TOKEN);
    assert!(!Service::answer(known).await.headers.contains_key("www-authenticate"));
}
