//! `[server]`, and the limits of `[store]` and `[delivery]`.

use std::net::IpAddr;

use super::errors::Check;
use crate::config::tree::{DeliveryConfig, ServerConfig, StoreConfig};

/// A network: an address and the length of its prefix.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// An address in the network.
    pub address: IpAddr,
    /// The number of leading bits that its addresses share.
    pub prefix: u8,
}

impl Check<'_> {
    /// Checks the URL of this service as senders see it: a scheme, a host, and possibly a path.
    pub(super) fn public_url(&mut self, url: Option<&str>) {
        let Some(url) = url else { return };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let is_plain = |rest: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]/".contains(&byte);
            !rest.starts_with('/') && !rest.is_empty() && rest.bytes().all(is_plain)
        };
        // Senders add `/v1` themselves.
        let has_version = url.trim_end_matches('/').ends_with("/v1");
        if has_version || !rest.is_some_and(is_plain) {
            self.report(
                "server.public_url",
                format!("`{url}` is not the URL of a service: use a URL such as https://events.example.com or https://example.com/segment, without /v1 and without a query"),
            );
        }
    }

    pub(super) fn networks(&mut self, key: &str, texts: &[String]) -> Vec<Network> {
        let mut networks = Vec::new();
        for text in texts {
            match network(text) {
                Some(network) => networks.push(network),
                None => self.report(
                    key,
                    format!("`{text}` is neither an address nor a network such as 10.0.0.0/8"),
                ),
            }
        }
        networks
    }

    pub(super) fn limits(
        &mut self,
        server: &ServerConfig,
        store: &StoreConfig,
        delivery: &DeliveryConfig,
    ) {
        let at_least_one: [(&str, u64); 21] = [
            ("server.header_timeout_ms", server.header_timeout_ms),
            ("server.body_timeout_ms", server.body_timeout_ms),
            ("server.write_timeout_ms", server.write_timeout_ms),
            ("server.ack_timeout_ms", server.ack_timeout_ms),
            ("server.body_bytes_max", server.body_bytes_max as u64),
            ("server.message_bytes_max", server.message_bytes_max as u64),
            ("server.batch_messages_max", server.batch_messages_max as u64),
            ("server.connections_max", server.connections_max as u64),
            (
                "server.address_connections_max",
                server.address_connections_max.map_or(1, |most| most as u64),
            ),
            ("store.waiting_messages_max", store.waiting_messages_max as u64),
            ("store.waiting_bytes_max", store.waiting_bytes_max as u64),
            ("store.backlog_messages_max", store.backlog_messages_max),
            ("store.backlog_bytes_max", store.backlog_bytes_max),
            ("store.duplicate_window_h", store.duplicate_window_h),
            ("store.records_retention_h", store.records_retention_h),
            ("delivery.retry_min_ms", delivery.retry_min_ms),
            ("delivery.retry_window_ms", delivery.retry_window_ms),
            ("delivery.requests_max", delivery.requests_max as u64),
            ("delivery.connect_timeout_ms", delivery.connect_timeout_ms),
            ("delivery.timeout_ms", delivery.timeout_ms),
            ("delivery.lease_ttl_ms", delivery.lease_ttl_ms),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                self.report(key, "must be 1 or more");
            }
        }
        let ordered = [
            (
                "server.message_bytes_max",
                server.message_bytes_max,
                "server.body_bytes_max",
                server.body_bytes_max,
            ),
            // Otherwise, one large batch could never be stored.
            (
                "six times server.body_bytes_max",
                server.body_bytes_max.saturating_mul(6),
                "server.body_budget_bytes",
                server.body_budget_bytes,
            ),
            (
                "server.address_connections_max",
                server.address_connections_max.unwrap_or(0),
                "server.connections_max",
                server.connections_max,
            ),
            // Otherwise, the sender of a batch that can never be stored would retry forever.
            (
                "four times server.body_bytes_max",
                server.body_bytes_max.saturating_mul(4),
                "store.waiting_bytes_max",
                store.waiting_bytes_max,
            ),
            (
                "server.batch_messages_max",
                server.batch_messages_max,
                "store.waiting_messages_max",
                store.waiting_messages_max,
            ),
        ];
        for (low_key, low, high_key, high) in ordered {
            if low > high {
                self.report(low_key, format!("is {low}, which is more than {high_key} ({high})"));
            }
        }
        // Port 0 stands for a different port each time.
        if server.admin_listen == Some(server.listen) && server.listen.port() != 0 {
            self.report(
                "server.admin_listen",
                "is the same address as server.listen: give another port, or leave the key out to serve both there",
            );
        }
        if delivery.retry_min_ms > delivery.retry_max_ms {
            self.report("delivery.retry_min_ms", "is more than delivery.retry_max_ms");
        }
        // The store converts hours to milliseconds since 1970. A thousand years is enough.
        const HOURS_MAX: u64 = 24 * 366 * 1_000;
        let hours = [
            ("store.duplicate_window_h", store.duplicate_window_h),
            ("store.delivered_retention_h", store.delivered_retention_h),
            ("store.failed_retention_h", store.failed_retention_h),
            ("store.records_retention_h", store.records_retention_h),
        ];
        for (key, value) in hours {
            if value > HOURS_MAX {
                self.report(key, format!("must be {HOURS_MAX} or less"));
            }
        }
        for (key, url) in [("store.url", &store.url), ("store.listen_url", &store.listen_url)] {
            let is_one =
                |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
            if url.as_ref().is_some_and(|url| !is_one(url.expose())) {
                // The URL holds a password, so it is not shown.
                self.report(
                    key,
                    "is not the URL of a PostgreSQL database: write it as postgres://USER:PASSWORD@HOST:5432/DATABASE",
                );
            }
        }
        const CONNECTIONS_MIN: u32 = StoreConfig::CONNECTIONS_MIN;
        if store.connections_max < CONNECTIONS_MIN {
            self.report("store.connections_max", format!("must be {CONNECTIONS_MIN} or more"));
        }
        if store.schema.is_empty()
            || store.schema.len() > 63
            || store.schema.starts_with("pg_")
            || store.schema.contains('@')
        {
            self.report(
                "store.schema",
                "is not a name for a schema: use 1 to 63 bytes without @, not beginning with pg_",
            );
        }
        if delivery.lease_ttl_ms < 300 {
            self.report(
                "delivery.lease_ttl_ms",
                "must be 300 or more: the lease is renewed three times within it",
            );
        }
    }
}

/// Reads a network, or a single address as a network of one.
fn network(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok())?;
    (prefix <= most).then_some(Network { address, prefix })
}
