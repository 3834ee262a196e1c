//! Resolves a mapping for a message, borrowing from the message where possible.

use std::borrow::Cow;
use std::cell::Cell;

use indexmap::IndexMap;

use super::budget::{Budget, MappingFailure};
use super::made::{Made, View};
use super::node::{
    ArrayPath, Case, Flatten, If, Json, JsonMode, Letters, Mapping, Merge, Node, Replace, Test,
    Transform,
};
use super::path::Path;
use super::template::Template;
use crate::js::decode::decode_strict;
use crate::js::{Value, number_text, type_name};

pub(super) const UNKNOWN_CASE: &str = "operator key should have a value of \"lower\" or \"upper\"";
pub(super) const FLATTEN_SEPARATOR: &str = "@flatten requires a string separator";

/// Why [`Mapping::resolve_fields_until`] has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// The mapping fails for the message.
    Failed(MappingFailure),
    /// It was stopped.
    Stopped {
        /// The field that was being filled; `None` if the mapping is a single directive.
        field: Option<String>,
    },
}

/// The result of a mapping for the fields of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Fields<'a> {
    /// The fields that were found.
    Object(Vec<(Cow<'a, str>, Cow<'a, Value>)>),
    /// Nothing, or something that is not an object.
    Other(Option<Cow<'a, Value>>),
}

impl Mapping {
    /// Resolves the mapping for a message; `None` if the result as a whole is missing.
    ///
    /// A value that is missing has no key in the result, while null has; in an array it becomes null.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::Mapping;
    ///
    /// let mapping = Mapping::compile(&decode(br#"{
    ///     "list": [{"@path": "$.a"}], "a": {"@path": "$.a"}, "b": {"@path": "$.b"}
    /// }"#)?)?;
    /// let found = mapping.resolve(&decode(br#"{"b": null}"#)?)?.unwrap();
    /// assert_eq!(found.to_json(), r#"{"list":[null],"b":null}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resolve(&self, message: &Value) -> Result<Option<Value>, MappingFailure> {
        let budget = Budget::default();
        self.make(message, &budget)?.into_value(&budget)
    }

    /// Resolves the mapping field by field, borrowing values from the message.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::{Fields, Mapping};
    ///
    /// let mapping = Mapping::compile(&decode(br#"{"userId": {"@path": "$.userId"}}"#)?)?;
    /// let message = decode(br#"{"userId": "u1"}"#)?;
    /// let Fields::Object(fields) = mapping.resolve_fields(&message)? else { unreachable!() };
    /// assert_eq!(fields[0].0, "userId");
    /// assert_eq!(fields[0].1.as_str(), Some("u1"));
    ///
    /// // A mapping that is a single directive may yield anything.
    /// let mapping = Mapping::compile(&decode(br#"{"@path": "$.userId"}"#)?)?;
    /// assert!(matches!(mapping.resolve_fields(&message)?, Fields::Other(Some(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resolve_fields<'a>(&'a self, message: &'a Value) -> Result<Fields<'a>, MappingFailure> {
        let budget = Budget::default();
        fields_of(self.make(message, &budget)?, &budget)
    }

    /// Like [`Mapping::resolve_fields`], but stops once `stop`, which is called repeatedly, returns true.
    pub fn resolve_fields_until<'a>(
        &'a self,
        message: &'a Value,
        stop: &dyn Fn() -> bool,
    ) -> Result<Fields<'a>, Unresolved> {
        let budget = Budget::until(stop);
        let field = Cell::new(None);
        let fields = match &self.root {
            Node::Object(nodes) if message.as_object().is_some() => {
                let found = nodes.iter().map(|(key, node)| {
                    field.set(Some(key));
                    let value = node.resolve(View::Value(message), &budget)?.into_cow(&budget)?;
                    Ok(value.map(|value| (Cow::Borrowed(key.as_str()), value)))
                });
                found.filter_map(Result::transpose).collect::<Result<_, _>>().map(Fields::Object)
            }
            _ => self.make(message, &budget).and_then(|made| fields_of(made, &budget)),
        };
        fields.map_err(|failure| match budget.is_stopped() {
            true => Unresolved::Stopped { field: field.get().cloned() },
            false => Unresolved::Failed(failure),
        })
    }

    fn make<'a>(&'a self, message: &'a Value, budget: &Budget) -> Result<Made<'a>, MappingFailure> {
        if message.as_object().is_none() {
            let kind = type_name(message);
            return Err(MappingFailure(format!("data must be an object, got {kind}")));
        }
        self.root.resolve(View::Value(message), budget)
    }
}

