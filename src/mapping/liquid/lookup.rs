//! What is under a key or a path in a value, as JavaScript and LiquidJS look it up.

use std::borrow::Cow;

use super::js::{Val, bound, count, from_units, length};
use crate::segment::value::Value;

/// What is under `keys` in `start`, key by key; `None` is JavaScript's undefined.
pub(super) fn walk<'v>(start: &'v Value, keys: &[Val]) -> Option<Cow<'v, Value>> {
    let mut found = Cow::Borrowed(start);
    for key in keys {
        found = match found {
            Cow::Borrowed(value) => member(value, key)?,
            Cow::Owned(value) => Cow::Owned(member(&value, key)?.into_owned()),
        };
    }
    Some(found)
}

/// What is under `keys` in `start`, where that may also be a literal.
pub(super) fn walk_val(start: &Val, keys: &[Val]) -> Val {
    match (start, keys) {
        (start, []) => start.clone(),
        (Val::Is(value), keys) => {
            walk(value, keys).map_or(Val::Undefined, |v| Val::Is(v.into_owned()))
        }
        _ => Val::Undefined,
    }
}

/// The member `key`: the value's own, or Liquid's `size`, `first` and `last`.
fn member<'v>(value: &'v Value, key: &Val) -> Option<Cow<'v, Value>> {
    if let (Value::Array(items), Val::Is(Value::Number(place))) = (value, key) {
        return item(items, *place).map(Cow::Borrowed);
    }
    if value.is_null() {
        return Some(Cow::Borrowed(value));
    }
    let name = key.js_text();
    own(value, &name).or_else(|| match (name.as_str(), value) {
        _ if !matches!(key, Val::Is(Value::String(_))) => None,
        ("size", Value::Array(items)) => Some(Cow::Owned(count(items.len()))),
        ("size", Value::String(text)) => Some(Cow::Owned(Value::Number(length(text)))),
        ("size", Value::Object(object)) => Some(Cow::Owned(count(object.len()))),
        ("first", Value::Array(items)) => items.first().map(Cow::Borrowed),
        ("last", Value::Array(items)) => items.last().map(Cow::Borrowed),
        _ => None,
    })
}

/// What JavaScript holds for a value's own property.
pub(super) fn own<'v>(value: &'v Value, name: &str) -> Option<Cow<'v, Value>> {
    match value {
        Value::Object(object) => object.get(name).map(Cow::Borrowed),
        Value::Array(items) if name == "length" => Some(Cow::Owned(count(items.len()))),
        Value::Array(items) => items.get(index(name)?).map(Cow::Borrowed),
        Value::String(text) if name == "length" => Some(Cow::Owned(Value::Number(length(text)))),
        Value::String(text) => {
            let unit = text.encode_utf16().nth(index(name)?)?;
            Some(Cow::Owned(Value::String(from_units(&[unit]))))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The item at `place`, from the end if it is negative.
#[allow(clippy::cast_precision_loss, reason = "no list has 2^53 items")]
pub(super) fn item(items: &[Value], place: f64) -> Option<&Value> {
    let place = if place < 0.0 { items.len() as f64 + place } else { place };
    let is_index = place >= 0.0 && place.fract() == 0.0 && place < items.len() as f64;
    if is_index { items.get(bound(place, items.len())) } else { None }
}

/// A place in a list, in its shortest form: `1`, not `01`.
fn index(name: &str) -> Option<usize> {
    let index: usize = name.parse().ok()?;
    (index.to_string() == name).then_some(index)
}
