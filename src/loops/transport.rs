//! Carries calls to Loops, over HTTP.

use std::error::Error as _;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, redirect};

use super::answer::CallError;
use super::options::{ClientError, ClientOptions};

/// The `User-Agent` of every request.
pub(super) const USER_AGENT: &str = concat!("segment-loops/", env!("CARGO_PKG_VERSION"));

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

/// An HTTP response as it was read.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The beginning of its body.
    pub(crate) body: Vec<u8>,
    /// Why the body could not be read completely.
    pub(crate) cut_off: Option<CallError>,
}

/// Carries a call to Loops and the response back: over HTTP, or in the simulation to a model of Loops.
#[async_trait]
pub(crate) trait Transport: Send + Sync + std::fmt::Debug {
    /// Makes one HTTP request, without retries. Reads at least `bytes_max` bytes of the response's body, if it is
    /// that long.
    async fn exchange(&self, call: Call<'_>, bytes_max: usize) -> Result<RawAnswer, CallError>;
}

/// Calls over HTTP, to one base URL with one key.
#[derive(Debug)]
pub(super) struct Http {
    http: reqwest::Client,
    base_url: String,
    shown_url: String,
    host: String,
}

impl Http {
    /// Creates the HTTP client. Connections are kept open. Redirects are not followed, because they could send the key
    /// to another host.
    pub(super) fn new(options: &ClientOptions) -> Result<Self, ClientError> {
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
        let host = url.host_str().unwrap_or_default().to_owned();
        Ok(Self { http, base_url, shown_url: shown(url), host })
    }

    /// Returns the base URL for people: without a user name, a password or a query, which may be secret.
    pub(super) fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// Returns the host of the base URL.
    pub(super) fn host(&self) -> &str {
        &self.host
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
}

#[async_trait]
impl Transport for Http {
    async fn exchange(&self, call: Call<'_>, bytes_max: usize) -> Result<RawAnswer, CallError> {
        let sent = self.build(call)?.send().await;
        let mut response = sent.map_err(|error| call_error(&error, &self.shown_url))?;
        let (mut body, mut cut_off) = (Vec::new(), None);
        while body.len() < bytes_max {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => {
                    cut_off = Some(call_error(&error, &self.shown_url));
                    break;
                }
            }
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(RawAnswer { status, headers, body, cut_off })
    }
}

/// Returns the innermost cause of an error. The layers of the HTTP client add nothing of use to operators.
pub(super) fn call_error(error: &reqwest::Error, shown_url: &str) -> CallError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_connect() {
        CallError::Connect(format!("{shown_url}: {cause}"))
    } else if error.is_timeout() {
        CallError::Timeout
    } else if error.source().is_none() {
        // The client's own message would contain the URL.
        CallError::Broken("the request failed".to_owned())
    } else {
        CallError::Broken(cause.to_string())
    }
}

fn shown(mut url: reqwest::Url) -> String {
    // Neither fails for a URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.as_str().trim_end_matches('/').to_owned()
}
