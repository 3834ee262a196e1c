//! Configuration: compiled-in defaults, then a file, then the environment, then the command line.
//!
//! The only reader of the environment. What leaves this module is checked: every mistake is found at
//! start and named with its place, its key and what is allowed.

mod check;
mod environment;
mod file;
mod load;
mod subscriptions;
mod tree;

pub use check::{BrowserConfig, Config, DestinationConfig, Network, SourceConfig};
pub use environment::{crash_at, environment, listen_address};
pub use file::read_value;
pub use load::{Flags, load, load_planners};
pub use subscriptions::Planner;
pub use tree::{DeliveryConfig, LogConfig, LogFormat, ServerConfig, StoreConfig, Texts};

/// Mistakes in the configuration: all that were found, each a line for people.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {}:\n{}", count(.0), lines(.0))]
pub struct ConfigError(pub Vec<Mistake>);

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {key}: {problem}")]
pub struct Mistake {
    /// The file, `environment` or `command line`.
    pub place: String,
    /// The key, such as `sources.web.write_keys`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
    /// At which stage it is found.
    pub stage: Stage,
}

/// The stages in which a configuration is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading: the files are there and say what they mean.
    Parse,
    /// What they say makes sense.
    Compile,
    /// What is around them is there: keys and secrets.
    Environment,
}

fn count(mistakes: &[Mistake]) -> String {
    match mistakes.len() {
        1 => "a mistake".to_owned(),
        more => format!("{more} mistakes"),
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("  {mistake}")).collect::<Vec<_>>().join("\n")
}
