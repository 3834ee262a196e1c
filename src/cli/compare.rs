//! `compare`: what changed subscriptions would do to received messages or to those in a file. It is for pull requests:
//! its exit code says whether anything changes. Changes nothing, and works beside a running service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::database::{open_store, store_fault};
use super::error::CliError;
use super::input::unreadable;
use super::options::{DestinationOption, StoreOptions, size, whole};
use super::output::say;
use super::process::{runtime, start_telemetry};
use crate::config::{self, Flags};
use crate::console::compare::received::ReceivedError;
use crate::console::compare::work::Broken;
use crate::console::compare::{Ask, Compared, Comparing, LAST_MAX, SHOWN_MAX, Turn};
use crate::console::preview::message_of;
use crate::destination::Destination;
use crate::large::Turns;
use crate::queue::{Filter, MessageState};
use crate::segment::Message;
use crate::segment::repair::read_message;
use crate::store;

/// The largest file of messages, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Compares the subscriptions in force (those of the configuration) with changed ones, over the latest \
messages that a changed subscription takes before or after the change, and shows how their requests \
differ. Nothing is changed or sent. Messages contain personal data, and so does the output.

  segment-loops compare --subscriptions new.toml --data /data --last 200
For CI, without a database and keys:
  segment-loops compare --subscriptions new.toml --messages samples.jsonl

Exit codes: 0 if nothing changes, 4 if something does, 1 if the comparison could not be made.")]
pub struct CompareArgs {
    /// The changed subscription files (TOML, YAML or JSON), which replace all configured ones.
    #[arg(long, value_name = "FILE", required = true)]
    subscriptions: Vec<PathBuf>,
    /// How many received messages to compare, at most 1000 [default: 20].
    #[arg(long, value_name = "NUMBER", conflicts_with = "messages", value_parser = whole(1, LAST_MAX))]
    last: Option<u64>,
    /// Only messages that failed.
    #[arg(long, conflicts_with = "messages")]
    failed: bool,
    /// Messages to compare, as JSON Lines, instead of received ones. Needs no database and no keys.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    #[command(flatten)]
    destination: DestinationOption,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOptions,
}

/// The exit code says whether anything changes.
pub(super) fn run(args: CompareArgs) -> Result<(), CliError> {
    let last = args.last.map_or(SHOWN_MAX, size);
    let flags = args.store.flags();
    let planners = config::load_planners(&flags, config::environment())?;
    let (name, before) = args.destination.choose(&planners)?;
    let name = name.to_owned();
    let changed = Flags {
        subscriptions: args.subscriptions.clone(),
        destination: Some(name.clone()),
        ..flags.clone()
    };
    let after = config::load_planners(&changed, config::environment())?;
    let after = after.get(&name).map(|planner| Destination::clone(&planner.destination));
    let after = after.unwrap_or_else(|| Destination::clone(&before.destination));
    let begin = |last| {
        let revisions = before.destination.revisions(&after);
        Comparing::new(revisions, after, last, Turns::default(), Turn::default())
    };
    let comparing = match &args.messages {
        Some(file) => {
            let messages = read_messages(file)?;
            runtime()?.block_on(begin(messages.len()).with_messages(messages))?
        }
        None => {
            let filter = Filter {
                state: args.failed.then_some(MessageState::Failed),
                destination: Some(name),
                ..Filter::default()
            };
            let ask = Ask { filter, last, first: None };
            received(&flags, begin(last), &ask)?
        }
    };
    let (compared, _) = comparing.finish();
    if args.json {
        // Strings, numbers and JSON can always be serialized.
        say(&serde_json::to_string(&compared).unwrap_or_default());
    } else {
        say(&compared.to_string());
    }
    end(&compared)
}

fn end(compared: &Compared) -> Result<(), CliError> {
    match &compared.stopped {
        Some(stopped) => Err(CliError::Failed(format!(
            "the comparison ended at the message {}: {}",
            stopped.message_id, stopped.detail
        ))),
        None if compared.changes => Err(CliError::Differs),
        None => Ok(()),
    }
}

fn received(flags: &Flags, comparing: Comparing, ask: &Ask) -> Result<Comparing, CliError> {
    let config = config::load_store(flags, config::environment())?;
    let _telemetry = start_telemetry("warn", config.log.format);
    runtime()?.block_on(async {
        if !store::exists(&config.store) {
            return Err(CliError::Input(format!(
                "there is no database in {}: give the folder of the service with --data, or messages with --messages",
                config.store.data.display()
            )));
        }
        let store = open_store(&config.store).await?;
        let compared = comparing.with_received(&*Arc::clone(&store), ask).await;
        store.close().await;
        compared.map_err(|error| match error {
            ReceivedError::Store(fault) => store_fault(fault),
            ReceivedError::Broken(broken) => broken.into(),
        })
    })
}

fn read_messages(file: &Path) -> Result<Vec<Message>, CliError> {
    let shown = file.display();
    let unreadable = |source| unreadable(file, source);
    let bytes = std::fs::metadata(file).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CliError::Input(format!(
            "{shown} has {bytes} bytes; at most {FILE_BYTES_MAX} are read"
        )));
    }
    let text = std::fs::read(file).map_err(unreadable)?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let read = |(index, line): (usize, &[u8])| {
        let wrong =
            |problem: String| CliError::Input(format!("{shown}, line {}: {problem}", index + 1));
        let value = read_message(line).map_err(|error| wrong(format!("it is {error}")))?;
        message_of(value).map_err(|error| wrong(error.to_string()))
    };
    lines.map(read).collect()
}

impl From<Broken> for CliError {
    fn from(broken: Broken) -> Self {
        CliError::Failed(broken.to_string())
    }
}
