//! The gate that every request to the simulated API passes: the log, the key, the rate and the faults.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;
use tracing::warn;

use super::answer::{BrokenRule, Refusal};
use super::faults::Trouble;
use super::state::{InjectedFault, SeenRequest};
use super::team::{API_BASE, BODY_BYTES_MAX, Sandbox};
use crate::http::server::ResetConnection;

/// The header that makes an event request count only once.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
const RATE_LIMIT: &str = "x-ratelimit-limit";
const RATE_REMAINING: &str = "x-ratelimit-remaining";

/// The decision about a request that arrived.
struct Arrival {
    number: u64,
    rate_limit: u32,
    verdict: Verdict,
}

enum Verdict {
    WrongKey,
    TooFast,
    Admitted { remaining: u32, latency: Duration, trouble: Trouble },
}

/// Lets a request through to its handler, or turns it away.
pub(super) async fn gate(State(sandbox): State<Sandbox>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = read_body(body).await;
    let arrival = sandbox.arrive(&parts, body.as_ref().ok());
    // The query is left out, because it holds addresses and ids.
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let (mut response, fault, remaining) = match arrival.verdict {
        Verdict::WrongKey => (Refusal::invalid_key().into_response(), None, None),
        Verdict::TooFast => (too_fast(arrival.rate_limit).into_response(), None, Some(0)),
        Verdict::Admitted { remaining, latency, trouble } => {
            tokio::time::sleep(latency / 2).await;
            let (response, fault) = carry_out(trouble, parts, body, next).await;
            tokio::time::sleep(latency / 2).await;
            (response, fault, Some(remaining))
        }
    };
    if let Some(remaining) = remaining {
        let headers = response.headers_mut();
        headers.insert(RATE_LIMIT, HeaderValue::from(arrival.rate_limit));
        headers.insert(RATE_REMAINING, HeaderValue::from(remaining));
    }
    let is_reset = matches!(fault, Some(InjectedFault::ResetBefore | InjectedFault::ResetAfter));
    // An injected error is not a rule of Loops.
    if let Some(BrokenRule(rule)) = response.extensions().get()
        && fault != Some(InjectedFault::Error)
    {
        let status = response.status().as_u16();
        warn!(%method, path, status, rule, "the simulated Loops refused a request");
    }
    let status = (!is_reset).then(|| response.status().as_u16());
    sandbox.state().note_end(arrival.number, status, fault);
    if is_reset { drop_connection() } else { response }
}

impl Sandbox {
    /// Records and judges a request in one step, so that the log has the order in which requests were judged.
    fn arrive(&self, parts: &request::Parts, body: Option<&Bytes>) -> Arrival {
        let now = Instant::now();
        let since_start = now.saturating_duration_since(self.0.started);
        let seen = SeenRequest {
            number: 0,
            at_ms: u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX),
            method: parts.method.to_string(),
            path: format!("{API_BASE}{}", parts.uri),
            status: None,
            fault: None,
            idempotency_key: header_text(&parts.headers, IDEMPOTENCY_KEY),
            // The body is copied, because a slice would keep the whole buffer that it was read into.
            body: body.map(|body| Bytes::copy_from_slice(body)).unwrap_or_default(),
        };
        let mut state = self.state();
        let number = state.note_arrival(now, seen);
        let rate_limit = state.faults.settings().rate_limit;
        let verdict = if state.faults.settings().reject_key || !self.is_key_right(&parts.headers) {
            Verdict::WrongKey
        } else if let Some(remaining) = state.admitted.admit(now, rate_limit) {
            let (latency, trouble) = state.faults.next();
            Verdict::Admitted { remaining, latency, trouble }
        } else {
            state.note_rate_limited();
            Verdict::TooFast
        };
        Arrival { number, rate_limit, verdict }
    }

    fn is_key_right(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some((scheme, key)) = given.and_then(|given| given.split_at_checked(7)) else {
            return false;
        };
        let key = key.trim_ascii();
        scheme.eq_ignore_ascii_case(b"bearer ")
            && match &self.0.options.api_key {
                Some(right) => right.matches(key),
                None => !key.is_empty(),
            }
    }
}

/// Runs the handler, unless a fault keeps the request from having an effect.
async fn carry_out(
    trouble: Trouble,
    parts: request::Parts,
    body: Result<Bytes, Refusal>,
    next: Next,
) -> (Response, Option<InjectedFault>) {
    let fault = match trouble {
        Trouble::Error(status) => {
            let refusal = Refusal::new(status, "The sandbox was told to fail this request.");
            return (refusal.into_response(), Some(InjectedFault::Error));
        }
        Trouble::ResetBefore => return (drop_connection(), Some(InjectedFault::ResetBefore)),
        Trouble::ResetAfter => Some(InjectedFault::ResetAfter),
        Trouble::None => None,
    };
    let response = match body {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(refusal) => refusal.into_response(),
    };
    (response, fault)
}

/// Tells the HTTP server to drop the connection. The status is for a server that cannot do that.
fn drop_connection() -> Response {
    let mut response = StatusCode::BAD_GATEWAY.into_response();
    response.extensions_mut().insert(ResetConnection);
    response
}

fn too_fast(rate_limit: u32) -> Refusal {
    Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        format!("Too many requests: at most {rate_limit} in a second."),
    )
}

async fn read_body(body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body must be at most {BODY_BYTES_MAX} bytes."),
        )),
        Err(_) => Err(Refusal::bad_request("The body did not arrive completely.")),
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
