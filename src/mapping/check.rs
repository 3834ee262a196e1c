//! Segment's validation of a mapping, in its words and its order. It looks at every part, whether it is used or not,
//! but not into arrays, literals or the value of `@excludeWhenNull`.

use super::problem::Problem;
use super::{DEPTH_MAX, DIRECTIVES, VALUES_MAX};
use crate::js::{Object, Value};

/// The longest pattern and replacement of `@replace`, in UTF-16 code units.
pub(super) const REPLACE_UNITS_MAX: usize = 10;

/// Where a value is: keys from the outside in.
type Place<'a> = Vec<&'a str>;

type Checked = Result<(), Vec<Problem>>;

/// Rejects a mapping that is too deep or too large to be checked.
pub(super) fn check_size(written: &Value) -> Checked {
    let mut left = VALUES_MAX;
    let problem = match size(written, 0, &mut left) {
        Ok(()) => return Ok(()),
        Err(problem) => problem,
    };
    Err(vec![Problem {
        pointer: "/".to_owned(),
        problem,
        allowed: String::new(),
        names_place: false,
    }])
}

fn size(value: &Value, depth: usize, left: &mut usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("the mapping is nested more than {DEPTH_MAX} levels deep"));
    }
    *left = left
        .checked_sub(1)
        .ok_or_else(|| format!("the mapping contains more than {VALUES_MAX} values"))?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| size(item, depth + 1, left)),
        Value::Object(object) => {
            object.iter().try_for_each(|(_, item)| size(item, depth + 1, left))
        }
        _ => Ok(()),
    }
}

/// Checks a mapping or a part of one.
pub(super) fn check<'a>(value: &'a Value, place: &mut Place<'a>) -> Checked {
    match value {
        Value::Object(object) if has_directive(object) => check_directive(object, place),
        Value::Object(_) => check_object(value, place),
        _ => Ok(()),
    }
}

/// Whether some key starts with `@`.
pub(super) fn has_directive(object: &Object) -> bool {
    object.keys().any(|key| key.starts_with('@'))
}

fn check_directive<'a>(object: &'a Object, place: &mut Place<'a>) -> Checked {
    let names: Vec<&str> =
        object.iter().map(|(key, _)| key).filter(|key| key.starts_with('@')).collect();
    let has_others = object.keys().any(|key| !key.starts_with('@') && key != "_metadata");
    let one = |count: usize| format!("should only have one @-prefixed key but it has {count} keys");
    match names.as_slice() {
        [name] if !has_others => {
            let value = object.get(name).unwrap_or(&Value::Null);
            if !DIRECTIVES.contains(name) {
                let allowed = format!("allowed are {}", DIRECTIVES.join(", "));
                return refuse_with(place, format!("has an invalid directive: {name}"), allowed);
            }
            within(place, name, |place| check_named(name, value, place))
        }
        [_, _, ..] => refuse(place, one(names.len())),
        _ => refuse(place, one(object.len())),
    }
}

fn check_named<'a>(name: &str, value: &'a Value, place: &mut Place<'a>) -> Checked {
    match name {
        "@path" | "@template" => directive_or_text(value, place),
        "@if" => options(
            value,
            place,
            &[("exists", false, Kind::Any), ("then", false, Kind::Any), ("else", false, Kind::Any)],
        ),
        "@case" => options(
            value,
            place,
            &[("operator", false, Kind::Text), ("value", false, Kind::DirectiveOrText)],
        ),
        "@replace" => options(
            value,
            place,
            &[
                ("pattern", true, Kind::TextOf(1)),
                ("replacement", false, Kind::TextOf(0)),
                ("value", true, Kind::DirectiveOrText),
                ("ignorecase", false, Kind::Flag),
                ("global", false, Kind::Flag),
            ],
        ),
        "@json" => options(
            value,
            place,
            &[("value", true, Kind::Any), ("mode", true, Kind::OneOf(&["encode", "decode"]))],
        ),
        "@flatten" => {
            options(value, place, &[("separator", false, Kind::Text), ("value", true, Kind::Any)])
        }
        "@merge" => merge(value, place),
        "@transform" => options(
            value,
            place,
            &[("apply", true, Kind::DirectiveOrObject), ("mapping", true, Kind::DirectiveOrObject)],
        ),
        "@arrayPath" => array_path(value, place),
        "@liquid" => Kind::Text.check(value, place),
        // @literal and @excludeWhenNull
        _ => Kind::Any.check(value, place),
    }
}

fn merge<'a>(value: &'a Value, place: &mut Place<'a>) -> Checked {
    options(
        value,
        place,
        &[("direction", false, Kind::OneOf(&["left", "right"])), ("objects", true, Kind::Array)],
    )?;
    let objects = value.get("objects").and_then(Value::as_array).unwrap_or_default();
    // Segment's error does not say where, so neither does this one.
    objects.iter().try_for_each(|object| Kind::DirectiveOrObject.check(object, &mut Vec::new()))
}

fn array_path<'a>(value: &'a Value, place: &mut Place<'a>) -> Checked {
    let Value::Array(items) = value else {
        return Kind::Array.check(value, place);
    };
    match items.first() {
        Some(path) => directive_or_text(path, place)?,
        None => {
            return refuse(
                place,
                "should be a string or a mapping directive but it is an undefined",
            );
        }
    }
    items.get(1).map_or(Ok(()), |shape| check(shape, place))
}

