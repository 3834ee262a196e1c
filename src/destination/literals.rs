//! The literal names in mappings, to be compared with those of a Loops team.

use std::collections::BTreeSet;

use super::subscription::Subscription;
use crate::js::Value;

/// The literal names in a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiteralNames {
    /// Contact properties.
    pub properties: BTreeSet<String>,
    /// Ids of mailing lists.
    pub mailing_lists: BTreeSet<String>,
}

/// Keys that may appear among contact properties without being one.
const NO_PROPERTIES: [&str; 4] = ["mailingLists", "eventName", "eventProperties", "_metadata"];

impl LiteralNames {
    /// The names in a subscription's mapping; names that come from messages cannot be known in advance.
    ///
    /// ```
    /// use segment_loops::destination::{LiteralNames, subscription};
    /// use segment_loops::js::decode::decode;
    ///
    /// let written = decode(br#"{"name": "s", "action": "createOrUpdateContact", "trigger": "type = \"identify\"",
    ///     "mapping": {"customAttributes": {"plan": {"@path": "$.traits.plan"}}, "mailingLists": {"News": true}}}"#)?;
    /// let names = LiteralNames::of(&subscription::read(&written, 0).unwrap());
    /// assert_eq!(names.properties.into_iter().collect::<Vec<_>>(), ["plan"]);
    /// assert_eq!(names.mailing_lists.into_iter().collect::<Vec<_>>(), ["News"]);
    /// # Ok::<(), segment_loops::js::decode::DecodeError>(())
    /// ```
    pub fn of(subscription: &Subscription) -> Self {
        let mut names = Self::default();
        let fields = &subscription.mapping;
        for key in ["customAttributes", "contactProperties"] {
            if let Some(value) = fields.get(key) {
                names.add_properties(value);
            }
        }
        if let Some(lists) = fields.get("mailingLists") {
            add_keys(lists, &mut names.mailing_lists, &[]);
        }
        names
    }

    fn add_properties(&mut self, value: &Value) {
        add_keys(value, &mut self.properties, &NO_PROPERTIES);
        if let Some(lists) = value.get("mailingLists") {
            add_keys(lists, &mut self.mailing_lists, &[]);
        }
        let merged = value.get("@merge").and_then(|options| options.get("objects"));
        for object in merged.and_then(Value::as_array).unwrap_or_default() {
            self.add_properties(object);
        }
    }
}

/// Adds the keys of an object that is not a directive.
fn add_keys(value: &Value, names: &mut BTreeSet<String>, but: &[&str]) {
    let Some(object) = value.as_object() else {
        return;
    };
    if object.keys().any(|key| key.starts_with('@')) {
        return;
    }
    names.extend(object.keys().filter(|key| !but.contains(key)).map(str::to_owned));
}
