//! Writes the configuration in force as TOML, for people, and as JSON, for programs.

use std::fmt::Write as _;

use toml::Value;

use super::effective::Effective;
use super::values::{Shown, is_of_tables};

impl Effective {
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
