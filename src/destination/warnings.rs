//! Likely errors in a subscription, of which `check` warns.

use super::compiled::CompiledSubscription;
use super::field::Field;
use super::subscription::{SubscriptionProblem, TriggerText};
use crate::action::ActionKind;
use crate::js::Value;
use crate::js::ajv::boolean;
use crate::mapping::Possible;

impl CompiledSubscription {
    /// Returns likely errors that Segment accepts: fields that the action does not have, required fields that the mapping
    /// does not fill, tests that are always true, event names that Loops refuses.
    pub(super) fn warnings(&self) -> Vec<SubscriptionProblem> {
        let trigger = self.trigger.warnings().into_iter().map(|problem| ("trigger", problem));
        let all = self.mapping_warnings().into_iter().map(|problem| ("mapping", problem));
        all.chain(trigger)
            .chain(self.colon_warning())
            .chain(self.resubscribing())
            .map(|(field, problem)| self.problem(field, problem))
            .collect()
    }

    fn mapping_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let fields = self.written.action.fields();
        let names: Vec<&str> = fields.iter().map(Field::name).collect();
        let Some(given) = self.written.mapping.as_object() else {
            return warnings;
        };
        // The fields of a mapping that is a single directive are unknown.
        if given.keys().any(|key| key.starts_with('@') || key.starts_with("__segment")) {
            return warnings;
        }
        for key in given.keys().filter(|key| !names.contains(key)) {
            warnings.push(format!(
                "`{key}` is not a field of {} and is dropped; its fields are {}",
                self.written.action.as_str(),
                names.join(", ")
            ));
        }
        for field in fields {
            let mut names = field.required_names().peekable();
            if names.peek().is_some() && !names.any(|name| given.contains_key(name)) {
                warnings.push(format!(
                    "the required field `{}` is not filled: every message will fail",
                    field.name()
                ));
            }
        }
        warnings
    }

    /// Warns if a literal subscribes people, or adds them to mailing lists, with messages that are sent repeatedly: it
    /// would undo what they have chosen since. An event with a name counts as happening once.
    fn resubscribing(&self) -> Option<(&'static str, String)> {
        if self.trigger.needs_event_name() {
            return None;
        }
        let roots = self.mapping.possible(&[]);
        let places: &[&[&str]] = match self.written.action {
            ActionKind::CreateOrUpdateContact => &[
                &["subscribed"],
                &["mailingLists"],
                &["customAttributes", "subscribed"],
                &["customAttributes", "mailingLists"],
            ],
            ActionKind::SendEvent => {
                &[&["contactProperties", "subscribed"], &["contactProperties", "mailingLists"]]
            }
            ActionKind::DeleteContact => &[],
        };
        let subscribes = |path: &&&[&str]| {
            let is_lists = path.last() == Some(&"mailingLists");
            let test = if is_lists { subscribes_to_list } else { is_true };
            Possible::find(&roots, path).into_iter().any(test)
        };
        let fields: Vec<String> =
            places.iter().filter(subscribes).map(|path| format!("`{}`", path.join("."))).collect();
        if fields.is_empty() {
            return None;
        }
        let problem = format!(
            "a literal in {} subscribes the person again at every message that the trigger takes, even one who has unsubscribed since: fill it in a subscription for an event that happens once, such as a sign-up",
            fields.join(" and ")
        );
        Some(("mapping", problem))
    }

    /// Warns if events would be sent under a name with a colon, as far as the mapping or the trigger contains the name
    /// literally.
    fn colon_warning(&self) -> Option<(&'static str, String)> {
        const WHY: &str = "Loops refuses event names with a colon (:)";
        if self.written.action != ActionKind::SendEvent {
            return None;
        }
        let with_colon = |event_names: &[&str]| {
            let roots = self.mapping.possible(event_names);
            let names = Possible::find(&roots, &["eventName"]).into_iter();
            let mut texts = names.flat_map(Possible::texts);
            texts.find(|text| text.contains(':')).map(str::to_owned)
        };
        if let Some(text) = with_colon(&[]) {
            let problem = format!(
                "{WHY}, and `{text}` can become the name, or a part of it: give `eventName` another name"
            );
            return Some(("mapping", problem));
        }
        let named = with_colon(&self.trigger.event_names())?;
        let field = match &self.written.trigger {
            TriggerText::Events(_) => "events",
            TriggerText::Fql(_) => "trigger",
        };
        let problem = format!(
            "{WHY}, and `{named}` is sent as it is: fill `eventName` with a name without one"
        );
        Some((field, problem))
    }
}

/// Whether the field `subscribed` converts it to true.
fn is_true(value: &Possible) -> bool {
    match value {
        Possible::Value(value) => boolean(value) == Some(true),
        Possible::Array(items) => matches!(items.as_slice(), [item] if is_true(item)),
        Possible::Parts(_) | Possible::Object(_) => false,
    }
}

/// Whether mailing lists contain a true flag: as an object of flags, or as an array of
/// `{"listId": …, "subscribed": …}`.
fn subscribes_to_list(lists: &Possible) -> bool {
    let is_flag = |value: &Possible| match value {
        Possible::Value(value) => *value == Value::Bool(true) || value.as_str() == Some("true"),
        _ => false,
    };
    match lists {
        Possible::Object(entries) => entries.iter().any(|(_, value)| is_flag(value)),
        Possible::Array(items) => Possible::find(items, &["subscribed"]).into_iter().any(is_flag),
        Possible::Value(_) | Possible::Parts(_) => false,
    }
}
