//! Looks up keys and paths in values, as JavaScript and LiquidJS do.

use std::borrow::Cow;

use super::val::Val;
use crate::js::{Value, clamp_index, count, utf16_length};

/// Returns what is at a path of `keys`; `None` is JavaScript's undefined.
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

/// Like [`walk`], where `start` may also be a literal of Liquid.
pub(super) fn walk_val(start: &Val, keys: &[Val]) -> Val {
    match (start, keys) {
        (start, []) => start.clone(),
        (Val::Is(value), keys) => {
            walk(value, keys).map_or(Val::Undefined, |v| Val::Is(v.into_owned()))
        }
        _ => Val::Undefined,
    }
}

/// Returns the member `key`: the value's own, or Liquid's `size`, `first` and `last`.
fn member<'v>(value: &'v Value, key: &Val) -> Option<Cow<'v, Value>> {
    if let (Value::Array(items), Val::Is(Value::Number(place))) = (value, key) {
        return item(items, *place).map(Cow::Borrowed);
    }
    if value.is_null() {
        return Some(Cow::Borrowed(value));
    }
    let name = key.js_text();
    let size = |count_of: usize| Some(Cow::Owned(Value::Number(count(count_of))));
    value.member(&name).or_else(|| match (name.as_str(), value) {
        _ if !matches!(key, Val::Is(Value::String(_))) => None,
        ("size", Value::Array(items)) => size(items.len()),
        ("size", Value::String(text)) => size(utf16_length(text)),
        ("size", Value::Object(object)) => size(object.len()),
        ("first", Value::Array(items)) => items.first().map(Cow::Borrowed),
        ("last", Value::Array(items)) => items.last().map(Cow::Borrowed),
        _ => None,
    })
}

/// Returns the item at an index, counted from the end if it is negative.
pub(super) fn item(items: &[Value], place: f64) -> Option<&Value> {
    let length = count(items.len());
    let place = if place < 0.0 { length + place } else { place };
    let is_index = place >= 0.0 && place.fract() == 0.0 && place < length;
    if is_index { items.get(clamp_index(place, items.len())) } else { None }
}
