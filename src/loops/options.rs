//! The options of a client, and why a client could not be created.

use std::time::Duration;

use crate::secret::Secret;

/// The options of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The base URL of the API, such as `https://app.loops.so/api/v1`.
    pub base_url: String,
    /// The team's API key.
    pub api_key: Secret,
    /// Requests a second; `None`: the rate in Loops' headers, or 10 until Loops has sent one.
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
    /// The URL to which webhooks are sent cannot be used. It is not shown, because it may hold a secret.
    #[error("the URL for webhooks is not a URL: use one such as https://example.com/webhooks")]
    WebhookUrl,
    /// TLS could not be set up.
    #[error("the HTTP client could not be started")]
    Start(#[source] reqwest::Error),
}
