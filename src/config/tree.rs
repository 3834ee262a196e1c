//! The typed tree of the configuration, as written. `config/default.toml` explains each key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::environment::trim;
use crate::secret::Secret;

/// The whole tree.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tree {
    pub(super) server: ServerConfig,
    pub(super) store: StoreConfig,
    pub(super) delivery: DeliveryConfig,
    pub(super) log: LogConfig,
    pub(super) console: ConsoleConfig,
    pub(super) alerts: AlertsConfig,
    #[serde(default)]
    pub(super) sources: BTreeMap<String, SourceTree>,
    #[serde(default)]
    pub(super) destinations: BTreeMap<String, DestinationTree>,
    /// The subscriptions of the only destination.
    #[serde(default)]
    pub(super) subscriptions: Vec<serde_json::Value>,
}

/// `[server]`. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub admin_listen: Option<SocketAddr>,
    pub(super) admin_token: Option<Secret>,
    pub(super) admin_tokens: Option<Secrets>,
    #[serde(alias = "admin_tokens_file")]
    pub(super) admin_token_file: Option<PathBuf>,
    pub(super) viewer_token: Option<Secret>,
    pub(super) viewer_tokens: Option<Secrets>,
    #[serde(alias = "viewer_tokens_file")]
    pub(super) viewer_token_file: Option<PathBuf>,
    pub public_url: Option<String>,
    pub shutdown_grace_ms: u64,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub ack_timeout_ms: u64,
    pub body_bytes_max: usize,
    pub message_bytes_max: usize,
    pub batch_messages_max: usize,
    pub connections_max: usize,
    pub address_connections_max: Option<usize>,
    pub body_budget_bytes: usize,
    #[serde(default)]
    pub trusted_proxies: Texts,
}

/// `[store]`. Times in hours, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct StoreConfig {
    pub data: PathBuf,
    pub url: Option<Secret>,
    pub(super) url_file: Option<PathBuf>,
    pub schema: String,
    pub notify: NotifyMode,
    pub listen_url: Option<Secret>,
    pub(super) listen_url_file: Option<PathBuf>,
    pub connections_max: u32,
    pub allow_network_disk: bool,
    pub wal: WalMode,
    pub duplicate_window_h: u64,
    pub waiting_messages_max: usize,
    pub waiting_bytes_max: usize,
    pub backlog_messages_max: u64,
    pub backlog_bytes_max: u64,
    pub free_bytes_min: Option<u64>,
    pub delivered_retention_h: u64,
    pub failed_retention_h: u64,
    pub records_retention_h: u64,
}

impl StoreConfig {
    /// The fewest connections to PostgreSQL with which no part of the program waits long for another: two write, two do
    /// chores, one listens for hints, one reads for the engines, and two serve people and replays.
    pub const CONNECTIONS_MIN: u32 = 9;
}

/// `store.notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum NotifyMode {
    /// Processes send each other hints, as far as notifications arrive.
    Auto,
    /// Processes send no hints.
    Off,
}

impl TryFrom<String> for NotifyMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(NotifyMode::Auto),
            "off" => Ok(NotifyMode::Off),
            _ => Err(format!("must be \"auto\" or \"off\", not {text:?}")),
        }
    }
}

/// `store.wal`: which program moves the write-ahead log of the database into its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum WalMode {
    /// This program does, and empties the log after each erasure.
    Own,
    /// Another program does, and copies the log first.
    External,
}

impl TryFrom<String> for WalMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "own" => Ok(WalMode::Own),
            "external" => Ok(WalMode::External),
            _ => Err(format!("must be \"own\" or \"external\", not {text:?}")),
        }
    }
}

/// `[delivery]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct DeliveryConfig {
    pub retry_min_ms: u64,
    pub retry_max_ms: u64,
    pub retry_window_ms: u64,
    pub requests_max: usize,
    pub connect_timeout_ms: u64,
    pub timeout_ms: u64,
    pub lease_ttl_ms: u64,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: String,
}

/// `[console]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct ConsoleConfig {
    pub public_url: Option<String>,
}

/// `[alerts]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the reference")]
pub struct AlertsConfig {
    pub webhook_url: Option<Secret>,
    pub(super) webhook_url_file: Option<PathBuf>,
    pub webhook_secret: Option<Secret>,
    pub(super) webhook_secret_file: Option<PathBuf>,
    pub format: AlertFormat,
    pub min_interval_s: u64,
}

/// `alerts.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AlertFormat {
    /// A JSON object for programs.
    Json,
    /// A string for Slack's incoming webhooks.
    Slack,
}

