//! Combines the layers: the defaults, the file, the environment and the command line.

use std::collections::{BTreeMap, HashMap};

use toml::{Table, Value};

use super::tables::tables;
use super::values::{Keys, Misplaced, Path, Shown, names, parse};
use crate::config::environment::{PREFIX, SHORT_NAMES, is_ours};
use crate::config::load::{DEFAULTS, Flags};
use crate::config::tree::LogFormat;

/// The configuration in force.
#[derive(Debug)]
pub struct Effective {
    /// The tables, in the order of `config/default.toml`.
    pub(super) tables: Vec<(Path, Keys)>,
    /// The keys that are left out because they are also tables, or below a key that is no table, with their origins.
    pub(super) misplaced: Vec<Misplaced>,
    /// The file that could not be read, if any.
    pub(super) unread: Option<String>,
}

impl Effective {
    /// Combines the layers.
    pub fn new(flags: &Flags, environment: &HashMap<String, String>) -> Self {
        let mut values: BTreeMap<Path, Shown> = BTreeMap::new();
        let mut unread = None;
        let mut put = |path: Path, value: Value, origin: Option<String>| {
            values.insert(path, Shown { value, origin });
        };
        for (path, value) in leaves(&parse(DEFAULTS).unwrap_or_default()) {
            put(path, value, None);
        }
        if let Some(file) = &flags.file {
            let name = file.display().to_string();
            match std::fs::read_to_string(file).ok().and_then(|text| parse(&text)) {
                Some(table) => {
                    for (path, value) in leaves(&table) {
                        put(path, value, Some(name.clone()));
                    }
                }
                None => unread = Some(name),
            }
        }
        for (path, name, value) in variables(environment) {
            put(path, Value::String(value), Some(name));
        }
        override_by(flags, &mut values);
        let (tables, misplaced) = tables(values);
        Self { tables, misplaced, unread }
    }
}

/// Returns all values that are not tables, with their keys.
fn leaves(table: &Table) -> Vec<(Path, Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(below) => {
                for (mut path, value) in leaves(below) {
                    path.insert(0, key.clone());
                    all.push((path, value));
                }
            }
            value => all.push((vec![key.clone()], value.clone())),
        }
    }
    all
}

/// Returns the keys that the environment sets, with the variable and the value. A variable that wins over another comes
/// after it.
fn variables(environment: &HashMap<String, String>) -> Vec<(Path, String, String)> {
    if !environment.keys().any(|name| is_ours(name)) {
        return Vec::new();
    }
    let prefix = format!("{PREFIX}__").to_lowercase();
    let path = |key: &str, separator: &str| key.split(separator).map(str::to_owned).collect();
    let mut all: Vec<(Path, String, String)> = Vec::new();
    for (name, value) in environment {
        if let Some(key) = name.to_lowercase().strip_prefix(&prefix) {
            all.push((path(key, "__"), name.clone(), value.clone()));
        }
    }
    all.sort();
    for (name, key) in SHORT_NAMES {
        for end in ["", "_file"] {
            let name = format!("{name}{}", end.to_uppercase());
            if let Some(value) = environment.get(&name) {
                all.push((path(&format!("{key}{end}"), "."), name, value.clone()));
            }
        }
    }
    all
}

/// Applies the options of the command line.
fn override_by(flags: &Flags, values: &mut BTreeMap<Path, Shown>) {
    let path = |key: &[&str]| key.iter().map(|part| (*part).to_owned()).collect::<Path>();
    let mut put = |key: &[&str], value: Value, option: &str| {
        values.insert(path(key), Shown { value, origin: Some(option.to_owned()) });
    };
    if let Some(listen) = flags.listen {
        put(&["server", "listen"], listen.to_string().into(), "--listen");
    }
    if let Some(data) = &flags.data {
        put(&["store", "data"], data.display().to_string().into(), "--data");
    }
    if let Some(format) = flags.log_format {
        let format = match format {
            LogFormat::Json => "json",
            LogFormat::Pretty => "pretty",
        };
        put(&["log", "format"], format.into(), "--log-format");
    }
    let names = names(values, "destinations");
    if flags.subscriptions.is_empty() || names.len() > 1 {
        return;
    }
    let name = names.into_iter().next().unwrap_or_else(|| "default".to_owned());
    values.remove(&path(&["subscriptions"]));
    values.remove(&path(&["destinations", &name, "subscriptions"]));
    let files = flags.subscriptions.iter().map(|file| Value::from(file.display().to_string()));
    let shown =
        Shown { value: Value::Array(files.collect()), origin: Some("--subscriptions".to_owned()) };
    values.insert(path(&["destinations", &name, "subscriptions_files"]), shown);
}
