//! Compares a request with the catalogue: warns of what Loops does not know, and acts on it where the configuration says
//! so. Warnings hold names, never values.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::entries::Entries;
use super::super::plan::{Noted, PlanFailure};
use super::super::unsupported::CONTACT_PROPERTIES;
use super::options::{CatalogueOptions, UnknownProperties, WrongTypes};
use super::{Catalogue, FoundList, can_be_created, is_standard};
use crate::action::Endpoint;
use crate::js::date::parse_date;
use crate::js::{Object, Value, number_of_text, number_text};
use crate::loops::{ContactProperty, PropertyType};

/// How many warnings the catalogue gives for a request; how many more there are is said in one.
const WARNINGS_MAX: usize = 10;

/// A catalogue, and what to do about names and types that it lacks.
#[derive(Debug, Clone, Copy)]
pub(in crate::destination) struct Review<'a> {
    pub(in crate::destination) catalogue: &'a Catalogue,
    pub(in crate::destination) options: CatalogueOptions,
}

/// What a review does with a property.
enum Verdict {
    Keep,
    Omit,
    Replace(Value),
}

impl Review<'_> {
    /// Reviews the body of a request. `list_names` are the keys of mailing lists that the mapping spells out: only those
    /// may be names, since the names of private lists can be guessed, and their ids cannot.
    pub(in crate::destination) fn review(
        &self,
        endpoint: Endpoint,
        body: &mut Entries<'_>,
        list_names: &BTreeSet<String>,
        noted: &mut Noted,
    ) -> Result<(), PlanFailure> {
        if endpoint == Endpoint::DeleteContact {
            return Ok(());
        }
        let mut warnings = Vec::new();
        let reviewed = self.properties(body, &mut warnings, noted);
        self.lists(body, list_names, &mut warnings);
        if endpoint == Endpoint::SendEvent {
            self.event_name(body, &mut warnings);
        }
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        warnings.truncate(WARNINGS_MAX);
        noted.warnings.append(&mut warnings);
        if more > 0 {
            let warning = format!("{more} more names or types are not as they are at Loops");
            noted.warnings.push(warning);
        }
        reviewed
    }

    fn properties(
        &self,
        body: &mut Entries<'_>,
        warnings: &mut Vec<String>,
        noted: &mut Noted,
    ) -> Result<(), PlanFailure> {
        let mut unknown = Vec::new();
        let mut changes = Vec::new();
        for (name, value) in body.iter() {
            let verdict = if self.catalogue.lacks_property(name) {
                unknown.push(name.as_ref());
                self.unknown(name, value, warnings, noted)
            } else {
                self.known(name, value, warnings, noted)
            };
            match verdict {
                Verdict::Keep => {}
                Verdict::Omit => changes.push((name.to_string(), None)),
                Verdict::Replace(value) => changes.push((name.to_string(), Some(value))),
            }
        }
        if self.options.unknown_properties == UnknownProperties::Fail && !unknown.is_empty() {
            noted.relies_on_catalogue = true;
            return Err(self.refusal(&unknown));
        }
        for (name, value) in changes {
            match value {
                None => _ = body.shift_remove(name.as_str()),
                Some(value) => _ = body.insert(Cow::Owned(name), Cow::Owned(value)),
            }
        }
        Ok(())
    }

    /// Judges a property that Loops does not have.
    fn unknown(
        &self,
        name: &str,
        value: &Value,
        warnings: &mut Vec<String>,
        noted: &mut Noted,
    ) -> Verdict {
        // Looked up only for what is shown.
        let meant = || match warnings.len() < WARNINGS_MAX {
            true => did_you_mean(self.catalogue.property_like(name)),
            false => String::new(),
        };
        let unknown =
            |meant: String| format!("{CONTACT_PROPERTIES}: Loops has no property `{name}`{meant}");
        match self.options.unknown_properties {
            UnknownProperties::Send | UnknownProperties::Fail => Verdict::Keep,
            UnknownProperties::Warn => {
                let warning = unknown(meant());
                warnings.push(warning);
                Verdict::Keep
            }
            UnknownProperties::Omit => {
                noted.relies_on_catalogue = true;
                let warning = format!(
                    "{CONTACT_PROPERTIES}: `{name}` was left out: Loops has no such property{}",
                    meant()
                );
                warnings.push(warning);
                Verdict::Omit
            }
            UnknownProperties::Create => {
                let kind = type_of(value).filter(|_| can_be_created(name));
                let why = match kind {
                    Some(_) => {
                        "it is created, unless that was refused or too many were created today"
                    }
                    None => {
                        "it is not created, since its name is not in camelCase, or its type is unknown"
                    }
                };
                let warning = format!("{}; {why}", unknown(meant()));
                warnings.push(warning);
                if kind.is_some() {
                    noted.relies_on_catalogue = true;
                    noted.missing.push(ContactProperty { name: name.to_owned(), kind });
                }
                Verdict::Keep
            }
        }
    }

    /// Judges the type of a property that Loops has.
    fn known(
        &self,
        name: &str,
        value: &Value,
        warnings: &mut Vec<String>,
        noted: &mut Noted,
    ) -> Verdict {
        // The fields of these names have types of their own.
        if is_standard(name) && name != "createdAt" {
            return Verdict::Keep;
        }
        let Some(kind) = self.catalogue.type_of(name).filter(|kind| !takes(*kind, value)) else {
            return Verdict::Keep;
        };
        let is = kind.as_str();
        match self.options.wrong_types {
            WrongTypes::Omit => {
                noted.relies_on_catalogue = true;
                warnings.push(format!(
                    "{CONTACT_PROPERTIES}: `{name}` was left out: it has the type {is} at Loops, and another one here"
                ));
                return Verdict::Omit;
            }
            WrongTypes::Coerce => {
                if let Some(value) = coerced(kind, value) {
                    noted.relies_on_catalogue = true;
                    warnings.push(format!(
                        "{CONTACT_PROPERTIES}: `{name}` was converted to its type at Loops, {is}"
                    ));
                    return Verdict::Replace(value);
                }
            }
            WrongTypes::Warn => {}
        }
        warnings.push(format!(
            "{CONTACT_PROPERTIES}: `{name}` has the type {is} at Loops, and another one here"
        ));
        Verdict::Keep
    }

    fn refusal(&self, unknown: &[&str]) -> PlanFailure {
        let named = unknown
            .iter()
            .take(WARNINGS_MAX)
            .map(|name| format!("`{name}`{}", did_you_mean(self.catalogue.property_like(name))));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match unknown.len().saturating_sub(WARNINGS_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        PlanFailure::invalid(format!(
            "not sent, as unknown_properties = \"fail\" wants: Loops has no contact property {named}{more}; create it in Loops or fix the name, and replay the message"
        ))
    }

    /// Replaces the names of mailing lists by their ids.
    fn lists(
        &self,
        body: &mut Entries<'_>,
        list_names: &BTreeSet<String>,
        warnings: &mut Vec<String>,
    ) {
        let Some(lists) = body.get("mailingLists").and_then(|lists| lists.as_object()) else {
            return;
        };
        let mut named = Vec::new();
        for key in lists.keys() {
            match self.catalogue.list(key, list_names.contains(key)) {
                FoundList::Id | FoundList::Unsure => {}
                FoundList::Named(list) => {
                    named.push((key.to_owned(), list.id.clone()));
                    if list.name != key {
                        warnings.push(format!(
                            "mailing lists: `{key}` is called `{}` at Loops now: write that, or its id",
                            list.name
                        ));
                    }
                }
                FoundList::Ambiguous(count) => warnings.push(format!(
                    "mailing lists: {count} lists at Loops are called `{key}`: write the id of the one that is meant"
                )),
                FoundList::Unknown => {
                    let like = (warnings.len() < WARNINGS_MAX).then(|| self.catalogue.list_like(key));
                    let meant = like.flatten().map_or(String::new(), |list| {
                        format!(" (did you mean `{}`, the list `{}`?)", list.id, list.name)
                    });
                    warnings.push(format!("mailing lists: Loops has no list `{key}`{meant}"));
                }
            }
        }
        if named.is_empty() {
            return;
        }
        let mut by_id = Object::new();
        for (key, flag) in lists.iter() {
            match named.iter().find(|(name, _)| name == key) {
                // An entry with the id itself wins.
                Some((_, id)) if lists.contains_key(id) => {}
                Some((_, id)) => by_id.insert(id.as_str(), flag.clone()),
                None => by_id.insert(key, flag.clone()),
            }
        }
        body.insert(Cow::Borrowed("mailingLists"), Cow::Owned(Value::Object(by_id)));
    }

    fn event_name(&self, body: &Entries<'_>, warnings: &mut Vec<String>) {
        let Some(name) = body.get("eventName").and_then(|name| name.as_str()) else { return };
        // A colon is warned about anyway.
        if name.contains(':') || !self.catalogue.lacks_event(name) {
            return;
        }
        warnings.push(format!(
            "Loops has no event of this name yet: sending creates it{}",
            did_you_mean(self.catalogue.event_like(name))
        ));
    }
}

