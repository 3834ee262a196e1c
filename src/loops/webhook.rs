//! Sends webhooks with Loops' headers, which are those of Standard Webhooks. Used for webhooks that are handed on,
//! webhooks of the sandbox, and alerts.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect;

use super::answer::CallError;
use super::options::ClientError;
use super::transport::{USER_AGENT, call_error};
use crate::secret::Secret;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends webhooks to one URL.
#[derive(Debug, Clone)]
pub struct WebhookClient {
    http: reqwest::Client,
    url: reqwest::Url,
    shown_url: String,
}

/// The headers and the body of a webhook.
#[derive(Debug, Clone, Copy)]
pub struct SentWebhook<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// `webhook-signature`; empty if the webhook is not signed.
    pub signature: &'a str,
    /// The body.
    pub body: &'a Bytes,
}

impl WebhookClient {
    /// Creates a client for a URL, which may hold a secret. Redirects are not followed, because webhooks hold personal
    /// data.
    pub fn new(url: &Secret) -> Result<Self, ClientError> {
        let url = parse(url).ok_or(ClientError::WebhookUrl)?;
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(HeaderMap::from_iter([json]))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(ClientError::Start)?;
        let shown_url = url.origin().ascii_serialization();
        Ok(Self { http, url, shown_url })
    }

    /// Returns the scheme, host and port of the URL, for people. The rest may be secret.
    pub fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// Sends a webhook; returns the status of the response, whose body is not read.
    pub async fn send(&self, webhook: SentWebhook<'_>) -> Result<u16, CallError> {
        let request = self.http.post(self.url.clone()).body(webhook.body.clone()).headers(
            [
                ("webhook-id", webhook.id),
                ("webhook-timestamp", webhook.timestamp),
                ("webhook-signature", webhook.signature),
            ]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .filter_map(|(name, value)| {
                let value = HeaderValue::from_str(value).ok()?;
                Some((reqwest::header::HeaderName::from_static(name), value))
            })
            .collect(),
        );
        let sent = request.send().await;
        Ok(sent.map_err(|error| call_error(&error, &self.shown_url))?.status().as_u16())
    }
}

fn parse(url: &Secret) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(url.expose()).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}
