//! The changes of a reload: the names of keys, with their values unless these are secret or long.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::settings;
use crate::config::{BrowserConfig, Config, Planner, SourceConfig};
use crate::console::view::ChangedKey;
use crate::destination::Subscription;

/// The longest value that is shown.
const SHOWN_BYTES_MAX: usize = 60;

/// Returns the keys that differ, among those that a reload can change.
pub(super) fn changes(before: &Config, after: &Config) -> Vec<ChangedKey> {
    let mut changes = Changes::default();
    for (name, old, new) in pairs(&before.sources, &after.sources) {
        let key = format!("sources.{name}");
        if let Some((old, new)) = changes.both(&key, old, new) {
            changes.source(&key, old, new);
        }
    }
    for (name, old, new) in pairs(&before.destinations, &after.destinations) {
        // A reload neither adds nor removes these.
        let Some((old, new)) = old.zip(new) else { continue };
        let key = format!("destinations.{name}");
        changes.differs(
            &format!("{key}.loops_webhook_secrets"),
            old.loops_webhook_secrets != new.loops_webhook_secrets,
        );
        changes.planner(&key, &old.planner, &new.planner);
    }
    changes.0
}

/// Pairs the values of two maps by their keys.
fn pairs<'a, T>(
    before: &'a BTreeMap<String, T>,
    after: &'a BTreeMap<String, T>,
) -> impl Iterator<Item = (&'a str, Option<&'a T>, Option<&'a T>)> {
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
    names.into_iter().map(|name| (name, before.get(name), after.get(name)))
}

#[derive(Default)]
struct Changes(Vec<ChangedKey>);

impl Changes {
    fn put(&mut self, key: &str, change: impl Into<String>) {
        self.0.push(ChangedKey { key: key.to_owned(), change: change.into() });
    }

    /// Returns both values of something that both configurations have.
    fn both<T>(&mut self, key: &str, old: Option<T>, new: Option<T>) -> Option<(T, T)> {
        match (&old, &new) {
            (None, Some(_)) => self.put(key, "added"),
            (Some(_), None) => self.put(key, "removed"),
            _ => {}
        }
        old.zip(new)
    }

    fn differs(&mut self, key: &str, is_different: bool) {
        if is_different {
            self.put(key, "changed");
        }
    }

    fn value<T: PartialEq + Display>(&mut self, key: &str, old: T, new: T) {
        if old != new {
            self.put(key, format!("{old} → {new}"));
        }
    }

    fn source(&mut self, key: &str, old: &SourceConfig, new: &SourceConfig) {
        let SourceConfig {
            write_keys,
            webhook_secrets,
            webhook_tokens,
            webhook_lists,
            destination,
            browser,
            origins,
            stamp_ip,
            import_is_bulk,
            silent_after,
        } = new;
        let key = |name: &str| format!("{key}.{name}");
        self.value(&key("destination"), &old.destination, destination);
        self.differs(&key("write_keys"), old.write_keys != *write_keys);
        self.differs(&key("webhook_secrets"), old.webhook_secrets != *webhook_secrets);
        self.differs(&key("webhook_tokens"), old.webhook_tokens != *webhook_tokens);
        self.value(&key("webhook_lists"), old.webhook_lists, *webhook_lists);
        self.value(&key("browser"), old.browser.is_some(), browser.is_some());
        if let Some((old, new)) = old.browser.zip(*browser) {
            let BrowserConfig { address_requests_max, address_bytes_max, allow_delete } = new;
            let requests = key("address_requests_max");
            self.value(&requests, old.address_requests_max, address_requests_max);
            self.value(&key("address_bytes_max"), old.address_bytes_max, address_bytes_max);
            self.value(&key("allow_delete"), old.allow_delete, allow_delete);
        }
        self.differs(&key("origins"), old.origins != *origins);
        self.value(&key("stamp_ip"), old.stamp_ip, *stamp_ip);
        self.value(&key("import_is_bulk"), old.import_is_bulk, *import_is_bulk);
        self.differs(&key("silent_after_s"), old.silent_after != *silent_after);
    }

    fn planner(&mut self, key: &str, old: &Planner, new: &Planner) {
        fn by_name(planner: &Planner) -> BTreeMap<String, &Subscription> {
            planner.subscriptions.iter().map(|one| (one.name.clone(), one)).collect()
        }
        let (before, after) = (by_name(old), by_name(new));
        let found = self.0.len();
        for (name, old, new) in pairs(&before, &after) {
            let key = format!("{key}.subscriptions “{name}”");
            if let Some((old, new)) = self.both(&key, old, new) {
                self.differs(&key, old != new);
            }
        }
        if self.0.len() == found && old.subscriptions != new.subscriptions {
            self.put(&format!("{key}.subscriptions"), "in another order");
        }
        let (old, new) = (old.destination.options(), new.destination.options());
        let key = |name: &str| format!("{key}.{name}");
        for ((name, old), (_, new)) in
            settings::options(old).into_iter().zip(settings::options(new))
        {
            match old.len().max(new.len()) <= SHOWN_BYTES_MAX {
                true => self.value(&key(name), old, new),
                false => self.differs(&key(name), old != new),
            }
        }
    }
}
