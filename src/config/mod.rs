//! Configuration: compiled-in defaults, then a file, then the environment, then the command line.
//!
//! Only this module reads the environment. A configuration is checked when it is loaded: every error is found at start,
//! and is reported with its place, its key and what is allowed.

mod check;
mod environment;
mod file;
mod load;
mod show;
mod subscriptions;
mod tree;

pub use check::{
    AlertSettings, BrowserConfig, Config, DestinationConfig, Destinations, Keyless, Network,
    SourceConfig, StoreSettings,
};
pub use environment::{
    Supervisor, crash_at, environment, listen_address, long_name, supervisor, traces, with_own,
};
pub use file::{TextProblem, read_text, read_value, text_extension};
pub use load::{
    Flags, load, load_alerts, load_destinations, load_keyless, load_planners, load_store,
};
pub use show::Effective;
pub use subscriptions::Planner;
pub use tree::{
    AlertFormat, AlertsConfig, ConsoleConfig, DeliveryConfig, LogConfig, LogFormat, NotifyMode,
    ServerConfig, StoreConfig, Texts, WalMode,
};

/// All errors in the configuration, one line each.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the configuration has {}:\n{}", count(.0), lines(.0))]
pub struct ConfigError(pub Vec<Problem>);

/// One error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {key}: {problem}")]
pub struct Problem {
    /// The file, `environment` or `command line`; `database` if the contents of the database do not allow the value.
    pub place: String,
    /// The key, such as `sources.web.write_keys`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
    /// The stage in which the error is found.
    pub stage: Stage,
}

/// The stages in which a configuration is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The files exist and can be read.
    Parse,
    /// Their values are valid.
    Compile,
    /// Keys and secrets from outside are present.
    Environment,
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "an error".to_owned(),
        more => format!("{more} errors"),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}
