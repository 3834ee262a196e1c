//! What LiquidJS adds to JavaScript's values: `nil`, `empty` and `blank`, and how all of them are compared and
//! printed.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::js::{Value, is_space, push_joined, to_number, to_text};

/// The value of an expression.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Val {
    /// JavaScript's `undefined`, which differs from null; as an argument, the filter's default replaces it.
    #[default]
    Undefined,
    /// `nil` or `null` as written in a template.
    Nil,
    /// `empty` as written.
    Empty,
    /// `blank` as written.
    Blank,
    /// A value of the message or of a filter.
    Is(Value),
}

impl Val {
    pub(super) fn number(number: f64) -> Self {
        Val::Is(Value::Number(number))
    }

    pub(super) fn bool(flag: bool) -> Self {
        Val::Is(Value::Bool(flag))
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        Val::Is(Value::Array(items))
    }

    pub(super) fn is_undefined(&self) -> bool {
        *self == Val::Undefined
    }

    /// Whether it is undefined or null.
    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Val::Undefined | Val::Nil | Val::Is(Value::Null))
    }

    /// Whether Liquid counts it as true: everything but nil and false.
    pub(super) fn is_truthy(&self) -> bool {
        !self.is_nil() && *self != Val::Is(Value::Bool(false))
    }

    /// Returns it as a plain value: `empty` and `blank` are the empty string, undefined is null.
    pub(super) fn plain(&self) -> Cow<'_, Value> {
        match self {
            Val::Is(value) => Cow::Borrowed(value),
            Val::Undefined | Val::Nil => Cow::Owned(Value::Null),
            Val::Empty | Val::Blank => Cow::Owned(Value::String(String::new())),
        }
    }

    /// Returns it as an output prints it.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        if let Val::Is(value) = self {
            print(&mut out, value);
        }
        out
    }

    /// Returns JavaScript's `Number(…)` of it.
    pub(super) fn to_number(&self) -> f64 {
        match self {
            Val::Undefined => f64::NAN,
            other => to_number(&other.plain()),
        }
    }

    /// Returns it as a number, 0 if it is not one, as LiquidJS does.
    pub(super) fn number_or_zero(&self) -> f64 {
        let number = self.to_number();
        if number.is_nan() { 0.0 } else { number }
    }

    /// Returns JavaScript's `String(…)` of it.
    pub(super) fn js_text(&self) -> String {
        match self {
            Val::Undefined => "undefined".to_owned(),
            other => to_text(&other.plain()),
        }
    }
}

impl<T: Into<String>> From<T> for Val {
    fn from(text: T) -> Self {
        Val::Is(Value::String(text.into()))
    }
}

fn print(out: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(text) => out.push_str(text),
        Value::Array(items) => items.iter().for_each(|item| print(out, item)),
        other => push_joined(out, other),
    }
}

/// LiquidJS' `==`. Objects are compared by their members (in JavaScript, by identity).
pub(super) fn equals(left: &Val, right: &Val) -> bool {
    match (left, right) {
        (Val::Nil, other) | (other, Val::Nil) => other.is_nil(),
        (Val::Empty, Val::Empty | Val::Blank) | (Val::Blank, Val::Empty | Val::Blank) => false,
        (Val::Empty, other) | (other, Val::Empty) => is_empty(other),
        (Val::Blank, other) | (other, Val::Blank) => is_blank(other),
        (Val::Undefined, other) | (other, Val::Undefined) => other.is_undefined(),
        (Val::Is(left), Val::Is(right)) => left == right,
    }
}

fn is_empty(val: &Val) -> bool {
    match val {
        Val::Is(Value::String(text)) => text.is_empty(),
        Val::Is(Value::Array(items)) => items.is_empty(),
        Val::Is(Value::Object(object)) => object.is_empty(),
        _ => false,
    }
}

fn is_blank(val: &Val) -> bool {
    match val {
        Val::Is(Value::Bool(flag)) => !flag,
        Val::Is(Value::String(text)) => text.chars().all(is_space),
        other => other.is_nil() || is_empty(other),
    }
}

/// The order behind JavaScript's `<`, `<=`, `>` and `>=`; `None` if all of them are false.
pub(super) fn compare(left: &Val, right: &Val) -> Option<Ordering> {
    let is_drop = |val: &Val| matches!(val, Val::Nil | Val::Empty | Val::Blank);
    if is_drop(left) || is_drop(right) {
        return None;
    }
    let is_number = |val: &Val| {
        matches!(val, Val::Undefined | Val::Is(Value::Null | Value::Bool(_) | Value::Number(_)))
    };
    if is_number(left) || is_number(right) {
        return left.to_number().partial_cmp(&right.to_number());
    }
    Some(left.js_text().encode_utf16().cmp(right.js_text().encode_utf16()))
}

/// LiquidJS' `contains`.
pub(super) fn contains(left: &Val, right: &Val) -> bool {
    match left {
        Val::Is(Value::Array(items)) => {
            items.iter().any(|item| equals(&Val::Is(item.clone()), right))
        }
        Val::Is(Value::String(text)) => text.contains(&right.js_text()),
        Val::Empty | Val::Blank => right.js_text().is_empty(),
        _ => false,
    }
}
