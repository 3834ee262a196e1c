//! Subscriptions as people write them, in Segment's own shape or in the short one.
//!
//! Segment's shape (`partnerAction` or `actionSlug`, `subscribe` or `trigger`, `mapping` or `settings`) is
//! used as written. The short one (`action`, with `trigger` or `events`) states only the differences: its
//! mapping overrides the action's default mapping, and `without` removes defaults.

use crate::action::ActionKind;
use crate::js::decode::decode_strict;
use crate::js::{Object, Value};

/// A subscription as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Its name, for people.
    pub name: String,
    /// Whether it takes anything.
    pub enabled: bool,
    /// Its action.
    pub action: ActionKind,
    /// Which messages it takes.
    pub trigger: TriggerText,
    /// What each field of the action is filled with.
    pub mapping: Value,
    /// Whether its requests may be merged with their neighbours.
    pub merge: bool,
    /// How long after a message happened its request is worth sending, in seconds; `None`: always.
    pub max_age_s: Option<u64>,
    /// Whether its requests subscribe people again who left before the message happened.
    pub resubscribe: bool,
}

/// How a trigger is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TriggerText {
    /// In FQL.
    Fql(String),
    /// As names of events, each with at most one star, at its beginning or end.
    Events(Vec<String>),
}

impl std::fmt::Display for TriggerText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TriggerText::Fql(text) => out.write_str(text),
            TriggerText::Events(names) => write!(out, "events = {names:?}"),
        }
    }
}

/// An error in a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subscription `{subscription}`, {field}: {problem}")]
pub struct SubscriptionProblem {
    /// Name of the subscription, or its number in the list (`#2`) if it has none.
    pub subscription: String,
    /// The key that is wrong.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// The longest `max_age_s`: a year.
const MAX_AGE_S: f64 = 31_536_000.0;

/// Other keys of Segment's subscriptions, which are ignored here.
const PASSED_OVER: [&str; 12] = [
    "id",
    "actionId",
    "action_id",
    "actionName",
    "destinationId",
    "destination_id",
    "modelId",
    "model_id",
    "reverseETLSchedule",
    "reverse_etl_schedule",
    "reverseETLModel",
    "eventType",
];

const KEYS: [&str; 14] = [
    "name",
    "enabled",
    "action",
    "partnerAction",
    "actionSlug",
    "trigger",
    "subscribe",
    "events",
    "mapping",
    "settings",
    "without",
    "merge",
    "max_age_s",
    "resubscribe",
];

/// Returns whether a subscription may have a key that means something here.
pub fn has_key(key: &str) -> bool {
    KEYS.contains(&key)
}

/// The subscriptions in a file or an API answer: a list, one subscription, or an object with
/// `subscriptions` (also below `data`, as in answers of Segment's public API).
///
/// ```
/// use segment_loops::destination::subscription::list_in;
/// use segment_loops::js::decode::decode;
///
/// for written in [
///     r#"[{"name": "s"}]"#,
///     r#"{"name": "s"}"#,
///     r#"{"subscriptions": [{"name": "s"}]}"#,
///     r#"{"data": {"subscriptions": [{"name": "s"}]}}"#,
/// ] {
///     assert_eq!(list_in(&decode(written.as_bytes())?).unwrap().len(), 1, "{written}");
/// }
/// assert_eq!(list_in(&decode(br#"{"hello": "world"}"#)?), None);
/// # Ok::<(), segment_loops::js::decode::DecodeError>(())
/// ```
pub fn list_in(written: &Value) -> Option<Vec<&Value>> {
    match written {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Object(object) => match object.get("subscriptions").or_else(|| object.get("data")) {
            Some(inner) => list_in(inner),
            None if KEYS.iter().any(|key| object.contains_key(key)) => Some(vec![written]),
            None => None,
        },
        _ => None,
    }
}

/// Reads one subscription; `index` is its index in the list.
///
/// ```
/// use segment_loops::destination::{ActionKind, TriggerText, subscription};
/// use segment_loops::js::decode::decode;
///
/// // As Segment exports it, and as people write it.
/// let exported = br#"{"name": "Orders", "partnerAction": "sendEvent", "subscribe": "event = \"Order Completed\"",
///     "mapping": {"userId": {"@path": "$.userId"}, "eventName": "ordered"}}"#;
/// let exported = subscription::read(&decode(exported)?, 0).unwrap();
/// assert_eq!(exported.action, ActionKind::SendEvent);
/// let short = br#"{"name": "Orders", "action": "sendEvent", "events": ["Order *"],
///     "mapping": {"eventName": "ordered"}}"#;
/// let short = subscription::read(&decode(short)?, 0).unwrap();
/// assert_eq!(short.trigger, TriggerText::Events(vec!["Order *".to_owned()]));
/// // The short form keeps the defaults that it does not name.
/// assert!(short.mapping.get("eventProperties").is_some());
///
/// let nameless = br#"{"action": "deleteContact", "trigger": "type = \"delete\""}"#;
/// let problems = subscription::read(&decode(nameless)?, 0).unwrap_err();
/// assert_eq!((problems[0].subscription.as_str(), problems[0].field.as_str()), ("#1", "name"));
/// # Ok::<(), segment_loops::js::decode::DecodeError>(())
/// ```
pub fn read(written: &Value, index: usize) -> Result<Subscription, Vec<SubscriptionProblem>> {
    let name = written.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let shown = name.map_or_else(|| format!("#{}", index + 1), str::to_owned);
    let mut reader =
        Reader { object: written.as_object(), subscription: shown, problems: Vec::new() };
    match reader.read() {
        Some(subscription) if reader.problems.is_empty() => Ok(subscription),
        _ => Err(reader.problems),
    }
}

struct Reader<'a> {
    object: Option<&'a Object>,
    subscription: String,
    problems: Vec<SubscriptionProblem>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Option<Subscription> {
        let Some(object) = self.object else {
            self.report("(all)", "a subscription is an object, such as {\"name\": \"…\", \"action\": \"sendEvent\", \"events\": [\"…\"]}");
            return None;
        };
        for key in object.keys().filter(|key| !KEYS.contains(key) && !PASSED_OVER.contains(key)) {
            self.report(key, format!("unknown; allowed are {}", KEYS.join(", ")));
        }
        let name = self.name();
        let enabled = self.flag("enabled", true);
        let merge = self.flag("merge", true);
        let resubscribe = self.flag("resubscribe", false);
        let max_age_s = self.max_age();
        let (action, is_short) = self.action()?;
        let trigger = self.trigger();
        let mapping = self.mapping(action, is_short);
        Some(Subscription {
            name: name?,
            enabled: enabled?,
            action,
            trigger: trigger?,
            mapping: mapping?,
            merge: merge?,
            max_age_s: max_age_s?,
            resubscribe: resubscribe?,
        })
    }