/// An object without directives of its own; every part of it is checked.
fn check_object<'a>(value: &'a Value, place: &mut Place<'a>) -> Checked {
    let Value::Object(object) = value else {
        return wrong_kind("an object", value, place);
    };
    if has_directive(object) {
        return wrong_kind("an object", value, place);
    }
    let mut problems = Vec::new();
    for (key, part) in object.iter() {
        if let Err(mut found) = within(place, key, |place| check(part, place)) {
            problems.append(&mut found);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks the options of a directive: first every part of the object, then the type of each option.
fn options<'a>(
    value: &'a Value,
    place: &mut Place<'a>,
    wanted: &[(&'static str, bool, Kind)],
) -> Checked {
    check_object(value, place)?;
    let mut problems = Vec::new();
    for (name, is_required, kind) in wanted {
        let checked = match value.get(name) {
            // Checked above; a second time would double the cost with every level.
            Some(Value::Object(_)) if kind.takes_objects() => Ok(()),
            Some(Value::Object(object)) if kind.takes_directives() && has_directive(object) => {
                Ok(())
            }
            Some(option) => within(place, name, |place| kind.check(option, place)),
            None if *is_required => {
                refuse(place, format!("should have field \"{name}\" but it doesn't"))
            }
            None => Ok(()),
        };
        if let Err(mut found) = checked {
            problems.append(&mut found);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What an option may be.
#[derive(Clone, Copy)]
enum Kind {
    Any,
    Text,
    /// A string of at least this many and at most ten UTF-16 code units.
    TextOf(usize),
    OneOf(&'static [&'static str]),
    Flag,
    Array,
    DirectiveOrText,
    DirectiveOrObject,
}

impl Kind {
    /// Whether any object that is valid as a part of a mapping is valid here.
    fn takes_objects(self) -> bool {
        matches!(self, Kind::Any | Kind::DirectiveOrObject)
    }

    fn takes_directives(self) -> bool {
        matches!(self, Kind::DirectiveOrText)
    }

    fn check<'a>(self, value: &'a Value, place: &mut Place<'a>) -> Checked {
        match (self, value) {
            (Kind::DirectiveOrObject, Value::Object(_)) => check(value, place),
            (Kind::Any | Kind::DirectiveOrText, Value::Object(object)) if has_directive(object) => {
                check_directive(object, place)
            }
            (Kind::Any, _)
            | (Kind::Text | Kind::DirectiveOrText, Value::String(_))
            | (Kind::Flag, Value::Bool(_))
            | (Kind::Array, Value::Array(_)) => Ok(()),
            (Kind::TextOf(units_min), Value::String(text)) => {
                let units = text.encode_utf16().count();
                let limit =
                    |bound, which| format!("should be a string of length {bound} or {which}");
                if units < units_min {
                    refuse(place, limit(units_min, "greater"))
                } else if units > REPLACE_UNITS_MAX {
                    refuse(place, limit(REPLACE_UNITS_MAX, "less"))
                } else {
                    Ok(())
                }
            }
            (Kind::OneOf(allowed), Value::String(text)) => {
                if allowed.contains(&text.to_lowercase().as_str()) {
                    return Ok(());
                }
                let given = Value::from(text.as_str()).to_json();
                refuse(place, format!("should be one of {} but it is {given}", allowed.join(", ")))
            }
            (Kind::Text | Kind::TextOf(_) | Kind::OneOf(_), _) => {
                wrong_kind("a string", value, place)
            }
            (Kind::Flag, _) => wrong_kind("a boolean", value, place),
            // Here Segment does not distinguish directives from other objects.
            (Kind::Array, Value::Object(_)) => {
                refuse(place, "should be an array but it is an object")
            }
            (Kind::Array, _) => wrong_kind("an array", value, place),
            (Kind::DirectiveOrText, _) => {
                wrong_kind("a string or a mapping directive", value, place)
            }
            (Kind::DirectiveOrObject, _) => {
                wrong_kind("a object or a mapping directive", value, place)
            }
        }
    }
}

fn directive_or_text<'a>(value: &'a Value, place: &mut Place<'a>) -> Checked {
    Kind::DirectiveOrText.check(value, place)
}

fn within<'a>(
    place: &mut Place<'a>,
    key: &'a str,
    check: impl FnOnce(&mut Place<'a>) -> Checked,
) -> Checked {
    place.push(key);
    let checked = check(place);
    place.pop();
    checked
}

fn wrong_kind(wanted: &str, value: &Value, place: &Place<'_>) -> Checked {
    let kind = match value {
        Value::Object(object) if has_directive(object) => "a directive",
        // Arrays are distinguished from objects even where directives are looked for.
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
        Value::Null => "a null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
    };
    refuse(place, format!("should be {wanted} but it is {kind}"))
}

fn refuse(place: &Place<'_>, problem: impl Into<String>) -> Checked {
    refuse_with(place, problem.into(), String::new())
}

fn refuse_with(place: &Place<'_>, problem: String, allowed: String) -> Checked {
    let pointer = format!("/{}", place.join("/"));
    Err(vec![Problem { pointer, problem, allowed, names_place: true }])
}
