//! The configuration in force, key by key, with the origin of each value and without secrets.
//!
//! It is put together from what is written, before any check, so that a configuration with errors can be shown as well.
//! No part of a secret is ever shown. The value of an unknown key is not shown either, because it may be a secret whose
//! key is misspelt.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use toml::{Table, Value};

use super::environment::{PREFIX, SHORT_NAMES, is_ours};
use super::load::{DEFAULTS, Flags};
use super::tree::LogFormat;
use crate::destination::subscription;

/// Shown in place of a secret. If it is pasted into a file, the check rejects it, like any secret in brackets.
const HIDDEN: &str = "(hidden)";

/// The keys of `[sources.NAME]` without a default.
const SOURCE_UNSET: [&str; 6] =
    ["write_keys", "webhook_secrets", "webhook_tokens", "destination", "origins", "silent_after_s"];

/// The keys that only browser sources may have.
const OF_BROWSERS: [&str; 3] = ["address_requests_max", "address_bytes_max", "allow_delete"];

/// The keys of `[destinations.NAME]` without a default.
const DESTINATION_UNSET: [&str; 7] = [
    "api_key",
    "rate",
    "loops_webhook_secrets",
    "loops_webhook_forward",
    "consent_categories",
    "subscriptions_files",
    "subscriptions",
];

/// The keys that hold secrets, or URLs that may contain one.
const SECRETS: [&str; 16] = [
    "admin_token",
    "admin_tokens",
    "viewer_token",
    "viewer_tokens",
    "url",
    "listen_url",
    "webhook_url",
    "webhook_secret",
    "webhook_secrets",
    "webhook_token",
    "webhook_tokens",
    "write_keys",
    "api_key",
    "loops_webhook_secret",
    "loops_webhook_secrets",
    "loops_webhook_forward",
];

/// The base URL of Loops' API that may be shown. Any other may have a secret in its path, as some proxies want it.
const BASE_URL: &str = "https://app.loops.so/api/v1";

/// A key of the configuration, such as `["server", "listen"]`.
type Path = Vec<String>;

/// A value in force.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    value: Value,
    /// The file, the variable or the option; `None` for a default.
    origin: Option<String>,
}

/// The keys of a table, each with its value; `None` if it is not set.
type Keys = Vec<(String, Option<Shown>)>;

/// A key that has no place among the tables, and where it comes from.
type Misplaced = (Path, Option<String>);

/// The configuration in force.
#[derive(Debug)]
pub struct Effective {
    /// The tables, in the order of `config/default.toml`.
    tables: Vec<(Path, Keys)>,
    /// The keys that are left out because they are also tables, or below a key that is no table, with their origins.
    misplaced: Vec<(Path, Option<String>)>,
    /// The file that could not be read, if any.
    unread: Option<String>,
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

    /// Writes TOML that can serve as a configuration file, except for the secrets.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        if let Some(file) = &self.unread {
            text += &format!("# {file} cannot be read, and is left out here.\n");
        }
        for (path, origin) in &self.misplaced {
            let key = path.iter().map(|part| bare(part)).collect::<Vec<_>>().join(".");
            let from = origin.as_deref().map(|origin| format!(", from {}", one_line(origin)));
            let from = from.unwrap_or_default();
            text += &format!(
                "# {key}{from}, is left out here: it cannot be both a table and a value.\n"
            );
        }
        for (path, keys) in &self.tables {
            let (plain, tables): (Vec<_>, Vec<_>) =
                keys.iter().partition(|(_, shown)| !is_of_tables(shown.as_ref()));
            let header = path.iter().map(|part| bare(part)).collect::<Vec<_>>().join(".");
            if !header.is_empty() && (!plain.is_empty() || tables.is_empty()) {
                let _ = writeln!(text, "\n[{header}]");
            }
            for (key, shown) in plain {
                let _ = match shown {
                    None => writeln!(text, "# {key} is not set"),
                    Some(Shown { value, origin: None }) => {
                        writeln!(text, "{} = {value}", bare(key))
                    }
                    Some(Shown { value, origin: Some(origin) }) => {
                        writeln!(text, "{} = {value}  # from {}", bare(key), one_line(origin))
                    }
                };
            }
            for (key, shown) in tables {
                let Some(Shown { value: Value::Array(entries), origin }) = shown else { continue };
                let name = match header.as_str() {
                    "" => bare(key),
                    header => format!("{header}.{}", bare(key)),
                };
                let from = origin.as_deref().map(|origin| format!("  # from {}", one_line(origin)));
                for entry in entries.iter().filter_map(Value::as_table) {
                    let _ = writeln!(text, "\n[[{name}]]{}", from.as_deref().unwrap_or_default());
                    for (key, value) in entry {
                        let _ = writeln!(text, "{} = {value}", bare(key));
                    }
                }
            }
        }
        text.trim_start().to_owned()
    }

    /// Writes JSON for programs: the values, and by key the origins of those that are not defaults.
    pub fn to_json(&self) -> serde_json::Value {
        let (mut values, mut origins) = (serde_json::Map::new(), serde_json::Map::new());
        for (path, keys) in &self.tables {
            let Some(table) = table_in(&mut values, path) else { continue };
            for (key, shown) in keys {
                let value = shown.as_ref().map(|shown| &shown.value);
                table.insert(key.clone(), serde_json::to_value(value).unwrap_or_default());
                if let Some(origin) = shown.as_ref().and_then(|shown| shown.origin.clone()) {
                    let key = path.iter().chain([key]).cloned().collect::<Vec<_>>().join(".");
                    origins.insert(key, origin.into());
                }
            }
        }
        serde_json::json!({"values": values, "origins": origins})
    }
}

