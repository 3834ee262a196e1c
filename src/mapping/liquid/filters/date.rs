//! Filters of dates. A date is parsed as V8 parses it, and shown in UTC unless an offset is given.
//!
//! A mapping does not read the clock: `now` and `today` are errors.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::super::budget::{Budget, RenderError};
use super::super::val::Val;
use super::args::{Named, arg};
use super::strftime::{Moment, ordinal, strftime};
use crate::js::date::parse_date;
use crate::js::{Value, to_number, to_text};

pub(super) const ALL: &[Named] = &[
    ("date", |value, args, budget| {
        let format = match arg(args, 0) {
            nil if nil.is_nil() => "%A, %B %-e, %Y at %-l:%M %P %z".to_owned(),
            format => format.text(),
        };
        show(value, arg(args, 1), budget, |_| format)
    }),
    ("date_to_long_string", |value, args, budget| in_words(value, args, budget, "%B")),
    ("date_to_rfc822", |value, _, budget| {
        show(value, &Val::Undefined, budget, |_| "%a, %d %b %Y %H:%M:%S %z".to_owned())
    }),
    ("date_to_string", |value, args, budget| in_words(value, args, budget, "%b")),
    ("date_to_xmlschema", |value, _, budget| {
        show(value, &Val::Undefined, budget, |_| "%Y-%m-%dT%H:%M:%S%:z".to_owned())
    }),
];

/// Formats a date by the format that is returned for it; a value that is not a date is returned as it is.
fn show(
    value: Val,
    offset: &Val,
    budget: &mut Budget,
    format: impl FnOnce(&Moment) -> String,
) -> Result<Val, RenderError> {
    match moment(&value, offset)? {
        Some(moment) => Ok(Val::from(strftime(&moment, &format(&moment), budget)?)),
        None => Ok(value),
    }
}

fn in_words(
    value: Val,
    args: &[Val],
    budget: &mut Budget,
    month: &str,
) -> Result<Val, RenderError> {
    let is = |place: usize, text: &str| *arg(args, place) == Val::from(text);
    show(value, &Val::Undefined, budget, |moment| {
        let day = moment.shown.day();
        match (is(0, "ordinal"), is(1, "US")) {
            (true, true) => format!("{month} {day}{}, %Y", ordinal(day)),
            (true, false) => format!("{day}{} {month} %Y", ordinal(day)),
            (false, _) => format!("%d {month} %Y"),
        }
    })
}

fn moment(value: &Val, offset: &Val) -> Result<Option<Moment>, RenderError> {
    if value.is_nil() {
        return Ok(None);
    }
    let milliseconds = match &*value.plain() {
        Value::String(text) if text == "now" || text == "today" => {
            return Err(RenderError::new(format!("date \"{text}\" is not known to a mapping")));
        }
        Value::Number(seconds) => Some(seconds * 1000.0),
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(to_number(&Value::from(text.as_str())) * 1000.0)
        }
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        other => parse_date(&to_text(other)),
    };
    let Some(timestamp) = milliseconds.and_then(timestamp) else {
        return Ok(None);
    };
    let (minutes, zone) = match offset {
        offset if offset.is_undefined() || *offset == Val::Is(Value::Null) => {
            (0.0, Some("UTC".to_owned()))
        }
        Val::Is(Value::String(name)) => {
            let problem = || RenderError::new(format!("Invalid time zone specified: {name}"));
            let zone = TimeZone::get(name).map_err(|_| problem())?;
            (f64::from(-zone.to_offset(timestamp).seconds() / 60), Some(name.clone()))
        }
        // Minutes west of Greenwich, as in JavaScript.
        other => (other.to_number(), None),
    };
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of 20,000 years are exact")]
    let shown = timestamp_at(timestamp.as_millisecond() as f64 - minutes * 60_000.0);
    Ok(shown.map(|shown| Moment { shown, minutes, zone }))
}

fn timestamp(milliseconds: f64) -> Option<Timestamp> {
    // jiff's range ends with the year 9999, JavaScript's with the year 275760.
    let is_known = milliseconds.abs() < 3e14;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in the range")]
    let whole = if is_known { milliseconds.trunc() as i64 } else { return None };
    Timestamp::from_millisecond(whole).ok()
}

fn timestamp_at(milliseconds: f64) -> Option<DateTime> {
    timestamp(milliseconds).map(|timestamp| Offset::UTC.to_datetime(timestamp))
}