/// What follows a name that Loops does not know.
pub(in crate::destination) fn did_you_mean(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(" (did you mean `{name}`?)"))
}

/// Whether a property of a type takes a value. Values that no property accepts are reported elsewhere.
fn takes(kind: PropertyType, value: &Value) -> bool {
    match (kind, value) {
        // It clears the property.
        (_, Value::Null | Value::Array(_) | Value::Object(_)) => true,
        (PropertyType::String, Value::String(_))
        | (PropertyType::Number | PropertyType::Date, Value::Number(_))
        | (PropertyType::Boolean, Value::Bool(_)) => true,
        (PropertyType::Date, Value::String(text)) => is_date(text),
        _ => false,
    }
}

/// Whether Loops may read a string as a date. What is a date here and none there is not warned of: its documentation names
/// no exact list.
fn is_date(text: &str) -> bool {
    parse_date(text).is_some() || number_of_text(text).is_finite()
}

/// A value as one of another type; `None` if the conversion could change what it means.
fn coerced(kind: PropertyType, value: &Value) -> Option<Value> {
    match (kind, value) {
        (PropertyType::String, Value::Number(number)) if number.is_finite() => {
            Some(Value::String(number_text(*number)))
        }
        (PropertyType::String, Value::Bool(flag)) => Some(Value::String(flag.to_string())),
        (PropertyType::Number, Value::String(text)) if !text.trim().is_empty() => {
            let number = number_of_text(text);
            number.is_finite().then_some(Value::Number(number))
        }
        (PropertyType::Boolean, Value::String(text)) => {
            let is = |word: &str| text.trim().eq_ignore_ascii_case(word);
            (is("true") || is("false")).then(|| Value::Bool(is("true")))
        }
        _ => None,
    }
}

/// The type that a new property gets by its first value.
fn type_of(value: &Value) -> Option<PropertyType> {
    match value {
        Value::Bool(_) => Some(PropertyType::Boolean),
        Value::Number(number) => number.is_finite().then_some(PropertyType::Number),
        // As programs write dates: other texts, such as "May", may be dates by chance.
        Value::String(text) => Some(match text.parse::<Timestamp>().is_ok() {
            true => PropertyType::Date,
            false => PropertyType::String,
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
