//! `serve`: the service itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, report_dropped_lines, runtime, start_telemetry, stop_signal, supervisor};
use crate::app::{App, Outlets};
use crate::clock::SystemClock;
use crate::config::{self, Flags, LogFormat};
use crate::crash;
use crate::telemetry::Traces;

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Folder of the database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    /// Format of the log.
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    let flags = Flags {
        file: args.config,
        listen: args.listen,
        data: args.data,
        subscriptions: args.subscriptions,
        destination: None,
        log_format: args.log_format,
    };
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
    // Nobody waits any more for what blocks a thread, such as a slow name server.
    runtime.shutdown_background();
    ended
}