/// Returns the table at a path, creating it if necessary.
fn table_in<'a>(
    values: &'a mut serde_json::Map<String, serde_json::Value>,
    path: &[String],
) -> Option<&'a mut serde_json::Map<String, serde_json::Value>> {
    let Some((first, rest)) = path.split_first() else { return Some(values) };
    let below = values.entry(first.clone()).or_insert_with(|| serde_json::json!({}));
    table_in(below.as_object_mut()?, rest)
}

fn parse(text: &str) -> Option<Table> {
    toml::from_str(text).ok()
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

/// Returns the names of the tables below `sources` or `destinations`.
fn names(values: &BTreeMap<Path, Shown>, table: &str) -> BTreeSet<String> {
    let below = values.keys().filter(|path| path.len() > 2 && path[0] == table);
    below.map(|path| path[1].clone()).collect()
}

/// Sorts the values into their tables, adds the keys that are not set, and hides the secrets. Also returns the keys that
/// have no place among them.
fn tables(mut values: BTreeMap<Path, Shown>) -> (Vec<(Path, Keys)>, Vec<Misplaced>) {
    let mut tables: Vec<(Path, Keys)> = Vec::new();
    let documented = fixed_tables();
    for (name, documented) in &documented {
        tables.push((vec![name.clone()], take(&mut values, &[name], documented, &[])));
    }
    let destinations = names(&values, "destinations");
    for name in names(&values, "sources") {
        let path = ["sources", name.as_str()];
        let is_browser = values
            .get(&[path[0], path[1], "browser"].map(str::to_owned)[..])
            .is_some_and(|shown| ["true", "\"true\""].contains(&&*shown.value.to_string()));
        let mut documented = named_table("sources");
        documented.retain(|key, _| is_browser || !OF_BROWSERS.contains(&key));
        let mut unset = SOURCE_UNSET.to_vec();
        if let [only] = destinations.iter().collect::<Vec<_>>()[..] {
            documented.insert("destination".to_owned(), only.clone().into());
            unset.retain(|key| *key != "destination");
        }
        tables.push((
            path.map(str::to_owned).to_vec(),
            take(&mut values, &path, &documented, &unset),
        ));
    }
    for name in &destinations {
        let path = ["destinations", name.as_str()];
        let documented = named_table("destinations");
        let keys = take(&mut values, &path, &documented, &DESTINATION_UNSET);
        tables.push((path.map(str::to_owned).to_vec(), keys));
    }
    if let Some(shown) = values.remove(&["subscriptions".to_owned()][..]) {
        let shown = Shown { value: subscriptions(shown.value), ..shown };
        tables.push((Vec::new(), vec![("subscriptions".to_owned(), Some(shown))]));
    }
    // Keys that the program does not know.
    let mut misplaced = Vec::new();
    for (mut path, shown) in values {
        if !has_place(&mut tables, &path) {
            misplaced.push((path, shown.origin));
            continue;
        }
        let Some(key) = path.pop() else { continue };
        let shown = Some(Shown { value: HIDDEN.into(), ..shown });
        let has_arrays = |keys: &Keys| keys.iter().any(|(_, shown)| is_of_tables(shown.as_ref()));
        // Values without a table do not fit behind arrays of tables.
        let fits = |(table, keys): &&mut (Path, Keys)| {
            *table == path && !(table.is_empty() && has_arrays(keys))
        };
        match tables.iter_mut().find(fits) {
            Some((_, keys)) => keys.push((key, shown)),
            None => tables.push((path, vec![(key, shown)])),
        }
    }
    // TOML requires values without a table to come first. Arrays of tables come last.
    tables.sort_by_key(|(path, keys)| match path.as_slice() {
        [] if keys.iter().any(|(_, shown)| is_of_tables(shown.as_ref())) => 2,
        [] => 0,
        _ => 1,
    });
    (tables, misplaced)
}

/// Returns whether an unknown key is neither a table nor below a value. A known key above it that is not set gives way.
fn has_place(tables: &mut [(Path, Keys)], path: &Path) -> bool {
    if tables.iter().any(|(table, _)| table.starts_with(path)) {
        return false;
    }
    for (table, keys) in tables {
        let Some([key, _, ..]) = path.strip_prefix(table.as_slice()) else { continue };
        if keys.iter().any(|(known, shown)| known == key && shown.is_some()) {
            return false;
        }
        keys.retain(|(known, _)| known != key);
    }
    true
}

/// Takes the values of a table out of `values`, in the order of the documentation. For the keys in `unset`, the
/// documented value is only an example.
fn take(
    values: &mut BTreeMap<Path, Shown>,
    table: &[&str],
    documented: &Table,
    unset: &[&str],
) -> Keys {
    let path =
        |key: &str| -> Path { table.iter().copied().chain([key]).map(str::to_owned).collect() };
    let mut keys = Vec::new();
    for (key, example) in documented {
        let (mut is_set, is_secret) = (false, SECRETS.contains(&key.as_str()));
        // A secret may also be written as a single value or in a file.
        let single = key.strip_suffix('s').filter(|_| is_secret && key != "write_keys");
        let spellings = single.into_iter().chain([key.as_str()]);
        let spellings: Vec<String> = match is_secret {
            true => spellings.flat_map(|key| [key.to_owned(), format!("{key}_file")]).collect(),
            false => spellings.map(str::to_owned).collect(),
        };
        for key in spellings {
            let Some(Shown { value, origin }) = values.remove(&path(&key)) else { continue };
            is_set = true;
            keys.push((key.clone(), Some(Shown { value: shown(&key, value, example), origin })));
        }
        if !is_set {
            // The defaults of all other tables are in the compiled-in layer.
            let default = table.len() > 1 && !unset.contains(&key.as_str());
            let shown = default.then(|| Shown { value: example.clone(), origin: None });
            keys.push((key.clone(), shown));
        }
    }
    keys
}

/// Returns a value as it may be shown: without secrets, and with the type of its key if a variable gave a string.
fn shown(key: &str, value: Value, example: &Value) -> Value {
    let hidden = || Value::from(HIDDEN);
    if SECRETS.contains(&key) {
        return match value {
            Value::Array(secrets) => Value::Array(secrets.iter().map(|_| hidden()).collect()),
            _ => hidden(),
        };
    }
    if key == "subscriptions" {
        return subscriptions(value);
    }
    let is_scalar = |value: &Value| !value.is_table() && !value.is_array();
    let is_file = key.strip_suffix("_file").is_some_and(names_secret);
    let text = match value {
        Value::String(text) => text,
        _ if is_file => return hidden(),
        // What is below is unknown.
        Value::Array(items) => {
            let shown =
                items.into_iter().map(|item| if is_scalar(&item) { item } else { hidden() });
            return Value::Array(shown.collect());
        }
        value => return value,
    };
    let is_hidden = match key {
        // What is not the name of a file may be the secret itself.
        _ if is_file => !std::path::Path::new(&text).exists(),
        "base_url" => text.trim_end_matches('/') != BASE_URL,
        key => key.ends_with("_url") && text.contains(['@', '?', '#']),
    };
    if is_hidden {
        return hidden();
    }
    match example {
        Value::Integer(_) => text.parse().map_or(Value::String(text), Value::Integer),
        Value::Boolean(_) => text.parse().map_or(Value::String(text), Value::Boolean),
        _ => Value::String(text),
    }
}

/// Returns subscriptions without the values that may be secrets. What is written behind `[[subscriptions]]` belongs to
/// the subscription, even if it is meant for a table before it.
fn subscriptions(written: Value) -> Value {
    let hidden = || Value::from(HIDDEN);
    let Value::Array(entries) = written else { return hidden() };
    let one = |entry| {
        let Value::Table(keys) = entry else { return hidden() };
        let shown = keys.into_iter().map(|(key, value)| {
            let value = match (key.as_str(), value) {
                ("mapping" | "settings", value) => mapping(value),
                (key, value) if subscription::has_key(key) && !is_deep(&value) => value,
                _ => hidden(),
            };
            (key, value)
        });
        Value::Table(shown.collect())
    };
    Value::Array(entries.into_iter().map(one).collect())
}

/// Returns whether a value holds more than a list of texts or numbers.
fn is_deep(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => items.iter().any(|item| item.is_table() || item.is_array()),
        _ => false,
    }
}

