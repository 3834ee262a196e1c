//! `preview`: shows what would become of a message. Needs no network, keys or running service.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::CliError;
use super::input::{open_input, unreadable};
use super::options::{ConfigOptions, DestinationOption};
use super::output::say;
use crate::config::{self, Flags};
use crate::console::preview::{Preview, message_of};
use crate::segment::repair::read_message;

/// The longest message that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Options of `preview`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Sends nothing, and needs no keys, no network and no running service. So it does not know what Loops has, \
and does not warn of names and types that Loops does not know: the console's preview does, and \
`segment-loops check` asks Loops about names.

  segment-loops preview message.json --subscriptions subscriptions.toml
  echo '{\"type\": \"track\", \"userId\": \"u1\", \"event\": \"Signed Up\"}' |
    segment-loops preview")]
pub struct PreviewArgs {
    /// File with the message, as JSON [default: -, standard input].
    #[arg(value_name = "FILE")]
    message: Option<PathBuf>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    #[command(flatten)]
    destination: DestinationOption,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigOptions,
}

pub(super) fn run(args: PreviewArgs) -> Result<(), CliError> {
    let flags = Flags { subscriptions: args.subscriptions, ..args.config.flags() };
    let planners = config::load_planners(&flags, config::environment())?;
    let (_, planner) = args.destination.choose(&planners)?;
    let bytes = read_input(args.message.as_deref().unwrap_or(Path::new("-")))?;
    let value =
        read_message(&bytes).map_err(|error| CliError::Input(format!("the message is {error}")))?;
    let message = message_of(value).map_err(|error| CliError::Input(error.to_string()))?;
    let preview = Preview::of(&planner.destination, &message);
    if args.json {
        // Strings and JSON can always be serialized.
        say(&serde_json::to_string(&preview).unwrap_or_default());
    } else {
        let person = message.person_ids().next().map(|(_, id)| id).unwrap_or_default();
        let text = format!("{} message of {person}\n{preview}", message.kind());
        say(text.trim_end());
    }
    Ok(())
}

fn read_input(file: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = open_input(file)?.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|source| unreadable(file, source))?;
    Ok(bytes)
}
