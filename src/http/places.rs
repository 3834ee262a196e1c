//! The connections that a listener may have, in all and from one address.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Gauge, counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use super::address::{Peer, is_private, is_trusted, shared, shown_network};
use super::line_limit::LineLimit;
use super::server_limits::{AddressConnections, ServerLimits};
use super::stall::Cut;
use crate::telemetry;

/// The most log lines a minute of each kind.
const LINES_MAX: u32 = 1;

/// The places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    limits: ServerLimits,
    free: Arc<Semaphore>,
    by_network: Arc<Networks>,
    open: Gauge,
    full_lines: LineLimit,
    address_lines: LineLimit,
    stall_lines: LineLimit,
    head_lines: LineLimit,
    fault_lines: LineLimit,
}

/// The place of a connection; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Place {
    // Dropped before the permit, so that the next connection to take the permit is not counted on top of this one.
    _of_address: Option<OfAddress>,
    _permit: OwnedSemaphorePermit,
    open: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

/// The number of connections of each network that has any: an IPv4 address, an IPv6 /64 or /48.
type Networks = Mutex<HashMap<(IpAddr, u32), usize>>;

/// One of the connections of an address.
#[derive(Debug)]
struct OfAddress {
    networks: Vec<(IpAddr, u32)>,
    all: Arc<Networks>,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        // A panic between plain assignments leaves nothing half done.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for network in &self.networks {
            if let Some(open) = all.get_mut(network) {
                *open -= 1;
                if *open == 0 {
                    all.remove(network);
                }
            }
        }
    }
}

/// The reasons why connections are closed, as metrics name them.
const CUT_REASONS: [&str; 3] = ["address_connections_max", "write_timeout", "no_room"];

impl Places {
    pub(super) fn new(limits: ServerLimits) -> Self {
        for reason in CUT_REASONS {
            let labels = [("listener", limits.listener), ("reason", reason)];
            counter!(telemetry::CONNECTIONS_CUT, &labels).increment(0);
        }
        Self {
            free: Arc::new(Semaphore::new(limits.connections_max)),
            by_network: Arc::default(),
            open: gauge!(telemetry::CONNECTIONS_OPEN, "listener" => limits.listener),
            full_lines: LineLimit::new(LINES_MAX),
            address_lines: LineLimit::new(LINES_MAX),
            stall_lines: LineLimit::new(LINES_MAX),
            head_lines: LineLimit::new(LINES_MAX),
            fault_lines: LineLimit::new(LINES_MAX),
            limits,
        }
    }

