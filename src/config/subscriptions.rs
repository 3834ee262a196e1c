//! The subscriptions of a destination: written in the configuration itself, or in separate files (TOML, YAML or JSON,
//! in our shape or in those of Segment's public API and its Terraform provider).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::read_value;
use super::{Problem, Stage};
use crate::destination::subscription::{self, Subscription};
use crate::destination::{
    ConsentGuard, Destination, DestinationOptions, ERASED_BLOCK_DAYS_MAX, IdentityGuard, Mode,
    NewContactsPolicy, SkipUnchanged, Stale, SubscriptionProblem, UnknownProperties, Unsupported,
    WrongTypes,
};
use crate::js::Value;

/// How often the catalogue of a destination is read by default, in seconds.
const CATALOGUE_REFRESH_S_DEFAULT: u32 = 900;
/// The longest time, in seconds, for which an event may wait for its contact.
const AWAIT_CONTACT_S_MAX: u32 = 7 * 24 * 60 * 60;

/// The subscriptions of a destination and their options, as written.
#[derive(Debug, Default)]
pub(super) struct Written<'a> {
    /// Where the configuration itself comes from: the file, or the environment.
    pub(super) place: &'a str,
    /// Key of the destination, such as `destinations.default`.
    pub(super) key: &'a str,
    pub(super) inline: Vec<serde_json::Value>,
    pub(super) files: Vec<PathBuf>,
    pub(super) mode: Option<String>,
    pub(super) unsupported: Option<String>,
    /// `None` means the default list.
    pub(super) placeholder_ids: Option<Vec<String>>,
    pub(super) consent_categories: Vec<String>,
    pub(super) consent: Option<String>,
    pub(super) skip_unchanged: Option<String>,
    pub(super) skip_unchanged_ttl_h: Option<u32>,
    pub(super) identity: Option<String>,
    pub(super) identity_addresses_max: Option<u32>,
    pub(super) stale: Option<String>,
    pub(super) catalogue_refresh_s: Option<u32>,
    pub(super) unknown_properties: Option<String>,
    pub(super) wrong_types: Option<String>,
    pub(super) erased_block_days: u16,
    pub(super) await_contact_s: Option<u32>,
    pub(super) new_contacts_per_day: u32,
    pub(super) new_contacts: Option<String>,
    pub(super) verify_unknown: bool,
    /// `false` turns merging off for all subscriptions.
    pub(super) merge: bool,
}

/// The compiled subscriptions of a destination, and their sources.
#[derive(Debug, Clone)]
pub struct Planner {
    /// Plans the messages.
    pub destination: Arc<Destination>,
    /// The subscriptions as written, in order; the default ones if none are configured.
    pub subscriptions: Vec<Subscription>,
    /// Whether none are configured, so that the default ones apply.
    pub is_default: bool,
    /// The files from which they were read.
    pub files: Vec<PathBuf>,
}

impl Planner {
    /// Returns the subscriptions that apply if none are configured.
    pub fn defaults() -> Result<Self, Vec<SubscriptionProblem>> {
        let options = DestinationOptions::default();
        Self::compile(Destination::default_subscriptions(), options, Vec::new())
            .map(|planner| Self { is_default: true, ..planner })
    }

    fn compile(
        subscriptions: Vec<Subscription>,
        options: DestinationOptions,
        files: Vec<PathBuf>,
    ) -> Result<Self, Vec<SubscriptionProblem>> {
        let destination = Arc::new(Destination::compile(&subscriptions, options)?);
        Ok(Self { destination, subscriptions, is_default: false, files })
    }