/// Returns a mapping without what is under the name of a secret. All other keys are free.
fn mapping(written: Value) -> Value {
    match written {
        Value::Table(keys) => Value::Table(
            keys.into_iter()
                .map(|(key, value)| match names_secret(&key) && !is_path(&value) {
                    true => (key, Value::from(HIDDEN)),
                    false => (key, mapping(value)),
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(mapping).collect()),
        Value::String(text) => match serde_json::from_str(&text) {
            // A mapping may be written as JSON.
            Ok(json) if has_secret(&json) => HIDDEN.into(),
            _ => Value::String(text),
        },
        value => value,
    }
}

/// Returns whether JSON has a key that names a secret.
fn has_secret(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Object(keys) => {
            keys.iter().any(|(key, value)| names_secret(key) || has_secret(value))
        }
        serde_json::Value::Array(items) => items.iter().any(has_secret),
        _ => false,
    }
}

/// Returns whether a value is only a path into the message, such as `{ "@path" = "$.properties.url" }`.
fn is_path(value: &Value) -> bool {
    let Value::Table(keys) = value else { return false };
    let path = keys.get("@path").and_then(Value::as_str);
    keys.len() == 1 && path.is_some_and(|path| path.starts_with("$."))
}

/// Returns whether a key has the name of a secret of ours, or of a variable, however it is spelled and with or without
/// `_file`.
fn names_secret(key: &str) -> bool {
    let spelled = |name: &str| -> String {
        let letters = name.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    let key = spelled(key.rsplit("__").next().unwrap_or(key));
    let key = key.strip_suffix("file").unwrap_or(&key);
    let names = SECRETS.into_iter().chain(SHORT_NAMES.into_iter().map(|(short, _)| short));
    names.map(spelled).any(|name| key == name || name.strip_suffix('s') == Some(key))
}

/// Returns the tables of the compiled-in defaults with all their keys, including those that are commented out.
fn fixed_tables() -> Vec<(String, Table)> {
    let mut tables: Vec<(String, Table)> = Vec::new();
    // The tables of sources and destinations come last and are commented out.
    for line in DEFAULTS.lines().take_while(|line| !line.starts_with("# [")) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            tables.push((name.to_owned(), Table::new()));
        }
        let written = line.strip_prefix("# ").unwrap_or(line);
        let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if let (Some((_, table)), Some((key, _))) = (tables.last_mut(), written.split_once(" = "))
            && is_key(key)
            && let Some(value) = parse(written).and_then(|mut table| table.remove(key))
        {
            table.insert(key.to_owned(), value);
        }
    }
    tables
}

