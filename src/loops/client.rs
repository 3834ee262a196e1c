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

/// The `User-Agent` of every request.
const USER_AGENT: &str = concat!("segment-loops/", env!("CARGO_PKG_VERSION"));

/// The most bytes of a list that are read.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The options of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The base URL of the API, such as `https://app.loops.so/api/v1`.
    pub base_url: String,
    /// The team's API key.
    pub api_key: Secret,
    /// Requests a second; `None`: the rate in Loops' headers, 10 until there are some.
    pub rate: Option<u32>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a whole call may take.
    pub timeout: Duration,
}

/// Why a client could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key has characters that no HTTP header can hold.
    #[error(
        "the API key has characters that cannot be sent (line breaks or non-ASCII): copy it again from Loops"
    )]
    Key,
    /// The base URL cannot be used.
    #[error("`{0}` is not a base URL: use a URL such as https://app.loops.so/api/v1")]
    BaseUrl(String),
    /// TLS could not be set up.
    #[error("the HTTP client could not be started")]
    Start(#[source] reqwest::Error),
}

/// A call, exactly as it was frozen.
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

/// The result of a call.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The answer, or why there is none.
    pub result: Result<Answer, CallError>,
    /// The time from the first byte sent to the last byte received.
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
    /// Creates a client. Connections are kept open; redirects are not followed, since they could send the
    /// key to another host.
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

    /// The limiter from which every call needs a slot.
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// Makes one call. Never fails: if there was no answer, the reply holds a [`CallError`].
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

    /// Checks the key: `GET /api-key`.
    pub async fn probe(&self, slot: &Slot) -> Reply {
        let call = Call { method: "GET", path: "/api-key", body: None, idempotency_key: None };
        self.send(slot, call).await
    }

    /// Reads a list from Loops, such as `/lists`; returns the status and the body, which may have at most
    /// 4 MiB.
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
        // The status decides. A truncated body only loses details for people.
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