    /// Reads and compiles the subscriptions; reports all errors at once.
    pub(super) fn load(written: Written<'_>) -> Result<Self, Vec<Problem>> {
        let mut loader = Loader { key: written.key, problems: Vec::new(), places: HashMap::new() };
        let unsupported = loader.word(
            (written.place, "unsupported"),
            written.unsupported.as_deref(),
            Unsupported::parse,
            "\"omit\" (leave it out), \"flatten\" and \"pass\" (send it as Segment does)",
        );
        let mut options = DestinationOptions::from(unsupported);
        options.mode = loader.word(
            (written.place, "mode"),
            written.mode.as_deref(),
            Mode::parse,
            "\"live\" and \"shadow\" (do everything but send)",
        );
        if let Some(placeholder_ids) = written.placeholder_ids {
            options.placeholder_ids = placeholder_ids;
        }
        options.consent_categories = written.consent_categories;
        options.consent = loader.word(
            (written.place, "consent"),
            written.consent.as_deref(),
            ConsentGuard::parse,
            "\"guard\" (nobody is subscribed by a property that no mapping names, or after leaving) and \"pass\"",
        );
        options.contacts.skip_unchanged = loader.word(
            (written.place, "skip_unchanged"),
            written.skip_unchanged.as_deref(),
            SkipUnchanged::parse,
            "\"off\", \"observe\" (count what would be saved) and \"on\"",
        );
        if let Some(hours) = written.skip_unchanged_ttl_h {
            if hours == 0 {
                let problem = "must be 1 or more; `skip_unchanged = \"off\"` sends everything";
                let (place, key) = (written.place, "skip_unchanged_ttl_h");
                loader.report(place, key, problem.to_owned(), Stage::Compile);
            }
            options.contacts.skip_unchanged_ttl = Duration::from_secs(u64::from(hours) * 60 * 60);
        }
        options.contacts.identity = loader.word(
            (written.place, "identity"),
            written.identity.as_deref(),
            IdentityGuard::parse,
            "\"off\", \"observe\" (warn), \"guard\" (leave the address out of the event) and \"link\" (\"guard\", and give events without an address the one that their userId has)",
        );
        if let Some(most) = written.identity_addresses_max {
            if most < 2 {
                let (place, key) = (written.place, "identity_addresses_max");
                let problem = "must be 2 or more: people change their addresses".to_owned();
                loader.report(place, key, problem, Stage::Compile);
            }
            options.contacts.identity_addresses_max = most;
        }
        options.contacts.stale = loader.word(
            (written.place, "stale"),
            written.stale.as_deref(),
            Stale::parse,
            "\"send\" and \"skip\" (leave out values that are older than those that Loops has)",
        );
        let refresh = written.catalogue_refresh_s.unwrap_or(CATALOGUE_REFRESH_S_DEFAULT);
        options.catalogue.refresh = Duration::from_secs(refresh.into());
        options.catalogue.unknown_properties = loader.word(
            (written.place, "unknown_properties"),
            written.unknown_properties.as_deref(),
            UnknownProperties::parse,
            "\"warn\", \"send\", \"omit\" (leave it out), \"fail\" and \"create\" (at Loops)",
        );
        options.catalogue.wrong_types = loader.word(
            (written.place, "wrong_types"),
            written.wrong_types.as_deref(),
            WrongTypes::parse,
            "\"warn\", \"coerce\" (convert it) and \"omit\" (leave it out)",
        );
        if written.erased_block_days > ERASED_BLOCK_DAYS_MAX {
            let problem = format!(
                "must be at most {ERASED_BLOCK_DAYS_MAX}: that is how long receipts of erasures are kept"
            );
            loader.report(written.place, "erased_block_days", problem, Stage::Compile);
        }
        options.contacts.erased_block_days = written.erased_block_days;
        if let Some(seconds) = written.await_contact_s {
            if seconds > AWAIT_CONTACT_S_MAX {
                let problem = format!("must be {AWAIT_CONTACT_S_MAX} (a week) or less");
                loader.report(written.place, "await_contact_s", problem, Stage::Compile);
            }
            options.contacts.await_contact = Duration::from_secs(u64::from(seconds));
        }
        options.contacts.new_contacts_per_day = written.new_contacts_per_day;
        options.contacts.verify_unknown = written.verify_unknown;
        options.contacts.new_contacts = loader.word(
            (written.place, "new_contacts"),
            written.new_contacts.as_deref(),
            NewContactsPolicy::parse,
            "\"create\" and \"known_only\" (messages of unknown people end as unmatched)",
        );
        let is_default = written.inline.is_empty() && written.files.is_empty();
        let mut subscriptions =
            if is_default { Destination::default_subscriptions() } else { Vec::new() };
        let inline: Vec<Value> = written.inline.iter().map(Value::from).collect();
        subscriptions.extend(loader.read(written.place, &inline.iter().collect::<Vec<_>>()));
        for file in &written.files {
            subscriptions.extend(loader.read_file(file));
        }
        subscriptions.iter_mut().for_each(|one| one.merge &= written.merge);
        let compiled = Self::compile(subscriptions, options, written.files)
            .map_err(|problems| loader.add(written.place, problems));
        match compiled {
            Ok(planner) if loader.problems.is_empty() => Ok(Self { is_default, ..planner }),
            _ => Err(loader.problems),
        }
    }
}

