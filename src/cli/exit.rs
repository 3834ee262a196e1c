//! The exit codes of the program, which all commands share.

use std::process::ExitCode;

use super::error::CliError;
use crate::app::AppError;

/// How a command ended. The numbers are part of the interface: docs/commands.md and `--help` list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The command did what it was asked to do.
    Done = 0,
    /// The command failed.
    Failed = 1,
    /// The arguments are wrong, and nothing was done.
    Usage = 2,
    /// The configuration is wrong, and nothing was done.
    Configuration = 3,
    /// A part was done, or a comparison found a difference.
    Partly = 4,
}

/// The table of `segment-loops --help`.
pub(super) const TABLE: &str = "\
Exit codes:
  0  done
  1  failed; the message says why
  2  wrong arguments, or a command that this configuration rules out; nothing was done
  3  wrong configuration; nothing was done
  4  done in part; for compare, drift and migrate --check: something differs

`segment-loops COMMAND --help` has examples. Try everything without an account: segment-loops dev";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl CliError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            CliError::Usage(_)
            | CliError::Elsewhere(_)
            | CliError::Faults(_)
            | CliError::SandboxWebhook(_) => Exit::Usage,
            CliError::Config(_)
            | CliError::NotConfigured(_)
            | CliError::App(AppError::NothingKnown { .. })
            | CliError::Check { is_configuration: true, .. } => Exit::Configuration,
            CliError::Differs | CliError::Partly(_) | CliError::Outdated(_) => Exit::Partly,
            CliError::App(_)
            | CliError::Check { is_configuration: false, .. }
            | CliError::Unhealthy(_)
            | CliError::Input(_)
            | CliError::Failed(_)
            | CliError::Copy(_)
            | CliError::Move(_)
            | CliError::Store(_)
            | CliError::LittleSpace { .. }
            | CliError::Io { .. } => Exit::Failed,
        }
    }
}