    /// Waits for a permit to take a place.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.free);
        if let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
            return Some(permit);
        }
        if self.full_lines.line(Instant::now()).is_some() {
            warn!(
                listener = self.limits.listener,
                connections_max = self.limits.connections_max,
                "all connections are taken: new ones wait until one is closed"
            );
        }
        // The semaphore is never closed.
        free.acquire_owned().await.ok()
    }

    /// Takes a place for a connection of this peer; `None` if its address has too many.
    pub(super) fn take(&self, permit: OwnedSemaphorePermit, peer: Peer) -> Option<Place> {
        let is_exempt = is_trusted(Some(peer), &self.limits.trusted_proxies);
        let of_address = match is_exempt {
            true => None,
            false => Some(self.of_address(peer)?),
        };
        self.open.increment(1.0);
        Some(Place { _permit: permit, _of_address: of_address, open: self.open.clone() })
    }

    fn of_address(&self, peer: Peer) -> Option<OfAddress> {
        let address = peer.0.ip().to_canonical();
        let bounds = bounds(address, &self.limits.address_connections_max);
        let mut all = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |(network, most): &((IpAddr, u32), usize)| {
            all.get(network).is_some_and(|open| open >= most)
        };
        let Some((_, most)) = bounds.iter().find(|bound| is_full(bound)).copied() else {
            let networks: Vec<_> = bounds.into_iter().map(|(network, _)| network).collect();
            for network in &networks {
                *all.entry(*network).or_default() += 1;
            }
            return Some(OfAddress { networks, all: Arc::clone(&self.by_network) });
        };
        drop(all);
        self.count_cut("address_connections_max");
        if let Some(unlogged) = self.address_lines.line(Instant::now()) {
            warn!(
                listener = self.limits.listener,
                network = shown_network(address),
                address_connections_max = most,
                unlogged,
                "an address has too many connections: further ones are closed (if it is a proxy in front, name it in server.trusted_proxies)"
            );
        }
        None
    }

    /// Reports that a connection could not be accepted.
    pub(super) fn report_fault(&self, error: &io::Error) {
        if let Some(unlogged) = self.fault_lines.line(Instant::now()) {
            let listener = self.limits.listener;
            warn!(listener, %error, unlogged, "a connection cannot be accepted");
        }
    }

    /// Reports that a connection was ended.
    pub(super) fn report_cut(&self, cut: Cut, peer: Peer) {
        let (reason, lines) = match cut {
            Cut::Stalled => ("write_timeout", &self.stall_lines),
            Cut::NoRoom => ("no_room", &self.head_lines),
        };
        self.count_cut(reason);
        let Some(unlogged) = lines.line(Instant::now()) else { return };
        let listener = self.limits.listener;
        let network = shown_network(peer.0.ip());
        match cut {
            Cut::Stalled => warn!(
                listener,
                network,
                unlogged,
                "a connection was closed: its client did not read the responses within server.write_timeout_ms"
            ),
            Cut::NoRoom => warn!(
                listener,
                network,
                unlogged,
                "a connection was closed: the long headers of all requests together take too much memory (bound their length at the proxy, or lower server.address_connections_max or server.header_timeout_ms)"
            ),
        }
    }

    fn count_cut(&self, reason: &'static str) {
        let labels = [("listener", self.limits.listener), ("reason", reason)];
        counter!(telemetry::CONNECTIONS_CUT, &labels).increment(1);
    }
}

/// Returns the networks that an address belongs to, and the most connections of each.
fn bounds(address: IpAddr, most: &AddressConnections) -> Vec<((IpAddr, u32), usize)> {
    let leading = |bits| (shared(address, bits), bits);
    match address {
        _ if is_private(address) => vec![(leading(64), most.private)],
        IpAddr::V4(_) => vec![(leading(64), most.public)],
        IpAddr::V6(_) => vec![(leading(64), most.public), (leading(48), most.site)],
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::http::Network;

    fn peer(address: &str) -> Peer {
        Peer(SocketAddr::new(address.parse().unwrap(), 4711))
    }

    #[tokio::test]
    async fn an_address_has_its_connections_and_a_proxy_all() {
        let proxy = Network { address: "10.0.0.0".parse().unwrap(), prefix: 8 };
        let places = Places::new(ServerLimits {
            connections_max: 100,
            address_connections_max: AddressConnections { public: 2, site: 3, private: 4 },
            trusted_proxies: vec![proxy],
            ..ServerLimits::default()
        });
        let mut held = Vec::new();
        // (peer, whether its connection is accepted)
        let cases = [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::3", true),
            // The /48 already has its three connections.
            ("2001:db8:0:2::3", false),
            ("2001:db8:1::3", true),
            // The address of a gateway, behind which everyone may be.
            ("172.17.0.1", true),
            ("172.17.0.1", true),
            ("172.17.0.1", true),
            ("172.17.0.1", true),
            ("172.17.0.1", false),
            ("10.0.0.1", true),
            ("10.0.0.1", true),
            ("10.0.0.1", true),
        ];
        for (address, is_accepted) in cases {
            let place = places.take(places.free().await.unwrap(), peer(address));
            assert_eq!(place.is_some(), is_accepted, "{address}");
            held.extend(place);
        }
        assert_eq!(places.free.available_permits(), 100 - held.len());
        held.clear();
        assert_eq!(places.free.available_permits(), 100);
        assert!(places.by_network.lock().unwrap().is_empty());
        assert!(places.take(places.free().await.unwrap(), peer("192.0.2.1")).is_some());
    }
}
