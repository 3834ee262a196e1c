//! `serve`: the service itself.

use clap::Args;

use super::error::CliError;
use super::options::ServiceOptions;
use super::process::{report_dropped_lines, runtime, start_telemetry, stop_signal};
use super::supervisor;
use crate::app::{App, Outlets};
use crate::clock::SystemClock;
use crate::config;
use crate::crash;
use crate::telemetry::Traces;

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Needs the API key of Loops and a write key for senders, from a file or the environment.

  segment-loops serve --config segment-loops.toml
  LOOPS_API_KEY=KEY SEGMENT_WRITE_KEY=KEY segment-loops serve --data /data

SIGTERM and Ctrl-C stop it within server.shutdown_grace_ms; a second one stops it at once, and \
loses nothing. SIGHUP reads the configuration again.")]
pub struct ServeArgs {
    #[command(flatten)]
    service: ServiceOptions,
}

pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    let flags = args.service.flags();
    let config = config::load(&flags, config::environment())?;
    let load = Box::new(move || config::load(&flags, config::environment()));
    if let Some(at) = config::crash_at() {
        crash::arm(&at);
    }
    let telemetry = start_telemetry(&config.log.level, config.log.format);
    let outlets =
        Outlets { metrics: telemetry.metrics.clone(), traces: Traces::start(&config::traces()) };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = stop_signal();
        tokio::spawn(report_dropped_lines(telemetry.dropped.clone()));
        let app = App::start(config, load, std::sync::Arc::new(SystemClock), outlets).await?;
        supervisor::report(stop.clone());
        app.run(stop).await?;
        Ok(())
    });
    // Do not wait for tasks that block a thread, such as a look-up at a slow name server.
    runtime.shutdown_background();
    ended
}
