//! `import`: puts files of Segment messages, one JSON object per line, into the database as if they had come to
//! `/v1/import`. Works beside a running service or without one.
//!
//! A second run over the same files stores nothing twice, so an interrupted import can simply be run again. Memory is
//! bounded: a batch of messages, a line, and the first few rejections.

mod lines;
mod report;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::lines::{Line, Lines};
use self::report::Report;
use super::database::open_store;
use super::error::CliError;
use super::input::{is_stream, open_input};
use super::options::{StoreOptions, chosen};
use super::output::{self, say, warn};
use super::process::{runtime, start_telemetry, stop_signal};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::js::Object;
use crate::queue::intake::Intake;
use crate::queue::{AcceptError, Accepted, FreeSpace, Inbox, NewMessage};
use crate::segment::Digests;
use crate::telemetry;

/// The most messages, and the most bytes of them, that are written at once.
const BATCH_MESSAGES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest pause between two batches; see [`Import::flush`].
const REST_MAX: Duration = Duration::from_millis(100);

/// How long to keep trying if the store takes no messages, and how often.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Options of `import`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is a Segment message, such as
  {\"type\": \"identify\", \"userId\": \"u1\", \"traits\": {\"email\": \"ada@example.com\"}}
Files may be compressed with gzip. `serve` delivers the messages after live ones.

A message without a messageId gets one made from the source, the file name, the line number and \
the line itself. So run an interrupted import again as it was, and fix rejected lines in place: \
what was stored before counts as a duplicate (within store.duplicate_window_h).

  segment-loops import users.jsonl.gz --data /data --report rejected.jsonl
  jq -c '.[]' export.json | segment-loops import - --source crm --data /data")]
pub struct ImportArgs {
    /// Files of messages; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Name of the source of the messages; optional if there is only one.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// File to write all rejected lines to, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: ImportArgs) -> Result<(), CliError> {
    let config = config::load_keyless(&args.store.flags(), config::environment())?;
    if config.sources.is_empty() {
        return Err(CliError::NotConfigured(
            "no source is configured: give the configuration of the service with --config, or set SEGMENT_WRITE_KEY as the service has it"
                .to_owned(),
        ));
    }
    let (source, destination) = chosen("source", args.source.as_deref(), &config.sources)?;
    for file in args.files.iter().filter(|file| !is_stream(file)) {
        open_input(file)?;
    }
    let report = Report::open(args.report.as_deref())?;
    let _telemetry = start_telemetry("warn", config.settings.log.format);
    runtime()?.block_on(async {
        let stop = stop_signal();
        let store = open_store(&config.settings.store).await?;
        let mut import = Import {
            message_bytes_max: config.message_bytes_max,
            source,
            destination,
            store: &*store,
            digests: store.digests(),
            stop,
            report,
            bar: bar(&args.files),
            batch: Vec::new(),
            batch_bytes: 0,
        };
        let ended = import.all(&args.files).await;
        store.close().await;
        let Import { report, bar, stop, .. } = import;
        bar.finish_and_clear();
        say(&report.summary(bar.elapsed()));
        let is_not_lines = report.is_not_lines();
        let is_partly = report.accepted + report.duplicates > 0;
        let rejected = report.close()?;
        ended?;
        if stop.is_cancelled() {
            return Err(CliError::Partly(
                "interrupted: run the same command again to continue".to_owned(),
            ));
        }
        if is_not_lines {
            return Err(CliError::Input(
                "no line is a message: this is not JSON Lines; put each message on one line (jq -c '.[]' FILE, or jq -c '.batch[]' FILE for a batch)".to_owned(),
            ));
        }
        if rejected > 0 {
            return Err(match is_partly {
                true => CliError::Partly(
                    "not all lines were accepted: fix them in place and run the same command again; the others then count as duplicates".to_owned(),
                ),
                false => CliError::Input(
                    "no line was accepted: fix them in place and run the same command again".to_owned(),
                ),
            });
        }
        Ok(())
    })
}

/// Makes a progress bar over the bytes of all files.
fn bar(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().map(|file| std::fs::metadata(file).ok().map(|file| file.len()));
    match sizes.sum::<Option<u64>>() {
        Some(total) => {
            let bar = output::bar("{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left");
            bar.set_length(total);
            bar
        }
        None => output::bar("{spinner} {bytes}  {msg}  {elapsed}"),
    }
}

struct Import<'a> {
    message_bytes_max: usize,
    source: &'a str,
    destination: &'a str,
    store: &'a dyn Inbox,
    digests: Digests,
    stop: CancellationToken,
    report: Report,
    bar: ProgressBar,
    batch: Vec<NewMessage>,
    batch_bytes: usize,
}

