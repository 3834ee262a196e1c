//! Checks the tree and turns it into the configuration that the program uses.

mod alerts;
mod destination;
mod errors;
mod secrets;
mod server;
mod source;

use std::collections::BTreeMap;

use self::errors::Check;
use self::secrets::WrittenSecrets;
use super::ConfigError;
use super::subscriptions::Planner;
use super::tree::{
    AlertsConfig, ConsoleConfig, DeliveryConfig, DestinationTree, LogConfig, ServerConfig,
    StoreConfig, Tree,
};
use crate::secret::Secret;
use crate::telemetry;

pub use self::destination::DestinationConfig;
pub use self::server::Network;
pub use self::source::{BrowserConfig, SourceConfig};

/// A configuration without errors.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// The tokens of `server.admin_tokens` and its short forms. If there are none, the admin API is off.
    pub admin_tokens: Vec<Secret>,
    /// The tokens of `server.viewer_tokens` and its short forms, which only read.
    pub viewer_tokens: Vec<Secret>,
    /// The proxies of `server.trusted_proxies`.
    pub trusted_proxies: Vec<Network>,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[delivery]`.
    pub delivery: DeliveryConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[console]`.
    pub console: ConsoleConfig,
    /// `[alerts]`.
    pub alerts: AlertsConfig,
    /// The sources by name; at least one.
    pub sources: BTreeMap<String, SourceConfig>,
    /// The destinations by name; at least one.
    pub destinations: BTreeMap<String, DestinationConfig>,
}

/// Only what the store needs, so that a command that works on the database needs no keys.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `[store]`.
    pub store: StoreConfig,
    /// `[delivery]`.
    pub delivery: DeliveryConfig,
    /// `[log]`.
    pub log: LogConfig,
}

/// Only what alerts need.
#[derive(Debug, Clone)]
pub struct AlertSettings {
    /// `[alerts]`.
    pub alerts: AlertsConfig,
    /// `[console]`.
    pub console: ConsoleConfig,
}

/// A configuration without the keys of its sources and destinations.
#[derive(Debug, Clone)]
pub struct Keyless {
    /// What the store needs.
    pub settings: StoreSettings,
    /// `server.message_bytes_max`.
    pub message_bytes_max: usize,
    /// The names of the configured sources, each with its destination.
    pub sources: BTreeMap<String, String>,
    /// The subscriptions of each destination; those of `default` if no destination is configured.
    pub planners: BTreeMap<String, Planner>,
    /// Whether no destination is configured, so that `default` is assumed.
    pub is_assumed: bool,
}

/// What a command needs that works on the database and calls Loops for one destination.
#[derive(Debug, Clone)]
pub struct Destinations {
    /// What the store needs.
    pub settings: StoreSettings,
    /// The destinations by name, at least one, each with the errors of its own.
    pub destinations: BTreeMap<String, Result<DestinationConfig, ConfigError>>,
}

/// Checks what the store needs.
pub(super) fn check_store(tree: Tree, place: &str) -> Result<StoreSettings, ConfigError> {
    let mut check = Check::new(place);
    let Tree { server, mut store, delivery, log, .. } = tree;
    check.store(&mut store);
    check.limits(&server, &store, &delivery);
    check.log(&log);
    check.finish()?;
    Ok(StoreSettings { store, delivery, log })
}

/// Checks what alerts need.
pub(super) fn check_alerts(tree: Tree, place: &str) -> Result<AlertSettings, ConfigError> {
    let mut check = Check::new(place);
    let Tree { mut alerts, console, .. } = tree;
    check.alerts(&mut alerts);
    check.console_url(console.public_url.as_deref());
    check.finish()?;
    Ok(AlertSettings { alerts, console })
}

/// Checks everything except keys, tokens and addresses.
pub(super) fn check_keyless(tree: Tree, place: &str) -> Result<Keyless, ConfigError> {
    let mut check = Check::new(place);
    let Tree { server, mut store, delivery, log, sources, mut destinations, subscriptions, .. } =
        tree;
    check.store(&mut store);
    check.limits(&server, &store, &delivery);
    check.log(&log);
    let is_assumed = destinations.is_empty();
    let planners = check.planners(&mut destinations, subscriptions);
    let known: Vec<String> = planners.keys().cloned().collect();
    let sources = check.each(sources, "sources", |check, key, tree| {
        check.destination_of(key, tree.destination, &known)
    });
    check.finish()?;
    let settings = StoreSettings { store, delivery, log };
    let message_bytes_max = server.message_bytes_max;
    Ok(Keyless { settings, message_bytes_max, sources, planners, is_assumed })
}

