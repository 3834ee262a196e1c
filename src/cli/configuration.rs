//! `config show`: the configuration in force, even one with errors.

use clap::{Args, Subcommand};

use super::error::CliError;
use super::options::ServiceOptions;
use super::output::say;
use crate::config::{self, Effective};

/// Options of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every key with its value, and the origin of each value that is not the default.
    Show(ShowArgs),
}

/// Options of `config show`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes the same options as `serve`, and combines the same layers: defaults, file, environment, \
options. Secrets are hidden, and so are the values of unknown keys, so the output can be shown to \
others. It is TOML: fill in the secrets, and you have a configuration file. A configuration with \
errors is shown too; the errors follow, and the exit code is 3.

  segment-loops config show --config segment-loops.toml
  docker exec segment-loops segment-loops config show
  segment-loops config show --json | jq .origins")]
struct ShowArgs {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceOptions,
}

pub(super) fn run(args: ConfigArgs) -> Result<(), CliError> {
    let ConfigCommand::Show(args) = args.command;
    let flags = args.service.flags();
    let effective = Effective::new(&flags, &config::environment());
    match args.json {
        true => say(&format!("{:#}", effective.to_json())),
        false => say(effective.to_toml().trim_end()),
    }
    config::load(&flags, config::environment())?;
    Ok(())
}
