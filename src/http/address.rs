//! The address of a request's sender: the peer, or the address that a trusted proxy reports.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request};

/// The other end of the connection. The server puts it into a request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A network: an address, and how many of its leading bits belong to the network.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// An address in the network.
    pub address: IpAddr,
    /// How many leading bits its addresses share. All bits, if this is longer than an address.
    pub prefix: u8,
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address.to_canonical(), address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        let beyond = width - u32::from(self.prefix).min(width);
        // The `>>` operator cannot shift by the whole width.
        (ours ^ theirs).checked_shr(beyond).unwrap_or(0) == 0
    }
}

/// Returns the address of a request's sender; `None` if the server did not note the peer.
pub(super) fn sender_of<B>(request: &Request<B>, trusted: &[Network]) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>()?.0.ip();
    Some(sender(peer, request.headers(), trusted))
}

/// Returns whether the client of the proxy in front used HTTPS, according to the proxy's headers. Anyone can send these
/// headers, so use this only for decisions that affect nobody but the sender.
pub fn is_over_tls(headers: &HeaderMap) -> bool {
    let protocol = Forwarded::of(headers).protocol;
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("https"))
}

/// The URL that the client requested, according to the proxies in front. If there are several proxies, each part comes
/// from the one nearest to the client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// `https` or `http`.
    pub(super) protocol: Option<String>,
    /// The host, with the port unless it is the default one.
    pub(super) host: Option<String>,
    /// The prefix of the path that the proxy stripped.
    pub(super) prefix: Option<String>,
}

impl Forwarded {
    /// Reads `X-Forwarded-Proto`, `-Host` and `-Prefix`, and `Forwarded` (RFC 7239) for parts that are missing there.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let first = |name: &str| {
            let first = text(name)?.split(',').next()?.trim();
            (!first.is_empty()).then(|| first.to_owned())
        };
        // The elements of all lines. The first element that has a part provides it.
        let elements = || {
            let lines = headers.get_all("forwarded").iter().filter_map(|line| line.to_str().ok());
            lines.flat_map(|line| line.split(','))
        };
        let standard = |name: &str| {
            elements().find_map(|element| {
                let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
                let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
                let value = value.trim().trim_matches('"');
                (!value.is_empty()).then(|| value.to_owned())
            })
        };
        Self {
            protocol: first("x-forwarded-proto").or_else(|| standard("proto")),
            host: first("x-forwarded-host").or_else(|| standard("host")),
            prefix: first("x-forwarded-prefix"),
        }
    }
}

/// Returns whether the other end of a connection is a trusted proxy.
pub(super) fn is_trusted(peer: Option<Peer>, trusted: &[Network]) -> bool {
    let address = peer.map(|peer| peer.0.ip().to_canonical());
    address.is_some_and(|address| trusted.iter().any(|network| network.holds(address)))
}

/// Returns whether a string is a host name or an address, optionally with a port.
pub(super) fn is_host(text: &str) -> bool {
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    text.parse::<Authority>().is_ok_and(|authority| {
        let host = authority.host();
        let rest = text.strip_prefix(host).unwrap_or("@");
        !host.is_empty() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
    })
}

/// Returns the first of the IPv6 addresses that share this many leading bits with the address. An IPv4 address is
/// returned unchanged.
pub(super) fn shared(address: IpAddr, leading_bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let kept = u128::MAX.checked_shl(u128::BITS.saturating_sub(leading_bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & kept))
        }
    }
}

/// Returns whether an address belongs to a private network or to this machine, rather than to the internet.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            // Providers share 100.64.0.0/10 among customers, and platforms use it for their own load balancers.
            let is_shared = a == 100 && (64..128).contains(&b);
            address.is_private() || address.is_loopback() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// Returns the network of an address, for log lines: enough to find an attacker in the proxy's own log, but not a
/// person's address.
pub(super) fn shown_network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// Walks back from the peer as long as the address is a trusted proxy's. Each proxy appends the address that it got the
/// request from to `X-Forwarded-For`. Anything before that is only claimed by the sender.
fn sender(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let said = headers.get_all("x-forwarded-for");
    let said: Vec<&str> = said.iter().filter_map(|value| value.to_str().ok()).collect();
    let mut said = said.iter().rev().flat_map(|value| value.rsplit(',')).map(read_address);
    let mut sender = peer.to_canonical();
    while trusted.iter().any(|network| network.holds(sender)) {
        match said.next() {
            Some(Some(before)) => sender = before,
            Some(None) | None => break,
        }
    }
    sender
}

/// Parses an address as proxies write it: some add the port.
fn read_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn network(address: &str, prefix: u8) -> Network {
        Network { address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn a_network_holds_its_addresses() {
        let cases = [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.0", false),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("10.1.2.2", 31, "10.1.2.3", true),
            ("0.0.0.0", 0, "203.0.113.9", true),
            ("0.0.0.0", 0, "2001:db8::1", false),
            ("::", 0, "2001:db8::1", true),
            ("2001:db8::", 32, "2001:db8:1::1", true),
            ("2001:db8::", 32, "2001:db9::1", false),
            ("::1", 128, "::1", true),
            ("::1", 128, "::2", false),
        ];
        for (ours, prefix, theirs, expected) in cases {
            let holds = network(ours, prefix).holds(theirs.parse().unwrap());
            assert_eq!(holds, expected, "{theirs} in {ours}/{prefix}");
        }
    }

    #[test]
    fn a_host_has_a_name_or_an_address_and_perhaps_a_port() {
        for host in
            ["a", "a.example", "a_b.example:8080", "127.0.0.1:80", "[::1]", "[::1]:80", "a:"]
        {
            assert!(is_host(host), "{host}");
        }
        let bad = [
            "",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "me@a",
            "me@a:80",
            "a:b",
            "a:80:80",
            "::1",
            "a:99999",
            "[::1",
            "<a>",
            "a\"",
            "ä.example",
            "a,b\\",
        ];
        for host in bad {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn the_log_shows_no_address_of_a_person() {
        let cases = [
            ("203.0.113.9", "203.0.113.0/24"),
            ("::ffff:203.0.113.9", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ];
        for (address, expected) in cases {
            assert_eq!(shown_network(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn only_trusted_proxies_tell_whom_a_request_is_from() {
        let trusted = [network("10.0.0.0", 8), network("::1", 128)];
        // (peer, X-Forwarded-For…) → sender
        let cases: [(&str, &[&str], &str); 12] = [
            ("198.51.100.1", &["203.0.113.9"], "198.51.100.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
        ];
        for (peer, said, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
            }
            let found = sender(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {said:?}");
            assert_eq!(
                sender(peer.parse().unwrap(), &headers, &[]),
                peer.parse::<IpAddr>().unwrap().to_canonical()
            );
        }
    }
}
