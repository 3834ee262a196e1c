//! A model of Loops: its memory, and the faults of Loops and the network.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

/// The faults of Loops or the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fine,
    /// Connections are refused.
    Refusing,
    /// Connections break before the response.
    Broken,
    /// Responses never arrive.
    Silent,
    /// Responses have the status 500, whether or not Loops took the request.
    Failing,
    /// Responses have the status 429, as if something else used the team's rate.
    Limited,
    /// Responses are pages that do not come from Loops.
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

    /// Returns whether it affects all calls, rather than only most of them.
    pub(super) fn is_total(self) -> bool {
        matches!(self, Weather::Unauthorized | Weather::NotFound)
    }
}

/// The effect of a request that Loops accepted.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    pub(super) user: String,
    /// The properties that it set and the event properties that it carried, with the numbers of the messages they come
    /// from, in the order of these numbers.
    pub(super) values: Vec<(String, usize)>,
    /// Whether it deleted the contact.
    pub(super) is_deletion: bool,
}

/// The memory of Loops.
#[derive(Debug, Default)]
pub(super) struct Loops {
    /// The contacts, and the plan of each.
    pub(super) contacts: HashMap<String, Option<String>>,
    /// The body that came with each key, and when Loops took it.
    pub(super) keys: HashMap<String, (Bytes, Option<Instant>)>,
    /// When the requests of the last second arrived.
    pub(super) arrivals: VecDeque<Instant>,
}

impl Loops {
    /// Returns the plan of a contact, if the contact exists and has a plan.
    pub(super) fn plan(&self, user: &str) -> Option<&str> {
        self.contacts.get(user)?.as_deref()
    }
}

/// Returns the properties in a body, with the numbers of the messages they come from, in the order of these numbers.
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
