//! Filters of arrays. A value that is not an array counts as an array of it alone, nil as an empty one.

use std::borrow::Cow;

use super::super::budget::{Budget, RenderError, TEMPLATE_UNITS_MAX};
use super::super::expression::{Inputs, Operand, Scope};
use super::super::lookup::{item, walk};
use super::super::operand;
use super::super::val::{Val, equals};
use super::args::{Named, arg};
use crate::js::{Value, clamp_index, count, from_utf16, joined_text, to_number};

pub(super) const ALL: &[Named] = &[
    ("compact", |value, _, _| {
        Ok(Val::list(list(value).into_iter().filter(|item| !item.is_null()).collect()))
    }),
    ("first", |value, _, _| Ok(end(&value, |_| 0.0))),
    ("join", join),
    ("last", |value, _, _| Ok(end(&value, |length| length - 1.0))),
    ("pop", |value, _, _| {
        let mut items = list(value);
        items.pop();
        Ok(Val::list(items))
    }),
    ("push", |value, args, _| {
        let mut items = list(value);
        items.push(arg(args, 0).plain().into_owned());
        Ok(Val::list(items))
    }),
    ("sample", sample),
    ("shift", |value, _, _| Ok(Val::list(list(value).into_iter().skip(1).collect()))),
    ("size", size),
    ("slice", slice),
    ("sum", sum),
    ("unshift", |value, args, _| {
        let mut items = list(value);
        items.insert(0, arg(args, 0).plain().into_owned());
        Ok(Val::list(items))
    }),
    ("where", filter),
];

fn list(value: Val) -> Vec<Value> {
    match value {
        Val::Is(Value::Array(items)) => items,
        other if other.is_nil() => Vec::new(),
        other => vec![other.plain().into_owned()],
    }
}

fn join(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let separator = match arg(args, 0) {
        nil if nil.is_nil() => " ".to_owned(),
        given => given.text(),
    };
    let items = list(value);
    budget.spend(items.len().saturating_mul(separator.len()))?;
    Ok(Val::from(items.iter().map(joined_text).collect::<Vec<_>>().join(&separator)))
}

/// Returns the first or last item of an array or a string, or of an object with a length.
fn end(value: &Val, place: fn(f64) -> f64) -> Val {
    let value = value.plain();
    let length = value.member("length").and_then(|length| length.as_f64());
    let (Some(length), true) = (length, value.is_truthy()) else {
        return Val::from("");
    };
    let found = match &*value {
        Value::Array(items) => item(items, place(length)).map(Cow::Borrowed),
        other => other.member(&Val::number(place(length)).js_text()),
    };
    found.map_or(Val::Undefined, |found| Val::Is(found.into_owned()))
}

fn size(value: Val, _: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let length = match &value {
        Val::Is(value) => value.member("length").filter(|length| length.is_truthy()),
        _ => None,
    };
    Ok(Val::Is(length.map_or(Value::Number(0.0), Cow::into_owned)))
}

/// Takes the first items. LiquidJS picks at random, but a mapping must have the same result for the same message.
fn sample(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let items = match value {
        Val::Is(Value::String(text)) => {
            budget.spend_items(text.len())?;
            text.chars().map(|c| Value::String(c.to_string())).collect()
        }
        other => list(other),
    };
    match arg(args, 0) {
        one if one.is_undefined() || *one == Val::number(1.0) => {
            Ok(items.into_iter().next().map_or(Val::Undefined, Val::Is))
        }
        wanted => {
            let wanted = clamp_index(wanted.to_number(), items.len());
            Ok(Val::list(items.into_iter().take(wanted).collect()))
        }
    }
}

/// JavaScript's `+`, which concatenates strings.
fn plus(left: &Val, right: &Val) -> Val {
    let is_number =
        |val: &Val| val.is_nil() || matches!(val, Val::Is(Value::Number(_) | Value::Bool(_)));
    if is_number(left) && is_number(right) {
        Val::number(left.to_number() + right.to_number())
    } else {
        Val::from(left.js_text() + &right.js_text())
    }
}

/// The longest part that can be asked for: Segment's bound of LiquidJS' memory.
const LENGTH_MAX: f64 = 1e8;

/// Returns a part of an array or a string; a negative index counts from the end.
fn slice(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let units: Vec<u16>;
    let items: Vec<Value>;
    let (length, is_list) = match value {
        value if value.is_nil() => return Ok(Val::list(Vec::new())),
        Val::Is(Value::Array(list)) => {
            (items, units) = (list, Vec::new());
            (items.len(), true)
        }
        other => {
            (items, units) = (Vec::new(), other.text().encode_utf16().collect());
            (units.len(), false)
        }
    };
    let mut begin = arg(args, 0).clone();
    if begin.to_number() < 0.0 {
        begin = plus(&Val::number(count(length)), &begin);
    }
    let wanted = if arg(args, 1).is_undefined() { &Val::number(1.0) } else { arg(args, 1) };
    let is_nothing = begin.to_number() < 0.0 || wanted.to_number() < 0.0;
    if wanted.to_number() > LENGTH_MAX {
        return Err(RenderError::too_large());
    }
    let end = match plus(&begin, wanted).to_number() {
        _ if is_nothing => 0,
        end if end < 0.0 => length.saturating_sub(clamp_index(-end, length)),
        end => clamp_index(end, length),
    };
    let range = clamp_index(begin.to_number(), length).min(end)..end;
    Ok(match is_list {
        true => Val::list(items.get(range).unwrap_or_default().to_vec()),
        false => Val::from(from_utf16(units.get(range).unwrap_or_default())),
    })
}

fn sum(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let property = arg(args, 0);
    // A literal such as `nil` is an object in JavaScript, whose name as a property is empty.
    let is_literal = matches!(property, Val::Nil | Val::Empty | Val::Blank);
    let keys: Vec<Val> = match is_literal || property.plain().is_truthy() {
        true => property.text().split('.').map(Val::from).collect(),
        false => Vec::new(),
    };
    let items = list(value);
    budget.spend(items.len().saturating_mul(keys.len()))?;
    let number = |item: &Value| walk(item, &keys).map_or(f64::NAN, |found| to_number(&found));
    Ok(Val::number(items.iter().map(number).filter(|number| !number.is_nan()).sum()))
}

/// Returns the items whose property is truthy, or equal to the wanted value.
fn filter(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let name = arg(args, 0).text();
    // A longer property may be nested deeper.
    if name.len() > TEMPLATE_UNITS_MAX {
        return Err(RenderError::too_large());
    }
    let mut inputs = Inputs::default();
    let property = operand::property(&name, &mut inputs).map_err(RenderError::Placed)?;
    let mut found = Vec::new();
    for item in list(value) {
        let value = property_of(&item, property.as_ref(), &inputs, budget)?;
        let is_wanted = match arg(args, 1) {
            Val::Undefined => value.is_truthy(),
            wanted => equals(&value, wanted),
        };
        if is_wanted {
            found.push(item);
        }
    }
    Ok(Val::list(found))
}

fn property_of(
    item: &Value,
    property: Option<&Operand>,
    inputs: &Inputs,
    budget: &mut Budget,
) -> Result<Val, RenderError> {
    let Some(property) = property else {
        return Ok(Val::Undefined);
    };
    let budget_so_far = std::mem::take(budget);
    let mut scope = Scope { inputs: inputs.of(item), budget: budget_so_far, ..Scope::default() };
    let value = property.value(&mut scope);
    *budget = scope.budget;
    value
}
