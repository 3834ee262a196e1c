//! The entries of an object while it is turned from a mapping's output into a body.

use std::borrow::Cow;

use indexmap::IndexMap;

use crate::js::Value;

/// The entries of an object; values of the message are borrowed.
pub(super) type Entries<'a> = IndexMap<Cow<'a, str>, Cow<'a, Value>>;

/// Returns the entries of an object; any other value has none.
pub(super) fn entries(value: Option<Cow<'_, Value>>) -> Entries<'_> {
    match value {
        Some(Cow::Borrowed(Value::Object(object))) => {
            object.iter().map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value))).collect()
        }
        Some(Cow::Owned(Value::Object(object))) => {
            let entries = object.into_entries().into_iter();
            entries.map(|(key, value)| (Cow::Owned(key), Cow::Owned(value))).collect()
        }
        _ => Entries::new(),
    }
}