impl Import<'_> {
    async fn all(&mut self, files: &[PathBuf]) -> Result<(), CliError> {
        for path in files {
            let name = path.display().to_string();
            let input = self.bar.wrap_read(open_input(path)?);
            let read = self.file(&name, input).await;
            // Messages before an error are still stored.
            self.flush().await?;
            read?;
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    async fn file(&mut self, name: &str, input: impl Read) -> Result<(), CliError> {
        let broken = |number: u64, source| CliError::Io {
            what: format!(
                "{name} cannot be read after line {number}; the lines before it are stored"
            ),
            source,
        };
        let message_bytes_max = self.message_bytes_max;
        let envelope = Object::new();
        let digests = self.digests.clone();
        let intake = Intake {
            digests: &digests,
            source: self.source,
            destination: self.destination,
            is_bulk: true,
            kind: None,
            // The file may be an export from Segment, which has already corrected the times.
            is_from_segment: true,
            is_sent_now: false,
            ip: None,
            message_bytes_max,
            takes_delete: true,
            trace: None,
        };
        let mut lines =
            Lines::open(input, message_bytes_max).map_err(|source| broken(0, source))?;
        loop {
            let before = lines.number();
            let Some(line) = lines.next().map_err(|source| broken(before, source))? else {
                return Ok(());
            };
            let new_id = || derived_id(self.source, name, line);
            match intake.read(line.bytes, &envelope, SystemClock.now(), new_id) {
                Ok(message) => {
                    self.batch_bytes += message.payload.len();
                    self.batch.push(message);
                }
                Err(rejection) => self.report.reject(name, line.number, &rejection)?,
            }
            if self.batch.len() >= BATCH_MESSAGES_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
                self.flush().await?;
                if self.stop.is_cancelled() {
                    return Ok(());
                }
            }
        }
    }

    /// Writes the batch, then pauses for as long as that took: a service on the same database must get its turn, and
    /// SQLite's lock is not fair.
    async fn flush(&mut self) -> Result<(), CliError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let mut waits_for = String::new();
        // A bulk load can wait until an operator makes room. Live traffic cannot.
        if self.store.free_space() != FreeSpace::Ample {
            let free = HumanBytes(self.store.free_bytes().unwrap_or(0)).to_string();
            return Err(CliError::LittleSpace { free });
        }
        let accepted = loop {
            match self.store.accept(batch.clone()).await {
                Ok(accepted) => break accepted,
                Err(fault @ (AcceptError::Busy | AcceptError::Unavailable(_)))
                    if began.elapsed() < STORE_PATIENCE && !self.stop.is_cancelled() =>
                {
                    let cause = telemetry::chain(&fault).to_string();
                    if waits_for != cause {
                        warn(&format!("waiting for the database: {cause}"));
                        waits_for = cause;
                    }
                    self.bar.set_message("waiting for the database");
                    sleep(STORE_PAUSE).await;
                }
                Err(fault) => return Err(CliError::Store(fault.into())),
            }
        };
        for accepted in accepted {
            match accepted {
                Accepted::New => self.report.accepted += 1,
                Accepted::Duplicate => self.report.duplicates += 1,
            }
        }
        let done = self.report.accepted + self.report.duplicates;
        let rate = done as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{done} messages, {rate:.0}/s"));
        sleep(began.elapsed().min(REST_MAX)).await;
        Ok(())
    }
}

/// Returns the id of a message without one. It is the same whenever the same line is at the same place in a file of the
/// same name. Place and name are part of it, because equal lines may well be several messages.
fn derived_id(source: &str, file: &str, line: Line<'_>) -> String {
    let file = Path::new(file).file_name().unwrap_or_default().as_encoded_bytes();
    // Compressed or not, it is the same file.
    let file = file.strip_suffix(b".gz").unwrap_or(file);
    let mut hasher = Sha256::new();
    for part in [source.as_bytes(), file, line.bytes] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.update(line.number.to_be_bytes());
    let digest = hasher.finalize();
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("import-{hex}")
}
