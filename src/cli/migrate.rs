//! `migrate`: creates the schema of the database or brings it up to this version, as a start does; or only reports its
//! state.

use clap::Args;

use super::database::open_store;
use super::error::CliError;
use super::options::StoreOptions;
use super::output::say;
use super::process::{runtime, start_telemetry};
use crate::app::AppError;
use crate::config;
use crate::store::{self, Schema};

/// Options of `migrate`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
`serve` does the same when it starts. This command is for a job that runs before the service \
starts, for example in Kubernetes, as the same database user.

  DATABASE_URL=postgres://USER:PASSWORD@HOST/DATABASE segment-loops migrate
  segment-loops migrate --check && segment-loops serve

Exit codes of --check: 0 if the schema is that of this version, or a newer one that it can use; 4 \
if it must be created or migrated first; 1 if this version cannot use the database, or cannot \
reach it.")]
pub struct MigrateArgs {
    /// Only report whether the schema is that of this version; change nothing.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: MigrateArgs) -> Result<(), CliError> {
    let settings = config::load_store(&args.store.flags(), config::environment())?;
    let _telemetry = start_telemetry("warn", settings.log.format);
    runtime()?.block_on(async {
        let found = store::schema(&settings.store).await.map_err(AppError::Store)?;
        if args.check {
            return told(found);
        }
        open_store(&settings.store).await?.close().await;
        say(&match found {
            Schema::Missing => "the schema was created".to_owned(),
            Schema::Current { version } => format!("the schema is current (version {version})"),
            Schema::Older { version, current } => {
                format!("the schema was migrated from version {version} to {current}")
            }
            Schema::Newer { version, current } => newer(version, current),
        });
        Ok(())
    })
}

/// Turns what `--check` found into a message or an error.
fn told(found: Schema) -> Result<(), CliError> {
    match found {
        Schema::Missing => Err(CliError::Outdated(
            "there is no schema yet: run `segment-loops migrate`, or start the service, which creates it"
                .to_owned(),
        )),
        Schema::Older { version, current } => Err(CliError::Outdated(format!(
            "the schema has version {version}, and this program {current}: run `segment-loops migrate`, or start the service, which migrates it"
        ))),
        Schema::Current { version } => {
            say(&format!("the schema is current (version {version})"));
            Ok(())
        }
        Schema::Newer { version, current } => {
            say(&newer(version, current));
            Ok(())
        }
    }
}

fn newer(version: i32, current: i32) -> String {
    format!(
        "the schema has version {version}, newer than that of this program ({current}), which can use it"
    )
}
