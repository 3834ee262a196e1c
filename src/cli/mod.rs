//! The command line: one file per command. It parses arguments, calls [`crate::app`] and prints for people.

mod alerts;
mod backup;
mod cases;
mod check;
mod compare;
mod configuration;
mod database;
mod dev;
mod drift;
mod erase;
mod eval;
mod exit;
mod healthcheck;
mod import;
mod input;
mod known;
mod manual;
mod migrate;
mod moving;
mod options;
mod preview;
mod replay;
mod restore;
mod sandbox;
mod serve;
mod supervisor;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::database::{
    must_be_known, open_existing, open_store, record, store_fault, with_catalogue,
};
use self::exit::Exit;
use self::input::{is_stream, open_input, read_text, shown, unreadable};
use crate::app::AppError;
use crate::config::LogFormat;
use crate::store::{CopyError, MoveError};
use crate::telemetry::{self, DroppedLines, Telemetry};

/// Self-hosted, Segment-compatible destination for Loops.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = exit::TABLE)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// In the order in which a newcomer needs them.
#[derive(Debug, Subcommand)]
enum Command {
    /// Try everything without an account: the service and a simulated Loops in one process.
    Dev(dev::DevArgs),
    /// Check the configuration and its mappings, and that Loops knows the key and the names in them.
    Check(check::CheckArgs),
    /// Show the configuration in force, and where each value comes from.
    Config(configuration::ConfigArgs),
    /// Show what would happen to a message: its subscriptions, fields and requests.
    Preview(preview::PreviewArgs),
    /// Accept messages and deliver them to Loops.
    Serve(serve::ServeArgs),
    /// Check that a running service is alive: exit code 0 if so.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Send a test alert.
    Alerts(alerts::AlertsArgs),
    /// Import Segment messages from files: JSON Lines, plain or gzip.
    Import(import::ImportArgs),
    /// Send failed (or other finished) messages again, with the current subscriptions.
    Replay(replay::ReplayArgs),
    /// Erase a person at Loops and here, and show or check the receipt.
    Erase(erase::EraseArgs),
    /// Read an export of Loops' audience, so that its contacts do not count as new.
    Known(known::KnownArgs),
    /// Show what changed subscriptions would do to received messages: for pull requests.
    Compare(compare::CompareArgs),
    /// Compare contacts at Loops with what was sent, or would have been in shadow mode.
    Drift(drift::DriftArgs),
    /// Back up the database, also while the service runs.
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty data folder, without sending e-mails twice.
    Restore(restore::RestoreArgs),
    /// Create or migrate the schema of the database, as `serve` does when it starts.
    Migrate(migrate::MigrateArgs),
    /// Move the queue of a data folder (SQLite) to PostgreSQL, with everything delivered and everything waiting.
    Move(moving::MoveArgs),
    /// Simulate the Loops API, with faults on request.
    Sandbox(sandbox::SandboxArgs),
    /// Evaluate triggers, mappings and subscriptions in bulk: JSON Lines in, JSON Lines out.
    Eval(eval::EvalArgs),
    /// Print completions for a shell.
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(manual::ManArgs),
}

/// Why a command failed. The message and those of its sources are printed for people.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration has errors.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The program did not start, or stopped by itself.
    #[error(transparent)]
    App(#[from] AppError),
    /// The service is not healthy.
    #[error("not healthy: {0}")]
    Unhealthy(String),
    /// The faults that the sandbox was asked for make no sense.
    #[error(transparent)]
    Faults(crate::sandbox::FaultsError),
    /// The sandbox cannot send webhooks.
    #[error(transparent)]
    SandboxWebhook(crate::sandbox::SandboxWebhookError),
    /// The check found errors, and has printed all of them.
    #[error("the check found {found}")]
    Check {
        /// How many.
        found: String,
        /// Whether some of them are errors in the configuration, not in cases or at Loops.
        is_configuration: bool,
    },
    /// The arguments cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Something that the command needs is not configured.
    #[error("{0}")]
    NotConfigured(String),
    /// The input, or the database, is not what the command needs.
    #[error("{0}")]
    Input(String),
    /// Another program does this here; the message says which.
    #[error("{0}")]
    Elsewhere(String),
    /// A backup could not be made or restored.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A queue could not be moved.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The store failed.
    #[error("the database failed; what was done before stays: run the same command again")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk of the database has less free space than the reserve.
    #[error(
        "the disk of the database has only {free} of free space for messages, less than its reserve (store.free_bytes_min): make room, or lower the reserve; what was done before stays: run the same command again"
    )]
    LittleSpace {
        /// The free space, with its unit.
        free: String,
    },
    /// The comparison found a difference.
    #[error("something differs")]
    Differs,
    /// A part was done; the message says how to go on.
    #[error("{0}")]
    Partly(String),
    /// The schema is not the one of this version; the message says how it differs.
    #[error("{0}")]
    Outdated(String),
    /// The command failed; the message says why.
    #[error("{0}")]
    Failed(String),
    /// An operation of the system failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
}

/// How often dropped log lines are reported.
const REPORT_DROPPED_EVERY: Duration = Duration::from_secs(5);

/// Runs the command that the process's arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Check(args) => check::run(args),
        Command::Config(args) => configuration::run(args),
        Command::Preview(args) => preview::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Alerts(args) => alerts::run(args),
        Command::Import(args) => import::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Erase(args) => erase::run(args),
        Command::Known(args) => known::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Drift(args) => drift::run(args),
        Command::Backup(args) => backup::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Move(args) => moving::run(args),
        Command::Sandbox(args) => sandbox::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Completions(args) => manual::complete(&args),
        Command::Man(args) => manual::write(&args),
    };
    let Err(error) = result else { return Exit::Done.into() };
    // The comparison has printed what differs.
    if !matches!(error, CliError::Differs) {
        report(&error);
    }
    error.exit().into()
}

/// Prints an error and its causes.
fn report(error: &CliError) {
    let mut text = format!("error: {error}\n");
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!("  because: {source}\n"));
        cause = source.source();
    }
    // If nobody reads it, the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints a line for people on standard output.
fn say(text: &str) {
    // A closed pipe (`segment-loops dev | head`) must not end the service.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Counts things: `1 message`, `1,204 messages`.
fn counted(count: u64, one: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {one}{end}", HumanCount(count))
}

/// Prints a line for people on standard error, at once.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A progress bar, which is hidden if nobody watches.
fn bar(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

/// Starts the log and the metrics of a command.
fn start_telemetry(level: &str, format: LogFormat) -> Telemetry {
    telemetry::start(level, format == LogFormat::Json)
}

/// Reports dropped log lines as long as a service runs.
async fn report_dropped_lines(mut dropped: DroppedLines) {
    loop {
        dropped.report();
        tokio::time::sleep(REPORT_DROPPED_EVERY).await;
    }
}

/// Makes a runtime for a command.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
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
fn stop_signal() -> tokio_util::sync::CancellationToken {
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
