//! A program that answers "not now" for as long as a test wants.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::Method;

use crate::support::{PATIENCE, Service, Setup};

/// Bytes of bodies that it takes at once.
const BUDGET: usize = 200_000;

/// Has the program take so few bytes at once that a single body can fill it.
pub fn with_little_room(mut setup: Setup) -> Setup {
    for name in ["BODY_BUDGET_BYTES", "BODY_BYTES_MAX", "MESSAGE_BYTES_MAX"] {
        setup = setup.env(&format!("SEGMENT_LOOPS__SERVER__{name}"), &BUDGET.to_string());
    }
    setup
}

/// Takes the whole room for bodies, with a body that does not end.
pub async fn fill(service: &Service) -> TcpStream {
    let began = Instant::now();
    let mut held = hold(service);
    // analytics.js' metrics: taken like messages, but not kept.
    let is_full = async || {
        let request = service.request(Method::POST, "/v1/m").body("{}");
        Service::answer(request).await.status == 429
    };
    loop {
        let is_full = is_full().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        // A question that came first had a little of the room, so that the rest was too little.
        let is_held = held.peek(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        match (is_held, is_full) {
            (true, true) => return held,
            (true, false) => {}
            (false, _) => held = hold(service),
        }
        assert!(began.elapsed() < PATIENCE);
    }
}

fn hold(service: &Service) -> TcpStream {
    let address = service.base_url.trim_start_matches("http://");
    let mut held = TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: {BUDGET}\r\n\r\n");
    // Who is refused meanwhile cannot write all of it.
    let _ = held.write_all(format!("{head}{}", " ".repeat(BUDGET - 1)).as_bytes());
    held.set_nonblocking(true).unwrap();
    held
}
