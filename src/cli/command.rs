//! The program's arguments and its commands; it runs the one that the arguments name.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::error::CliError;
use super::exit::{Exit, TABLE};
use super::{
    alerts, backup, check, compare, configuration, dev, drift, erase, eval, healthcheck, import,
    known, manual, migrate, moving, preview, replay, restore, sandbox, serve,
};

/// Self-hosted, Segment-compatible destination for Loops.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = TABLE)]
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
        Command::Completions(args) => manual::complete(&args, Cli::command()),
        Command::Man(args) => manual::write(&args, Cli::command()),
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
