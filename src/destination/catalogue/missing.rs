//! Compares the literal names in mappings with the catalogue, without any message.

use std::collections::BTreeSet;

use super::super::compiled::CompiledSubscription;
use super::super::literals::LiteralNames;
use super::super::planner::Destination;
use super::super::subscription::SubscriptionProblem;
use super::review::did_you_mean;
use super::{Catalogue, FoundList};
use crate::action::ActionKind;
use crate::js::Value;
use crate::mapping::Possible;

/// A name in a mapping that Loops does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Where it is, and which name may be meant.
    pub problem: SubscriptionProblem,
    /// Whether it is certainly an error: a mailing list that does not exist, or a name that several lists have.
    pub is_error: bool,
}

impl Destination {
    /// Returns the names in its enabled subscriptions that Loops does not know; none without a catalogue.
    pub fn missing_names(&self) -> Vec<Missing> {
        let Some(catalogue) = self.catalogue() else { return Vec::new() };
        let enabled = self.subscriptions.iter().filter(|one| one.is_enabled());
        enabled.flat_map(|one| one.missing_names(catalogue)).collect()
    }
}

impl CompiledSubscription {
    fn missing_names(&self, catalogue: &Catalogue) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut add = |is_error: bool, problem: String| {
            missing.push(Missing { problem: self.problem("mapping", problem), is_error });
        };
        let LiteralNames { properties, mailing_lists } = LiteralNames::of(&self.written);
        for name in properties.iter().filter(|name| catalogue.lacks_property(name)) {
            let meant = did_you_mean(catalogue.property_like(name));
            add(
                false,
                format!(
                    "Loops has no contact property `{name}`{meant}: fix the name, or create it in Loops first"
                ),
            );
        }
        for key in &mailing_lists {
            match catalogue.list(key, true) {
                FoundList::Id | FoundList::Unsure => {}
                FoundList::Named(list) if list.name == *key => {}
                FoundList::Named(list) => add(
                    false,
                    format!("the mailing list `{key}` is called `{}` at Loops now", list.name),
                ),
                FoundList::Ambiguous(count) => add(
                    true,
                    format!(
                        "{count} mailing lists at Loops are called `{key}`: write the id of the one that is meant (Loops: Settings, Lists)"
                    ),
                ),
                FoundList::Unknown => {
                    let meant = catalogue.list_like(key).map(|list| list.name.as_str());
                    add(
                        true,
                        format!(
                            "Loops has no mailing list `{key}`{}: write the name or the id of one (Loops: Settings, Lists)",
                            did_you_mean(meant)
                        ),
                    );
                }
            }
        }
        // A colon is warned about anyway.
        for name in self.literal_events().iter().filter(|name| !name.contains(':')) {
            if catalogue.lacks_event(name) {
                let meant = did_you_mean(catalogue.event_like(name));
                add(
                    false,
                    format!("Loops has no event `{name}` yet{meant}: the first one creates it"),
                );
            }
        }
        missing
    }

    /// Returns the names of the events that are sent, if the mapping or the trigger contains them literally.
    fn literal_events(&self) -> BTreeSet<String> {
        if self.written.action != ActionKind::SendEvent {
            return BTreeSet::new();
        }
        let roots = self.mapping.possible(&self.trigger.event_names());
        let found = Possible::find(&roots, &["eventName"]).into_iter();
        found
            .filter_map(|name| match name {
                Possible::Value(Value::String(name)) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }
}