impl AlertFormat {
    /// Returns its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertFormat::Json => "json",
            AlertFormat::Slack => "slack",
        }
    }
}

impl TryFrom<String> for AlertFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "json" => Ok(AlertFormat::Json),
            "slack" => Ok(AlertFormat::Slack),
            _ => Err(format!("must be \"json\" or \"slack\", not {text:?}")),
        }
    }
}

/// Generates a function that lists the keys of a table that differ. A new key that is not named here does not compile.
macro_rules! changed_keys {
    ($($tree:ident, $table:literal: $($key:ident),+;)+) => {
        $(
            impl $tree {
                /// Returns the keys whose values differ from those of `other`.
                pub fn changed_keys(&self, other: &Self) -> Vec<&'static str> {
                    let Self { $($key),+ } = self;
                    let mut keys = Vec::new();
                    $(
                        if *$key != other.$key {
                            keys.push(concat!($table, ".", stringify!($key)));
                        }
                    )+
                    keys
                }
            }
        )+
    };
}

changed_keys! {
    ServerConfig, "server": listen, admin_listen, admin_token, admin_tokens, admin_token_file, viewer_token, viewer_tokens,
        viewer_token_file, public_url,
        shutdown_grace_ms, header_timeout_ms, body_timeout_ms, write_timeout_ms, ack_timeout_ms,
        body_bytes_max, message_bytes_max, batch_messages_max, connections_max,
        address_connections_max, body_budget_bytes, trusted_proxies;
    StoreConfig, "store": data, url, url_file, schema, notify, listen_url, listen_url_file, connections_max, allow_network_disk, wal, duplicate_window_h, waiting_messages_max,
        waiting_bytes_max, backlog_messages_max, backlog_bytes_max, free_bytes_min, delivered_retention_h, failed_retention_h,
        records_retention_h;
    DeliveryConfig, "delivery": retry_min_ms, retry_max_ms, retry_window_ms, requests_max,
        connect_timeout_ms, timeout_ms, lease_ttl_ms;
    LogConfig, "log": format, level;
    ConsoleConfig, "console": public_url;
    AlertsConfig, "alerts": webhook_url, webhook_url_file, webhook_secret, webhook_secret_file, format,
        min_interval_s;
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Pretty,
}

/// `[sources.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTree {
    #[serde(default)]
    pub(super) write_keys: Secrets,
    pub(super) write_keys_file: Option<PathBuf>,
    pub(super) webhook_secret: Option<Secret>,
    pub(super) webhook_secrets: Option<Secrets>,
    #[serde(alias = "webhook_secrets_file")]
    pub(super) webhook_secret_file: Option<PathBuf>,
    pub(super) webhook_token: Option<Secret>,
    pub(super) webhook_tokens: Option<Secrets>,
    #[serde(alias = "webhook_tokens_file")]
    pub(super) webhook_token_file: Option<PathBuf>,
    pub(super) webhook_lists: Option<bool>,
    pub(super) destination: Option<String>,
    #[serde(default)]
    pub(super) browser: bool,
    pub(super) origins: Option<Texts>,
    pub(super) address_requests_max: Option<u32>,
    pub(super) address_bytes_max: Option<u32>,
    #[serde(default)]
    pub(super) allow_delete: bool,
    #[serde(default)]
    pub(super) stamp_ip: bool,
    pub(super) import_is_bulk: Option<bool>,
    pub(super) silent_after_s: Option<u64>,
}

/// `[destinations.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationTree {
    pub(super) api_key: Option<Secret>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) base_url: Option<String>,
    pub(super) rate: Option<u32>,
    pub(super) loops_webhook_secret: Option<Secret>,
    pub(super) loops_webhook_secrets: Option<Secrets>,
    #[serde(alias = "loops_webhook_secrets_file")]
    pub(super) loops_webhook_secret_file: Option<PathBuf>,
    pub(super) loops_webhook_forward: Option<Secret>,
    pub(super) mode: Option<String>,
    pub(super) unsupported: Option<String>,
    pub(super) placeholder_ids: Option<Texts>,
    #[serde(default)]
    pub(super) consent_categories: Texts,
    pub(super) consent: Option<String>,
    pub(super) skip_unchanged: Option<String>,
    pub(super) skip_unchanged_ttl_h: Option<u32>,
    pub(super) stale: Option<String>,
    pub(super) await_contact_s: Option<u32>,
    #[serde(default)]
    pub(super) new_contacts_per_day: u32,
    pub(super) new_contacts: Option<String>,
    #[serde(default)]
    pub(super) verify_unknown: bool,
    pub(super) identity: Option<String>,
    pub(super) identity_addresses_max: Option<u32>,
    pub(super) catalogue_refresh_s: Option<u32>,
    pub(super) unknown_properties: Option<String>,
    pub(super) wrong_types: Option<String>,
    pub(super) erased_block_days: Option<u16>,
    pub(super) merge: Option<bool>,
    #[serde(default)]
    pub(super) subscriptions: Vec<serde_json::Value>,
    #[serde(default)]
    pub(super) subscriptions_files: Texts,
}

