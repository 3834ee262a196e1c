//! `erase`: asks for the erasure of a person, shows a receipt, or checks one. Works on the database, beside a running
//! service, which deletes the contact within a second, and without one.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{CliError, open_store, runtime, say, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Flags};
use crate::console::erasures::{self, Erasure};
use crate::queue::{self, AcceptError, AuditAction, AuditEntry, Store};
use crate::segment::PersonIdKind;
use crate::store;
use crate::telemetry;

/// Options of `erase`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["user", "email", "receipt", "verify"]),
    after_long_help = "\
Accepts a message of type delete for the person, as POST /api/erasures does, and prints the receipt. It
goes to Loops behind all that waits for the person. Once Loops has deleted the contact, the contents of
the person's messages are erased; if Loops refuses, nothing is. --receipt shows how far that has come."
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
    /// Check that this installation made the receipt in a file (- for standard input) as it is.
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
    /// Name of the destination; may be left out if there is only one.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: EraseArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config.clone(), data: args.data.clone(), ..Flags::default() };
    let config = config::load(&flags, config::environment())?;
    let _telemetry = start_telemetry("warn", config.log.format);
    runtime()?.block_on(async {
        if !store::exists(&config.store) {
            return Err(CliError::Usage(format!(
                "there is no database in {}: give the folder of the service with --data",
                config.store.data.display()
            )));
        }
        let store = open_store(&config.store).await?;
        let done = work(&args, &config, &*store).await;
        store.close().await;
        done
    })
}

async fn work(args: &EraseArgs, config: &Config, store: &dyn Store) -> Result<(), CliError> {
    if let Some(file) = &args.verify {
        return verify(file, store);
    }
    let id = match &args.receipt {
        Some(id) => id.clone(),
        None => erase(args, config, store).await?,
    };
    let found = store.receipt(&id).await.map_err(|fault| CliError::Store(fault.into()))?;
    let Some(found) = found else {
        return Err(CliError::Usage(format!("there is no receipt {id}")));
    };
    let erasure = Erasure::new(found, store.write_ahead_log(), &store.digests());
    say(&format!("{:#}", serde_json::to_value(&erasure).unwrap_or_default()));
    Ok(())
}

/// Asks for the erasure; returns the id of the receipt.
async fn erase(args: &EraseArgs, config: &Config, store: &dyn Store) -> Result<String, CliError> {
    let names = || config.destinations.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let found = match &args.destination {
        Some(name) => config.destinations.get_key_value(name),
        None if config.destinations.len() == 1 => config.destinations.iter().next(),
        None => None,
    };
    let Some((name, destination)) = found else {
        return Err(CliError::Usage(format!("give --destination, which is one of {}", names())));
    };
    let mut sources = config.sources.iter();
    let Some((source, _)) = sources.find(|(_, source)| source.destination == *name) else {
        return Err(CliError::Usage(format!("no source delivers to the destination {name}")));
    };
    let (kind, id) = match (&args.user, &args.email) {
        (Some(id), _) => (PersonIdKind::User, id),
        (None, Some(id)) => (PersonIdKind::Email, id),
        (None, None) => return Err(CliError::Usage("give --user or --email".to_owned())),
    };
    let now = SystemClock.now();
    let deletion = queue::deletion(&store.digests(), (kind, id), name, source, now);
    let Some(deletion) = deletion.filter(|_| !id.trim().is_empty()) else {
        return Err(CliError::Usage("the id cannot be used".to_owned()));
    };
    if let Some(why) = erasures::why_not(&destination.planner.destination, &deletion) {
        return Err(CliError::Usage(format!(
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
    record(store, arguments.to_string(), result).await;
    opened.map_err(|error| match error {
        AcceptError::Unavailable(fault) => CliError::Store(fault.into()),
        other => CliError::Store(other.into()),
    })
}

fn verify(file: &std::path::Path, store: &dyn Store) -> Result<(), CliError> {
    let read = || {
        let mut text = String::new();
        match file.as_os_str() == "-" {
            true => std::io::stdin().read_to_string(&mut text)?,
            false => std::fs::File::open(file)?.read_to_string(&mut text)?,
        };
        Ok(text)
    };
    let text = read().map_err(|source| CliError::Io {
        what: format!("cannot read {}", file.display()),
        source,
    })?;
    let receipt: Erasure = serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("{} is no receipt: {error}", file.display())))?;
    if !receipt.is_genuine(&store.digests()) {
        return Err(CliError::Usage(
            "the signature is wrong: the receipt was changed, or another installation made it"
                .to_owned(),
        ));
    }
    say("the receipt is genuine");
    Ok(())
}

/// Adds the erasure to the list of what people did.
async fn record(store: &dyn Store, arguments: String, result: String) {
    let entry = AuditEntry {
        at: SystemClock.now(),
        role: "command".to_owned(),
        session: String::new(),
        process: "segment-loops erase".to_owned(),
        action: AuditAction::Erase,
        arguments,
        result,
    };
    if let Err(fault) = store.audit(&entry).await {
        tracing::warn!(error = %telemetry::chain(&fault), "the erasure could not be recorded");
    }
}
