//! The conditions of a filter on a message's own columns.

use jiff::Timestamp;

use crate::queue::{Filter, event_name};
use crate::store::postgres::rows::to_ms;
use crate::store::postgres::statement::{Statement, Value};

/// Adds the condition that the columns of the message `m`, except those of persons, meet a filter.
pub(super) fn columns_meet_filter(statement: &mut Statement, filter: &Filter) {
    let word = |word: &Option<String>| word.as_deref().map(Value::text);
    statement.compare("m.destination =", word(&filter.destination));
    statement.compare("m.source =", word(&filter.source));
    statement.compare("m.kind =", filter.kind.map(|kind| Value::text(kind.as_str())));
    let event = filter.event.as_deref().map(|event| Value::text(event_name(event)));
    statement.compare("m.event =", event);
    let time = |time: Option<Timestamp>| time.map(|time| Value::Number(to_ms(time)));
    statement.compare("m.received_at >=", time(filter.from));
    statement.compare("m.received_at <", time(filter.to));
}
