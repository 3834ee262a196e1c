//! `[alerts]` and `[console]`.

use super::errors::Check;
use crate::config::tree::AlertsConfig;
use crate::feedback::Key;
use crate::secret::Secret;

impl Check<'_> {
    /// Reads the secrets of alerts, and checks them.
    pub(super) fn alerts(&mut self, alerts: &mut AlertsConfig) {
        let file = alerts.webhook_url_file.clone();
        let url = alerts.webhook_url.take();
        alerts.webhook_url = self.secret("alerts.webhook_url", url, file.as_deref()).flatten();
        let file = alerts.webhook_secret_file.clone();
        let secret = alerts.webhook_secret.take();
        alerts.webhook_secret =
            self.secret("alerts.webhook_secret", secret, file.as_deref()).flatten();
        // The URL is not shown, because it may hold a secret.
        let is_url = |url: &str| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let is_whole = |rest: &str| !rest.is_empty() && !rest.starts_with(['/', '?', '#']);
            rest.is_some_and(is_whole) && !url.contains(char::is_whitespace)
        };
        if alerts.webhook_url.as_ref().is_some_and(|url| !is_url(url.expose())) {
            self.report(
                "alerts.webhook_url",
                "must be a URL that begins with https:// (or http:// within a private network)",
            );
        }
        let is_secret =
            |secret: &Secret| secret.expose().starts_with("whsec_") && Key::read(secret).is_some();
        if alerts.webhook_secret.as_ref().is_some_and(|secret| !is_secret(secret)) {
            self.report(
                "alerts.webhook_secret",
                "is not a signing secret of Standard Webhooks, which is whsec_ and base64: make one with echo whsec_$(openssl rand -base64 32)",
            );
        }
        if alerts.webhook_secret.is_some() && alerts.webhook_url.is_none() {
            self.report(
                "alerts.webhook_secret",
                "needs alerts.webhook_url: without it, no alert is sent",
            );
        }
        if alerts.min_interval_s == 0 {
            self.report("alerts.min_interval_s", "must be 1 or more");
        }
    }

    /// Checks the URL of the console's host, which does not include the console's own path.
    pub(super) fn console_url(&mut self, url: Option<&str>) {
        let Some(url) = url else { return };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let is_plain = |rest: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]/".contains(&byte);
            !rest.starts_with('/') && !rest.is_empty() && rest.bytes().all(is_plain)
        };
        let has_path = url.trim_end_matches('/').ends_with("/console");
        if has_path || !rest.is_some_and(is_plain) {
            self.report(
                "console.public_url",
                format!("`{url}` is not the URL of a host: use a URL such as https://loops.internal.example, without /console and without a query"),
            );
        }
    }
}
