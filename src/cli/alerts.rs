//! `alerts test`: sends an alert, to see whether it arrives.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::options::ConfigOptions;
use super::output::say;
use super::process::runtime;
use crate::app::{AlertSender, host};
use crate::clock::SystemClock;
use crate::config;

/// Options of `alerts`.
#[derive(Debug, Args)]
pub struct AlertsArgs {
    #[command(subcommand)]
    command: AlertsCommand,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// Send a test alert as the configuration says, once, and say whether it arrived.
    Test(TestArgs),
}

/// Options of `alerts test`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Needs [alerts] alone, no keys and no running service:
  segment-loops alerts test --config segment-loops.toml
  SEGMENT_LOOPS__ALERTS__WEBHOOK_URL=https://example.com/alerts \\
    segment-loops alerts test")]
struct TestArgs {
    #[command(flatten)]
    config: ConfigOptions,
}

pub(super) fn run(args: AlertsArgs) -> Result<(), CliError> {
    let AlertsCommand::Test(TestArgs { config }) = args.command;
    let settings = config::load_alerts(&config.flags(), config::environment())?;
    let sender = AlertSender::new(&settings.alerts, &settings.console, Arc::new(SystemClock))?;
    let Some(sender) = sender else {
        return Err(CliError::NotConfigured(
            "no alerts are configured: set alerts.webhook_url (SEGMENT_LOOPS__ALERTS__WEBHOOK_URL) to the URL of your receiver"
                .to_owned(),
        ));
    };
    let url = sender.shown_url().to_owned();
    match runtime()?.block_on(sender.test(&host())) {
        Ok(()) => {
            say(&format!("The test alert arrived at {url}."));
            Ok(())
        }
        Err(error) => {
            Err(CliError::Failed(format!("the test alert did not arrive at {url}: {error}")))
        }
    }
}
