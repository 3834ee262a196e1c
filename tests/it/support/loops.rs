//! A scripted Loops, which responds as a test tells it and returns the requests that it received.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::PATIENCE;

/// A request that reached Loops.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Without the question mark.
    pub query: String,
    pub body: serde_json::Value,
    pub raw_body: Bytes,
    pub headers: HeaderMap,
}

impl Seen {
    /// The `note` that [`super::identify`] and [`super::track`] set: the message's id.
    pub fn note(&self) -> String {
        let note = self.body.get("note").or_else(|| self.body.pointer("/eventProperties/note"));
        note.and_then(|note| note.as_str()).unwrap_or_default().to_owned()
    }

    pub fn idempotency_key(&self) -> Option<String> {
        Some(self.headers.get("idempotency-key")?.to_str().unwrap().to_owned())
    }
}

/// A response of Loops.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status, headers, a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// No response, ever.
    Silence,
    /// Success, once the test says so.
    OkAfter(Arc<Notify>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        let body = format!(r#"{{"success":{},"message":"scripted {status}"}}"#, status < 300);
        Reply::Status(status, Vec::new(), body)
    }

    pub fn with_body(self, body: &str) -> Self {
        match self {
            Reply::Status(status, headers, _) => Reply::Status(status, headers, body.to_owned()),
            Reply::Silence | Reply::OkAfter(_) => self,
        }
    }

    pub fn with_header(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Reply::Status(status, mut headers, body) => {
                headers.push((name, value.into()));
                Reply::Status(status, headers, body)
            }
            Reply::Silence | Reply::OkAfter(_) => self,
        }
    }
}

/// The paths of the catalogue's requests.
const CATALOGUE: [&str; 3] = ["/contacts/properties", "/lists", "/event-patterns"];

type Script = dyn FnMut(&Seen) -> Reply + Send;

struct Shared {
    script: Mutex<Box<Script>>,
    /// The script for the catalogue's requests; with `None`, the response is 404.
    catalogue: Mutex<Option<Box<Script>>>,
    seen: mpsc::UnboundedSender<Seen>,
}

/// The scripted Loops. Checks of the key (`GET /api-key`) go through the script too, but [`ScriptedLoops::next`] does
/// not return them. Nor does it return the requests for properties, lists and events, which have a separate script.
pub struct ScriptedLoops {
    pub base_url: String,
    shared: Arc<Shared>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl ScriptedLoops {
    /// Starts a Loops that responds to each request as `script` says.
    pub async fn start(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let script: Box<Script> = Box::new(script);
        let (script, catalogue) = (Mutex::new(script), Mutex::default());
        let shared = Arc::new(Shared { script, catalogue, seen: sender });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let base_url = format!("http://{}/api/v1", serve_on_loopback(app).await);
        Self { base_url, shared, seen }
    }

    /// Starts a Loops that accepts everything.
    pub async fn willing() -> Self {
        Self::start(|_| Reply::ok()).await
    }

    /// Replaces the script.
    pub fn now(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Sets the script for requests for properties, lists and events.
    pub fn catalogue(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        *self.shared.catalogue.lock().unwrap() = Some(Box::new(script));
    }

    /// Waits for the next request.
    pub async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("no request reached Loops").unwrap()
    }

    /// Waits for the next requests, and returns their notes.
    pub async fn notes(&mut self, count: usize) -> Vec<String> {
        let mut notes = Vec::new();
        for _ in 0..count {
            notes.push(self.next().await.note());
        }
        notes
    }

    /// Returns the requests that [`ScriptedLoops::next`] has not returned.
    pub fn rest(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

/// Serves a router on a free port of loopback for as long as the test runs.
pub async fn serve_on_loopback(app: Router) -> std::net::SocketAddr {
    use segment_loops::http::server::{ServerLimits, serve};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ServerLimits::default();
    let never = tokio_util::sync::CancellationToken::new();
    tokio::spawn(serve(listener, app, limits, never, Duration::ZERO));
    address
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    raw_body: Bytes,
) -> Response {
    let seen = Seen {
        method: method.to_string(),
        path: uri.path().trim_start_matches("/api/v1").to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&raw_body).unwrap_or_default(),
        raw_body,
        headers,
    };
    let is_catalogue = method == Method::GET && CATALOGUE.contains(&&*seen.path)
        || seen.path == "/contacts/properties";
    let reply = match is_catalogue {
        true => match &mut *shared.catalogue.lock().unwrap() {
            Some(script) => script(&seen),
            None => Reply::status(404),
        },
        false => (shared.script.lock().unwrap())(&seen),
    };
    if seen.path != "/api-key" && !is_catalogue {
        let _ = shared.seen.send(seen);
    }
    match reply {
        Reply::Status(status, headers, body) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Reply::Silence => std::future::pending().await,
        Reply::OkAfter(said) => {
            said.notified().await;
            (StatusCode::OK, r#"{"success":true}"#).into_response()
        }
    }
}
