//! The keys that `config/default.toml` documents, in its order.

use toml::{Table, Value};

use super::values::parse;
use crate::config::load::DEFAULTS;

/// Returns the tables of the compiled-in defaults with all their keys, including those that are commented out.
pub(super) fn fixed_tables() -> Vec<(String, Table)> {
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
pub(super) fn named_table(table: &str) -> Table {
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
