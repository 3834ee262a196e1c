//! `healthcheck`: requests `/healthz` of a running service, so that container images need no curl.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use crate::config;

/// How long the service may take for each step.
const PATIENCE: Duration = Duration::from_secs(3);

/// Options of `healthcheck`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Sends GET /healthz once and waits at most 3 seconds for each step. For container images, which \
have no curl:
  HEALTHCHECK CMD [\"segment-loops\", \"healthcheck\"]")]
pub struct HealthcheckArgs {
    /// Address of the service [default: the one that `serve` would listen on].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

pub(super) fn run(args: &HealthcheckArgs) -> Result<(), CliError> {
    let address = reachable(
        args.listen
            .or_else(config::listen_address)
            .unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)),
    );
    let answer =
        ask(address).map_err(|error| CliError::Unhealthy(format!("{address}: {error}")))?;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    let status_line = answer.lines().next().unwrap_or("no answer");
    Err(CliError::Unhealthy(format!("{address}: {status_line}")))
}

/// Returns the address to connect to: loopback for a service that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listen: SocketAddr = listen.parse().unwrap();
            assert_eq!(reachable(listen).to_string(), asked);
        }
    }
}