/// Checks what the store needs, and each destination by itself.
pub(super) fn check_destinations(tree: Tree, place: &str) -> Result<Destinations, ConfigError> {
    let mut check = Check::new(place);
    let Tree { server, mut store, delivery, log, mut destinations, subscriptions, .. } = tree;
    check.store(&mut store);
    check.limits(&server, &store, &delivery);
    check.log(&log);
    check.some_destination(&destinations);
    check.shared_subscriptions(subscriptions, &mut destinations);
    check.finish()?;
    let destinations = destinations.into_iter().map(|(name, tree)| {
        let mut check = Check::new(place);
        let mut checked =
            check.each([(name.clone(), tree)].into(), "destinations", |check, key, tree| {
                check.destination(key, tree)
            });
        let checked = check.finish().map(|()| checked.remove(&name));
        (name, checked)
    });
    // One that cannot be used has errors.
    let destinations =
        destinations.filter_map(|(name, checked)| Some((name, checked.transpose()?)));
    let settings = StoreSettings { store, delivery, log };
    Ok(Destinations { settings, destinations: destinations.collect() })
}

/// Checks the tree. `place` names the file, or the environment if there is no file.
pub(super) fn check(tree: Tree, place: &str) -> Result<Config, ConfigError> {
    let mut check = Check::new(place);
    let Tree {
        mut server,
        mut store,
        delivery,
        log,
        console,
        mut alerts,
        sources,
        mut destinations,
        subscriptions,
    } = tree;
    check.shared_subscriptions(subscriptions, &mut destinations);
    let admin_tokens = check.secrets(WrittenSecrets {
        table: "server",
        name: "admin_token",
        single: server.admin_token.take(),
        list: server.admin_tokens.take(),
        file: server.admin_token_file.as_deref(),
    });
    let viewer_tokens = check.secrets(WrittenSecrets {
        table: "server",
        name: "viewer_token",
        single: server.viewer_token.take(),
        list: server.viewer_tokens.take(),
        file: server.viewer_token_file.as_deref(),
    });
    if viewer_tokens.iter().any(|token| admin_tokens.contains(token)) {
        check.report(
            "server.viewer_tokens",
            "a viewer token is also an admin token: use a token of its own, which only reads"
                .to_owned(),
        );
    }
    check.store(&mut store);
    check.limits(&server, &store, &delivery);
    check.alerts(&mut alerts);
    check.console_url(console.public_url.as_deref());
    check.log(&log);
    check.public_url(server.public_url.as_deref());
    let trusted_proxies = check.networks("server.trusted_proxies", &server.trusted_proxies.0);
    check.some_destination(&destinations);
    if sources.is_empty() {
        check.missing("sources", "no source is configured: set SEGMENT_WRITE_KEY to a key of your own choice that your senders will use, or add [sources.NAME] with write_keys to a file given with --config");
    }
    let known: Vec<String> = destinations.keys().cloned().collect();
    let destinations =
        check.each(destinations, "destinations", |check, key, tree| check.destination(key, tree));
    let sources =
        check.each(sources, "sources", |check, key, tree| check.source(key, tree, &known));
    check.write_keys_once(&sources);
    check.address_bytes(&sources, server.message_bytes_max);
    check.accounts_once(&destinations);
    check.finish()?;
    Ok(Config {
        server,
        admin_tokens,
        viewer_tokens,
        trusted_proxies,
        store,
        delivery,
        log,
        console,
        alerts,
        sources,
        destinations,
    })
}

/// Checks only the subscriptions of the tree.
pub(super) fn check_planners(
    tree: Tree,
    place: &str,
) -> Result<BTreeMap<String, Planner>, ConfigError> {
    let mut check = Check::new(place);
    let Tree { mut destinations, subscriptions, .. } = tree;
    let planners = check.planners(&mut destinations, subscriptions);
    check.finish()?;
    Ok(planners)
}

impl Check<'_> {
    fn some_destination(&mut self, destinations: &BTreeMap<String, DestinationTree>) {
        if destinations.is_empty() {
            self.missing("destinations", "no destination is configured: set LOOPS_API_KEY (from Loops: Settings, API), or add [destinations.NAME] with api_key to a file given with --config");
        }
    }

    /// Returns the subscriptions of each destination; those of `default` if no destination is configured.
    fn planners(
        &mut self,
        destinations: &mut BTreeMap<String, DestinationTree>,
        subscriptions: Vec<serde_json::Value>,
    ) -> BTreeMap<String, Planner> {
        if destinations.is_empty() {
            destinations.insert("default".to_owned(), DestinationTree::default());
        }
        self.shared_subscriptions(subscriptions, destinations);
        let mut planners = BTreeMap::new();
        for (name, tree) in std::mem::take(destinations) {
            if let Some(planner) = self.planner(&format!("destinations.{name}"), tree) {
                planners.insert(name, planner);
            }
        }
        planners
    }

    /// Reads the URLs of the database from their keys or files.
    fn store(&mut self, store: &mut StoreConfig) {
        let file = store.url_file.clone();
        store.url = self.secret("store.url", store.url.take(), file.as_deref()).flatten();
        let (file, url) = (store.listen_url_file.clone(), store.listen_url.take());
        store.listen_url = self.secret("store.listen_url", url, file.as_deref()).flatten();
    }

    fn log(&mut self, log: &LogConfig) {
        if let Err(problem) = telemetry::level(&log.level) {
            self.report("log.level", problem);
        }
    }
}
