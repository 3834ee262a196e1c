//! Puts a changed configuration into force without a restart. Subscriptions and sources change between two messages,
//! and accepted messages are not affected. A configuration with errors changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::changes::changes;
use super::counters;
use super::error::NOTHING_KNOWN;
use crate::clock::SharedClock;
use crate::config::{BrowserConfig, Config, ConfigError, Problem, Stage};
use crate::console::view::{ReloadProblem, Reloaded};
use crate::console::{Planners, Reload};
use crate::destination::{Destination, NewContactsPolicy};
use crate::feedback::Key;
use crate::http::{
    AddressLimit, LoopsWebhook, LoopsWebhooks, Public, Source, SourceCounts, Sources,
};
use crate::queue::Store;
use crate::segment::MessageType;
use crate::telemetry;

/// Loads the configuration. It is called again at each reload.
pub type LoadConfig = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Holds the parts of the configuration that can change while the program runs.
pub(super) struct Reloader {
    load: LoadConfig,
    store: Arc<dyn Store>,
    clock: SharedClock,
    /// Held during a reload.
    reloading: Mutex<()>,
    current: Mutex<Config>,
    planners: HashMap<String, watch::Sender<Arc<Destination>>>,
    sources: watch::Sender<Arc<Sources>>,
    loops_webhooks: watch::Sender<Arc<LoopsWebhooks>>,
    /// Wakes the tasks that hand webhooks on, by destination name.
    forwards: HashMap<String, Arc<Notify>>,
    /// When the configuration was last reloaded, and the result.
    last: Mutex<Option<(Instant, Reloaded)>>,
}

impl Reloader {
    pub(super) fn new(
        config: Config,
        load: LoadConfig,
        store: Arc<dyn Store>,
        clock: SharedClock,
        planners: HashMap<String, watch::Sender<Arc<Destination>>>,
    ) -> Self {
        let sources = watch::Sender::new(Arc::new(sources(&config, &Sources::default())));
        let handing_on = config.destinations.iter();
        let handing_on = handing_on.filter(|(_, one)| one.loops_webhook_forward.is_some());
        let forwards: HashMap<_, _> =
            handing_on.map(|(name, _)| (name.clone(), Arc::<Notify>::default())).collect();
        let loops_webhooks = watch::Sender::new(Arc::new(loops_webhooks(&config, &forwards)));
        Self {
            load,
            store,
            clock,
            reloading: Mutex::default(),
            current: Mutex::new(config),
            planners,
            sources,
            loops_webhooks,
            forwards,
            last: Mutex::default(),
        }
    }

    pub(super) fn loops_webhooks(&self) -> watch::Receiver<Arc<LoopsWebhooks>> {
        self.loops_webhooks.subscribe()
    }

    /// Returns the signal that wakes the task that hands on the webhooks of a destination; `None` if they are not
    /// handed on.
    pub(super) fn forward(&self, destination: &str) -> Option<Arc<Notify>> {
        self.forwards.get(destination).map(Arc::clone)
    }

    pub(super) fn sources(&self) -> watch::Receiver<Arc<Sources>> {
        self.sources.subscribe()
    }

    pub(super) fn planners(&self) -> Planners {
        let planners = self.planners.iter();
        planners.map(|(name, sender)| (name.clone(), sender.subscribe())).collect()
    }

    pub(super) fn config(&self) -> Config {
        self.lock().clone()
    }