    fn report(&mut self, field: &str, problem: impl Into<String>) {
        self.problems.push(SubscriptionProblem {
            subscription: self.subscription.clone(),
            field: field.to_owned(),
            problem: problem.into(),
        });
    }

    /// The value of whichever one of several synonymous keys is given.
    fn one_of(&mut self, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        let given: Vec<_> =
            keys.iter().filter_map(|key| Some((*key, self.object?.get(key)?))).collect();
        if let [(first, _), (second, _), ..] = given.as_slice() {
            self.report(second, format!("is the same as {first}: give one of them"));
        }
        given.first().copied()
    }

    fn name(&mut self) -> Option<String> {
        match self.one_of(&["name"]) {
            Some((_, Value::String(name))) if !name.trim().is_empty() => Some(name.clone()),
            Some(_) => {
                self.report("name", "must be a string that is not empty");
                None
            }
            None => {
                self.report("name", "is missing: every subscription has a name, which logs and the records of deliveries show");
                None
            }
        }
    }

    /// A boolean.
    fn flag(&mut self, key: &'static str, default: bool) -> Option<bool> {
        match self.one_of(&[key]) {
            None => Some(default),
            Some((_, Value::Bool(flag))) => Some(*flag),
            Some(_) => {
                self.report(key, "must be true or false");
                None
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    fn max_age(&mut self) -> Option<Option<u64>> {
        match self.one_of(&["max_age_s"]) {
            None => Some(None),
            Some((_, Value::Number(seconds)))
                if *seconds >= 1.0 && *seconds <= MAX_AGE_S && seconds.fract() == 0.0 =>
            {
                Some(Some(*seconds as u64))
            }
            Some(_) => {
                self.report(
                    "max_age_s",
                    "must be a whole number of seconds, from 1 to 31536000 (a year)",
                );
                None
            }
        }
    }

    /// The action, and whether it is written in the short form.
    fn action(&mut self) -> Option<(ActionKind, bool)> {
        let allowed = ActionKind::ALL.map(ActionKind::as_str).join(", ");
        let Some((key, value)) = self.one_of(&["action", "partnerAction", "actionSlug"]) else {
            self.report("action", format!("is missing; allowed are {allowed}"));
            return None;
        };
        let found = value.as_str().and_then(ActionKind::parse);
        if found.is_none() {
            self.report(key, format!("is not an action; allowed are {allowed}"));
        }
        Some((found?, key == "action"))
    }

    fn trigger(&mut self) -> Option<TriggerText> {
        match self.one_of(&["trigger", "subscribe", "events"]) {
            None => {
                self.report("trigger", "is missing: give trigger = 'type = \"track\" and event = \"…\"', or events = [\"…\"]");
                None
            }
            Some(("events", Value::Array(items))) => {
                let names: Option<Vec<String>> =
                    items.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                if names.is_none() {
                    self.report(
                        "events",
                        "must be a list of strings, such as [\"User Registered\", \"Order *\"]",
                    );
                }
                names.map(TriggerText::Events)
            }
            Some((key, Value::String(text))) if key != "events" => {
                Some(TriggerText::Fql(text.clone()))
            }
            Some(("events", _)) => {
                self.report(
                    "events",
                    "must be a list of strings, such as [\"User Registered\", \"Order *\"]",
                );
                None
            }
            Some((key, _)) => {
                self.report(key, "must be a string in FQL, such as 'type = \"track\"'");
                None
            }
        }
    }

    fn mapping(&mut self, action: ActionKind, is_short: bool) -> Option<Value> {
        let without = self.without(action, is_short);
        let written = match self.one_of(&["mapping", "settings"]) {
            Some((key, value)) => match given_object(value) {
                Some(object) => object,
                None => {
                    self.report(
                        key,
                        "must be an object of the action's fields (or such an object as a JSON string)",
                    );
                    return None;
                }
            },
            None if is_short => Object::new(),
            None => {
                self.report("mapping", "is missing: with partnerAction or actionSlug it must hold every field, as in Segment; with `action` it may be left out");
                return None;
            }
        };
        if !is_short {
            return Some(Value::Object(written));
        }
        let Value::Object(mut mapping) = action.default_mapping() else {
            return Some(Value::Object(written));
        };
        without?.iter().for_each(|field| {
            mapping.remove(field);
        });
        for (field, value) in written.into_entries() {
            mapping.insert(field, value);
        }
        Some(Value::Object(mapping))
    }

    /// The fields whose defaults are removed.
    fn without(&mut self, action: ActionKind, is_short: bool) -> Option<Vec<String>> {
        let Some((_, value)) = self.one_of(&["without"]) else {
            return Some(Vec::new());
        };
        if !is_short {
            self.report(
                "without",
                "needs `action`: with partnerAction or actionSlug there are no defaults to remove",
            );
            return None;
        }
        let defaults = action.default_mapping();
        let defaults: Vec<&str> =
            defaults.as_object().map(|object| object.keys().collect()).unwrap_or_default();
        let names: Vec<Option<&str>> =
            value.as_array().unwrap_or_default().iter().map(Value::as_str).collect();
        let known = |name: &Option<&str>| name.is_some_and(|name| defaults.contains(&name));
        if names.is_empty() || !names.iter().all(known) {
            let allowed = defaults.join(", ");
            self.report(
                "without",
                format!("must be a list of fields that have a default: {allowed}"),
            );
            return None;
        }
        Some(names.into_iter().flatten().map(str::to_owned).collect())
    }
}

/// An object, or a JSON string of one: Terraform's provider keeps settings as a string.
fn given_object(value: &Value) -> Option<Object> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::String(text) => match decode_strict(text) {
            Ok(Value::Object(object)) => Some(object),
            _ => None,
        },
        _ => None,
    }
}
