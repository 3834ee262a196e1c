//! Combines the layers, and finds the layer that contains an error.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{ConfigBuilder, Environment, File, FileFormat};

use super::check::{
    AlertSettings, Config, Destinations, Keyless, StoreSettings, check, check_alerts,
    check_destinations, check_keyless, check_planners, check_store,
};
use super::environment::{PREFIX, SHORT_NAMES, is_ours};
use super::file::plain;
use super::subscriptions::Planner;
use super::tree::{DestinationTree, LogFormat, Texts, Tree};
use super::{ConfigError, Problem, Stage};

/// The compiled-in layer.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The options of the command line.
#[derive(Debug, Default, Clone)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--subscriptions`, for the only destination or for the one in `destination`.
    pub subscriptions: Vec<PathBuf>,
    /// `--destination`: the destination whose subscriptions `--subscriptions` replaces.
    pub destination: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// Loads and checks the configuration. `environment` comes from [`environment`](super::environment()), or from a test.
pub fn load(flags: &Flags, environment: HashMap<String, String>) -> Result<Config, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check(tree, &place)
}

/// Loads only the subscriptions of each destination, so that mappings can be tried without keys. If no destination is
/// configured, loads those of `default`.
pub fn load_planners(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<BTreeMap<String, Planner>, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check_planners(tree, &place)
}

/// Loads only what the store needs, so that a command that works on the database needs no keys.
pub fn load_store(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<StoreSettings, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check_store(tree, &place)
}

/// Loads only what alerts need.
pub fn load_alerts(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<AlertSettings, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check_alerts(tree, &place)
}

/// Loads the store, the sources and the subscriptions, but no keys.
pub fn load_keyless(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<Keyless, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check_keyless(tree, &place)
}

/// Loads the store and the destinations with their keys. An error of one destination does not keep a command from using
/// another.
pub fn load_destinations(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<Destinations, ConfigError> {
    let (tree, place) = load_tree(flags, environment)?;
    check_destinations(tree, &place)
}

fn load_tree(
    flags: &Flags,
    environment: HashMap<String, String>,
) -> Result<(Tree, String), ConfigError> {
    let mut place = "config/default.toml (compiled in)".to_owned();
    let mut builder =
        config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    let mut tree = build(&builder, &place)?;
    if let Some(file) = &flags.file {
        place = file.display().to_string();
        builder = add_file(builder, file, &place)?;
        tree = build(&builder, &place)?;
    }
    if environment.keys().any(|name| is_ours(name)) {
        builder = add_environment(builder, environment)?;
        tree = build(&builder, "environment")?;
        // From here on, an error may be in the file or in the environment.
        place = flags.file.as_ref().map_or_else(
            || "environment".to_owned(),
            |file| format!("{} or environment", file.display()),
        );
    }
    if let Some(listen) = flags.listen {
        tree.server.listen = listen;
    }
    if let Some(data) = &flags.data {
        tree.store.data.clone_from(data);
    }
    if let Some(format) = flags.log_format {
        tree.log.format = format;
    }
    if !flags.subscriptions.is_empty() {
        add_subscriptions(&mut tree, &flags.subscriptions, flags.destination.as_deref())?;
    }
    Ok((tree, place))
}

/// Replaces the configured subscriptions with the files of `--subscriptions`.
fn add_subscriptions(
    tree: &mut Tree,
    files: &[PathBuf],
    destination: Option<&str>,
) -> Result<(), ConfigError> {
    if tree.destinations.is_empty() {
        tree.destinations.insert("default".to_owned(), DestinationTree::default());
    }
    let is_meant = |name: &str| destination.is_none_or(|destination| destination == name);
    let destinations = tree.destinations.iter_mut().filter(|(name, _)| is_meant(name));
    let mut destinations: Vec<&mut DestinationTree> = destinations.map(|(_, tree)| tree).collect();
    let [only] = destinations.as_mut_slice() else {
        let problem =
            "there are several destinations: set subscriptions_files of each in the configuration";
        return Err(problem_at("command line", "--subscriptions", problem));
    };
    tree.subscriptions.clear();
    only.subscriptions.clear();
    let files = files.iter().map(|file| file.to_string_lossy().into_owned());
    only.subscriptions_files = Texts(files.collect());
    Ok(())
}

type Builder = ConfigBuilder<DefaultState>;

fn add_file(builder: Builder, file: &Path, place: &str) -> Result<Builder, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        problem_at(place, "--config", &format!("the file cannot be read: {error}"))
    })?;
    Ok(builder.add_source(File::from_str(&text, FileFormat::Toml)))
}

fn add_environment(
    builder: Builder,
    environment: HashMap<String, String>,
) -> Result<Builder, ConfigError> {
    let mut short = Vec::new();
    for (name, key) in SHORT_NAMES {
        if let Some(value) = environment.get(name) {
            short.push((name.to_owned(), key.to_owned(), value.clone()));
        }
        let name = format!("{name}_FILE");
        if let Some(value) = environment.get(&name) {
            short.push((name, format!("{key}_file"), value.clone()));
        }
    }
    let prefixed = Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(environment.into_iter().collect()));
    let mut builder = builder.add_source(prefixed);
    for (name, key, value) in short {
        builder = builder
            .set_override(&key, value)
            .map_err(|error| problem_at("environment", &name, &error.to_string()))?;
    }
    Ok(builder)
}

/// Builds the tree from the layers so far. It is called after each layer, so an error is in the last one, `place`.
fn build(builder: &Builder, place: &str) -> Result<Tree, ConfigError> {
    let layers =
        builder.build_cloned().map_err(|error| problem_at(place, "syntax", &plain(&error)))?;
    serde_path_to_error::deserialize(layers).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { "top level".to_owned() } else { path };
        problem_at(place, &key, &plain(error.inner()))
    })
}

fn problem_at(place: &str, key: &str, problem: &str) -> ConfigError {
    ConfigError(vec![Problem {
        place: place.to_owned(),
        key: key.to_owned(),
        problem: problem.to_owned(),
        stage: Stage::Parse,
    }])
}