    /// Loads the configuration again and puts the keys into force that can change. It reads files and the database, so
    /// it must run on a blocking thread of the runtime.
    pub(super) fn reload(&self) -> Reload {
        // Only one reload runs at a time, so that the last one to read the files is the one in force.
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = (self.load)().and_then(|loaded| {
            Handle::current().block_on(self.must_know_somebody(&loaded))?;
            Ok(loaded)
        });
        gauge!(telemetry::RELOAD_SUCCESSFUL).set(if loaded.is_ok() { 1.0 } else { 0.0 });
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                error!(error = %problems, "configuration not reloaded; the old one stays in force");
                let problems = problems.0.into_iter();
                return Err(problems
                    .map(|one| ReloadProblem {
                        place: one.place,
                        key: one.key,
                        problem: one.problem,
                    })
                    .collect());
            }
        };
        let mut current = self.lock();
        let needs_restart = keep_the_rest(&mut loaded, &current);
        let mut subscriptions = BTreeMap::new();
        for (name, sender) in &self.planners {
            if let Some(destination) = loaded.destinations.get(name) {
                let new = &destination.planner.destination;
                // The catalogue is kept, unless it is no longer read: then nothing may wait for it.
                let is_read = !new.options().catalogue.refresh.is_zero();
                sender.send_modify(|current| {
                    let catalogue = current.catalogue().filter(|_| is_read).map(Arc::clone);
                    *current = Arc::new(new.with_catalogue(catalogue));
                });
                subscriptions.insert(name.clone(), destination.planner.subscriptions.len());
            }
        }
        let before = Arc::clone(&self.sources.borrow());
        self.sources.send_replace(Arc::new(sources(&loaded, &before)));
        let webhooks = loops_webhooks(&loaded, &self.forwards);
        self.loops_webhooks.send_replace(Arc::new(webhooks));
        counters::begin(&loaded);
        counters::end(&current, &loaded);
        counters::loaded(self.clock.now());
        let changed = changes(&current, &loaded);
        *current = loaded;
        let keys: Vec<String> =
            changed.iter().map(|one| format!("{}: {}", one.key, one.change)).collect();
        info!(?subscriptions, changed = ?keys, "configuration reloaded");
        if !needs_restart.is_empty() {
            warn!(keys = ?needs_restart, "changed keys that need a restart keep their old values");
        }
        let reloaded = Reloaded { subscriptions, changed, needs_restart };
        *self.last() = Some((Instant::now(), reloaded.clone()));
        Ok(reloaded)
    }

    /// Rejects a change by which a destination may create no contacts while none is known, as the start does.
    async fn must_know_somebody(&self, loaded: &Config) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for (name, sender) in &self.planners {
            let Some(new) = loaded.destinations.get(name) else { continue };
            let is_so = sender.borrow().contact_options().new_contacts;
            let will_be = new.planner.destination.contact_options().new_contacts;
            if will_be == is_so || will_be != NewContactsPolicy::KnownOnly {
                continue;
            }
            let problem = match self.store.knows_any(name).await {
                Ok(true) => continue,
                Ok(false) => NOTHING_KNOWN.to_owned(),
                Err(fault) => {
                    let fault = telemetry::chain(&fault);
                    format!(
                        "whether a contact is known cannot be read, so nothing is reloaded: {fault}"
                    )
                }
            };
            let place = "database".to_owned();
            let key = format!("destinations.{name}.new_contacts");
            problems.push(Problem { stage: Stage::Compile, place, key, problem });
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    /// Returns how long ago the configuration was last reloaded.
    pub(super) fn reloaded_ago(&self) -> Option<Duration> {
        self.last().as_ref().map(|(at, _)| at.elapsed())
    }

    /// Returns the result of the last reload; `None` if there was none.
    pub(super) fn last_reload(&self) -> Option<Reloaded> {
        self.last().as_ref().map(|(_, reloaded)| reloaded.clone())
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, Reloaded)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        // A panic while the lock was held cannot have left half a configuration: it is replaced as a whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Restores the keys that only a restart can change, and returns the names of those that differ.
fn keep_the_rest(loaded: &mut Config, current: &Config) -> Vec<String> {
    let keys = [
        loaded.server.changed_keys(&current.server),
        loaded.store.changed_keys(&current.store),
        loaded.delivery.changed_keys(&current.delivery),
        loaded.log.changed_keys(&current.log),
        loaded.console.changed_keys(&current.console),
        loaded.alerts.changed_keys(&current.alerts),
    ];
    let mut changed: Vec<String> = keys.into_iter().flatten().map(str::to_owned).collect();
    let mut keep = |is_changed: bool, key: &str| {
        if is_changed {
            changed.push(key.to_owned());
        }
    };
    // These are compared here because the check has moved them out of the table, however they were written.
    keep(loaded.admin_tokens != current.admin_tokens, "server.admin_tokens");
    keep(loaded.viewer_tokens != current.viewer_tokens, "server.viewer_tokens");
    for (name, old) in &current.destinations {
        let key = format!("destinations.{name}");
        match loaded.destinations.get(name) {
            None => keep(true, &key),
            Some(new) => {
                keep(new.api_key != old.api_key, &format!("{key}.api_key"));
                keep(new.base_url != old.base_url, &format!("{key}.base_url"));
                keep(new.rate != old.rate, &format!("{key}.rate"));
                let is_changed = new.loops_webhook_forward != old.loops_webhook_forward;
                keep(is_changed, &format!("{key}.loops_webhook_forward"));
            }
        }
    }
    for name in loaded.destinations.keys().filter(|name| !current.destinations.contains_key(*name))
    {
        keep(true, &format!("destinations.{name}"));
    }
    loaded.server = current.server.clone();
    loaded.admin_tokens = current.admin_tokens.clone();
    loaded.viewer_tokens = current.viewer_tokens.clone();
    loaded.store = current.store.clone();
    loaded.delivery = current.delivery.clone();
    loaded.log = current.log.clone();
    loaded.console = current.console.clone();
    loaded.alerts = current.alerts.clone();
    let mut destinations = current.destinations.clone();
    for (name, destination) in &mut destinations {
        if let Some(new) = loaded.destinations.get(name) {
            destination.planner = new.planner.clone();
            destination.loops_webhook_secrets.clone_from(&new.loops_webhook_secrets);
        }
    }
    loaded.destinations = destinations;
    // A source whose destination is not running yet would accept messages that are not delivered.
    let running = &loaded.destinations;
    let waiting =
        loaded.sources.iter().filter(|(_, source)| !running.contains_key(&source.destination));
    let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
    for name in waiting {
        changed.push(format!("sources.{name}"));
        match current.sources.get(&name) {
            Some(old) => drop(loaded.sources.insert(name, old.clone())),
            None => drop(loaded.sources.remove(&name)),
        }
    }
    changed
}

fn loops_webhooks(config: &Config, forwards: &HashMap<String, Arc<Notify>>) -> LoopsWebhooks {
    let webhooks = config.destinations.iter().map(|(name, destination)| {
        // The check of the configuration has read them already.
        let keys = destination.loops_webhook_secrets.iter().filter_map(Key::read).collect();
        (name.clone(), LoopsWebhook { keys, forward: forwards.get(name).map(Arc::clone) })
    });
    LoopsWebhooks(webhooks.collect())
}

fn sources(config: &Config, before: &Sources) -> Sources {
    let usable = |destination: &str| -> HashSet<MessageType> {
        let planner = config.destinations.get(destination).map(|one| &one.planner.destination);
        let takes = |kind: &MessageType| planner.is_some_and(|planner| planner.takes(*kind));
        MessageType::ALL.into_iter().filter(takes).collect()
    };
    let sources = config.sources.iter().map(|(name, source)| Source {
        counts: SourceCounts::new(name),
        name: name.clone(),
        destination: source.destination.clone(),
        write_keys: source.write_keys.clone(),
        webhook_secrets: source.webhook_secrets.clone(),
        webhook_tokens: source.webhook_tokens.clone(),
        takes_webhook_lists: source.webhook_lists,
        usable: usable(&source.destination),
        public: source.browser.as_ref().map(|browser| public(browser, before.by_name(name))),
        origins: source.origins.clone(),
        stamps_ip: source.stamp_ip,
        import_is_bulk: source.import_is_bulk,
    });
    Sources::new(sources.collect())
}

/// A limit that stays the same keeps what it knows about addresses, so that a reload does not forgive them.
fn public(browser: &BrowserConfig, before: Option<&Source>) -> Public {
    let before = before.and_then(|source| source.public.as_ref());
    let kept = |limit: Option<&Arc<AddressLimit>>, per_minute: u32| match limit {
        Some(limit) if limit.per_minute() == per_minute => Arc::clone(limit),
        _ => Arc::new(AddressLimit::new(per_minute)),
    };
    Public {
        requests: kept(before.map(|public| &public.requests), browser.address_requests_max),
        bytes: kept(before.map(|public| &public.bytes), browser.address_bytes_max),
        allows_delete: browser.allow_delete,
    }
}
