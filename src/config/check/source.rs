//! `[sources.NAME]`.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::errors::Check;
use super::secrets::WrittenSecrets;
use crate::config::tree::SourceTree;
use crate::secret::Secret;

/// How many requests a minute a browser source takes from one address by default. analytics.js sends a request for each
/// event, and a whole office may share an address.
const ADDRESS_REQUESTS_DEFAULT: u32 = 600;

/// How many bytes a minute a browser source stores for one address by default: 600 events of analytics.js need less
/// than a tenth of it.
const ADDRESS_BYTES_DEFAULT: u32 = 10_000_000;

/// The range of times after which a source may count as silent. Messages are counted by minute, and these counts are
/// kept for two days.
const SILENT_AFTER_S: RangeInclusive<u64> = 300..=86_400;

/// A source.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// At least one. None is empty, and none belongs to another source.
    pub write_keys: Vec<Secret>,
    /// The shared secrets of Segment's webhook, any of which may sign; if there are none, no signature is required.
    pub webhook_secrets: Vec<Secret>,
    /// The tokens of the webhook, any of which may be sent; if there are none, no token is required.
    pub webhook_tokens: Vec<Secret>,
    /// Whether the webhook takes lists of messages.
    pub webhook_lists: bool,
    /// The name of an existing destination.
    pub destination: String,
    /// The limits of a source whose write keys are public; `None` if they are secret.
    pub browser: Option<BrowserConfig>,
    /// The origins of the pages that may send, as browsers write them; `None` allows all.
    pub origins: Option<Vec<String>>,
    /// Whether the sender's address is stored in messages as `context.ip`.
    pub stamp_ip: bool,
    /// Whether messages to `/v1/import` are a bulk load.
    pub import_is_bulk: bool,
    /// How long a source may send nothing before an alert says so; `None` means that it never does.
    pub silent_after: Option<Duration>,
}

/// The limits of a source whose write keys are public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrowserConfig {
    /// Requests a minute from one address; not zero.
    pub address_requests_max: u32,
    /// Stored bytes a minute from one address; not zero.
    pub address_bytes_max: u32,
    /// Whether messages of type `delete` are accepted.
    pub allow_delete: bool,
}

