//! This process: its name, and where operators find what it measures.

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Traces;

/// Where Linux keeps the host name of the machine or container.
const MACHINE_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The outlets by which operators observe a process besides its log.
pub struct Outlets {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Exports traces.
    pub traces: Traces,
}

/// Returns the name of this machine or container; `process` if it has none.
pub fn host() -> String {
    let host = std::fs::read_to_string(MACHINE_NAME_FILE).unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "process" } else { host }.to_owned()
}

/// This process, as one of those that share the store.
pub(super) struct Process {
    /// The name in leases and in the log. It contains the host name and the process id, so that people find the
    /// process, and a random part, because containers may share both.
    pub(super) name: String,
    /// The name of the machine or container.
    pub(super) host: String,
    pub(super) started_at: Instant,
    /// Cancelled when the process stops, so that endless responses take none of the grace time.
    pub(super) stopping: CancellationToken,
}

impl Process {
    pub(super) fn new() -> Self {
        let host = host();
        let name = format!("{host}-{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        Self { name, host, started_at: Instant::now(), stopping: CancellationToken::new() }
    }
}