fn fields_of<'a>(made: Made<'a>, budget: &Budget) -> Result<Fields<'a>, MappingFailure> {
    if made.type_name() != "object" {
        return Ok(Fields::Other(made.into_cow(budget)?));
    }
    let mut fields = Vec::new();
    for (key, value) in made.into_entries() {
        if let Some(value) = value.into_cow(budget)? {
            fields.push((key, value));
        }
    }
    Ok(Fields::Object(fields))
}

impl Node {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        budget.spend_node()?;
        match self {
            Node::Literal(value) => Ok(Made::Borrowed(value)),
            Node::Object(fields) => {
                let found = fields.iter().map(|(key, node)| {
                    Ok((Cow::Borrowed(key.as_str()), node.resolve(payload, budget)?))
                });
                Ok(Made::Object(found.collect::<Result<_, MappingFailure>>()?))
            }
            Node::Array(nodes) => {
                let found = nodes.iter().map(|node| node.resolve(payload, budget));
                Ok(Made::Array(found.collect::<Result<_, _>>()?))
            }
            Node::Path(path) => {
                let found = payload.find(path);
                found.spend(budget)?;
                Ok(found)
            }
            Node::PathOf(node) => {
                let text = text_of(node, "@path", payload, budget)?;
                Ok(payload.find(&Path::parse(&text)))
            }
            Node::Template(template) => Ok(Made::text(template.render(payload, budget)?)),
            Node::TemplateOf(node) => {
                let text = text_of(node, "@template", payload, budget)?;
                Ok(Made::text(Template::parse(&text).render(payload, budget)?))
            }
            Node::If(condition) => condition.resolve(payload, budget),
            Node::Case(case) => case.resolve(payload, budget),
            Node::Replace(replace) => replace.resolve(payload, budget),
            Node::ArrayPath(array) => array.resolve(payload, budget),
            Node::Merge(merge) => merge.resolve(payload, budget),
            Node::Transform(transform) => transform.resolve(payload, budget),
            Node::Flatten(flatten) => flatten.resolve(payload, budget),
            Node::Json(json) => json.resolve(payload, budget),
            Node::ExcludeWhenNull(node) => {
                let value = node.resolve(payload, budget)?;
                if value.is_null() { Ok(Made::Missing) } else { without_nulls(value, budget) }
            }
            Node::Liquid(liquid) => {
                let message = payload.to_value(budget)?;
                let text = liquid.render(&message).map_err(MappingFailure)?;
                budget.spend_text(text.len())?;
                Ok(Made::text(text))
            }
            Node::Fails(problem) => Err(MappingFailure(problem.clone())),
        }
    }
}

/// Resolves a directive that must yield a string for another one.
fn text_of(
    node: &Node,
    name: &str,
    payload: View<'_>,
    budget: &Budget,
) -> Result<String, MappingFailure> {
    let found = node.resolve(payload, budget)?;
    found.as_text().map(str::to_owned).ok_or_else(|| {
        MappingFailure(format!("{name}: expected string, got {}", found.type_name()))
    })
}

impl If {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let branch = if self.holds(payload, budget)? { &self.then } else { &self.otherwise };
        branch.as_ref().map_or(Ok(Made::Missing), |node| node.resolve(payload, budget))
    }

    pub(super) fn holds(&self, payload: View<'_>, budget: &Budget) -> Result<bool, MappingFailure> {
        let subject = self.subject.resolve(payload, budget)?;
        let is_there = !subject.is_null_or_missing();
        Ok(match self.test {
            Test::Exists => is_there,
            Test::NotBlank => is_there && !subject.equals_empty_text(),
        })
    }
}

impl Case {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let Some(node) = &self.value else {
            return Ok(Made::Missing);
        };
        let value = node.resolve(payload, budget)?;
        let Some(text) = value.as_text() else {
            return Ok(value);
        };
        let text = match self.operator {
            Some(Letters::Lower) => text.to_lowercase(),
            Some(Letters::Upper) => text.to_uppercase(),
            None => return Err(MappingFailure(UNKNOWN_CASE.to_owned())),
        };
        budget.spend_text(text.len())?;
        Ok(Made::text(text))
    }
}

impl Replace {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let Some(node) = &self.value else {
            return Ok(Made::Missing);
        };
        let value = node.resolve(payload, budget)?;
        let text = match value.as_value() {
            Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
            Some(Value::Number(number)) => Cow::Owned(number_text(*number)),
            Some(Value::Bool(flag)) => Cow::Owned(flag.to_string()),
            _ => return Ok(Made::text(String::new())),
        };
        match &self.how {
            Some(how) => Ok(Made::text(how.replace(&text, budget)?)),
            None => Ok(Made::text(String::new())),
        }
    }
}

