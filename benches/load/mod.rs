//! Load on the tracking API, for the benchmarks that need it.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const WRITE_KEY: &str = "bench";

pub(crate) static NEXT_ID: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) p99_ms: f64,
}

/// The lower quartile, the median and the upper quartile.
pub(crate) fn quartiles(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[(figures.len() - 1) * quarter / 4])
}

/// A round of load, spread over servers; fails unless every answer is 200.
pub(crate) async fn load(to: &[SocketAddr], path: &'static str, of: usize, long: Duration) -> Load {
    let until = Instant::now() + long;
    run(to, |address| client(address, path, of, until, Duration::ZERO), of).await
}

/// Single calls at this rate in all, until a moment, as far as the server keeps up.
pub(crate) async fn paced(to: SocketAddr, rate: f64, until: Instant) -> Load {
    let every = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    run(&[to], |address| client(address, "/v1/track", 1, until, every), 1).await
}

async fn run<F>(to: &[SocketAddr], client: impl Fn(SocketAddr) -> F, of: usize) -> Load
where
    F: Future<Output = Vec<Duration>> + Send + 'static,
{
    let began = Instant::now();
    let addresses = to.iter().copied().cycle().take(CONNECTIONS);
    let clients: Vec<_> = addresses.map(|address| tokio::spawn(client(address))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    Load { rate: (times.len() * of) as f64 / took, p99_ms: p99.as_secs_f64() * 1_000.0 }
}

/// The least client that there can be: it must not take from the servers what is measured of them. It sends a call when
/// the one before is answered, but not sooner than `every` after that was due.
pub(crate) async fn client(
    address: SocketAddr,
    path: &str,
    of: usize,
    until: Instant,
    every: Duration,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode(format!("{WRITE_KEY}:"));
    let mut times = Vec::new();
    let mut answer = vec![0; 4_096];
    // Not all connections at the same moment.
    let mut due = Instant::now() + every.mul_f64(fastrand::f64());
    while Instant::now() < until {
        if !every.is_zero() {
            tokio::time::sleep_until(due.into()).await;
            due += every;
        }
        let body = body(of);
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        // Every answer is small and comes in one piece.
        let length = stream.read(&mut answer).await.unwrap();
        times.push(began.elapsed());
        assert!(
            answer[..length].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer[..length])
        );
    }
    times
}

/// A message as analytics-node sends it, some 600 bytes.
pub(crate) fn message() -> String {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    format!(
        r#"{{"type":"track","messageId":"node-next-1763900000000-{id:032x}","userId":"user_{}","event":"Order Completed","timestamp":"2026-11-23T12:00:00.000Z","sentAt":"2026-11-23T12:00:00.100Z","properties":{{"orderId":"o_{id}","total":39.95,"currency":"EUR","coupon":null,"products":[{{"sku":"a-1","price":19.95,"quantity":1}},{{"sku":"b-2","price":10,"quantity":2}}]}},"context":{{"library":{{"name":"@segment/analytics-node","version":"3.1.0"}},"locale":"de-DE","timezone":"Europe/Berlin","traits":{{"email":"user_{id}@example.com"}}}},"integrations":{{}},"_metadata":{{"nodeVersion":"20.20.2","jsRuntime":"node"}}}}"#,
        id % 10_000
    )
}

fn body(of: usize) -> String {
    if of == 1 {
        return message();
    }
    let messages: Vec<String> = (0..of).map(|_| message()).collect();
    format!(r#"{{"batch":[{}],"sentAt":"2026-11-23T12:00:00.100Z"}}"#, messages.join(","))
}
