//! `alerts test`: sends an alert, to see whether it arrives.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{CliError, runtime, say};
use crate::app::{AlertSender, host};
use crate::clock::SystemClock;
use crate::config::{self, Flags};

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
struct TestArgs {
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: AlertsArgs) -> Result<(), CliError> {
    let AlertsCommand::Test(TestArgs { config: file }) = args.command;
    let flags = Flags { file, ..Flags::default() };
    let config = config::load(&flags, config::environment())?;
    let Some(sender) = AlertSender::new(&config, Arc::new(SystemClock))? else {
        return Err(CliError::Usage(
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
            Err(CliError::Incomplete(format!("the test alert did not arrive at {url}: {error}")))
        }
    }
}
