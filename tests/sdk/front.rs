//! What stands between an SDK and the program, as a proxy does: one address over a restart, and
//! requests refused, led astray and answers kept where a test asks for it.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::PATIENCE;

/// How an answer begins, before its status.
const ANSWER: &[u8] = b"HTTP/1.1 ";

/// What is before the seconds of an answer of "not now".
const RETRY_AFTER: &[u8] = b"\r\nretry-after: ";

/// How a batch is sent, and how a message is: as long.
const BATCH: &[u8] = b"POST /v1/batch";
const TRACK: &[u8] = b"POST /v1/track";

/// How a request begins.
const METHODS: [&[u8]; 3] = [b"GET /", b"POST /", b"OPTIONS /"];

/// What the front does, and what it has seen.
#[derive(Default)]
struct State {
    refuse: usize,
    halts: bool,
    astray: bool,
    hurries: bool,
    held: Option<Box<dyn Any + Send>>,
    held_for: usize,
    requests: Vec<String>,
    answers: Vec<u16>,
}

/// The front; it goes on for as long as the test runs.
#[derive(Clone)]
pub struct Front {
    /// Where SDKs are pointed to.
    pub base_url: String,
    state: Arc<Mutex<State>>,
    /// The program behind it; while there is none, requests wait.
    behind: watch::Sender<Option<SocketAddr>>,
}

impl Front {
    /// Starts one with this program behind it.
    pub async fn before(base_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self {
            base_url: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
            behind: watch::Sender::new(None),
        };
        front.lead_to(base_url);
        let (state, behind) = (Arc::clone(&front.state), front.behind.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(client, Arc::clone(&state), behind.clone()));
            }
        });
        front
    }

    /// From now on this program is behind it.
    pub fn lead_to(&self, base_url: &str) {
        let address = base_url.trim_start_matches("http://").parse().unwrap();
        self.behind.send_replace(Some(address));
    }

    /// Closes the connections of the next requests without an answer.
    pub fn refuse(&self, requests: usize) {
        self.state.lock().unwrap().refuse = requests;
    }

    /// Keeps the next answer to itself and closes its connection: what it was about is stored, and
    /// the sender does not know. From then on nobody is let through until [`Front::lead_to`].
    pub fn halt_at_next_answer(&self) {
        self.state.lock().unwrap().halts = true;
    }

    /// Waits until it has kept an answer to itself.
    pub async fn halted(&self) {
        let mut behind = self.behind.subscribe();
        timeout(PATIENCE, behind.wait_for(Option::is_none)).await.expect("no answer came").unwrap();
    }

    /// Holds what keeps the program from taking anything until so many answers of "not now".
    pub fn hold_until_busy(&self, held: impl Any + Send, answers: usize) {
        let mut state = self.state.lock().unwrap();
        state.held = Some(Box::new(held));
        state.held_for = answers;
    }

    /// From now on batches go to the path of a single message, which refuses them.
    pub fn lead_astray(&self) {
        self.state.lock().unwrap().astray = true;
    }

    /// From now on each Retry-After becomes one second: a test has no time for more.
    pub fn hurry(&self) {
        self.state.lock().unwrap().hurries = true;
    }

    /// The status of each answer that went through.
    pub fn answers(&self) -> Vec<u16> {
        self.state.lock().unwrap().answers.clone()
    }

    /// Method and path of each request that came, the refused ones too.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// How many requests it has still to refuse.
    pub fn to_refuse(&self) -> usize {
        self.state.lock().unwrap().refuse
    }

    /// How many answers of "not now" went through.
    pub fn busy(&self) -> usize {
        self.answers().into_iter().filter(|status| *status == 429).count()
    }
}

async fn forward(
    client: TcpStream,
    state: Arc<Mutex<State>>,
    behind: watch::Sender<Option<SocketAddr>>,
) {
    let mut there = behind.subscribe();
    let there = there.wait_for(Option::is_some).await.map(|address| *address);
    let Ok(Some(address)) = there else {
        return;
    };
    let Ok(server) = TcpStream::connect(address).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = pass(&mut from_client, &mut to_server, |piece| is_refused(piece, &state)) => {}
        () = pass(&mut from_server, &mut to_client, |piece| is_kept(piece, &state, &behind)) => {}
    }
}

/// Passes pieces on until one side ends, or a piece is to be the last of this connection.
async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut is_last: impl FnMut(&mut [u8]) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if length == 0 || is_last(&mut buffer[..length]) {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Looks at a piece of a request on its way to the program.
fn is_refused(piece: &mut [u8], state: &Mutex<State>) -> bool {
    if !METHODS.iter().any(|method| piece.starts_with(method)) {
        return false;
    }
    let head = String::from_utf8_lossy(piece);
    let line = head.split(" HTTP/").next().unwrap_or_default().to_owned();
    let mut state = state.lock().unwrap();
    state.requests.push(line);
    if state.astray && piece.starts_with(BATCH) {
        piece[..TRACK.len()].copy_from_slice(TRACK);
    }
    let is_refused = state.refuse > 0;
    state.refuse -= usize::from(is_refused);
    is_refused
}

/// Looks at a piece of an answer on its way to the client.
fn is_kept(
    piece: &mut [u8],
    state: &Mutex<State>,
    behind: &watch::Sender<Option<SocketAddr>>,
) -> bool {
    let mut state = state.lock().unwrap();
    let digits = piece.strip_prefix(ANSWER).and_then(|rest| rest.get(..3));
    if let Some(digits) = digits {
        let status = std::str::from_utf8(digits).unwrap().parse().unwrap();
        state.answers.push(status);
        if status == 429 {
            if state.hurries {
                hurry(piece);
            }
            state.held_for = state.held_for.saturating_sub(1);
            if state.held_for == 0 {
                // Let go before the SDK hears of it: its next try succeeds, however long it waits.
                state.held = None;
            }
        }
    }
    let is_kept = std::mem::take(&mut state.halts);
    if is_kept {
        behind.send_replace(None);
    }
    is_kept
}

/// Writes `1`, and spaces before it, over the seconds.
fn hurry(answer: &mut [u8]) {
    let found = answer.windows(RETRY_AFTER.len()).position(|window| window == RETRY_AFTER);
    let seconds = &mut answer[found.unwrap() + RETRY_AFTER.len()..];
    let length = seconds.iter().take_while(|byte| byte.is_ascii_digit()).count();
    seconds[..length].fill(b' ');
    seconds[length - 1] = b'1';
}