/// Returns the keys of `[sources.NAME]` or `[destinations.NAME]`, which are commented out.
fn named_table(table: &str) -> Table {
    let header = format!("# [{table}.NAME]");
    let lines = DEFAULTS.lines().skip_while(|line| *line != header).skip(1);
    let lines =
        lines.map_while(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches(' '));
    let text: Vec<&str> = lines.take_while(|line| !line.starts_with("[[")).collect();
    let mut documented = parse(&text.join("\n")).unwrap_or_default();
    if table == "destinations" {
        documented.insert("subscriptions".to_owned(), Value::Array(Vec::new()));
    }
    documented
}

fn is_of_tables(shown: Option<&Shown>) -> bool {
    let Some(Shown { value: Value::Array(entries), .. }) = shown else { return false };
    !entries.is_empty() && entries.iter().all(Value::is_table)
}

/// Writes a key as TOML does.
fn bare(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => Value::from(key).to_string(),
    }
}

/// Replaces control characters, so that the text ends with the line of a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::super::tree::{
        AlertsConfig, ConsoleConfig, DeliveryConfig, DestinationTree, LogConfig, ServerConfig,
        SourceTree, StoreConfig,
    };
    use super::super::{Config, load};
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Returns the keys that a table may have, according to its type.
    fn keys_of<T: DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
        let problem = toml::from_str::<T>("no_such_key = 1").unwrap_err().message().to_owned();
        let (_, known) = problem.split_once("expected").unwrap();
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_key_is_documented_or_a_short_form_of_one_that_is() {
        let fixed: HashMap<String, Table> = fixed_tables().into_iter().collect();
        let cases = [
            (fixed["server"].clone(), keys_of::<ServerConfig>()),
            (fixed["store"].clone(), keys_of::<StoreConfig>()),
            (fixed["delivery"].clone(), keys_of::<DeliveryConfig>()),
            (fixed["log"].clone(), keys_of::<LogConfig>()),
            (fixed["console"].clone(), keys_of::<ConsoleConfig>()),
            (fixed["alerts"].clone(), keys_of::<AlertsConfig>()),
            (named_table("sources"), keys_of::<SourceTree>()),
            (named_table("destinations"), keys_of::<DestinationTree>()),
        ];
        for (documented, known) in cases {
            assert!(!known.is_empty());
            for key in &known {
                let base = key.strip_suffix("_file").unwrap_or(key);
                let list = format!("{base}s");
                let is_there = |key: &str| documented.contains_key(key);
                assert!(is_there(base) || is_there(&list), "{key} is not in config/default.toml");
                assert!(base == key || SECRETS.contains(&base), "{base} has a file");
            }
            for key in documented.keys() {
                assert!(known.contains(key), "{key} is no key");
            }
        }
        for key in SOURCE_UNSET {
            assert!(named_table("sources").contains_key(key), "{key}");
        }
        for key in DESTINATION_UNSET {
            assert!(named_table("destinations").contains_key(key), "{key}");
        }
    }

    const KEYS: [(&str, &str); 2] =
        [("LOOPS_API_KEY", "a-secret"), ("SEGMENT_WRITE_KEY", "b-secret")];

    #[test]
    fn what_is_shown_is_what_is_in_force() {
        let written = [
            &KEYS[..],
            &[
                ("SEGMENT_LOOPS__SERVER__LISTEN", "127.0.0.1:81"),
                ("LOOPS_RATE_LIMIT", "7"),
                ("SEGMENT_LOOPS__SOURCES__DEFAULT__BROWSER", "true"),
                ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__PLACEHOLDER_IDS", "a, b"),
                ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__MERGE", "false"),
            ],
        ];
        for variables in [KEYS.to_vec(), written.concat()] {
            let environment = environment(&variables);
            let text = Effective::new(&Flags::default(), &environment).to_toml();
            let pasted = text.replace(&format!("[\"{HIDDEN}\"]"), "[\"b-secret\"]");
            let pasted =
                pasted.replace(&format!("write_keys = \"{HIDDEN}\""), "write_keys = \"b-secret\"");
            let pasted = pasted.replace(HIDDEN, "a-secret");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &pasted).unwrap();
            let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
            let shown = load(&flags, HashMap::new());
            let shown = shown.unwrap_or_else(|error| panic!("{error}\n{pasted}"));
            let meant = load(&Flags::default(), environment).unwrap();
            let text = |config: &Config| format!("{config:?}");
            assert!(text(&shown) == text(&meant), "something else is in force: {pasted}");
        }
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[server]\nlisten = \"127.0.0.1:1\"\nack_timeout_ms = 5_000\n[store]\nwal = \"own\"\n[sources.web]\nwrite_keys = [\"c-secret\", \"d-secret\"]\n[[subscriptions]]\nname = \"a b\"\naction = \"sendEvent\"\nevents = [\"X\"]\n";
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags {
            file: Some(file.path().to_owned()),
            data: Some("elsewhere".into()),
            ..Flags::default()
        };
        let environment = environment(&[
            ("SEGMENT_LOOPS__SERVER__LISTEN", "127.0.0.1:2"),
            ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__API_KEY", "e-secret"),
            ("LOOPS_API_KEY", "a-secret"),
            ("DATABASE_URL_FILE", env!("CARGO_MANIFEST_DIR")),
            ("PATH", "/bin"),
        ]);
        let shown = Effective::new(&flags, &environment).to_toml();
        let name = file.path().display();
        for line in [
            "listen = \"127.0.0.1:2\"  # from SEGMENT_LOOPS__SERVER__LISTEN".to_owned(),
            format!("ack_timeout_ms = 5000  # from {name}"),
            "body_timeout_ms = 30000".to_owned(),
            "# admin_listen is not set".to_owned(),
            "data = \"elsewhere\"  # from --data".to_owned(),
            format!(
                "url_file = {path:?}  # from DATABASE_URL_FILE",
                path = env!("CARGO_MANIFEST_DIR")
            ),
            format!("write_keys = [\"{HIDDEN}\", \"{HIDDEN}\"]  # from {name}"),
            "destination = \"default\"".to_owned(),
            format!("api_key = \"{HIDDEN}\"  # from LOOPS_API_KEY"),
            "mode = \"live\"".to_owned(),
            "name = \"a b\"".to_owned(),
        ] {
            assert!(shown.lines().any(|found| found == line), "`{line}` is not in:\n{shown}");
        }
        assert!(!shown.contains("secret\"") && !shown.contains("/bin"), "{shown}");
        assert!(
            !shown.contains("# url is not set") && !shown.contains("address_bytes_max"),
            "{shown}"
        );
        assert!(parse(&shown).is_some(), "{shown}");
    }

    #[test]
    fn secrets_are_hidden_also_where_they_do_not_belong() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "api_kye = \"secret\"\n[server]\npublic_ulr = \"secret\"\n[destinations.default]\nbase_url = \"https://u:secret@proxy.example\"\napikey = [\"secret\"]\n[destinations.default.more]\nx = \"secret\"\n[other]\n\"a b\" = \"secret\"\n";
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
        let environment = environment(&[
            ("ADMIN_TOKEN", "secret"),
            ("SEGMENT_LOOPS__ALERTS__WEBHOOK_URL", "https://secret"),
            ("SEGMENT_LOOPS__SOURCES__WEB__WRITE_KEYS", "secret,secret"),
            ("SEGMENT_LOOPS__SOURCES__WEB__TOKEN", "secret"),
        ]);
        let effective = Effective::new(&flags, &environment);
        let shown = effective.to_toml();
        for text in [&shown, &effective.to_json().to_string()] {
            assert!(!text.replace("webhook_secret", "").contains("secret"), "{text}");
        }
        for key in ["api_kye", "public_ulr", "apikey", "\"a b\"", "admin_token", "x"] {
            assert!(shown.contains(&format!("{key} = \"{HIDDEN}\"")), "{key}: {shown}");
        }
        assert!(parse(&shown).is_some(), "{shown}");
    }

    /// Returns what is shown of a file, as TOML and as JSON, after checking that it hides what is secret.
    fn without_secrets(text: &str, variables: &[(&str, &str)]) -> (String, serde_json::Value) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
        let effective = Effective::new(&flags, &environment(variables));
        let (shown, json) = (effective.to_toml(), effective.to_json());
        for text in [&shown, &json.to_string()] {
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(!shown.contains("cannot be read") && parse(&shown).is_some(), "{shown}");
        (shown, json)
    }

    #[test]
    fn secrets_are_hidden_in_subscriptions_too() {
        for header in ["subscriptions", "destinations.default.subscriptions"] {
            let text = format!(
                r#"
top = "canary"
[[{header}]]
name = "a b"
action = "sendEvent"
events = ["X"]
admin_token = "canary"
sectret = ["canary"]
enabled = {{ api_key = "canary" }}
[{header}.mapping]
api_key = "canary"
ADMIN_TOKEN = "canary"
SEGMENT_LOOPS__SERVER__ADMIN_TOKEN_FILE = "canary"
email = {{ "@path" = "$.email" }}
[{header}.mapping.eventProperties]
url = {{ "@path" = "$.context.page.url" }}
plan = "pro"
write_key = ["canary"]
webhook-secrets_file = "canary"
[[{header}.mapping.list]]
deep = [{{ apiKey = {{ "@template" = "canary" }} }}]
[[{header}]]
name = "second"
mapping = '{{"n": null, "l": [{{"api_key": "canary"}}]}}'
[[{header}]]
name = "third"
mapping = '{{"n": null}}'
"#
            );
            let (shown, json) = without_secrets(&text, &[]);
            for line in [
                "name = \"a b\"",
                "events = [\"X\"]",
                "admin_token = \"(hidden)\"",
                "sectret = \"(hidden)\"",
                "mapping = \"(hidden)\"",
            ] {
                assert!(shown.lines().any(|found| found == line), "`{line}` is not in:\n{shown}");
            }
            let entries = match header {
                "subscriptions" => &json["values"]["subscriptions"],
                _ => &json["values"]["destinations"]["default"]["subscriptions"],
            };
            let mapping = &entries[0]["mapping"];
            assert_eq!(mapping["api_key"], HIDDEN);
            assert_eq!(mapping["email"]["@path"], "$.email");
            assert_eq!(mapping["eventProperties"]["plan"], "pro");
            assert_eq!(mapping["eventProperties"]["url"]["@path"], "$.context.page.url");
            assert_eq!(mapping["eventProperties"]["write_key"], HIDDEN);
            assert_eq!(entries[2]["mapping"], "{\"n\": null}");
            assert_eq!(json["values"]["top"], HIDDEN);
            // Pasted back, everything is where it was.
            let pasted = parse(&shown).unwrap();
            assert_eq!(pasted["top"].as_str(), Some(HIDDEN), "{shown}");
        }
        without_secrets("subscriptions = [\"canary\", [\"canary\"]]", &[]);
        without_secrets("[destinations.default]\nsubscriptions = \"canary\"", &[]);
        let text = "[server]\nlisten = [{ x = \"canary\" }]\nadmin_token_file = [\"canary\"]";
        without_secrets(text, &[]);
    }

    #[test]
    fn a_file_is_shown_if_it_exists_and_a_base_url_if_it_is_that_of_loops() {
        for (variable, value, line) in [
            ("LOOPS_API_KEY_FILE", "canary", "api_key_file = \"(hidden)\""),
            ("DATABASE_URL_FILE", "postgres://u:canary@h/db", "url_file = \"(hidden)\""),
            ("LOOPS_API_KEY_FILE", "Cargo.toml", "api_key_file = \"Cargo.toml\""),
            ("LOOPS_BASE_URL", "https://proxy.example/canary/api/v1", "base_url = \"(hidden)\""),
            ("LOOPS_BASE_URL", BASE_URL, "base_url = \"https://app.loops.so/api/v1\""),
        ] {
            let (shown, _) = without_secrets("", &[(variable, value)]);
            assert!(shown.contains(&format!("\n{line}  # from {variable}\n")), "{line}: {shown}");
            let environment = environment(&[(variable, value)]);
            let error = load(&Flags::default(), environment).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_value_that_is_also_a_table_hides_no_table() {
        let variables = [
            ("SEGMENT_LOOPS__STORE__DATA__X", "canary"),
            ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__RATE__X", "canary"),
        ];
        let (shown, json) = without_secrets("server = \"canary\"\nother = 1", &variables);
        assert!(shown.contains("# server, from "), "{shown}");
        assert!(shown.contains("# store.data.x, from SEGMENT_LOOPS__STORE__DATA__X, is left out"));
        let values = &json["values"];
        assert!(values["server"]["ack_timeout_ms"].is_u64(), "{values}");
        assert!(values["store"]["data"].is_string(), "{values}");
        assert_eq!(values["destinations"]["default"]["rate"]["x"], HIDDEN);
        assert_eq!(values["other"], HIDDEN);
    }
}
