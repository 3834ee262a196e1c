//! A proxy between the program and PostgreSQL. It parses the protocol's messages, so that it can cut a connection
//! during COMMIT.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The server does not receive the COMMIT.
    Before,
    /// The server has committed, and the program does not receive the response.
    After,
}

/// The kind of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It stores messages.
    Accept,
    /// It writes steps of delivery.
    Step,
    Other,
}

type Policy = dyn FnMut(Kind) -> Option<Cut> + Send;

#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    server: AtomicU16,
    policy: Mutex<Box<Policy>>,
    cuts: AtomicUsize,
    /// Counts how often all connections were frozen.
    frozen: watch::Sender<usize>,
}

impl Proxy {
    /// Starts a proxy to the server at a port of this machine. It cuts nothing yet.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: AtomicU16::new(server),
            policy: Mutex::new(Box::new(|_| None)),
            cuts: AtomicUsize::new(0),
            frozen: watch::Sender::new(0),
        });
        let each = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((program, _)) = listener.accept().await {
                tokio::spawn(connect(program, Arc::clone(&each)));
            }
        });
        Self { shared, port }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// From now on, each commit is cut as `policy` decides.
    pub fn cuts(&self, policy: impl FnMut(Kind) -> Option<Cut> + Send + 'static) {
        *self.shared.policy.lock().unwrap() = Box::new(policy);
    }

    /// The number of commits that were cut so far.
    pub fn cut_count(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// New connections lead to another server. The present ones stay open, but forward nothing any more.
    pub fn moves_to(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
        self.shared.frozen.send_modify(|times| *times += 1);
    }
}

/// Forwards a connection until one of its ends closes it, or it is cut.
async fn connect(program: TcpStream, shared: Arc<Shared>) {
    let mut frozen = shared.frozen.subscribe();
    let port = shared.server.load(Ordering::SeqCst);
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for end in [&program, &server] {
        // Each message is forwarded at once, as without a proxy.
        end.set_nodelay(true).unwrap();
    }
    let (mut from_program, mut to_program) = program.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let is_last = AtomicBool::new(false);
    tokio::select! {
        _ = forward(&mut from_program, &mut to_server, &shared, &is_last) => {}
        _ = answer(&mut from_server, &mut to_program, &is_last) => {}
        Ok(()) = frozen.changed() => {
            // Both sockets stay open.
            std::future::pending::<()>().await;
        }
    }
}

/// Forwards from the program to the server.
async fn forward(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    is_last: &AtomicBool,
) -> io::Result<()> {
    // The first message has no type.
    let length = from.read_u32().await?;
    to.write_u32(length).await?;
    to.write_all(&body(from, length).await?).await?;
    let mut kind = Kind::Other;
    loop {
        let (tag, message) = frame(from).await?;
        let text = String::from_utf8_lossy(&message);
        match tag {
            b'P' if text.contains(".accept_") => kind = Kind::Accept,
            b'P' if text.contains(".leases WHERE destination") => kind = Kind::Step,
            b'Q' if text.starts_with("BEGIN") => kind = Kind::Other,
            b'Q' if text.starts_with("COMMIT") => {
                let cut = (shared.policy.lock().unwrap())(kind);
                shared.cuts.fetch_add(usize::from(cut.is_some()), Ordering::SeqCst);
                match cut {
                    None => {}
                    Some(Cut::Before) => return Ok(()),
                    Some(Cut::After) => is_last.store(true, Ordering::SeqCst),
                }
            }
            _ => {}
        }
        write(to, tag, &message).await?;
    }
}

/// Forwards from the server to the program. If `is_last` is set, stops before the response to a COMMIT.
async fn answer(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    is_last: &AtomicBool,
) -> io::Result<()> {
    loop {
        let (tag, message) = frame(from).await?;
        if tag == b'C' && message.starts_with(b"COMMIT") && is_last.load(Ordering::SeqCst) {
            return Ok(());
        }
        write(to, tag, &message).await?;
    }
}

/// Reads a message: its type and what follows its length.
async fn frame(from: &mut OwnedReadHalf) -> io::Result<(u8, Vec<u8>)> {
    let (tag, length) = (from.read_u8().await?, from.read_u32().await?);
    Ok((tag, body(from, length).await?))
}

/// The length counts itself.
async fn body(from: &mut OwnedReadHalf, length: u32) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok(body)
}

async fn write(to: &mut OwnedWriteHalf, tag: u8, message: &[u8]) -> io::Result<()> {
    let mut bytes = vec![tag];
    bytes.extend((u32::try_from(message.len()).unwrap() + 4).to_be_bytes());
    bytes.extend(message);
    to.write_all(&bytes).await
}