impl ArrayPath {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let root = self.root.resolve(payload, budget)?;
        let Some(shape) = &self.shape else {
            return Ok(root);
        };
        let items: Vec<Made<'a>> = match root {
            Made::Borrowed(Value::Array(items)) => items.iter().map(Made::Borrowed).collect(),
            Made::Owned(Value::Array(items)) => items.into_iter().map(Made::Owned).collect(),
            Made::Array(items) => items,
            one if one.type_name() == "object" => vec![one],
            other => return Ok(other),
        };
        let shaped = items.into_iter().map(|item| match item {
            Made::Borrowed(item) => shape.resolve(View::Value(item), budget),
            made => shape.resolve(View::Made(&made), budget)?.into_owned(budget),
        });
        Ok(Made::Array(shaped.collect::<Result<_, _>>()?))
    }
}

impl Merge {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let direction = self.direction.resolve(payload, budget)?;
        let objects = self.objects.iter().map(|object| object.resolve(payload, budget));
        let mut objects = objects.collect::<Result<Vec<_>, _>>()?;
        if direction.as_text() == Some("left") {
            objects.reverse();
        }
        let mut merged = IndexMap::new();
        for object in objects {
            for (key, value) in object.into_entries() {
                budget.spend_node()?;
                merged.insert(key, value);
            }
        }
        Ok(Made::Object(merged))
    }
}

impl Transform {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let empty = Made::Object(IndexMap::new());
        let payload = match payload.type_name() {
            "undefined" => View::Made(&empty),
            "object" => payload,
            kind => return Err(MappingFailure(format!("data must be an object, got {kind}"))),
        };
        let applied = self.apply.resolve(payload, budget)?.without_missing(budget)?;
        self.mapping.resolve(View::Made(&applied), budget)?.into_owned(budget)
    }
}

impl Flatten {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let separator = self.separator.resolve(payload, budget)?;
        let Some(separator) = separator.as_text() else {
            return Err(MappingFailure(FLATTEN_SEPARATOR.to_owned()));
        };
        let mut flat = IndexMap::new();
        let value = self.value.resolve(payload, budget)?;
        self.flatten(Cow::Borrowed(""), value, separator, &mut flat, budget)?;
        Ok(Made::Object(flat))
    }

    fn flatten<'a>(
        &self,
        prefix: Cow<'a, str>,
        value: Made<'a>,
        separator: &str,
        flat: &mut IndexMap<Cow<'a, str>, Made<'a>>,
        budget: &Budget,
    ) -> Result<(), MappingFailure> {
        let is_inner = match value.type_name() {
            "object" => true,
            "array" => !self.omits_lists,
            _ => false,
        };
        if !is_inner {
            budget.spend_text(1 + prefix.len())?;
            flat.insert(prefix, value);
            return Ok(());
        }
        for (key, value) in value.into_entries() {
            let key = if prefix.is_empty() {
                key
            } else {
                Cow::Owned(format!("{prefix}{separator}{key}"))
            };
            budget.spend_text(key.len())?;
            self.flatten(key, value, separator, flat, budget)?;
        }
        Ok(())
    }
}

impl Json {
    fn resolve<'a>(
        &'a self,
        payload: View<'a>,
        budget: &Budget,
    ) -> Result<Made<'a>, MappingFailure> {
        let value = self.value.resolve(payload, budget)?;
        match self.mode {
            None => Ok(Made::Missing),
            Some(JsonMode::Encode) => match value.into_cow(budget)? {
                None => Ok(Made::Missing),
                Some(value) => {
                    let text = value.to_json();
                    budget.spend_text(text.len())?;
                    Ok(Made::text(text))
                }
            },
            Some(JsonMode::Decode) => {
                let decoded = value.as_text().and_then(|text| decode_strict(text).ok());
                Ok(decoded.map_or(value, Made::Owned))
            }
        }
    }
}

/// Removes nulls from objects within objects; arrays stay as they are.
fn without_nulls<'a>(value: Made<'a>, budget: &Budget) -> Result<Made<'a>, MappingFailure> {
    if value.type_name() != "object" {
        return Ok(value);
    }
    let cleaned = value.into_entries().into_iter().map(|(key, value)| {
        budget.spend_node()?;
        let value = if value.is_null() { Made::Missing } else { without_nulls(value, budget)? };
        Ok((key, value))
    });
    Ok(Made::Object(cleaned.collect::<Result<_, MappingFailure>>()?))
}
