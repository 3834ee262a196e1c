//! `config show`: the configuration in force, even one with errors.

use clap::{Args, Subcommand};

use super::options::ServiceOptions;
use super::{CliError, say};
use crate::config::{self, Effective};

/// Options of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every key with its value, and where each value comes from that is not the default.
    Show(ShowArgs),
}

/// Options of `config show`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes the same options as `serve`, and puts the same layers together: the defaults, the file, the
environment, the options. Secrets are hidden, so that the output can be shown to others; so are values of
keys that the program does not know. The output is TOML: with its secrets filled in, it is a configuration
file. A configuration with errors is shown, too; the errors follow, with exit code 3.

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
