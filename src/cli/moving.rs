//! `move`: moves the queue of a data folder to PostgreSQL. If it is interrupted, it can simply be run again.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanCount;

use super::error::CliError;
use super::options::ConfigOptions;
use super::output::{bar, counted, say};
use super::process::{runtime, start_telemetry, stop_signal};
use crate::config;
use crate::crash;
use crate::store::{self, Moved, Watch};

/// The progress bar over all rows.
const BAR: &str = "{bar:30} {human_pos}/{human_len} rows  {eta} left";

/// Options of `move`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Stop the service, set DATABASE_URL (store.url) to the PostgreSQL database, run this command, and \
then start the replicas:
  DATABASE_URL=postgres://USER:PASSWORD@HOST/DATABASE \\
    segment-loops move --from /data

It copies messages, deliveries, attempts, contents, counts and the memory of duplicates to a new \
schema. What is waiting is delivered from there, in order; an event that may have been sent is \
sent again with its Idempotency-Key. Until everything is copied, neither the folder nor the \
database can be used; afterwards, the folder cannot be used any more. If the command is \
interrupted or fails, run it again, and it continues. --undo keeps the queue in the folder \
instead, as long as no process has used the database.")]
pub struct MoveArgs {
    /// Data folder of the service, with the SQLite database.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Give up a move and keep the queue in the data folder: possible until a process uses the database.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    config: ConfigOptions,
}

pub(super) fn run(args: MoveArgs) -> Result<(), CliError> {
    let config = config::load_store(&args.config.flags(), config::environment())?;
    if let Some(at) = config::crash_at() {
        crash::arm(&at);
    }
    let _telemetry = start_telemetry("warn", config.log.format);
    let from = args.from;
    runtime()?.block_on(async {
        if args.undo {
            store::keep_queue(&from, &config.store).await?;
            say(&format!("the queue stays in {}: start the service on it", from.display()));
            return Ok(());
        }
        let (stop, bar) = (stop_signal(), bar(BAR));
        let progress = |rows, total| {
            bar.set_length(total);
            bar.set_position(rows);
        };
        let watch = Watch { progress: &progress, stop: &stop };
        let moved = store::move_queue(&from, &config.store, &watch).await;
        bar.finish_and_clear();
        let Moved { messages, waiting, requests, was_finished } = moved?;
        say(&match was_finished {
            true => "moved before: nothing is left to do".to_owned(),
            false => format!(
                "moved: {} ({} of them waiting), {}, in {:.1} s",
                counted(messages, "message"),
                HumanCount(waiting),
                counted(requests, "request"),
                bar.elapsed().as_secs_f64(),
            ),
        });
        say(&format!(
            "start the replicas; {} is no longer used: keep it until you trust the result, then delete it",
            from.display()
        ));
        Ok(())
    })
}
