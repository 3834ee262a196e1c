//! `restore`: puts a backup in the place of a queue.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::HumanCount;

use super::{CliError, runtime, say, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Flags};
use crate::console::erasures::Erasure;
use crate::queue::Receipt;
use crate::segment::Digests;
use crate::store::{Restore, Restored};

/// Options of `restore`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes a backup of `segment-loops backup`, or another whole copy of the database, such as one that
`litestream restore` made, and leaves that file as it is. The data folder must not have a database yet.

What waits in the backup may have been sent since. Its events are sent with their Idempotency-Key within
24 hours of the backup, so that Loops recognizes those it has; later they fail as expired, and can be
replayed. What is known of contacts is forgotten. What happened after the backup is not in it: give the
receipts of erasures since then with --erased, and those people are erased here again.")]
pub struct RestoreArgs {
    /// The backup, or - for standard input.
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Receipts of people who were erased since (JSON), as GET /api/erasures or `erase --receipt` gave them; may be
    /// repeated.
    #[arg(long, value_name = "FILE")]
    erased: Vec<PathBuf>,
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, without a database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: RestoreArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config, data: args.data, ..Flags::default() };
    let config = config::load(&flags, config::environment())?;
    let _telemetry = start_telemetry("warn", config.log.format);
    // So that a file size limit acts like a full disk.
    let _runtime = runtime()?;
    if config.store.url.is_some() {
        return Err(CliError::Elsewhere(
            "the queue is in PostgreSQL (store.url), and a backup of a data folder cannot be restored there: restore it into an empty data folder, without DATABASE_URL, then move that queue (`segment-loops move`)"
                .to_owned(),
        ));
    }
    let from = (args.from.as_os_str() != "-").then_some(args.from.as_path());
    let now = SystemClock.now();
    let restore = Restore::open(from, &config.store, now)?;
    let mut receipts = Vec::new();
    for file in &args.erased {
        receipts.extend(read_receipts(file, &restore.digests())?);
    }
    let restored = restore.finish(&receipts, now)?;
    report(&restored, !args.erased.is_empty());
    Ok(())
}

/// Reads a file of receipts, which this installation must have signed.
fn read_receipts(file: &Path, digests: &Digests) -> Result<Vec<Receipt>, CliError> {
    let text = std::fs::read_to_string(file).map_err(|source| CliError::Io {
        what: format!("cannot read {}", file.display()),
        source,
    })?;
    let wrong = |why: &str| CliError::Usage(format!("{}: {why}", file.display()));
    let erasures =
        Erasure::read(&text).map_err(|error| wrong(&format!("not receipts: {error}")))?;
    let receipt = |erasure: &Erasure| {
        let why = format!(
            "the signature of the receipt {} is wrong: it was changed, or another installation made it; nothing was restored",
            erasure.id
        );
        erasure.receipt().filter(|_| erasure.is_genuine(digests)).ok_or_else(|| wrong(&why))
    };
    erasures.iter().map(receipt).collect()
}

/// Says what was done, and what cannot be known.
fn report(restored: &Restored, has_receipts: bool) {
    let Restored { path, made_at, messages, waiting, erased } = restored;
    say(&format!(
        "restored {}: {} messages ({} of them waiting), as of {made_at:.0}",
        path.display(),
        HumanCount(*messages),
        HumanCount(*waiting),
    ));
    say(
        "events that wait are sent if less than 24 hours have passed since then, and otherwise kept as failed (expired): Loops may have them",
    );
    if has_receipts {
        let open = match erased.open {
            0 => String::new(),
            open => {
                format!("; {open} more had not been deleted at Loops: ask for their erasure again")
            }
        };
        say(&format!(
            "receipts of {} erased people applied: {} messages erased{open}",
            erased.receipts, erased.messages
        ));
    } else {
        say(
            "people who were erased since then are here again: erase them by their receipts (restore once more with --erased), or one by one",
        );
    }
    say("what was accepted, sent, or reported by Loops since then is not here; start the service");
}
