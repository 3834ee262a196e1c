//! `erase`: asks for the erasure of a person, shows a receipt, or checks one. Works on the database, beside a running
//! service, which deletes the contact within a second, or without one.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::database::{must_be_known, open_existing, record, store_fault};
use super::error::CliError;
use super::input::read_text;
use super::options::{DestinationOption, StoreOptions};
use super::output::say;
use super::process::{runtime, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Flags};
use crate::console::erasures::{self, Erasure, Erasures};
use crate::destination::is_email;
use crate::queue::{self, AcceptError, AuditAction, Store};
use crate::segment::PersonIdKind;

/// Options of `erase`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["user", "email", "receipt", "verify"]),
    after_long_help = "\
Accepts a message of type delete for the person, as POST /api/erasures does, and prints the \
receipt. The deletion is sent behind everything that is waiting for the person. Once Loops has \
deleted the contact, the contents of the person's messages are erased; if Loops refuses, nothing \
is. --receipt shows how far it has come.

  segment-loops erase --user user_1 --data /data
  segment-loops erase --receipt ID --data /data
  segment-loops erase --verify receipt.json --data /data"
)]
pub struct EraseArgs {
    /// User id of the person.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// E-mail address of a person without a user id.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Show the receipt with this id.
    #[arg(long, value_name = "ID")]
    receipt: Option<String>,
    /// Check that this installation made the receipt in a file (- for standard input), and that it is unchanged.
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
    #[command(flatten)]
    destination: DestinationOption,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: EraseArgs) -> Result<(), CliError> {
    let flags = args.store.flags();
    for (option, id) in
        [("--user", &args.user), ("--email", &args.email), ("--receipt", &args.receipt)]
    {
        if id.as_ref().is_some_and(|id| id.trim().is_empty()) {
            return Err(CliError::Usage(format!("{option} is empty: give it a value")));
        }
    }
    if args.email.as_ref().is_some_and(|email| !is_email(email.trim())) {
        return Err(CliError::Usage(
            "--email must be an e-mail address that Loops can have, such as ada@example.com; for a user id there is --user"
                .to_owned(),
        ));
    }
    let settings = config::load_store(&flags, config::environment())?;
    let _telemetry = start_telemetry("warn", settings.log.format);
    runtime()?.block_on(async {
        let store = open_existing(&settings.store).await?;
        let done = work(&args, &flags, &*store).await;
        store.close().await;
        done
    })
}

async fn work(args: &EraseArgs, flags: &Flags, store: &dyn Store) -> Result<(), CliError> {
    if let Some(file) = &args.verify {
        return verify(file, store);
    }
    let id = match &args.receipt {
        Some(id) => id.clone(),
        None => erase(args, flags, store).await?,
    };
    let Some(found) = store.receipt(&id).await.map_err(store_fault)? else {
        return Err(CliError::Input(format!(
            "this database has no receipt {id}: GET /api/erasures lists all of them"
        )));
    };
    let erasure = Erasure::new(found, store.write_ahead_log(), &store.digests());
    say(&format!("{:#}", serde_json::to_value(&erasure).unwrap_or_default()));
    Ok(())
}

/// Asks for the erasure, and returns the id of the receipt.
async fn erase(args: &EraseArgs, flags: &Flags, store: &dyn Store) -> Result<String, CliError> {
    let config = config::load_keyless(flags, config::environment())?;
    let (name, planner) = args.destination.choose(&config.planners)?;
    must_be_known(&config, name, store).await?;
    let mut sources = config.sources.iter();
    let source = match sources.find(|(_, destination)| *destination == name) {
        Some((source, _)) => source.as_str(),
        // The source that the environment would configure, whose key is not needed here.
        None if config.sources.is_empty() => "default",
        None => {
            return Err(CliError::NotConfigured(format!(
                "no source delivers to the destination {name}"
            )));
        }
    };
    let (option, kind, id) = match (&args.user, &args.email) {
        (Some(id), _) => ("--user", PersonIdKind::User, id),
        (None, Some(id)) => ("--email", PersonIdKind::Email, id),
        (None, None) => return Err(CliError::Usage("give --user or --email".to_owned())),
    };
    let now = SystemClock.now();
    let deletion = queue::deletion(&store.digests(), (kind, id), name, source, now);
    let Some(deletion) = deletion else {
        return Err(CliError::Usage(format!("{option} is too long to be an id")));
    };
    if let Some(why) = erasures::why_not(&planner.destination, &deletion) {
        return Err(CliError::Failed(format!(
            "nothing would be deleted at Loops, and so nothing erased: {why}"
        )));
    }
    let arguments = serde_json::json!({
        "person": format!("{:016x}", deletion.lane.0), "destination": name,
    });
    let opened = erasures::ask(store, store, deletion).await;
    let result = match &opened {
        Ok(id) => format!("receipt {id}"),
        Err(error) => error.to_string(),
    };
    record(store, AuditAction::Erase, arguments.to_string(), result).await;
    opened.map_err(|error| match error {
        AcceptError::Unavailable(fault) => CliError::Store(fault.into()),
        other => CliError::Store(other.into()),
    })
}

fn verify(file: &Path, store: &dyn Store) -> Result<(), CliError> {
    let wrong = |why: &str| CliError::Input(format!("{}: {why}", file.display()));
    let pages = Erasures::read(&read_text(file)?).map_err(|error| wrong(&error.to_string()))?;
    let receipts: Vec<Erasure> = pages.into_iter().flat_map(|page| page.erasures).collect();
    let forged = receipts.iter().find(|receipt| !receipt.is_genuine(&store.digests()));
    if let Some(forged) = forged {
        return Err(wrong(&format!(
            "the signature of the receipt {} is wrong: it was changed, or another installation made it",
            forged.id
        )));
    }
    match receipts.len() {
        0 => return Err(wrong("there is no receipt in it")),
        1 => say("the receipt is genuine"),
        count => say(&format!("the {count} receipts are genuine")),
    }
    Ok(())
}
