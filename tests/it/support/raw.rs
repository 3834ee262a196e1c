//! A Loops that responds with raw bytes, for responses that an HTTP server never sends on purpose.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Seen;

/// What follows the bytes of a response.
#[derive(Debug, Clone)]
pub enum End {
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// The connection stays open without any more bytes.
    Silence,
    /// These bytes are repeated as fast as they are read.
    Repeat(Vec<u8>),
    /// These bytes are repeated with a pause before each repetition.
    Trickle(Vec<u8>, Duration),
}

/// The bytes of a response, and what follows.
#[derive(Debug, Clone)]
pub struct RawReply(pub Vec<u8>, pub End);

impl RawReply {
    pub fn new(bytes: impl Into<Vec<u8>>, end: End) -> Self {
        Self(bytes.into(), end)
    }

    pub fn ok() -> Self {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 16\r\n\r\n";
        Self::new(format!("{head}{{\"success\":true}}"), End::Close)
    }
}

type Script = dyn FnMut(&Seen) -> RawReply + Send;

/// A Loops with one connection for each request. The key is always right.
pub struct RawLoops {
    pub base_url: String,
    repeated_bytes: Arc<Mutex<usize>>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl RawLoops {
    /// Starts a Loops that responds to each delivery as `script` says.
    pub async fn start(script: impl FnMut(&Seen) -> RawReply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/api/v1", listener.local_addr().unwrap());
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let (sender, seen) = mpsc::unbounded_channel();
        let repeated_bytes = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&repeated_bytes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, sender) = (Arc::clone(&script), sender.clone());
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(seen) = read(&mut stream).await else { return };
                    // Besides deliveries, there are checks of the key and requests for the catalogue.
                    let reply = if seen.method == "GET" {
                        RawReply::ok()
                    } else {
                        let reply = (script.lock().unwrap())(&seen);
                        let _ = sender.send(seen);
                        reply
                    };
                    write(stream, reply, &counted).await;
                });
            }
        });
        Self { base_url, repeated_bytes, seen }
    }

    /// The number of bytes that were written of endless responses.
    pub fn repeated_bytes(&self) -> usize {
        *self.repeated_bytes.lock().unwrap()
    }

    /// Returns the requests since the last call.
    pub fn rest(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

/// Reads a request to the last byte of its body. Returns `None` if the connection ends before that.
async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap());
    let path = path.trim_start_matches("/api/v1").to_owned();
    let headers: HeaderMap = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value.trim()).unwrap())
        })
        .collect();
    let length =
        headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let body_start = head_end + 4;
    while bytes.len() < body_start + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let raw_body = axum::body::Bytes::copy_from_slice(&bytes[body_start..]);
    let body = serde_json::from_slice(&raw_body).unwrap_or_default();
    Some(Seen { method, path, query: String::new(), body, raw_body, headers })
}

async fn write(mut stream: TcpStream, RawReply(bytes, end): RawReply, counted: &Mutex<usize>) {
    if stream.write_all(&bytes).await.is_err() {
        return;
    }
    match end {
        End::Close => drop(stream.shutdown().await),
        End::Reset => {
            // The bytes must arrive before the reset.
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger().unwrap();
        }
        End::Silence => {
            // Waits until the program gives up.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        End::Repeat(bytes) => {
            while stream.write_all(&bytes).await.is_ok() {
                *counted.lock().unwrap() += bytes.len();
            }
        }
        End::Trickle(bytes, pause) => {
            while stream.write_all(&bytes).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}
