//! `preview`: shows what would become of a message. Needs no network, keys or running service.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, say};
use crate::config::{self, Flags};
use crate::console::preview::{Preview, message_of};
use crate::segment::repair::read_message;

/// The longest message that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Options of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// File with the message, as JSON [default: -, standard input].
    #[arg(value_name = "FILE")]
    message: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    /// Name of the destination; optional if there is only one.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: PreviewArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config, subscriptions: args.subscriptions, ..Flags::default() };
    let planners = config::load_planners(&flags, config::environment())?;
    let found = match &args.destination {
        Some(name) => planners.get(name),
        None if planners.len() == 1 => planners.values().next(),
        None => None,
    };
    let planner = found.ok_or_else(|| {
        let names: Vec<&str> = planners.keys().map(String::as_str).collect();
        CliError::Usage(format!("say which destination with --destination: {}", names.join(", ")))
    })?;
    let bytes = read_input(args.message)?;
    let value =
        read_message(&bytes).map_err(|error| CliError::Usage(format!("the message is {error}")))?;
    let message = message_of(value).map_err(|error| CliError::Usage(error.to_string()))?;
    let preview = Preview::of(&planner.destination, &message);
    if args.json {
        // It holds strings and JSON alone, which can always be written.
        say(&serde_json::to_string(&preview).unwrap_or_default());
    } else {
        let person = message.person_ids().next().map(|(_, id)| id).unwrap_or_default();
        let text = format!("{} message of {person}\n{preview}", message.kind());
        say(text.trim_end());
    }
    Ok(())
}

fn read_input(file: Option<PathBuf>) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = match file.filter(|file| file.as_os_str() != "-") {
        Some(file) => {
            let what = format!("{} cannot be read", file.display());
            let opened = std::fs::File::open(file);
            opened
                .and_then(|opened| opened.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes))
                .map_err(|source| CliError::Io { what, source })
        }
        None => std::io::stdin().lock().take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes).map_err(
            |source| CliError::Io { what: "standard input cannot be read".to_owned(), source },
        ),
    };
    read.map(|_| bytes)
}
