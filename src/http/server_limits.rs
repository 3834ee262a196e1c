//! The bounds of a server: its connections, and how slow they may be.

use std::time::Duration;

use super::address::Network;
use super::head::HeadBudget;

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// The name of the listener in metrics and in the log.
    pub listener: &'static str,
    /// How long a client may take to send its headers, and how long a connection may be idle between requests.
    pub header_timeout: Duration,
    /// How long a client may go without reading while data waits to be written to it.
    pub write_timeout: Duration,
    /// The most connections at once; further ones wait in the backlog.
    pub connections_max: usize,
    /// The most connections at once from one address; further ones are closed.
    pub address_connections_max: AddressConnections,
    /// Proxies, whose connections serve many senders: `address_connections_max` does not apply to them.
    pub trusted_proxies: Vec<Network>,
    /// The memory of paths and headers.
    pub heads: HeadBudget,
}

/// How many connections an address may have at once. None of them is zero.
#[derive(Debug, Clone, Copy)]
pub struct AddressConnections {
    /// A public address; in IPv6, a /64.
    pub public: usize,
    /// A whole IPv6 /48, which providers assign to a single customer.
    pub site: usize,
    /// A private address, such as that of a proxy in front, or of a container's gateway, which all clients behind it
    /// share.
    pub private: usize,
}

impl AddressConnections {
    /// The configured limits of an address. A /48 may have twice as many, because mobile networks have many phones in
    /// one.
    pub fn of(most: usize) -> Self {
        Self { public: most, site: most.saturating_mul(2), private: most }
    }

    /// The limits if nothing is configured. A browser opens six connections, and an office has one address; a proxy
    /// keeps a few hundred connections.
    pub fn default_of(connections_max: usize) -> Self {
        let part = |of: usize| connections_max.div_ceil(of);
        Self { public: part(8), site: part(4), private: part(2) }
    }
}

/// The limits for our own programs, such as the sandbox: generous, and without a bound for one address.
impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            listener: "other",
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            connections_max: 1_024,
            address_connections_max: AddressConnections::of(usize::MAX),
            trusted_proxies: Vec::new(),
            heads: HeadBudget::default(),
        }
    }
}