struct Loader<'a> {
    key: &'a str,
    problems: Vec<Problem>,
    /// The file or key that each subscription comes from, by its name.
    places: HashMap<String, String>,
}

impl Loader<'_> {
    fn report(&mut self, place: &str, key: &str, problem: String, stage: Stage) {
        let key = format!("{}.{key}", self.key);
        self.problems.push(Problem { place: place.to_owned(), key, problem, stage });
    }

    /// Reads a key that takes one of a few words.
    fn word<T: Default>(
        &mut self,
        (place, key): (&str, &str),
        written: Option<&str>,
        parse: fn(&str) -> Option<T>,
        allowed: &str,
    ) -> T {
        let Some(text) = written else { return T::default() };
        parse(text).unwrap_or_else(|| {
            let problem = format!("`{text}` is unknown; allowed are {allowed}");
            self.report(place, key, problem, Stage::Compile);
            T::default()
        })
    }

    fn read(&mut self, place: &str, written: &[&Value]) -> Vec<Subscription> {
        let mut subscriptions = Vec::new();
        for (number, written) in written.iter().enumerate() {
            match subscription::read(written, number) {
                Ok(subscription) => {
                    self.places.insert(subscription.name.clone(), place.to_owned());
                    subscriptions.push(subscription);
                }
                Err(problems) => self.add(place, problems),
            }
        }
        subscriptions
    }

    /// Adds the errors of subscriptions, each with the place where its subscription is written.
    fn add(&mut self, place: &str, problems: Vec<SubscriptionProblem>) {
        for problem in problems {
            let place = self.places.get(&problem.subscription).cloned().unwrap_or(place.to_owned());
            let key = format!("subscription `{}`: {}", problem.subscription, problem.field);
            self.problems.push(Problem {
                place,
                key,
                problem: problem.problem,
                stage: Stage::Compile,
            });
        }
    }

    fn read_file(&mut self, file: &Path) -> Vec<Subscription> {
        let place = file.display().to_string();
        let value = match read_value(file) {
            Ok(value) => value,
            Err(problem) => {
                self.report(&place, "subscriptions_files", problem, Stage::Parse);
                return Vec::new();
            }
        };
        let Some(list) = subscription::list_in(&value) else {
            let problem = "holds no subscriptions: allowed are a list of subscriptions, a single one, or an object with `subscriptions`";
            self.report(&place, "subscriptions_files", problem.to_owned(), Stage::Parse);
            return Vec::new();
        };
        if list.is_empty() {
            self.report(
                &place,
                "subscriptions_files",
                "holds an empty list of subscriptions".to_owned(),
                Stage::Compile,
            );
        }
        self.read(&place, &list)
    }
}
