//! Options that several commands share, and how their values are parsed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use jiff::Timestamp;

use super::error::CliError;
use crate::config::{Flags, LogFormat};
use crate::console::TimeOrAgo;

/// The heading of the options that choose the configuration.
const CONFIGURATION: &str = "Configuration";

/// Where the configuration is.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ConfigOptions {
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION)]
    config: Option<PathBuf>,
}

/// Where the configuration and the database are.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct StoreOptions {
    #[command(flatten)]
    config: ConfigOptions,
    /// Folder of the database, instead of store.data.
    #[arg(long, value_name = "DIR", help_heading = CONFIGURATION)]
    data: Option<PathBuf>,
}

/// The configuration of the service, and what overrides it.
#[derive(Debug, Clone, Args)]
pub(super) struct ServiceOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// Address and port to listen on, instead of server.listen.
    #[arg(long, value_name = "ADDR", help_heading = CONFIGURATION)]
    listen: Option<SocketAddr>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION)]
    subscriptions: Vec<PathBuf>,
    /// Format of the log, instead of log.format.
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = CONFIGURATION)]
    log_format: Option<LogFormat>,
}

/// The destination that a command is about.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DestinationOption {
    /// Name of the destination; may be left out if there is only one.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

impl ConfigOptions {
    pub(super) fn flags(&self) -> Flags {
        Flags { file: self.config.clone(), ..Flags::default() }
    }
}

impl StoreOptions {
    pub(super) fn flags(&self) -> Flags {
        Flags { data: self.data.clone(), ..self.config.flags() }
    }
}

impl ServiceOptions {
    pub(super) fn flags(&self) -> Flags {
        Flags {
            listen: self.listen,
            subscriptions: self.subscriptions.clone(),
            log_format: self.log_format,
            ..self.store.flags()
        }
    }
}

impl DestinationOption {
    /// Returns the destination that is named, or the only one.
    pub(super) fn choose<'a, T>(
        &self,
        all: &'a BTreeMap<String, T>,
    ) -> Result<(&'a str, &'a T), CliError> {
        let (name, destination) = chosen("destination", self.destination.as_deref(), all)?;
        Ok((name, destination))
    }
}

/// Returns the entry that the option `--KIND` names, or the only one there is.
pub(super) fn chosen<'a, T>(
    kind: &str,
    name: Option<&str>,
    all: &'a BTreeMap<String, T>,
) -> Result<(&'a str, &'a T), CliError> {
    let names = || all.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut entries = all.iter();
    let found = match (name, entries.next(), entries.next()) {
        (Some(name), ..) => all.get_key_value(name).ok_or_else(|| {
            format!("there is no {kind} `{name}`: --{kind} must be one of {}", names())
        }),
        (None, Some(only), None) => Ok(only),
        (None, None, _) => Err(format!("there is no {kind}: the configuration names none")),
        (None, ..) => Err(format!(
            "there are several {kind}s: give --{kind}, which must be one of {}",
            names()
        )),
    };
    found.map(|(name, entry)| (name.as_str(), entry)).map_err(CliError::Usage)
}

/// Parses a whole number within bounds.
pub(super) fn whole(least: usize, most: usize) -> RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(least as u64..=most as u64)
}

/// Converts a number of things in memory, which always fits: [`whole`] bounds it.
pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the moment that an option names: a time, a day, or how long ago.
pub(super) fn moment(option: &str, text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    TimeOrAgo::parse(text).map(|time| time.at(now)).ok_or_else(|| {
        CliError::Usage(format!(
            "{option} must be a time such as 2026-11-01T12:00:00Z, a day such as 2026-11-01 (UTC), or how long ago, such as 90m, 12h or 7d"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_entry_needs_no_name() {
        let all = |names: &[&str]| -> BTreeMap<String, ()> {
            names.iter().map(|name| ((*name).to_owned(), ())).collect()
        };
        let choose = |name, names: &[&str]| {
            let found = chosen("source", name, &all(names)).map(|(name, ())| name.to_owned());
            found.map_err(|error| error.to_string())
        };
        assert_eq!(choose(None, &["a"]), Ok("a".to_owned()));
        assert_eq!(choose(Some("b"), &["a", "b"]), Ok("b".to_owned()));
        for (name, names, words) in [
            (Some("c"), &["a", "b"][..], ["no source `c`", "--source must be one of a, b"]),
            (None, &["a", "b"], ["several sources", "give --source"]),
            (None, &[], ["there is no source", "configuration"]),
        ] {
            let problem = choose(name, names).unwrap_err();
            assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
        }
    }
}
