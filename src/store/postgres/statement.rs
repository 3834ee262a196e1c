//! Statements built from conditions on messages.
//!
//! Whatever was asked, the text of a statement has only names of columns and parameters. Every part of it names the
//! rows of partitioned tables by `$1`, a list of numbers, so that the planner considers only the partitions that hold
//! them.

use tokio_postgres::types::Type;

use super::params::{Param, text};
use crate::queue::{DeliveryState, FailureReason, MessageState};
use crate::segment::PersonDigest;

/// A statement's text and its parameters.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
}

/// A parameter.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Number(i64),
    Numbers(Vec<i64>),
    Text(String),
    Texts(Vec<String>),
}

impl Value {
    /// Returns a string in its stored form.
    pub(super) fn text(of: &str) -> Self {
        Value::Text(text(of).into_owned())
    }

    /// Returns the digests of persons.
    pub(super) fn persons(of: &[PersonDigest]) -> Self {
        Value::Numbers(of.iter().map(|person| person.0).collect())
    }

    pub(super) fn as_param(&self) -> Param<'_> {
        match self {
            Value::Number(number) => (number, Type::INT8),
            Value::Numbers(numbers) => (numbers, Type::INT8_ARRAY),
            Value::Text(text) => (text, Type::TEXT),
            Value::Texts(texts) => (texts, Type::TEXT_ARRAY),
        }
    }
}

/// Messages with a delivery that counts.
const TAKEN: &str =
    "(SELECT d.seq FROM @deliveries d WHERE d.seq = ANY($1) AND NOT d.is_superseded)";
/// Messages with a shadowed delivery that counts.
const SHADOWED: &str = "(SELECT d.seq FROM @deliveries d
    WHERE d.seq = ANY($1) AND NOT d.is_superseded AND d.state = 'shadowed')";

impl Statement {
    /// Returns a statement whose `$1` is this list of sequence numbers.
    pub(super) fn of(text: &str, seqs: &[i64]) -> Self {
        Self { text: text.to_owned(), values: vec![Value::Numbers(seqs.to_vec())] }
    }

    /// Returns a statement with all its parameters.
    pub(super) fn with(text: &str, values: Vec<Value>) -> Self {
        Self { text: text.to_owned(), values }
    }

    pub(super) fn params(&self) -> Vec<Param<'_>> {
        self.values.iter().map(Value::as_param).collect()
    }

    /// Adds a parameter; returns its name in the text.
    pub(super) fn add(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    /// Adds a condition on a column of the message `m`, if there is a value.
    pub(super) fn compare(&mut self, condition: &str, value: Option<Value>) {
        if let Some(value) = value {
            let name = self.add(value);
            self.text += &format!(" AND {condition} {name}");
        }
    }

    /// Adds the condition that the message `m` is about one of these persons. Adds nothing if there are none.
    pub(super) fn is_about(&mut self, persons: &[PersonDigest]) {
        if persons.is_empty() {
            return;
        }
        let list = self.add(Value::persons(persons));
        self.text += &format!(
            " AND COALESCE(m.lane = ANY({list}) OR m.anonymous = ANY({list}) OR m.email = ANY({list}), false)"
        );
    }

    /// Adds the condition that the message `m` is in this state.
    pub(super) fn is_in_state(&mut self, state: MessageState) {
        let of_outcome = |condition: &str| {
            format!(
                " AND m.seq IN (SELECT o.seq FROM @outcomes o WHERE o.seq = ANY($1){condition})"
            )
        };
        self.text += &match state {
            MessageState::Pending => {
                " AND m.seq IN (SELECT w.seq FROM @pending w WHERE w.seq = ANY($1))".to_owned()
            }
            MessageState::Failed => of_outcome(" AND o.is_failed"),
            MessageState::Delivered => {
                of_outcome(" AND NOT o.is_failed")
                    + " AND m.seq IN "
                    + TAKEN
                    + " AND m.seq NOT IN "
                    + SHADOWED
            }
            MessageState::Shadowed => {
                of_outcome(" AND NOT o.is_failed") + " AND m.seq IN " + SHADOWED
            }
            MessageState::Unmatched => {
                of_outcome(" AND NOT o.is_failed") + " AND m.seq NOT IN " + TAKEN
            }
        };
    }

    /// Adds the condition that the message `m` is held.
    pub(super) fn is_held(&mut self) {
        self.text += " AND m.seq IN (SELECT h.seq FROM @held h WHERE h.seq = ANY($1))";
    }

    /// Adds the condition that the message `m` has a shadowed delivery that counts, whatever became of the others.
    pub(super) fn has_shadowed(&mut self) {
        self.text += " AND m.seq IN ";
        self.text += SHADOWED;
    }

    /// Adds the condition that the message `m` has a delivery that counts, under this subscription, and that failed for
    /// this reason or is in this state. Adds nothing if neither a subscription nor a reason is given.
    pub(super) fn has_delivery(
        &mut self,
        subscription: Option<&str>,
        reason: Option<FailureReason>,
        state: Option<DeliveryState>,
    ) {
        if subscription.is_none() && reason.is_none() {
            return;
        }
        self.text += " AND m.seq IN (SELECT d.seq FROM @deliveries d WHERE d.seq = ANY($1) AND NOT d.is_superseded";
        let state = reason.map_or(state, |_| Some(DeliveryState::Failed));
        if let Some(state) = state {
            self.text += &format!(" AND d.state = '{}'", state.as_str());
        }
        self.compare("d.reason =", reason.map(|reason| Value::text(reason.as_str())));
        self.compare("d.subscription =", subscription.map(Value::text));
        self.text += ")";
    }
}

/// The order in which messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `$1`: before this number; `$2`: from this one on.
    NewestFirst,
    /// `$1`: after this number; `$2`: up to this one.
    OldestFirst,
}

/// Selects messages about any of several persons, unordered: at most $3 for each column that may hold a person's
/// digest. $1 before, $2 from this sequence number on, $4 digests.
///
/// Planning takes most of the time of a look-up over many partitions, so this asks for all persons at once.
pub(in crate::store::postgres) const ABOUT_ANY: &str = "
    (SELECT seq FROM @messages WHERE lane = ANY($4) AND seq < $1 AND seq >= $2 LIMIT $3)
    UNION ALL
    (SELECT seq FROM @messages WHERE anonymous = ANY($4) AND seq < $1 AND seq >= $2 LIMIT $3)
    UNION ALL
    (SELECT seq FROM @messages WHERE email = ANY($4) AND seq < $1 AND seq >= $2 LIMIT $3)";

/// Returns a text that finds messages about the persons `$4` and up: at most `$3` for each person and each kind of id.
/// Some messages are found more than once.
///
/// Rows are compared and ordered by person first, so that only the person's index has them in order. Otherwise the
/// limit may tempt the planner to read all messages of a day until enough are about the person.
pub(super) fn of_persons(order: Order, persons: usize) -> String {
    let mut parts = Vec::new();
    for person in (4..).take(persons) {
        for column in ["lane", "anonymous", "email"] {
            let (bounds, direction) = match order {
                Order::NewestFirst => (["<", ">="], "DESC"),
                Order::OldestFirst => ([">", "<="], "ASC"),
            };
            let [begin, end] = bounds;
            parts.push(format!(
                "(SELECT seq FROM @messages
                  WHERE {column} IS NOT NULL AND seq {begin} $1 AND seq {end} $2
                    AND ({column}, seq) {begin} (${person}, $1) AND ({column}, seq) {end} (${person}, $2)
                  ORDER BY {column} {direction}, seq {direction} LIMIT $3)"
            ));
        }
    }
    parts.join(" UNION ALL ")
}
