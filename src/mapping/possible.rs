//! What a mapping may yield, as far as the mapping itself tells: for checks that look for a literal wherever it is.
//! Every branch counts, and values of messages are unknown.

use std::cell::Cell;

use super::budget::Budget;
use super::liquid::Liquid;
use super::node::{JsonMode, Letters, Mapping, Node, Replace};
use super::path::Path;
use super::template::{Part, Template};
use crate::js::decode::decode_strict;
use crate::js::{Object, Value};

/// The most values and bytes that are looked at, since mappings can double what they find repeatedly.
const BUDGET_MAX: usize = 1024 * 1024;

/// A value that a mapping may yield.
#[derive(Debug, Clone, PartialEq)]
pub enum Possible {
    /// A value that is neither an object nor an array.
    Value(Value),
    /// A string of which only these parts are known.
    Parts(Vec<String>),
    /// An object; a key is there once for each value that it may have.
    Object(Vec<(String, Possible)>),
    /// An array, with all items that it may have.
    Array(Vec<Possible>),
}

impl Possible {
    /// Returns what may be at a path in any of some values, through the keys of objects.
    pub fn find<'a>(values: &'a [Possible], path: &[impl AsRef<str>]) -> Vec<&'a Possible> {
        path.iter().fold(values.iter().collect(), |found, key| {
            found.into_iter().flat_map(|value: &Possible| value.at(key.as_ref())).collect()
        })
    }

    /// Returns what may be at a key of this object.
    pub fn at(&self, key: &str) -> Vec<&Possible> {
        match self {
            Possible::Object(entries) => {
                entries.iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the known parts of a string, also of one in an array.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Possible::Value(value) => value.as_str().into_iter().collect(),
            Possible::Parts(parts) => parts.iter().map(String::as_str).collect(),
            Possible::Array(items) => items.iter().flat_map(Possible::texts).collect(),
            Possible::Object(_) => Vec::new(),
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Object(object) => Possible::Object(
                object.iter().map(|(key, value)| (key.to_owned(), Self::of(value))).collect(),
            ),
            Value::Array(items) => Possible::Array(items.iter().map(Self::of).collect()),
            value => Possible::Value(value.clone()),
        }
    }

    fn text(text: impl Into<String>) -> Self {
        Possible::Value(Value::String(text.into()))
    }

    fn size(&self) -> usize {
        1 + match self {
            Possible::Value(value) => value.as_str().map_or(0, str::len),
            Possible::Parts(parts) => parts.iter().map(String::len).sum(),
            Possible::Object(entries) => {
                entries.iter().map(|(key, value)| key.len() + value.size()).sum()
            }
            Possible::Array(items) => items.iter().map(Possible::size).sum(),
        }
    }

    /// Changes the known parts of a string; other values stay.
    fn map_text(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Possible::Value(Value::String(text)) => Possible::text(change(&text)),
            Possible::Parts(parts) => {
                Possible::Parts(parts.iter().map(|part| change(part)).collect())
            }
            other => other,
        }
    }
}

impl Mapping {
    /// Returns what the mapping may yield for messages whose event has one of these names, or an unknown name if there
    /// are none.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::{Mapping, Possible};
    ///
    /// let mapping = Mapping::compile(&decode(br#"{
    ///     "eventName": {"@if": {"exists": {"@path": "$.plan"}, "then": "upgraded", "else": {"@path": "$.event"}}}
    /// }"#)?)?;
    /// let roots = mapping.possible(&["Signed Up"]);
    /// let names = Possible::find(&roots, &["eventName"]).into_iter().flat_map(Possible::texts);
    /// assert_eq!(names.collect::<Vec<_>>(), ["upgraded", "Signed Up"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn possible(&self, event_names: &[&str]) -> Vec<Possible> {
        let search = Search { event_names, left: Cell::new(BUDGET_MAX) };
        search.node(&self.root, Scope::Message)
    }
}

