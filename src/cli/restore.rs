//! `restore`: puts a backup in place of a queue.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::HumanCount;
use jiff::SignedDuration;

use super::error::CliError;
use super::input::{is_stream, read_text};
use super::options::StoreOptions;
use super::output::{counted, say};
use super::process::{runtime, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config;
use crate::console::erasures::{Erasure, Erasures};
use crate::queue::Receipt;
use crate::segment::Digests;
use crate::store::{Restore, Restored};

/// Options of `restore`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes a backup made by `segment-loops backup`, or another whole copy of the database, such as one \
made by `litestream restore`. The file itself stays as it is. The data folder must not have a \
database yet. A backup from an earlier version is migrated.

What was waiting when the backup was made may have been sent since. Its events are sent with their \
Idempotency-Key within delivery.retry_window_ms of the backup (24 hours by default), so that Loops \
recognizes those it already has. After that they fail as expired, and so do deletions of people, \
who may have signed up again; both can be replayed. Contact updates are always sent. What was \
known about contacts is forgotten.

The backup has nothing that happened after it. Give the receipts of all erasures since then with \
--erased, and those people are erased again.

The check of the copy is SQLite's own: it finds damaged pages and indices, but not a changed byte \
within a message. So keep a checksum of each backup (sha256sum), and compare it first.

  sha256sum -c queue.db.sha256 && segment-loops restore queue.db --data /data
  segment-loops restore queue.db --data /data --erased receipts.json
  age -d queue.db.age | segment-loops restore - --data /data")]
pub struct RestoreArgs {
    /// The backup, or - for standard input.
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Receipts (JSON) of people erased since the backup, from GET /api/erasures or `erase --receipt`; can be repeated.
    #[arg(long, value_name = "FILE")]
    erased: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: RestoreArgs) -> Result<(), CliError> {
    let config = config::load_store(&args.store.flags(), config::environment())?;
    let _telemetry = start_telemetry("warn", config.log.format);
    // The runtime makes a file size limit act like a full disk.
    let _runtime = runtime()?;
    if config.store.url.is_some() {
        return Err(CliError::Elsewhere(
            "the queue is in PostgreSQL (store.url), and a backup of a data folder cannot be restored there: restore it into an empty data folder, without DATABASE_URL, then move that queue (`segment-loops move`)"
                .to_owned(),
        ));
    }
    let from = (!is_stream(&args.from)).then_some(args.from.as_path());
    let now = SystemClock.now();
    let restore = Restore::open(from, &config.store, now)?;
    let mut pages = Vec::new();
    for file in &args.erased {
        pages.extend(read_pages(file, &restore.digests())?);
    }
    if !Erasures::reach_back(&pages, restore.made_at()) {
        return Err(CliError::Input(format!(
            "the pages of receipts (--erased) do not reach back to {}, when the copy was made, and \"next\" says that more follow: give the other pages too (GET /api/erasures with before={{next}}, until next is null); nothing was restored",
            restore.made_at()
        )));
    }
    let erasures = pages.iter().flat_map(|page| &page.erasures);
    let receipts = latest(erasures.filter_map(Erasure::receipt));
    let restored = restore.finish(&receipts, now)?;
    let window = Duration::from_millis(config.delivery.retry_window_ms);
    report(&restored, window, !args.erased.is_empty());
    Ok(())
}

/// Returns the latest version of each receipt: files that were saved at different times overlap.
fn latest(receipts: impl Iterator<Item = Receipt>) -> Vec<Receipt> {
    let mut all: Vec<Receipt> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for receipt in receipts {
        match places.get(&receipt.id).and_then(|place| all.get_mut(*place)) {
            Some(known) if known.erased_at < receipt.erased_at => *known = receipt,
            Some(_) => {}
            None => {
                places.insert(receipt.id.clone(), all.len());
                all.push(receipt);
            }
        }
    }
    all
}

/// Reads a file of receipts, all of which this installation must have signed.
fn read_pages(file: &Path, digests: &Digests) -> Result<Vec<Erasures>, CliError> {
    let text = read_text(file)?;
    let wrong = |why: &str| CliError::Input(format!("{}: {why}", file.display()));
    let pages =
        Erasures::read(&text).map_err(|error| wrong(&format!("{error}; nothing was restored")))?;
    let mut erasures = pages.iter().flat_map(|page| &page.erasures);
    let forged =
        erasures.find(|erasure| erasure.receipt().is_none() || !erasure.is_genuine(digests));
    match forged {
        Some(erasure) => Err(wrong(&format!(
            "the signature of the receipt {} is wrong: it was changed, or another installation made it; nothing was restored",
            erasure.id
        ))),
        None => Ok(pages),
    }
}

/// Reports what was done, and what cannot be known.
fn report(restored: &Restored, window: Duration, has_receipts: bool) {
    let Restored { path, made_at, migrated_from, messages, waiting, erased } = restored;
    say(&format!(
        "restored {}: {} ({} of them waiting), as of {made_at:.0}",
        path.display(),
        counted(*messages, "message"),
        HumanCount(*waiting),
    ));
    if let Some(version) = migrated_from {
        say(&format!(
            "an earlier version of this program made it: its schema {version} was migrated to that of this version"
        ));
    }
    // A window such as `24h` is far below the most that this type holds.
    let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    say(&format!(
        "waiting events and deletions are sent within {window:#} of that time, and fail as expired after it: Loops may have the events already, and the people may have signed up again"
    ));
    if has_receipts {
        let open = match erased.open {
            0 => String::new(),
            1 => "; 1 more had not been deleted at Loops: ask for the erasure again".to_owned(),
            open => {
                format!("; {open} more had not been deleted at Loops: ask for their erasure again")
            }
        };
        say(&format!(
            "{} of erasures applied: {} erased{open}",
            counted(erased.receipts, "receipt"),
            counted(erased.messages, "message"),
        ));
    } else {
        say(
            "people who were erased since then are back: erase them one by one, or move this database away and restore again with their receipts (--erased)",
        );
    }
    say(
        "nothing that was accepted, sent, or reported by Loops since then is here. Now start the service",
    );
}
