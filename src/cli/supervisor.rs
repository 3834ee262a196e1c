//! Notifies systemd of the service's state by the protocol of sd_notify(3): datagrams to a socket that systemd names.
//! Does nothing under other supervisors.

use std::io;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Supervisor};

/// Reports that the service accepts messages; then, as long as the runtime runs tasks, that it is alive; and once
/// `stop` is cancelled, that it is stopping.
pub(super) fn report(stop: CancellationToken) {
    let Some(Supervisor { socket, watchdog }) = config::supervisor() else { return };
    let notify = move |state: &str| {
        if let Err(error) = send(&socket, state) {
            tracing::warn!(%error, state, "systemd could not be notified");
        }
    };
    tokio::spawn(async move {
        notify("READY=1");
        let alive = async {
            let Some(watchdog) = watchdog else { return std::future::pending().await };
            loop {
                notify("WATCHDOG=1");
                tokio::time::sleep(watchdog / 2).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = alive => {}
        }
        // The watchdog stays in force, so the grace time for stopping must be shorter than its limit.
        notify("STOPPING=1");
    });
}

/// Sends a datagram to a socket: a path or, with `@`, an abstract name of the kernel.
#[cfg(target_os = "linux")]
fn send(socket: &str, state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn send(_socket: &str, _state: &str) -> io::Result<()> {
    Ok(())
}
