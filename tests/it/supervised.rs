//! Under systemd, the service says when it is ready, that it is alive, and when it stops.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::support::{PATIENCE, ScriptedLoops, Setup};

/// Starts the service with a socket to notify, and expects all notifications from start to stop.
async fn is_notified(socket: UnixDatagram, name: &str) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut state = [0; 64];
        let length = socket.recv(&mut state).unwrap();
        String::from_utf8_lossy(&state[..length]).into_owned()
    };
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "100000").start();
    assert_eq!(next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    service.signal("TERM");
    let stopping = std::iter::repeat_with(next).find(|state| state != "WATCHDOG=1");
    assert_eq!(stopping.as_deref(), Some("STOPPING=1"));
    assert_eq!(service.wait().await, Some(0));
}

#[tokio::test]
async fn systemd_is_notified_at_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    is_notified(UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap()).await;
}

#[tokio::test]
async fn systemd_is_notified_at_a_name_of_the_kernel() {
    let name = format!("segment-loops-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    is_notified(UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}")).await;
}

#[tokio::test]
async fn a_socket_that_nobody_reads_stops_nothing() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("NOTIFY_SOCKET", "/nowhere/notify");
    let mut service = setup.start();
    service.logged(|line| line["message"] == "systemd could not be notified").await;
    assert_eq!(service.admin("/readyz").await.status, 200);
    assert_eq!(service.stop().await, Some(0));
}
