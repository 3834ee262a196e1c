//! Filters of any value.

use super::super::budget::{Budget, RenderError, VALUE_BYTES_MAX};
use super::super::val::Val;
use super::args::{Named, arg};
use crate::js::{Value, clamp_index};

/// The longest indent that `JSON.stringify` takes.
const INDENT_MAX: usize = 10;

pub(super) const ALL: &[Named] = &[
    ("default", default),
    ("json", json),
    ("jsonify", json),
    ("inspect", json),
    ("raw", |value, _, _| Ok(value)),
    ("to_integer", |value, _, _| Ok(Val::number(value.to_number()))),
];

/// Replaces nil, false and what is empty; `allow_false: true` keeps false.
fn default(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let is_given = match &value {
        Val::Empty | Val::Blank => false,
        Val::Is(Value::String(text)) => !text.is_empty(),
        Val::Is(Value::Array(items)) => !items.is_empty(),
        Val::Is(Value::Bool(false)) => allows_false(args.get(1..).unwrap_or_default())?,
        other => other.is_truthy(),
    };
    Ok(if is_given { value } else { arg(args, 0).clone() })
}

fn allows_false(options: &[Val]) -> Result<bool, RenderError> {
    let mut allows = false;
    for option in options {
        match option {
            Val::Is(Value::Array(pair)) if pair.first() == Some(&"allow_false".into()) => {
                allows = pair.get(1).is_some_and(Value::is_truthy);
            }
            Val::Is(Value::Array(_) | Value::Object(_)) => {}
            other => {
                let problem = format!("Iterator value {} is not an entry object", other.js_text());
                return Err(RenderError::new(problem));
            }
        }
    }
    Ok(allows)
}

fn json(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
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
    let json = value.to_indented_json(&indent, VALUE_BYTES_MAX);
    json.map(Val::from).ok_or_else(RenderError::too_large)
}