/// What paths look into.
#[derive(Debug, Clone, Copy)]
enum Scope<'a> {
    Message,
    /// The result of `apply` in `@transform`.
    Applied(&'a [Possible]),
    /// An item of an array of the message.
    Unknown,
}

struct Search<'a> {
    event_names: &'a [&'a str],
    left: Cell<usize>,
}

impl Search<'_> {
    /// Spends an amount; returns whether there was enough left.
    fn spend(&self, amount: usize) -> bool {
        let left = self.left.get().checked_sub(amount);
        self.left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Returns all values that a node may have; none if nothing is known of it.
    fn node(&self, node: &Node, scope: Scope<'_>) -> Vec<Possible> {
        if !self.spend(1) {
            return Vec::new();
        }
        match node {
            Node::Literal(value) => {
                let possible = Possible::of(value);
                if self.spend(possible.size()) { vec![possible] } else { Vec::new() }
            }
            Node::Object(fields) => {
                let entries = fields.iter().flat_map(|(key, node)| {
                    self.node(node, scope).into_iter().map(|value| (key.clone(), value))
                });
                vec![Possible::Object(entries.collect())]
            }
            Node::Array(nodes) => {
                let items = nodes.iter().flat_map(|node| self.node(node, scope));
                vec![Possible::Array(items.collect())]
            }
            Node::Path(path) => self.path(path, scope),
            Node::PathOf(node) => {
                let paths = self.whole_texts(node, scope);
                paths.iter().flat_map(|text| self.path(&Path::parse(text), scope)).collect()
            }
            Node::Template(template) => self.template(template, scope),
            Node::TemplateOf(node) => {
                let templates = self.whole_texts(node, scope);
                let templates = templates.iter().map(|text| Template::parse(text));
                templates.flat_map(|template| self.template(&template, scope)).collect()
            }
            Node::If(condition) => {
                let branches = [&condition.then, &condition.otherwise].into_iter().flatten();
                branches.flat_map(|node| self.node(node, scope)).collect()
            }
            Node::Case(case) => {
                let values = self.optional(case.value.as_ref(), scope).into_iter();
                let change = |text: &str| match case.operator {
                    Some(Letters::Lower) => text.to_lowercase(),
                    Some(Letters::Upper) => text.to_uppercase(),
                    None => String::new(),
                };
                values.map(|value| value.map_text(change)).collect()
            }
            Node::Replace(replace) => self.replace(replace, scope),
            Node::ArrayPath(array) => match &array.shape {
                None => self.node(&array.root, scope),
                Some(shape) => vec![Possible::Array(self.node(shape, Scope::Unknown))],
            },
            Node::Merge(merge) => {
                let objects = merge.objects.iter().flat_map(|node| self.node(node, scope));
                let entries = objects.flat_map(|object| match object {
                    Possible::Object(entries) => entries,
                    _ => Vec::new(),
                });
                vec![Possible::Object(entries.collect())]
            }
            Node::Transform(transform) => {
                let applied = self.node(&transform.apply, scope);
                self.node(&transform.mapping, Scope::Applied(&applied))
            }
            Node::Flatten(flatten) => {
                let separators = self.whole_texts(&flatten.separator, scope);
                let separator = separators.first().map_or("", String::as_str);
                let mut flat = Vec::new();
                for value in self.node(&flatten.value, scope) {
                    self.flatten(String::new(), value, separator, &mut flat);
                }
                vec![Possible::Object(flat)]
            }
            Node::Json(json) => {
                let values = self.node(&json.value, scope).into_iter();
                values.filter_map(|value| as_json(json.mode?, value)).collect()
            }
            Node::ExcludeWhenNull(node) => self.node(node, scope),
            Node::Liquid(liquid) => self.liquid(liquid, scope),
            Node::Fails(_) => Vec::new(),
        }
    }

    fn optional(&self, node: Option<&Node>, scope: Scope<'_>) -> Vec<Possible> {
        node.map_or(Vec::new(), |node| self.node(node, scope))
    }

    /// Returns the strings that a node may yield as a whole.
    fn whole_texts(&self, node: &Node, scope: Scope<'_>) -> Vec<String> {
        let values = self.node(node, scope).into_iter();
        let texts = values.filter_map(|value| match value {
            Possible::Value(Value::String(text)) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    fn path(&self, path: &Path, scope: Scope<'_>) -> Vec<Possible> {
        let found = match scope {
            Scope::Message if path.0 == ["event"] => {
                return self.event_names.iter().map(|name| Possible::text(*name)).collect();
            }
            Scope::Message | Scope::Unknown => return Vec::new(),
            Scope::Applied(applied) => Possible::find(applied, &path.0),
        };
        let size = found.iter().map(|value| value.size()).sum();
        if self.spend(size) { found.into_iter().cloned().collect() } else { Vec::new() }
    }

    fn template(&self, template: &Template, scope: Scope<'_>) -> Vec<Possible> {
        let parts = template.all_parts();
        if let [Part::Text(text)] = parts.as_slice() {
            return vec![Possible::text(text)];
        }
        let known = parts.iter().flat_map(|part| match part {
            Part::Text(text) => vec![text.clone()],
            Part::Path(path) => {
                let values = self.path(path, scope);
                values.iter().flat_map(Possible::texts).map(str::to_owned).collect()
            }
        });
        vec![Possible::Parts(known.collect())]
    }

    fn replace(&self, replace: &Replace, scope: Scope<'_>) -> Vec<Possible> {
        let (Some(node), Some(how)) = (&replace.value, &replace.how) else {
            return Vec::new();
        };
        let change = |text: &str| how.replace(text, &Budget::default()).unwrap_or_default();
        let values = self.node(node, scope).into_iter();
        let mut values: Vec<Possible> = values.map(|value| value.map_text(change)).collect();
        if !matches!(node, Node::Literal(_)) {
            values.push(Possible::Parts(how.replacements()));
        }
        values
    }

    fn flatten(
        &self,
        prefix: String,
        value: Possible,
        separator: &str,
        flat: &mut Vec<(String, Possible)>,
    ) {
        if !self.spend(prefix.len()) {
            return;
        }
        match value {
            Possible::Object(entries) => {
                for (key, value) in entries {
                    let key = match prefix.as_str() {
                        "" => key,
                        prefix => format!("{prefix}{separator}{key}"),
                    };
                    self.flatten(key, value, separator, flat);
                }
            }
            value => flat.push((prefix, value)),
        }
    }

    /// Renders a template and its parts for a message that has the event's name, if any, and nothing else.
    fn liquid(&self, liquid: &Liquid, scope: Scope<'_>) -> Vec<Possible> {
        let names = if matches!(scope, Scope::Message) { self.event_names } else { &[] };
        let named = |name: &str| {
            Value::Object(std::iter::once(("event".to_owned(), Value::from(name))).collect())
        };
        let messages: Vec<Value> = match names {
            [] => vec![Value::Object(Object::new())],
            names => names.iter().map(|name| named(name)).collect(),
        };
        let texts = messages.iter().flat_map(|message| liquid.texts(message));
        texts.filter(|text| self.spend(text.len())).map(Possible::text).collect()
    }
}

fn as_json(mode: JsonMode, value: Possible) -> Option<Possible> {
    match (mode, value) {
        (JsonMode::Encode, Possible::Value(value)) => Some(Possible::text(value.to_json())),
        (JsonMode::Encode, Possible::Object(entries)) => Some(Possible::Parts(
            entries
                .into_iter()
                .map(|(key, _)| format!("{}:", Value::from(key).to_json()))
                .collect(),
        )),
        (JsonMode::Encode, Possible::Array(_)) => None,
        (JsonMode::Encode, parts @ Possible::Parts(_)) => Some(parts),
        (JsonMode::Decode, Possible::Value(Value::String(text))) => Some(
            decode_strict(&text)
                .map_or_else(|_| Possible::text(text.as_str()), |value| Possible::of(&value)),
        ),
        (JsonMode::Decode, value) => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

    /// Returns the known strings of the field `f`.
    fn texts(field: &str, event_names: &[&str]) -> Vec<String> {
        let written = decode(format!(r#"{{"f":{field}}}"#).as_bytes()).unwrap();
        let mapping = Mapping::compile(&written).unwrap();
        let roots = mapping.possible(event_names);
        let values = Possible::find(&roots, &["f"]).into_iter();
        values.flat_map(Possible::texts).map(str::to_owned).collect()
    }

    #[test]
    fn every_literal_that_can_become_the_value_is_found() {
        let cases: [(&str, &[&str]); 22] = [
            (r#""a""#, &["a"]),
            (r#"{"@literal":"a"}"#, &["a"]),
            (r#"{"@path":"$.properties.x"}"#, &[]),
            (r#"{"@template":"a"}"#, &["a"]),
            (r#"{"@template":"a {{x}} b"}"#, &["a ", " b"]),
            (r#"{"@template":"a {{{x}}} b {{y}}"}"#, &["a ", " b "]),
            (r#"{"@template":{"@literal":"a {{x}}"}}"#, &["a "]),
            (r#"{"@if":{"exists":{"@path":"x"},"then":"a","else":{"@literal":"b"}}}"#, &["a", "b"]),
            (r#"{"@case":{"operator":"upper","value":{"@template":"a {{x}}"}}}"#, &["A "]),
            (r#"{"@replace":{"pattern":"a","replacement":"b","value":"a c"}}"#, &["b c"]),
            (
                r#"{"@replace":{"pattern":"a","replacement":"b","pattern2":"b","replacement2":"c","value":{"@path":"x"}}}"#,
                &["c", "c"],
            ),
            (r#"{"@json":{"mode":"decode","value":"\"a\""}}"#, &["a"]),
            (r#"{"@json":{"mode":"encode","value":{"a":{"@path":"x"},"b":1}}}"#, &["\"b\":"]),
            (r#"{"@excludeWhenNull":"a"}"#, &["a"]),
            (
                r#"{"@transform":{"apply":{"a":{"b":"c"},"d":"e"},"mapping":{"@path":"$.a.b"}}}"#,
                &["c"],
            ),
            (r#"{"@liquid":"a {{ x | append: 'b' }}"}"#, &["a b", "a ", "b"]),
            (
                r#"{"@liquid":"{% if x %}{% assign y = 'a' %}{{ y | append: 'b' }}{% endif %}"}"#,
                &["", "ab"],
            ),
            (r#"{"@liquid":"{% comment %}a{% endcomment %}{{ 'b' | remove: 'b' }}"}"#, &["", ""]),
            (r#"["a"]"#, &["a"]),
            (r#"{"@path":"$.event"}"#, &["N"]),
            (r#"{"@case":{"operator":"lower","value":{"@path":"event"}}}"#, &["n"]),
            (r#"{"@template":"{{event}}"}"#, &["N"]),
        ];
        for (field, expected) in cases {
            assert_eq!(texts(field, &["N"]), expected, "{field}");
        }
    }

    #[test]
    fn a_mapping_that_doubles_what_it_finds_ends() {
        let mut field = r#"{"@path":"$.a"}"#.to_owned();
        for _ in 0..40 {
            field = format!(
                r#"{{"@transform":{{"apply":{{"a":["x",{{"@path":"$.a"}},{{"@path":"$.a"}}]}},"mapping":{field}}}}}"#
            );
        }
        assert!(texts(&field, &[]).len() < BUDGET_MAX);
    }
}
