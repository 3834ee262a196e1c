//! Values of the configuration by key, each with its origin.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// A key of the configuration, such as `["server", "listen"]`.
pub(super) type Path = Vec<String>;

/// A value in force.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) value: Value,
    /// The file, the variable or the option; `None` for a default.
    pub(super) origin: Option<String>,
}

/// The keys of a table, each with its value; `None` if it is not set.
pub(super) type Keys = Vec<(String, Option<Shown>)>;

/// A key that has no place among the tables, and where it comes from.
pub(super) type Misplaced = (Path, Option<String>);

/// Reads TOML; `None` if it is invalid.
pub(super) fn parse(text: &str) -> Option<Table> {
    toml::from_str(text).ok()
}

/// Returns the names of the tables below `sources` or `destinations`.
pub(super) fn names(values: &BTreeMap<Path, Shown>, table: &str) -> BTreeSet<String> {
    let below = values.keys().filter(|path| path.len() > 2 && path[0] == table);
    below.map(|path| path[1].clone()).collect()
}

/// Returns whether a value is an array of tables, such as `[[subscriptions]]`.
pub(super) fn is_of_tables(shown: Option<&Shown>) -> bool {
    let Some(Shown { value: Value::Array(entries), .. }) = shown else { return false };
    !entries.is_empty() && entries.iter().all(Value::is_table)
}
