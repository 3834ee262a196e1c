//! Intermediate results of a mapping: values that may be missing, which JSON cannot express, and that borrow from the
//! message and the mapping.

use std::borrow::Cow;

use indexmap::IndexMap;

use super::budget::{Budget, MappingFailure};
use super::path::Path;
use crate::js::{
    Object, Value, array_index, count, equals_empty_text, from_utf16, joins_to_nothing,
    push_joined, sort_entries, type_name,
};

/// An intermediate result.
#[derive(Debug, Clone)]
pub(super) enum Made<'a> {
    /// JavaScript's `undefined`: in the result its key is removed, and in an array it is null.
    Missing,
    Borrowed(&'a Value),
    Owned(Value),
    Object(IndexMap<Cow<'a, str>, Made<'a>>),
    Array(Vec<Made<'a>>),
}

/// What paths look into: the message, an item of an array, or the result of `apply` in `@transform`.
#[derive(Debug, Clone, Copy)]
pub(super) enum View<'a> {
    Value(&'a Value),
    Made(&'a Made<'a>),
}

impl<'a> View<'a> {
    /// Returns what is at a path. A falsy value on the way is itself the result.
    pub(super) fn find(self, path: &Path) -> Made<'a> {
        let mut keys = path.0.as_slice();
        let mut view = self;
        loop {
            match view {
                View::Value(value) => return value.at(keys).into(),
                View::Made(Made::Borrowed(value)) => return value.at(keys).into(),
                View::Made(Made::Owned(value)) => return value.at(keys).into(),
                View::Made(made) => {
                    let Some((key, rest)) = keys.split_first() else {
                        return made.clone();
                    };
                    let member = match made {
                        Made::Object(object) => object.get(key.as_str()),
                        Made::Array(items) if key == "length" => {
                            let length = Value::Number(count(items.len()));
                            return length
                                .at(rest)
                                .map(|found| Cow::Owned(found.into_owned()))
                                .into();
                        }
                        Made::Array(items) => array_index(key).and_then(|index| items.get(index)),
                        Made::Missing | Made::Borrowed(_) | Made::Owned(_) => None,
                    };
                    let Some(member) = member else {
                        return Made::Missing;
                    };
                    view = View::Made(member);
                    keys = rest;
                }
            }
        }
    }

    /// Returns the whole as a value, for directives that cannot look into intermediate results.
    pub(super) fn to_value(self, budget: &Budget) -> Result<Cow<'a, Value>, MappingFailure> {
        match self {
            View::Value(value) => Ok(Cow::Borrowed(value)),
            View::Made(made) => {
                Ok(Cow::Owned(made.clone().into_value(budget)?.unwrap_or_default()))
            }
        }
    }

    /// Returns the name of its type, as in [`type_name`], or `undefined`.
    pub(super) fn type_name(self) -> &'static str {
        match self {
            View::Value(value) => type_name(value),
            View::Made(made) => made.type_name(),
        }
    }
}

impl<'a> From<Option<Cow<'a, Value>>> for Made<'a> {
    fn from(found: Option<Cow<'a, Value>>) -> Self {
        match found {
            None => Made::Missing,
            Some(Cow::Borrowed(value)) => Made::Borrowed(value),
            Some(Cow::Owned(value)) => Made::Owned(value),
        }
    }
}

impl<'a> Made<'a> {
    pub(super) fn text(text: String) -> Self {
        Made::Owned(Value::String(text))
    }

