//! The sandbox through its router, as a client of Loops sees it.

mod contacts;
mod control;
mod events;
mod gate;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::clock::ManualClock;
use crate::http::server::ResetConnection;

/// A response of the sandbox.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    is_reset: bool,
    body: Value,
}

impl Reply {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A sandbox with a clock that stands still.
struct Fixture {
    sandbox: Sandbox,
    clock: Arc<ManualClock>,
    router: Router,
}

impl Fixture {
    /// Creates a sandbox without faults, and with a rate that no test reaches by accident.
    fn new() -> Self {
        Self::with(Faults { rate_limit: 1_000_000, ..Faults::default() })
    }

    fn with(faults: Faults) -> Self {
        Self::with_options(SandboxOptions { faults, ..SandboxOptions::default() })
    }

    fn with_options(options: SandboxOptions) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let sandbox = Sandbox::new(options, clock.clone());
        let router = sandbox.router();
        Self { sandbox, clock, router }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let is_reset = response.extensions().get::<ResetConnection>().is_some();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).expect("every answer is JSON"),
        };
        Reply { status, headers, is_reset, body }
    }

    /// Calls the simulated API with a right key.
    async fn call(&self, method: &str, path: &str, body: impl Into<Payload>) -> Reply {
        self.send(request(method, &format!("{API_BASE}{path}"), body)).await
    }

    async fn update(&self, body: Value) -> Reply {
        self.call("PUT", "/contacts/update", body).await
    }

    async fn event(&self, key: &str, body: Value) -> Reply {
        let mut request = request("POST", &format!("{API_BASE}/events/send"), body);
        request.headers_mut().insert("Idempotency-Key", key.parse().expect("a header"));
        self.send(request).await
    }

    async fn find(&self, query: &str) -> Value {
        let reply = self.call("GET", &format!("/contacts/find?{query}"), ()).await;
        assert_eq!(reply.status, 200, "{query}");
        reply.body
    }
}

/// A body: nothing, raw text, or JSON.
struct Payload(Vec<u8>);

impl From<()> for Payload {
    fn from((): ()) -> Self {
        Self(Vec::new())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Value> for Payload {
    fn from(json: Value) -> Self {
        Self(json.to_string().into_bytes())
    }
}

fn request(method: &str, path: &str, body: impl Into<Payload>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer any-key")
        .body(Body::from(body.into().0))
        .expect("a request")
}
