//! A program that answers "not now" for as long as a test wants.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use reqwest::Method;

use crate::support::{PATIENCE, Service, Setup};

/// Bytes of bodies that it takes at once.
const BUDGET: usize = 200_000;

/// Has the program take few bytes at once, so that a test can fill it.
pub fn with_little_room(mut setup: Setup) -> Setup {
    for name in ["BODY_BUDGET_BYTES", "BODY_BYTES_MAX", "MESSAGE_BYTES_MAX"] {
        setup = setup.env(&format!("SEGMENT_LOOPS__SERVER__{name}"), &BUDGET.to_string());
    }
    setup
}

/// Takes the whole room for bodies, with bodies that do not end. Each of them takes the smallest part that
/// there is, so that nothing is left.
pub async fn fill(service: &Service) -> Vec<TcpStream> {
    let began = Instant::now();
    let mut held = Vec::new();
    loop {
        // analytics.js' metrics: accepted like messages, but not kept.
        let request = service.request(Method::POST, "/v1/m").body("{}");
        if Service::answer(request).await.status == 429 {
            return held;
        }
        held.push(hold(service));
        assert!(began.elapsed() < PATIENCE);
    }
}

fn hold(service: &Service) -> TcpStream {
    let address = service.base_url.trim_start_matches("http://");
    let mut held = TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: {BUDGET}\r\n\r\n");
    held.write_all(format!("{head}{}", " ".repeat(900)).as_bytes()).unwrap();
    held
}
