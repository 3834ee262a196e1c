//! Everything that the sandbox remembers, and the records that it shows.

use bytes::Bytes;
use indexmap::IndexSet;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::audience::Audience;
use super::faults::{FaultInjector, Faults};
use super::keys::UsedKeys;
use super::rate::SlidingSecond;
use super::ring::Ring;

/// The most event names that are remembered for the list of event patterns.
const EVENT_NAMES_MAX: usize = 10_000;

/// An event that the simulated Loops accepted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenEvent {
    /// Its number in the order of acceptance, from 1.
    pub number: u64,
    /// When it was accepted, by the sandbox's clock.
    pub received_at: Timestamp,
    /// The e-mail address in the request, if any.
    pub email: Option<String>,
    /// The user id in the request, if any.
    pub user_id: Option<String>,
    /// The event's name.
    pub event_name: String,
    /// The properties of the event.
    pub event_properties: Map<String, Value>,
    /// The contact properties in the request, including `subscribed`.
    pub contact_properties: Map<String, Value>,
    /// The mailing lists in the request: true to join, false to leave.
    pub mailing_lists: Map<String, Value>,
    /// Its idempotency key, if any.
    pub idempotency_key: Option<String>,
}

/// A request to the simulated API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenRequest {
    /// Its number in the order of arrival, from 1. A reset does not restart it.
    pub number: u64,
    /// When it arrived, in milliseconds since the sandbox was created, by a monotonic clock.
    pub at_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// The path, with the query if there is one.
    pub path: String,
    /// The status of the response; `None`: there is none yet, or the connection was dropped.
    pub status: Option<u16>,
    /// The fault that the sandbox injected.
    pub fault: Option<InjectedFault>,
    /// The `Idempotency-Key`, if any.
    pub idempotency_key: Option<String>,
    /// The body as it arrived; empty if it was too large. Serialized as JSON if it is JSON.
    #[serde(serialize_with = "as_json")]
    pub body: Bytes,
}

impl SeenRequest {
    /// Returns the body as JSON: a string if it is not JSON, null if it is empty.
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()))
    }
}

/// A fault that a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectedFault {
    /// It got an error and had no effect.
    Error,
    /// The connection was dropped before it took effect.
    ResetBefore,
    /// The connection was dropped after it took effect.
    ResetAfter,
}

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Contacts that exist.
    pub contacts: usize,
    /// Events that were accepted, including those that are no longer kept.
    pub events: u64,
    /// Requests that arrived, whatever the response.
    pub requests: u64,
    /// Requests that got 429 because of the rate.
    pub rate_limited: u64,
    /// The most requests that arrived within one second, wherever it begins, including those that got 429.
    pub most_in_one_second: u64,
}

/// The state of the sandbox.
#[derive(Debug)]
pub(super) struct State {
    pub(super) audience: Audience,
    pub(super) events: Ring<SeenEvent>,
    pub(super) event_names: IndexSet<String>,
    pub(super) requests: Ring<SeenRequest>,
    pub(super) used_keys: UsedKeys,
    pub(super) faults: FaultInjector,
    /// Requests within the rate.
    pub(super) admitted: SlidingSecond,
    /// All requests.
    arrived: SlidingSecond,
    request_number: u64,
    counts: Counts,
}

impl State {
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            audience: Audience::default(),
            events: Ring::new(),
            event_names: IndexSet::new(),
            requests: Ring::new(),
            used_keys: UsedKeys::default(),
            faults: FaultInjector::new(faults),
            admitted: SlidingSecond::default(),
            arrived: SlidingSecond::default(),
            request_number: 0,
            counts: Counts {
                contacts: 0,
                events: 0,
                requests: 0,
                rate_limited: 0,
                most_in_one_second: 0,
            },
        }
    }

    pub(super) fn reset(&mut self, faults: Faults) {
        *self = Self { request_number: self.request_number, ..Self::new(faults) };
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { contacts: self.audience.contacts().len(), ..self.counts }
    }

    /// Notes the arrival of a request; returns its number.
    pub(super) fn note_arrival(&mut self, now: tokio::time::Instant, request: SeenRequest) -> u64 {
        self.request_number += 1;
        let number = self.request_number;
        let bytes = request.path.len() + request.body.len();
        self.requests.push(SeenRequest { number, ..request }, bytes);
        self.counts.requests += 1;
        let in_this_second = self.arrived.note(now) as u64;
        self.counts.most_in_one_second = self.counts.most_in_one_second.max(in_this_second);
        number
    }

    /// Notes that a request was turned away because of the rate.
    pub(super) fn note_rate_limited(&mut self) {
        self.counts.rate_limited += 1;
    }

    /// Notes how a request ended. Does nothing if the request is no longer kept.
    pub(super) fn note_end(
        &mut self,
        number: u64,
        status: Option<u16>,
        fault: Option<InjectedFault>,
    ) {
        if let Some(request) = self.requests.find_mut(|request| request.number == number) {
            request.status = status;
            request.fault = fault;
        }
    }

    /// Keeps an accepted event, whose body had this many bytes.
    pub(super) fn keep_event(&mut self, event: SeenEvent, bytes: usize) {
        self.counts.events += 1;
        if self.event_names.len() < EVENT_NAMES_MAX {
            self.event_names.insert(event.event_name.clone());
        }
        self.events.push(SeenEvent { number: self.counts.events, ..event }, bytes);
    }
}

fn as_json<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    if body.is_empty() {
        return serializer.serialize_unit();
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(json) => json.serialize(serializer),
        Err(_) => serializer.serialize_str(&String::from_utf8_lossy(body)),
    }
}
