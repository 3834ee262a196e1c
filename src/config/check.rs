//! Checks the tree and turns it into what the program works with.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use super::secrets::Written as WrittenSecrets;
use super::subscriptions::{Planner, Written};
use super::tree::{
    DeliveryConfig, DestinationTree, LogConfig, ServerConfig, SourceTree, StoreConfig, Tree,
};
use super::{ConfigError, Mistake, Stage};
use crate::secret::Secret;

/// Where Loops' API is, by its published contract.
const BASE_URL_DEFAULT: &str = "https://app.loops.so/api/v1";

/// The highest rate that can be configured, in requests a second.
const RATE_MAX: u32 = 10_000;

/// How many requests of an address a browser source takes in a minute, unless told otherwise.
/// analytics.js sends a request for each event, and whole offices share an address.
const ADDRESS_REQUESTS_DEFAULT: u32 = 600;

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// The tokens of `server.admin_tokens` and its short forms; none: the admin API is off.
    pub admin_tokens: Vec<Secret>,
    /// The proxies of `server.trusted_proxies`.
    pub trusted_proxies: Vec<Network>,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[delivery]`.
    pub delivery: DeliveryConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// By name; at least one.
    pub sources: BTreeMap<String, SourceConfig>,
    /// By name; at least one.
    pub destinations: BTreeMap<String, DestinationConfig>,
}

/// A source.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// At least one, none empty, none known to another source.
    pub write_keys: Vec<Secret>,
    /// Shared secrets of Segment's webhook, each of which counts; none: no signature is demanded.
    pub webhook_secrets: Vec<Secret>,
    /// Tokens that the webhook may send; none: no token is demanded.
    pub webhook_tokens: Vec<Secret>,
    /// Name of a destination that exists.
    pub destination: String,
    /// What holds where its write keys are public; `None` where they are secret.
    pub browser: Option<BrowserConfig>,
    /// The origins of the pages that may send, as browsers write them; `None`: all.
    pub origins: Option<Vec<String>>,
    /// Whether the sender's address is put into messages as `context.ip`.
    pub stamp_ip: bool,
    /// Whether what comes to `/v1/import` is a bulk load.
    pub import_is_bulk: bool,
}

/// What holds for a source whose write keys are public.
#[derive(Debug, Clone, Copy)]
pub struct BrowserConfig {
    /// Requests of an address in a minute; not zero.
    pub address_requests_max: u32,
    /// Whether messages of type `delete` are taken.
    pub allow_delete: bool,
}

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// Leading bits that its addresses share.
    pub prefix: u8,
}

/// A destination.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// Loops' API key, not empty.
    pub api_key: Secret,
    /// Where Loops' API is.
    pub base_url: String,
    /// Requests a second; `None`: what Loops says, 10 until it says something.
    pub rate: Option<u32>,
    /// Its subscriptions.
    pub planner: Planner,
}

/// Checks the tree; `place` names the file, or the environment where there is none.
pub(super) fn check(tree: Tree, place: &str) -> Result<Config, ConfigError> {
    let mut check = Check { place, mistakes: Vec::new() };
    let Tree { mut server, store, delivery, log, sources, mut destinations, subscriptions } = tree;
    check.shared_subscriptions(subscriptions, &mut destinations);
    let admin_tokens = check.secrets(WrittenSecrets {
        table: "server",
        name: "admin_token",
        single: server.admin_token.take(),
        list: server.admin_tokens.take(),
        file: server.admin_token_file.as_deref(),
    });
    check.limits(&server, &store, &delivery);
    check.public_url(server.public_url.as_deref());
    let trusted_proxies = check.networks("server.trusted_proxies", &server.trusted_proxies.0);
    if destinations.is_empty() {
        check.missing("destinations", "there is none: set LOOPS_API_KEY (from Loops: Settings, API), or add [destinations.NAME] with api_key to a file given with --config");
    }
    if sources.is_empty() {
        check.missing("sources", "there is none: set SEGMENT_WRITE_KEY to a key of your own choice that your senders will use, or add [sources.NAME] with write_keys to a file given with --config");
    }
    let known: Vec<String> = destinations.keys().cloned().collect();
    let destinations =
        check.each(destinations, "destinations", |check, key, tree| check.destination(key, tree));
    let sources =
        check.each(sources, "sources", |check, key, tree| check.source(key, tree, &known));
    check.write_keys_once(&sources);
    if check.mistakes.is_empty() {
        return Ok(Config {
            server,
            admin_tokens,
            trusted_proxies,
            store,
            delivery,
            log,
            sources,
            destinations,
        });
    }
    Err(ConfigError(check.mistakes))
}

/// Checks the subscriptions of the tree and nothing else.
pub(super) fn check_planners(
    tree: Tree,
    place: &str,
) -> Result<BTreeMap<String, Planner>, ConfigError> {
    let mut check = Check { place, mistakes: Vec::new() };
    let Tree { mut destinations, subscriptions, .. } = tree;
    if destinations.is_empty() {
        destinations.insert("default".to_owned(), DestinationTree::default());
    }
    check.shared_subscriptions(subscriptions, &mut destinations);
    let mut planners = BTreeMap::new();
    for (name, tree) in destinations {
        if let Some(planner) = check.planner(&format!("destinations.{name}"), tree) {
            planners.insert(name, planner);
        }
    }
    if check.mistakes.is_empty() { Ok(planners) } else { Err(ConfigError(check.mistakes)) }
}

pub(super) struct Check<'a> {
    pub(super) place: &'a str,
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    pub(super) fn mistake(&mut self, key: &str, problem: impl Into<String>) {
        self.mistake_of(Stage::Compile, key, problem);
    }

    /// Something that is not there: a key, a secret's file.
    pub(super) fn missing(&mut self, key: &str, problem: impl Into<String>) {
        self.mistake_of(Stage::Environment, key, problem);
    }

    fn mistake_of(&mut self, stage: Stage, key: &str, problem: impl Into<String>) {
        self.mistakes.push(Mistake {
            stage,
            place: self.place.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
        });
    }

    fn each<T, U>(
        &mut self,
        trees: BTreeMap<String, T>,
        table: &str,
        mut one: impl FnMut(&mut Self, &str, T) -> Option<U>,
    ) -> BTreeMap<String, U> {
        let mut checked = BTreeMap::new();
        for (name, tree) in trees {
            let key = format!("{table}.{name}");
            let is_plain = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
            };
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
                self.mistake(&key, "a name has 1 to 64 small letters, digits, - and _");
            }
            if let Some(value) = one(self, &key, tree) {
                checked.insert(name, value);
            }
        }
        checked
    }

    /// Subscriptions at the top level are those of the only destination.
    fn shared_subscriptions(
        &mut self,
        subscriptions: Vec<serde_json::Value>,
        destinations: &mut BTreeMap<String, DestinationTree>,
    ) {
        if subscriptions.is_empty() {
            return;
        }
        let mut own: Vec<&mut DestinationTree> = destinations.values_mut().collect();
        match own.as_mut_slice() {
            [only] => only.subscriptions.splice(0..0, subscriptions).for_each(drop),
            [] => {}
            _ => self.mistake(
                "subscriptions",
                "there are several destinations: write [[destinations.NAME.subscriptions]]",
            ),
        }
    }

    fn destination(&mut self, key: &str, mut tree: DestinationTree) -> Option<DestinationConfig> {
        let api_key = self.secret(
            &format!("{key}.api_key"),
            tree.api_key.take(),
            tree.api_key_file.as_deref(),
        );
        let base_url = tree.base_url.take().unwrap_or_else(|| BASE_URL_DEFAULT.to_owned());
        if !base_url.starts_with("https://") && !base_url.starts_with("http://") {
            self.mistake(
                &format!("{key}.base_url"),
                format!("`{base_url}` must begin with https:// (or http:// for a test)"),
            );
        }
        if tree.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
            self.mistake(
                &format!("{key}.rate"),
                format!("must be 1 to {RATE_MAX} requests a second"),
            );
        }
        let rate = tree.rate;
        let planner = self.planner(key, tree);
        match api_key {
            Some(Some(api_key)) => {
                Some(DestinationConfig { api_key, base_url, rate, planner: planner? })
            }
            None => None,
            Some(None) => {
                let hint =
                    if key == "destinations.default" { "set LOOPS_API_KEY, or " } else { "" };
                self.missing(
                    &format!("{key}.api_key"),
                    format!("there is no API key: {hint}give api_key or api_key_file (from Loops: Settings, API); to try the program without an account: segment-loops dev"),
                );
                None
            }
        }
    }

    fn planner(&mut self, key: &str, tree: DestinationTree) -> Option<Planner> {
        let written = Written {
            place: self.place,
            key,
            inline: tree.subscriptions,
            files: tree.subscriptions_files.0.into_iter().map(PathBuf::from).collect(),
            unsupported: tree.unsupported,
            placeholder_ids: tree.placeholder_ids.map(|ids| ids.0),
            consent_categories: tree.consent_categories.0,
            merge: tree.merge.unwrap_or(true),
        };
        Planner::load(written).map_err(|mut mistakes| self.mistakes.append(&mut mistakes)).ok()
    }

    fn source(&mut self, key: &str, tree: SourceTree, known: &[String]) -> Option<SourceConfig> {
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
        let destination = match (tree.destination, known) {
            (Some(name), _) if known.contains(&name) => name,
            (Some(name), _) => {
                self.mistake(
                    &format!("{key}.destination"),
                    format!("there is no destination `{name}`; there is: {}", known.join(", ")),
                );
                return None;
            }
            (None, [only]) => only.clone(),
            (None, []) => return None,
            (None, _) => {
                self.mistake(
                    &format!("{key}.destination"),
                    format!("say which one: {}", known.join(", ")),
                );
                return None;
            }
        };
        Some(SourceConfig {
            write_keys: write_keys.unwrap_or_default(),
            webhook_secrets,
            webhook_tokens,
            destination,
            browser,
            origins,
            stamp_ip: tree.stamp_ip,
            import_is_bulk: tree.import_is_bulk.unwrap_or(true),
        })
    }

    fn usable_write_keys(&mut self, key: &str, keys_key: &str, write_keys: &[Secret]) {
        if write_keys.is_empty() {
            let hint = if key == "sources.default" { "set SEGMENT_WRITE_KEY, or " } else { "" };
            self.missing(keys_key, format!("there is no write key: {hint}give at least one"));
        }
        if write_keys.iter().any(|write_key| write_key.expose().contains(':')) {
            self.mistake(
                keys_key,
                "a write key holds a colon, which HTTP Basic authentication cannot carry",
            );
        }
    }

    fn browser(&mut self, key: &str, tree: &SourceTree) -> Option<BrowserConfig> {
        if !tree.browser {
            let of_browsers = [
                ("address_requests_max", tree.address_requests_max.is_some()),
                ("allow_delete", tree.allow_delete),
            ];
            for (name, _) in of_browsers.iter().filter(|(_, is_given)| *is_given) {
                self.mistake(&format!("{key}.{name}"), "is for a source with browser = true only");
            }
            return None;
        }
        let address_requests_max = tree.address_requests_max.unwrap_or(ADDRESS_REQUESTS_DEFAULT);
        if address_requests_max == 0 {
            self.mistake(&format!("{key}.address_requests_max"), "must be 1 or more");
        }
        Some(BrowserConfig { address_requests_max, allow_delete: tree.allow_delete })
    }

    /// Origins as browsers write them: small letters, and nothing behind the port.
    fn origins(&mut self, key: &str, origins: Vec<String>) -> Vec<String> {
        let key = format!("{key}.origins");
        if origins.is_empty() {
            self.mistake(&key, "is empty: name the origins of your pages, or leave it out for all");
        }
        for origin in &origins {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let is_plain = |host: &str| {
                !host.is_empty()
                    && !host.contains(['/', '?', '#', '@', '*'])
                    && !host.chars().any(|c| c.is_ascii_uppercase() || c.is_whitespace())
            };
            if !host.is_some_and(is_plain) {
                self.mistake(
                    &key,
                    format!("`{origin}` is no origin: write it as browsers do, such as https://shop.example or http://localhost:3000, in small letters and with no path"),
                );
            }
        }
        origins
    }

    /// The URL of this service as senders see it: a scheme, a host, perhaps a path.
    fn public_url(&mut self, url: Option<&str>) {
        let Some(url) = url else { return };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let is_plain = |rest: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]/".contains(&byte);
            !rest.starts_with('/') && !rest.is_empty() && rest.bytes().all(is_plain)
        };
        if !rest.is_some_and(is_plain) {
            self.mistake(
                "server.public_url",
                format!("`{url}` is not the URL of a service: write it such as https://events.example.com or https://example.com/segment, without a query"),
            );
        }
    }

    fn networks(&mut self, key: &str, texts: &[String]) -> Vec<Network> {
        let mut networks = Vec::new();
        for text in texts {
            match network(text) {
                Some(network) => networks.push(network),
                None => self.mistake(
                    key,
                    format!("`{text}` is neither an address nor a network such as 10.0.0.0/8"),
                ),
            }
        }
        networks
    }

    fn write_keys_once(&mut self, sources: &BTreeMap<String, SourceConfig>) {
        let mut owners: HashMap<&str, &str> = HashMap::new();
        let mut problems = Vec::new();
        for (name, source) in sources {
            for write_key in &source.write_keys {
                if let Some(owner) = owners.insert(write_key.expose(), name)
                    && owner != name
                {
                    problems.push((format!("sources.{name}.write_keys"), format!("a key of it is also a key of source `{owner}`: a message could not be told to be of one or the other")));
                }
            }
        }
        problems.into_iter().for_each(|(key, problem)| self.mistake(&key, problem));
    }

    fn limits(&mut self, server: &ServerConfig, store: &StoreConfig, delivery: &DeliveryConfig) {
        let at_least_one: [(&str, u64); 18] = [
            ("server.header_timeout_ms", server.header_timeout_ms),
            ("server.body_timeout_ms", server.body_timeout_ms),
            ("server.ack_timeout_ms", server.ack_timeout_ms),
            ("server.body_bytes_max", server.body_bytes_max as u64),
            ("server.message_bytes_max", server.message_bytes_max as u64),
            ("server.batch_messages_max", server.batch_messages_max as u64),
            ("server.connections_max", server.connections_max as u64),
            ("store.waiting_messages_max", store.waiting_messages_max as u64),
            ("store.waiting_bytes_max", store.waiting_bytes_max as u64),
            ("store.backlog_messages_max", store.backlog_messages_max),
            ("store.duplicate_window_h", store.duplicate_window_h),
            ("store.records_retention_h", store.records_retention_h),
            ("delivery.retry_min_ms", delivery.retry_min_ms),
            ("delivery.retry_window_ms", delivery.retry_window_ms),
            ("delivery.requests_max", delivery.requests_max as u64),
            ("delivery.connect_timeout_ms", delivery.connect_timeout_ms),
            ("delivery.timeout_ms", delivery.timeout_ms),
            ("delivery.lease_ttl_ms", delivery.lease_ttl_ms),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                self.mistake(key, "must be 1 or more");
            }
        }
        let ordered = [
            (
                "server.message_bytes_max",
                server.message_bytes_max,
                "server.body_bytes_max",
                server.body_bytes_max,
            ),
            (
                "server.body_bytes_max",
                server.body_bytes_max,
                "server.body_budget_bytes",
                server.body_budget_bytes,
            ),
            // A batch that can never be stored would be sent again for ever.
            (
                "four times server.body_bytes_max",
                server.body_bytes_max.saturating_mul(4),
                "store.waiting_bytes_max",
                store.waiting_bytes_max,
            ),
            (
                "server.batch_messages_max",
                server.batch_messages_max,
                "store.waiting_messages_max",
                store.waiting_messages_max,
            ),
        ];
        for (low_key, low, high_key, high) in ordered {
            if low > high {
                self.mistake(low_key, format!("is {low}, more than {high_key}, which is {high}"));
            }
        }
        // Port 0 is a different port each time.
        if server.admin_listen == Some(server.listen) && server.listen.port() != 0 {
            self.mistake(
                "server.admin_listen",
                "is the same address as server.listen: give another port, or leave it out to have both on one",
            );
        }
        if delivery.retry_min_ms > delivery.retry_max_ms {
            self.mistake("delivery.retry_min_ms", "is more than delivery.retry_max_ms");
        }
        // Hours become milliseconds since 1970 in the store: a thousand years is far enough.
        const HOURS_MAX: u64 = 24 * 366 * 1_000;
        let hours = [
            ("store.duplicate_window_h", store.duplicate_window_h),
            ("store.delivered_retention_h", store.delivered_retention_h),
            ("store.failed_retention_h", store.failed_retention_h),
            ("store.records_retention_h", store.records_retention_h),
        ];
        for (key, value) in hours {
            if value > HOURS_MAX {
                self.mistake(key, format!("must be {HOURS_MAX} or less"));
            }
        }
        if delivery.lease_ttl_ms < 300 {
            self.mistake(
                "delivery.lease_ttl_ms",
                "must be 300 or more: it is renewed three times within it",
            );
        }
    }
}

/// Reads an address (a network of one) or a network.
fn network(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok())?;
    (prefix <= most).then_some(Network { address, prefix })
}