    /// Returns the value, unless it is missing or still composed of parts.
    pub(super) fn as_value(&self) -> Option<&Value> {
        match self {
            Made::Borrowed(value) => Some(value),
            Made::Owned(value) => Some(value),
            Made::Missing | Made::Object(_) | Made::Array(_) => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        self.as_value().and_then(Value::as_str)
    }

    pub(super) fn is_null_or_missing(&self) -> bool {
        matches!(self, Made::Missing) || self.is_null()
    }

    pub(super) fn is_null(&self) -> bool {
        self.as_value().is_some_and(Value::is_null)
    }

    /// Whether JavaScript's `value == ''` holds: also for arrays that join to an empty string.
    pub(super) fn equals_empty_text(&self) -> bool {
        match self {
            Made::Missing | Made::Object(_) => false,
            Made::Array(items) => match items.as_slice() {
                [] => true,
                [item] => made_joins_to_nothing(item),
                _ => false,
            },
            Made::Borrowed(value) => equals_empty_text(value),
            Made::Owned(value) => equals_empty_text(value),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Made::Missing => "undefined",
            Made::Object(_) => "object",
            Made::Array(_) => "array",
            Made::Borrowed(value) => type_name(value),
            Made::Owned(value) => type_name(value),
        }
    }

    /// Writes it as a template does: nothing for null and missing, `[object Object]` for objects.
    pub(super) fn write_text(&self, out: &mut String) {
        match self {
            Made::Missing => {}
            Made::Object(_) => out.push_str("[object Object]"),
            Made::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(',');
                    }
                    item.write_text(out);
                }
            }
            Made::Borrowed(value) => push_joined(out, value),
            Made::Owned(value) => push_joined(out, value),
        }
    }

    /// Returns its own entries as JavaScript lists them: by key, by index of an array, by code unit of a string.
    pub(super) fn into_entries(self) -> Vec<(Cow<'a, str>, Made<'a>)> {
        fn placed<'a>(items: impl Iterator<Item = Made<'a>>) -> Vec<(Cow<'a, str>, Made<'a>)> {
            items.enumerate().map(|(place, item)| (Cow::Owned(place.to_string()), item)).collect()
        }
        match self {
            Made::Object(object) => {
                let mut entries: Vec<_> = object.into_iter().collect();
                sort_entries(&mut entries);
                entries
            }
            Made::Array(items) => placed(items.into_iter()),
            Made::Borrowed(Value::Object(object)) => object
                .iter()
                .map(|(key, value)| (Cow::Borrowed(key), Made::Borrowed(value)))
                .collect(),
            Made::Borrowed(Value::Array(items)) => placed(items.iter().map(Made::Borrowed)),
            Made::Owned(Value::Object(object)) => {
                let entries = object.into_entries().into_iter();
                entries.map(|(key, value)| (Cow::Owned(key), Made::Owned(value))).collect()
            }
            Made::Owned(Value::Array(items)) => placed(items.into_iter().map(Made::Owned)),
            text => match text.as_text() {
                Some(text) => {
                    placed(text.encode_utf16().map(|unit| Made::text(from_utf16(&[unit]))))
                }
                None => Vec::new(),
            },
        }
    }

    /// Takes the cost of copying it out of the budget.
    pub(super) fn spend(&self, budget: &Budget) -> Result<(), MappingFailure> {
        match self {
            Made::Missing | Made::Borrowed(_) => Ok(()),
            Made::Owned(value) => budget.spend_value(value),
            Made::Object(fields) => fields.values().try_for_each(|value| {
                budget.spend_node()?;
                value.spend(budget)
            }),
            Made::Array(items) => items.iter().try_for_each(|item| {
                budget.spend_node()?;
                item.spend(budget)
            }),
        }
    }

    /// Removes missing values from objects, as Segment's runtime does; in arrays they stay.
    pub(super) fn without_missing(self, budget: &Budget) -> Result<Self, MappingFailure> {
        budget.spend_node()?;
        Ok(match self {
            Made::Object(object) => {
                let there = object.into_iter().filter(|(_, value)| !matches!(value, Made::Missing));
                let there = there.map(|(key, value)| Ok((key, value.without_missing(budget)?)));
                Made::Object(there.collect::<Result<_, MappingFailure>>()?)
            }
            Made::Array(items) => {
                let items = items.into_iter().map(|item| item.without_missing(budget));
                Made::Array(items.collect::<Result<_, _>>()?)
            }
            value => value,
        })
    }

    /// Returns the result: missing values are removed from objects, and null in arrays.
    pub(super) fn into_cow(
        self,
        budget: &Budget,
    ) -> Result<Option<Cow<'a, Value>>, MappingFailure> {
        match self {
            Made::Missing => Ok(None),
            Made::Borrowed(value) => Ok(Some(Cow::Borrowed(value))),
            Made::Owned(value) => Ok(Some(Cow::Owned(value))),
            Made::Object(object) => {
                let mut made = Object::new();
                for (key, value) in object {
                    if let Some(value) = value.into_value(budget)? {
                        made.insert(key.into_owned(), value);
                    }
                }
                Ok(Some(Cow::Owned(Value::Object(made))))
            }
            Made::Array(items) => {
                let values =
                    items.into_iter().map(|item| Ok(item.into_value(budget)?.unwrap_or_default()));
                Ok(Some(Cow::Owned(Value::Array(values.collect::<Result<_, _>>()?))))
            }
        }
    }

    pub(super) fn into_value(self, budget: &Budget) -> Result<Option<Value>, MappingFailure> {
        let cow = self.into_cow(budget)?;
        if let Some(Cow::Borrowed(value)) = cow {
            budget.spend_value(value)?;
        }
        Ok(cow.map(Cow::into_owned))
    }

    /// Copies what is borrowed.
    pub(super) fn into_owned(self, budget: &Budget) -> Result<Made<'static>, MappingFailure> {
        budget.spend_node()?;
        Ok(match self {
            Made::Missing => Made::Missing,
            Made::Owned(value) => Made::Owned(value),
            Made::Borrowed(value) => {
                budget.spend_value(value)?;
                Made::Owned(value.clone())
            }
            Made::Array(items) => {
                let items = items.into_iter().map(|item| item.into_owned(budget));
                Made::Array(items.collect::<Result<_, _>>()?)
            }
            Made::Object(object) => {
                let entries = object.into_iter();
                let entries = entries.map(|(key, value)| {
                    Ok((Cow::Owned(key.into_owned()), value.into_owned(budget)?))
                });
                Made::Object(entries.collect::<Result<_, MappingFailure>>()?)
            }
        })
    }
}

/// Whether an array of this one item joins to an empty string.
fn made_joins_to_nothing(item: &Made<'_>) -> bool {
    match item {
        Made::Missing => true,
        Made::Object(_) => false,
        Made::Array(_) => item.equals_empty_text(),
        Made::Borrowed(value) => joins_to_nothing(value),
        Made::Owned(value) => joins_to_nothing(value),
    }
}
