//! A model of Loops: what it remembers, and what may be wrong with it or the network.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

/// What is wrong with Loops or the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fine,
    /// Connections are refused.
    Refusing,
    /// Connections break before the answer.
    Broken,
    /// Answers never come.
    Silent,
    /// 500, whether Loops took the request or not.
    Failing,
    /// 429, as if something else used the team's rate.
    Limited,
    /// A page that is not an answer of Loops.
    Foreign,
    /// The key is refused.
    Unauthorized,
    /// Every path is unknown.
    NotFound,
}

impl Weather {
    pub(super) const ALL: [Weather; 9] = [
        Weather::Fine,
        Weather::Refusing,
        Weather::Broken,
        Weather::Silent,
        Weather::Failing,
        Weather::Limited,
        Weather::Foreign,
        Weather::Unauthorized,
        Weather::NotFound,
    ];

    /// Whether it affects all calls, or only most of them.
    pub(super) fn is_total(self) -> bool {
        matches!(self, Weather::Unauthorized | Weather::NotFound)
    }
}

/// The effect of a request that Loops accepted.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    pub(super) user: String,
    /// The properties that it set and the event properties that it carried, with the numbers of the messages that
    /// they are from, in the order of these numbers.
    pub(super) values: Vec<(String, usize)>,
    /// Whether it deleted the contact.
    pub(super) is_deletion: bool,
}

/// What Loops remembers.
#[derive(Debug, Default)]
pub(super) struct Loops {
    /// The contacts, and the plan that each has.
    pub(super) contacts: HashMap<String, Option<String>>,
    /// The body that came with each key, and when Loops took it.
    pub(super) keys: HashMap<String, (Bytes, Option<Instant>)>,
    /// When the requests of the last second arrived.
    pub(super) arrivals: VecDeque<Instant>,
}

impl Loops {
    /// The plan of a contact, if there is one and it has one.
    pub(super) fn plan(&self, user: &str) -> Option<&str> {
        self.contacts.get(user)?.as_deref()
    }
}

/// The properties in a body, with the numbers of the messages that they are from, in the order of these numbers.
pub(super) fn values(body: &Value) -> Vec<(String, usize)> {
    let mut values = Vec::new();
    for (name, value) in properties(body) {
        if let (Some(number), Some('p')) = (value.as_u64(), name.chars().next()) {
            values.push((name.clone(), number as usize));
        }
    }
    values.sort_by_key(|(_, number)| *number);
    values
}

pub(super) fn is_poison(body: &Value) -> bool {
    properties(body).any(|(name, _)| name == "poison")
}

fn properties(body: &Value) -> impl Iterator<Item = (&String, &Value)> {
    [body, &body["eventProperties"]].into_iter().filter_map(Value::as_object).flatten()
}
