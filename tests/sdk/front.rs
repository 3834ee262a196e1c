//! What stands between an SDK and the program, as a proxy does: one address over a restart, and
//! answers that are lost or refused where a test asks for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How an answer of "not now" begins.
const BUSY: &[u8] = b"HTTP/1.1 429";

/// What the front does, and what it has seen.
#[derive(Default)]
struct State {
    behind: Option<SocketAddr>,
    refuse: usize,
    lose: usize,
    busy: usize,
    held: Option<std::net::TcpStream>,
}

/// The front; it goes on for as long as the test runs.
#[derive(Clone)]
pub struct Front {
    /// Where SDKs are pointed to.
    pub base_url: String,
    state: Arc<Mutex<State>>,
}

impl Front {
    /// Starts one with this program behind it.
    pub async fn before(base_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self {
            base_url: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
        };
        front.lead_to(base_url);
        let state = Arc::clone(&front.state);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(client, Arc::clone(&state)));
            }
        });
        front
    }

    /// From now on this program is behind it.
    pub fn lead_to(&self, base_url: &str) {
        let address = base_url.trim_start_matches("http://").parse().unwrap();
        self.state.lock().unwrap().behind = Some(address);
    }

    /// Closes the next connections without an answer.
    pub fn refuse(&self, connections: usize) {
        self.state.lock().unwrap().refuse = connections;
    }

    /// Keeps the next answers to itself, and closes their connections.
    pub fn lose(&self, answers: usize) {
        self.state.lock().unwrap().lose = answers;
    }

    /// Holds a connection open until the first answer of "not now".
    pub fn hold_until_busy(&self, held: std::net::TcpStream) {
        self.state.lock().unwrap().held = Some(held);
    }

    /// How many connections it has still to refuse, and answers to lose.
    pub fn faults_left(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.refuse, state.lose)
    }

    /// How many answers of "not now" went through.
    pub fn busy(&self) -> usize {
        self.state.lock().unwrap().busy
    }
}

async fn forward(client: TcpStream, state: Arc<Mutex<State>>) {
    let behind = {
        let mut state = state.lock().unwrap();
        if state.refuse > 0 {
            state.refuse -= 1;
            return;
        }
        state.behind.unwrap()
    };
    let Ok(server) = TcpStream::connect(behind).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_server.read(&mut buffer).await.unwrap_or(0);
            if length == 0 || is_lost(&buffer[..length], &state) {
                return;
            }
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

/// Looks at a piece of an answer on its way to the client.
fn is_lost(piece: &[u8], state: &Mutex<State>) -> bool {
    let mut state = state.lock().unwrap();
    if piece.starts_with(BUSY) {
        state.busy += 1;
        // Let go before the SDK hears of it: its next try succeeds, however long it waits.
        state.held = None;
    }
    let is_lost = state.lose > 0;
    state.lose -= usize::from(is_lost);
    is_lost
}