/// A list of strings, or one string, as in an environment variable: with commas, or a JSON array. White space around
/// entries is removed, and no entry may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "WrittenTexts")]
pub struct Texts(pub Vec<String>);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenTexts {
    Many(Vec<String>),
    One(String),
}

impl TryFrom<WrittenTexts> for Texts {
    type Error = String;

    fn try_from(written: WrittenTexts) -> Result<Self, String> {
        let texts = match written {
            WrittenTexts::Many(texts) => texts,
            WrittenTexts::One(text) => split(trim(&text))?,
        };
        let texts: Vec<String> = texts.iter().map(|text| trim(text).to_owned()).collect();
        match texts.iter().position(String::is_empty) {
            Some(index) => {
                Err(format!("entry {} is empty: give it a value, or remove it", index + 1))
            }
            None => Ok(Texts(texts)),
        }
    }
}

/// Splits a list that is written as one string. Quotes around an entry would become part of it.
fn split(text: &str) -> Result<Vec<String>, String> {
    const ALLOWED: &str =
        "write the entries with commas, as in a, b, or as a JSON array, as in [\"a\", \"b\"]";
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|_| {
            format!("begins with a bracket ([), but is not a JSON array of strings: {ALLOWED}")
        });
    }
    let parts: Vec<String> = text.split(',').map(|part| trim(part).to_owned()).collect();
    let quotes = ['"', '\'', '`'];
    match parts.iter().position(|part| part.starts_with(quotes) || part.ends_with(quotes)) {
        Some(index) => Err(format!("entry {} is in quotes: {ALLOWED}", index + 1)),
        None => Ok(parts),
    }
}

/// A list of secrets, or one string, which `check::secrets` splits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Secrets {
    /// A list.
    Many(Vec<Secret>),
    /// One string that is still to be split.
    One(Secret),
}

impl Default for Secrets {
    fn default() -> Self {
        Secrets::Many(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_trimmed_and_none_is_empty() {
        let many = |texts: &[&str]| {
            WrittenTexts::Many(texts.iter().map(|text| (*text).to_owned()).collect())
        };
        let one = |text: &str| WrittenTexts::One(text.to_owned());
        let cases: [(WrittenTexts, Result<&[&str], &str>); 22] = [
            (many(&[]), Ok(&[])),
            (many(&[" me ", "\u{feff}you\n", "a b"]), Ok(&["me", "you", "a b"])),
            (many(&["\"quoted\"", "[object Object]"]), Ok(&["\"quoted\"", "[object Object]"])),
            (many(&[""]), Err("entry 1 is empty")),
            (many(&["a", " \t"]), Err("entry 2 is empty")),
            (one(""), Ok(&[])),
            (one(" \n"), Ok(&[])),
            (one("a"), Ok(&["a"])),
            (one(" a , b c,d\n"), Ok(&["a", "b c", "d"])),
            (one("a, [object Object]"), Ok(&["a", "[object Object]"])),
            (one("it's, a"), Ok(&["it's", "a"])),
            (one(","), Err("entry 1 is empty")),
            (one("a,,b"), Err("entry 2 is empty")),
            (one("a,b,"), Err("entry 3 is empty")),
            (one("[]"), Ok(&[])),
            (one(" [\"me, too\", \" you \"] "), Ok(&["me, too", "you"])),
            (one("[\"me\", \"\"]"), Err("entry 2 is empty")),
            (one("['me']"), Err("not a JSON array of strings")),
            (one("[me, you]"), Err("begins with a bracket")),
            (one("[1]"), Err("not a JSON array of strings")),
            (one("a, \"b\""), Err("entry 2 is in quotes")),
            (one("'a, b'"), Err("entry 1 is in quotes")),
        ];
        for (written, expected) in cases {
            let shown = format!("{written:?}");
            match (Texts::try_from(written), expected) {
                (Ok(texts), Ok(expected)) => assert_eq!(texts.0, expected, "{shown}"),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{shown}: {problem}"),
                (found, expected) => panic!("{shown}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
