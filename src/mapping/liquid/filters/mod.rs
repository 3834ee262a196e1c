//! LiquidJS' filters, but those that Segment disables.

mod date;
mod list;
mod math;
mod strftime;
mod text;
mod web;

use super::expression::Filter;
use super::val::Val;
use super::{Budget, Fault};
use crate::js::{Value, clamp_index};

/// What Segment takes out of LiquidJS.
pub(super) const DISABLED: [&str; 20] = [
    "array_to_sentence_string",
    "concat",
    "find",
    "find_exp",
    "find_index",
    "find_index_exp",
    "group_by",
    "group_by_exp",
    "has",
    "has_exp",
    "map",
    "newline_to_br",
    "reject",
    "reject_exp",
    "reverse",
    "sort",
    "sort_natural",
    "type",
    "uniq",
    "where_exp",
];

type Named = (&'static str, Filter);

fn all() -> impl Iterator<Item = Named> {
    let all = [math::ALL, text::ALL, list::ALL, web::ALL, date::ALL, GENERAL];
    all.into_iter().flatten().copied()
}

/// The filter of that name.
pub(super) fn find(name: &str) -> Option<Filter> {
    all().find(|(known, _)| *known == name).map(|(_, filter)| filter)
}

/// The names of all filters that are not disabled.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name)
}

const GENERAL: &[Named] = &[
    ("default", default),
    ("json", json),
    ("jsonify", json),
    ("inspect", json),
    ("raw", |value, _, _| Ok(value)),
    ("to_integer", |value, _, _| Ok(Val::number(value.to_number()))),
];

/// The argument at `place`; undefined if it is missing.
fn arg(args: &[Val], place: usize) -> &Val {
    args.get(place).unwrap_or(&Val::Undefined)
}

/// The argument at `place` as a text, or `default` if it is undefined.
fn text_or(args: &[Val], place: usize, default: &str) -> String {
    match arg(args, place) {
        Val::Undefined => default.to_owned(),
        given => given.text(),
    }
}

/// Another value for nil, false and what is empty; false is kept with `allow_false: true`.
fn default(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, Fault> {
    let is_given = match &value {
        Val::Empty | Val::Blank => false,
        Val::Is(Value::String(text)) => !text.is_empty(),
        Val::Is(Value::Array(items)) => !items.is_empty(),
        Val::Is(Value::Bool(false)) => allows_false(args.get(1..).unwrap_or_default())?,
        other => other.is_truthy(),
    };
    Ok(if is_given { value } else { arg(args, 0).clone() })
}

fn allows_false(options: &[Val]) -> Result<bool, Fault> {
    let mut allows = false;
    for option in options {
        match option {
            Val::Is(Value::Array(pair)) if pair.first() == Some(&"allow_false".into()) => {
                allows = pair.get(1).is_some_and(Value::is_truthy);
            }
            Val::Is(Value::Array(_) | Value::Object(_)) => {}
            other => {
                let problem = format!("Iterator value {} is not an entry object", other.js_text());
                return Err(Fault::new(problem));
            }
        }
    }
    Ok(allows)
}

/// The longest indent that `JSON.stringify` takes.
const INDENT_MAX: usize = 10;

fn json(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, Fault> {
    let value = match value {
        Val::Undefined => return Ok(Val::Undefined),
        // LiquidJS' literals are objects without a key.
        Val::Nil | Val::Empty | Val::Blank => return Ok(Val::from("{}")),
        Val::Is(value) => value,
    };
    let indent = match arg(args, 0) {
        Val::Is(Value::Number(spaces)) => " ".repeat(clamp_index(*spaces, INDENT_MAX)),
        Val::Is(Value::String(text)) => text.chars().take(INDENT_MAX).collect(),
        _ => String::new(),
    };
    Ok(Val::from(value.to_indented_json(&indent)))
}
