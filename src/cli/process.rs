//! What a command needs of its process: the runtime, the log, and the signals that stop it.

use std::time::Duration;

use super::error::CliError;
use crate::config::LogFormat;
use crate::telemetry::{self, DroppedLines, Telemetry};

/// How often dropped log lines are reported.
const REPORT_DROPPED_EVERY: Duration = Duration::from_secs(5);

/// Starts the log and the metrics of a command.
pub(super) fn start_telemetry(level: &str, format: LogFormat) -> Telemetry {
    telemetry::start(level, format == LogFormat::Json)
}

/// Reports dropped log lines as long as a service runs.
pub(super) async fn report_dropped_lines(mut dropped: DroppedLines) {
    loop {
        dropped.report();
        tokio::time::sleep(REPORT_DROPPED_EVERY).await;
    }
}

/// Makes a runtime for a command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Io { what: "the runtime did not start".to_owned(), source })?;
    survive_file_limits(&runtime);
    Ok(runtime)
}

/// Makes a write beyond the file size limit (`ulimit -f`) fail like one on a full disk. By default, its signal ends the
/// process. With a handler it does not, and a handler stays installed.
fn survive_file_limits(runtime: &tokio::runtime::Runtime) {
    #[cfg(target_os = "linux")]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // `SIGXFSZ` of signal(7), on all processors that Rust's standard library is tested on.
        const FILE_TOO_LARGE: i32 = 25;
        let _context = runtime.enter();
        if let Err(error) = signal(SignalKind::from_raw(FILE_TOO_LARGE)) {
            tracing::debug!(%error, "a file that grows beyond its limit will end the process");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = runtime;
}

/// Returns a token that Ctrl-C or SIGTERM cancels. A second signal ends the process at once.
pub(super) fn stop_signal() -> tokio_util::sync::CancellationToken {
    let stop = tokio_util::sync::CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        signalled().await;
        tracing::info!("stopping: finishing what is under way (once more to stop at once)");
        token.cancel();
        signalled().await;
        // Everything acknowledged is on disk, so this is no different from a crash.
        std::process::exit(130);
    });
    stop
}

async fn signalled() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
