//! The HTTP client: one method call is one HTTP request.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, redirect};
use tokio::time::Instant;

use super::answer::{ANSWER_BYTES_MAX, Answer, CallError};
use super::pacer::{Pacer, Slot};
use crate::clock::SharedClock;
use crate::secret::Secret;

/// How we present ourselves.
const USER_AGENT: &str = concat!("segment-loops/", env!("CARGO_PKG_VERSION"));

/// The longest list that is read, in bytes.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where the API is, such as `https://app.loops.so/api/v1`; no slash at its end.
    pub base_url: String,
    /// The team's API key.
    pub api_key: Secret,
    /// Requests a second; `None`: what Loops says, 10 until it says something.
    pub rate: Option<u32>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a whole call may take.
    pub timeout: Duration,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key has characters that no HTTP header can hold.
    #[error(
        "the API key has characters that cannot be sent (line breaks or non-ASCII): copy it again from Loops"
    )]
    Key,
    /// The base URL cannot be used.
    #[error("`{0}` is no base URL: give one such as https://app.loops.so/api/v1")]
    BaseUrl(String),
    /// The TLS machinery did not start.
    #[error("the HTTP client did not start")]
    Start(#[source] reqwest::Error),
}

/// One call to be made: exactly what was frozen.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path below the base URL.
    pub path: &'a str,
    /// JSON body; `None` for GET.
    pub body: Option<&'a Bytes>,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<&'a str>,
}

/// How a call went.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The answer, or why there is none.
    pub result: Result<Answer, CallError>,
    /// From the first byte out to the last byte in.
    pub duration: Duration,
}

/// The client of one destination.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    /// The same without a user name and a password, for people.
    shown_url: String,
    pacer: Arc<Pacer>,
    clock: SharedClock,
}

impl Client {
    /// Makes a client. Connections are kept; redirects are not followed, since they would carry the
    /// key to wherever they point.
    pub fn new(options: &ClientOptions, clock: SharedClock) -> Result<Self, ClientError> {
        let base_url = options.base_url.trim_end_matches('/').to_owned();
        let usable = reqwest::Url::parse(&base_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = usable else {
            return Err(ClientError::BaseUrl(base_url));
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", options.api_key.expose()))
            .map_err(|_| ClientError::Key)?;
        bearer.set_sensitive(true);
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(HeaderMap::from_iter([
                (AUTHORIZATION, bearer),
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            ]))
            .redirect(redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .tcp_nodelay(true)
            .build()
            .map_err(ClientError::Start)?;
        let shown_url = shown(url);
        Ok(Self { http, base_url, shown_url, pacer: Pacer::new(options.rate), clock })
    }

    /// The base URL for people: without a user name, a password or a query, which may be secret.
    pub fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// The limiter whose slots every call needs.
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// Makes one call. Never fails as such: that there was no answer is a [`CallError`] in the reply.
    pub async fn send(&self, slot: &Slot, call: Call<'_>) -> Reply {
        let started = Instant::now();
        slot.sent();
        let result = match self.build(call) {
            Ok(request) => self.exchange(request).await,
            Err(error) => Err(error),
        };
        let duration = started.elapsed();
        match &result {
            Ok(answer) => {
                let limited = (answer.status == 429).then_some(answer.retry_after);
                slot.answered(answer.rate, limited);
            }
            Err(CallError::Timeout | CallError::Connect(_) | CallError::Broken(_)) => {
                slot.answered(Default::default(), None);
            }
        }
        Reply { result, duration }
    }

    /// Asks Loops whether the key is right: `GET /api-key`.
    pub async fn probe(&self, slot: &Slot) -> Reply {
        let call = Call { method: "GET", path: "/api-key", body: None, idempotency_key: None };
        self.send(slot, call).await
    }

    /// Reads a list that Loops has, such as `/lists`, whole: the status and the body, at most
    /// 4 MiB of it.
    pub async fn read(&self, slot: &Slot, path: &str) -> Result<(u16, Vec<u8>), CallError> {
        slot.sent();
        let call = Call { method: "GET", path, body: None, idempotency_key: None };
        let response = self.build(call)?.send().await.map_err(|error| self.call_error(&error));
        slot.answered(Default::default(), None);
        let mut response = response?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.call_error(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LIST_BYTES_MAX {
                return Err(CallError::Broken(format!(
                    "the answer has more than {LIST_BYTES_MAX} bytes"
                )));
            }
        }
        Ok((response.status().as_u16(), body))
    }

    fn build(&self, call: Call<'_>) -> Result<RequestBuilder, CallError> {
        let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|error| broken(&error))?;
        let mut request = self.http.request(method, format!("{}{}", self.base_url, call.path));
        if let Some(body) = call.body {
            request = request.body(body.clone());
        }
        if let Some(key) = call.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        Ok(request)
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<Answer, CallError> {
        let mut response = request.send().await.map_err(|error| self.call_error(&error))?;
        let mut body = Vec::new();
        // The status decides. A body that breaks off only loses what it would have told people.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= ANSWER_BYTES_MAX {
                body.truncate(ANSWER_BYTES_MAX);
                break;
            }
        }
        Ok(Answer::new(response.status().as_u16(), response.headers(), &body, self.clock.now()))
    }

    /// What went wrong, by its innermost cause: the layers of the HTTP client around it tell people nothing.
    fn call_error(&self, error: &reqwest::Error) -> CallError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if error.is_connect() {
            CallError::Connect(format!("{}: {cause}", self.shown_url))
        } else if error.is_timeout() {
            CallError::Timeout
        } else if error.source().is_none() {
            // The text of the client itself would hold the URL.
            CallError::Broken("the request failed".to_owned())
        } else {
            CallError::Broken(cause.to_string())
        }
    }
}

fn shown(mut url: reqwest::Url) -> String {
    // Neither fails for a URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.as_str().trim_end_matches('/').to_owned()
}