impl Check<'_> {
    pub(super) fn source(
        &mut self,
        key: &str,
        tree: SourceTree,
        known: &[String],
    ) -> Option<SourceConfig> {
        if tree.silent_after_s.is_some_and(|seconds| !SILENT_AFTER_S.contains(&seconds)) {
            let (least, most) = (SILENT_AFTER_S.start(), SILENT_AFTER_S.end());
            self.report(
                &format!("{key}.silent_after_s"),
                format!("must be from {least} (5 minutes) to {most} (a day)"),
            );
        }
        let browser = self.browser(key, &tree);
        let origins = tree.origins.map(|origins| self.origins(key, origins.0));
        let keys_key = format!("{key}.write_keys");
        let write_keys =
            self.write_keys(&keys_key, tree.write_keys, tree.write_keys_file.as_deref());
        if let Some(write_keys) = &write_keys {
            self.usable_write_keys(key, &keys_key, write_keys);
        }
        let webhook_secrets = self.secrets(WrittenSecrets {
            table: key,
            name: "webhook_secret",
            single: tree.webhook_secret,
            list: tree.webhook_secrets,
            file: tree.webhook_secret_file.as_deref(),
        });
        let webhook_tokens = self.secrets(WrittenSecrets {
            table: key,
            name: "webhook_token",
            single: tree.webhook_token,
            list: tree.webhook_tokens,
            file: tree.webhook_token_file.as_deref(),
        });
        let destination = self.destination_of(key, tree.destination, known)?;
        Some(SourceConfig {
            write_keys: write_keys.unwrap_or_default(),
            webhook_secrets,
            webhook_tokens,
            webhook_lists: tree.webhook_lists.unwrap_or(true),
            destination,
            browser,
            origins,
            stamp_ip: tree.stamp_ip,
            import_is_bulk: tree.import_is_bulk.unwrap_or(true),
            silent_after: tree.silent_after_s.map(Duration::from_secs),
        })
    }

    /// Returns the destination of a source: the one that it names, or the only one.
    pub(super) fn destination_of(
        &mut self,
        key: &str,
        named: Option<String>,
        known: &[String],
    ) -> Option<String> {
        let key = format!("{key}.destination");
        let allowed = known.join(", ");
        match (named, known) {
            (Some(name), _) if known.contains(&name) => Some(name),
            (Some(name), _) => {
                let problem = format!("there is no destination `{name}`; allowed are {allowed}");
                self.report(&key, problem);
                None
            }
            (None, [only]) => Some(only.clone()),
            (None, []) => None,
            (None, _) => {
                let problem =
                    format!("is missing: there are several destinations; allowed are {allowed}");
                self.report(&key, problem);
                None
            }
        }
    }

    fn usable_write_keys(&mut self, key: &str, keys_key: &str, write_keys: &[Secret]) {
        if write_keys.is_empty() {
            let hint = if key == "sources.default" { "set SEGMENT_WRITE_KEY, or " } else { "" };
            self.missing(keys_key, format!("there is no write key: {hint}give at least one"));
        }
        if write_keys.iter().any(|write_key| write_key.expose().contains(':')) {
            self.report(
                keys_key,
                "a write key holds a colon, which HTTP Basic authentication cannot carry",
            );
        }
    }

    fn browser(&mut self, key: &str, tree: &SourceTree) -> Option<BrowserConfig> {
        if !tree.browser {
            let of_browsers = [
                ("address_requests_max", tree.address_requests_max.is_some()),
                ("address_bytes_max", tree.address_bytes_max.is_some()),
                ("allow_delete", tree.allow_delete),
            ];
            for (name, _) in of_browsers.iter().filter(|(_, is_given)| *is_given) {
                self.report(&format!("{key}.{name}"), "needs browser = true");
            }
            return None;
        }
        let address_requests_max = tree.address_requests_max.unwrap_or(ADDRESS_REQUESTS_DEFAULT);
        let address_bytes_max = tree.address_bytes_max.unwrap_or(ADDRESS_BYTES_DEFAULT);
        let limits = [
            ("address_requests_max", address_requests_max),
            ("address_bytes_max", address_bytes_max),
        ];
        for (name, _) in limits.iter().filter(|(_, limit)| *limit == 0) {
            self.report(&format!("{key}.{name}"), "must be 1 or more");
        }
        Some(BrowserConfig {
            address_requests_max,
            address_bytes_max,
            allow_delete: tree.allow_delete,
        })
    }

    /// Checks origins as browsers write them: in lower case, with nothing after the port.
    fn origins(&mut self, key: &str, origins: Vec<String>) -> Vec<String> {
        let key = format!("{key}.origins");
        if origins.is_empty() {
            self.report(
                &key,
                "is empty: list the origins of your pages, or leave the key out to allow all",
            );
        }
        for origin in &origins {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let is_plain = |host: &str| {
                !host.is_empty()
                    && !host.contains(['/', '?', '#', '@', '*'])
                    && !host.chars().any(|c| c.is_ascii_uppercase() || c.is_whitespace())
            };
            if !host.is_some_and(is_plain) {
                self.report(
                    &key,
                    format!("`{origin}` is not an origin: write it as browsers do, such as https://shop.example or http://localhost:3000, in lower case and without a path"),
                );
            }
        }
        origins
    }

    /// The longest message must fit into what its address may store in a minute. Otherwise, its sender would retry
    /// forever.
    pub(super) fn address_bytes(
        &mut self,
        sources: &BTreeMap<String, SourceConfig>,
        message_bytes_max: usize,
    ) {
        for (name, source) in sources {
            let Some(most) = source.browser.map(|browser| browser.address_bytes_max) else {
                continue;
            };
            if (most as usize) < message_bytes_max {
                self.report(
                    &format!("sources.{name}.address_bytes_max"),
                    format!("is {most}, which is less than server.message_bytes_max ({message_bytes_max}): raise it, or lower the other"),
                );
            }
        }
    }

    pub(super) fn write_keys_once(&mut self, sources: &BTreeMap<String, SourceConfig>) {
        let mut owners: HashMap<&str, &str> = HashMap::new();
        let mut problems = Vec::new();
        for (name, source) in sources {
            for write_key in &source.write_keys {
                if let Some(owner) = owners.insert(write_key.expose(), name)
                    && owner != name
                {
                    problems.push((format!("sources.{name}.write_keys"), format!("one of its keys also belongs to source `{owner}`, so that the source of a message would be ambiguous")));
                }
            }
        }
        problems.into_iter().for_each(|(key, problem)| self.report(&key, problem));
    }
}
