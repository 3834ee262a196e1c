//! Reads files of values: TOML, YAML or JSON.

use std::path::Path;

use config::{File, FileFormat};

use crate::segment::Value;
use crate::segment::decode::decode_strict;

/// The largest file of subscriptions, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads a file as TOML, YAML or JSON, by the extension of its name. The error is a line for people.
pub fn read_value(file: &Path) -> Result<Value, String> {
    let size =
        std::fs::metadata(file).map_err(|error| format!("the file cannot be read: {error}"))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(format!(
            "the file has {} bytes; at most {FILE_BYTES_MAX} are allowed",
            size.len()
        ));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => decode_strict(&text).map_err(|error| {
            let line = text.as_bytes()[..error.at.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            format!("{error} (line {})", line + 1)
        }),
        Some("yaml" | "yml") => serde_yaml_ng::from_str::<serde_json::Value>(&text)
            .map(|value| Value::from(&value))
            .map_err(|error| format!("not YAML: {error}")),
        Some("toml") => config::Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize::<serde_json::Value>)
            .map(|value| Value::from(&value))
            .map_err(|error| format!("not TOML: {}", plain(&error))),
        _ => Err("the name must end in .toml, .yaml, .yml or .json".to_owned()),
    }
}

/// The message of the library's error, without the key and origin, which our own errors name.
pub(super) fn plain(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => plain(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("found {unexpected}, expected {expected}")
        }
        // The library shows the line of a syntax error, which may hold a secret.
        other => {
            let text = other.to_string();
            text.lines().filter(|line| !line.contains('|')).collect::<Vec<_>>().join(": ")
        }
    }
}
