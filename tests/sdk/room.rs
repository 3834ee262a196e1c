//! A program that answers "not now" for as long as a test wants.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;

use crate::support::{PATIENCE, Service, Setup, WRITE_KEY};

/// The largest body that it takes.
const BODY: usize = 20_000;

/// Bytes of bodies that it takes at once, as few as the configuration allows.
const BUDGET: usize = 6 * BODY;

/// Has the program take few bytes at once, so that a test can fill it.
pub fn with_little_room(setup: Setup) -> Setup {
    let server = |setup: Setup, name: &str, bytes: usize| {
        setup.env(&format!("SEGMENT_LOOPS__SERVER__{name}"), &bytes.to_string())
    };
    let setup = server(setup, "BODY_BUDGET_BYTES", BUDGET);
    server(server(setup, "BODY_BYTES_MAX", BODY), "MESSAGE_BYTES_MAX", BODY)
}

/// Takes the whole room for bodies, with bodies that do not end: that of senders whose headers bring a key, and that
/// of all others. Each body takes the smallest part that there is, so that nothing is left.
pub async fn fill(service: &Service) -> Vec<TcpStream> {
    let began = Instant::now();
    let mut held = Vec::new();
    for has_key in [true, false] {
        loop {
            // analytics.js' metrics: accepted like messages, but not kept.
            let request = service.request(Method::POST, "/v1/m").body("{}");
            let request = match has_key {
                true => request.basic_auth(WRITE_KEY, Some("")),
                false => request,
            };
            if Service::answer(request).await.status == 429 {
                break;
            }
            held.push(hold(service, has_key));
            assert!(began.elapsed() < PATIENCE);
        }
    }
    held
}

fn hold(service: &Service, has_key: bool) -> TcpStream {
    let address = service.base_url.trim_start_matches("http://");
    let mut held = TcpStream::connect(address).unwrap();
    let key = match has_key {
        true => {
            format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{WRITE_KEY}:")))
        }
        false => String::new(),
    };
    let head = format!("POST /v1/track HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {BODY}\r\n\r\n");
    held.write_all(format!("{head}{}", " ".repeat(900)).as_bytes()).unwrap();
    held
}
