//! Measures what the process uses of the machine, for `/metrics`. Only Linux reports all of it.

use std::convert::Infallible;
use std::time::Duration;

use metrics::{counter, gauge};

use crate::telemetry;

const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Measures until it is dropped.
pub(super) async fn measure() -> Infallible {
    loop {
        // The kernel makes these files when they are read, so no disk is waited for.
        measure_once();
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

fn measure_once() {
    if let Some(bytes) =
        std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident)
    {
        gauge!(telemetry::PROCESS_MEMORY).set(bytes as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of the entries is the folder itself, which is open.
        gauge!(telemetry::PROCESS_OPEN_FILES).set(files.count().saturating_sub(1) as f64);
    }
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        use rustix::time::{ClockId, clock_gettime};
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        counter!(telemetry::PROCESS_CPU).absolute(used.unsigned_abs());
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge!(telemetry::PROCESS_MAX_FILES).set(most as f64);
        }
    }
}

/// Reads the resident memory, in bytes, from `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status =
            "Name:\tsegment-loops\nVmHWM:\t   99999 kB\nVmRSS:\t   35444 kB\nThreads:\t4\n";
        assert_eq!(resident(status), Some(35_444 * 1_024));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
