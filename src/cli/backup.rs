//! `backup`: copies the database beside a running service.

use std::io::{self, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;

use super::error::CliError;
use super::input::is_stream;
use super::options::{StoreOptions, size, whole};
use super::output::{say, warn};
use super::process::{runtime, start_telemetry};
use crate::config;
use crate::crash;
use crate::store::{self, BackedUp, BackupTo, CopyError};

/// What to do with PostgreSQL instead.
const WITH_POSTGRES: &str = "\
the queue is in PostgreSQL (store.url), which has its own tools. A copy of this moment, and its way back:
  pg_dump --format custom --schema SCHEMA --file segment-loops.dump \"$DATABASE_URL\"
  pg_restore --dbname \"$DATABASE_URL\" segment-loops.dump
To lose no more than seconds, archive the write-ahead log (point-in-time recovery: pgBackRest, Barman, WAL-G, or your
provider's). docs/backup.md, \"Backup and restore\", says what to do about e-mails that were sent since.";

/// The most backups that a folder may hold.
const KEEP_MAX: usize = 100_000;

/// Options of `backup`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The copy contains everything that was acknowledged before the command began, and nothing that was \
erased before. It contains personal data and the key of the installation, so protect it as you \
protect the data folder. Only `segment-loops restore` makes it ready for use again.

A file named after the time, in a folder that keeps the newest 14:
  segment-loops backup --to /backups/ --keep 14
A file that replaces the backup of that name:
  segment-loops backup --to /backups/queue.db
To programs that encrypt or upload:
  segment-loops backup --to - | age -r KEY > queue.db.age")]
pub struct BackupArgs {
    /// A file, an existing folder, or - for standard output.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// How many backups of this installation to keep in the folder; older ones are removed.
    #[arg(long, value_name = "N", value_parser = whole(1, KEEP_MAX))]
    keep: Option<u64>,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: BackupArgs) -> Result<(), CliError> {
    let config = config::load_store(&args.store.flags(), config::environment())?;
    let keep = args.keep.map(size).and_then(NonZeroUsize::new);
    if let Some(at) = config::crash_at() {
        crash::arm(&at);
    }
    let _telemetry = start_telemetry("warn", config.log.format);
    // The runtime makes a file size limit act like a full disk.
    let _runtime = runtime()?;
    let is_folder = args.to.is_dir() || args.to.to_string_lossy().ends_with('/');
    let mut stdout = io::stdout().lock();
    let to = if is_stream(&args.to) {
        if stdout.is_terminal() {
            let text =
                "--to - writes a database to standard output: give it to another program or a file";
            return Err(CliError::Usage(text.to_owned()));
        }
        BackupTo::Stream(&mut stdout)
    } else if is_folder {
        BackupTo::Folder { folder: &args.to, keep }
    } else {
        BackupTo::File(&args.to)
    };
    if keep.is_some() && !matches!(to, BackupTo::Folder { .. }) {
        let text = "--keep needs a folder: give one that exists with --to";
        return Err(CliError::Usage(text.to_owned()));
    }
    let made = store::back_up(&config.store, to).map_err(|error| match error {
        CopyError::Postgres => {
            CliError::Elsewhere(WITH_POSTGRES.replace("SCHEMA", &config.store.schema))
        }
        other => other.into(),
    })?;
    drop(stdout);
    let BackedUp { at, path, bytes, removed } = made;
    let size = HumanBytes(bytes);
    match path {
        // Standard output carries the backup.
        None => warn(&format!("backed up: {size}, as of {at:.0}")),
        Some(path) => say(&format!("backed up to {}: {size}, as of {at:.0}", path.display())),
    }
    for path in removed {
        say(&format!("removed {}", path.display()));
    }
    Ok(())
}
