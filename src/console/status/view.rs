//! The state of the service as the page shows it and the API returns it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::console::diagnosis::Diagnosis;
use crate::queue::{Class, ConflictKind, FailureReason, PauseReason};

/// The state of the service.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ServiceStatus)]
pub struct Status {
    /// The time of the store.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// The most important thing, in a sentence.
    pub diagnosis: Diagnosis,
    /// Whether messages can be stored.
    pub accepts: bool,
    /// Whether so little space is free that messages that can wait are rejected.
    pub is_space_low: bool,
    /// Free bytes on the disk of the store; null if the disk cannot be seen.
    #[schema(required)]
    pub free_bytes: Option<u64>,
    /// The destinations.
    pub destinations: Vec<DestinationNow>,
    /// The sources.
    pub sources: Vec<SourceNow>,
    /// The outcomes of messages in the last hour, day and week.
    pub funnel: Vec<Funnel>,
    /// Contacts that Loops may have mixed up in the last week, newest first.
    pub conflicts: Vec<Conflict>,
}

/// Contacts that Loops may have mixed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// Name of the destination.
    pub destination: String,
    /// `addresses`: one user id was given more addresses on one day than `identity_addresses_max`. `user_ids`: several
    /// user ids have one address.
    #[schema(value_type = String, example = "user_ids")]
    pub kind: ConflictKind,
    /// The beginning (UTC) of the day on which it was last seen.
    #[schema(value_type = String, format = DateTime)]
    pub day: Timestamp,
    /// How many addresses, or user ids, of which at most 100 are counted.
    pub count: u64,
    /// The sequence number of a message that was part of it; null if it is no longer on record.
    #[schema(required)]
    pub seq: Option<i64>,
}

/// The current state of a destination.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationNow {
    /// Its name.
    pub name: String,
    /// Whether it is in the configuration of the process that responds.
    pub is_configured: bool,
    /// Whether it is in shadow mode: everything happens except sending.
    pub is_shadow: bool,
    /// Name of the process that delivers; null if none does.
    #[schema(required)]
    pub holder: Option<String>,
    /// Why nothing is sent; null if it is not paused.
    #[schema(required)]
    pub paused: Option<Paused>,
    /// The current rate in requests a second; null if no process delivers.
    #[schema(required)]
    pub rate: Option<u32>,
    /// The highest rate that Loops and the configuration allow, in requests a second.
    #[schema(required)]
    pub rate_max: Option<u32>,
    /// Requests in the last five minutes, including shadowed ones.
    #[schema(required)]
    pub requests5m: Option<u64>,
    /// How many messages wait.
    pub waiting: Waiting,
    /// When the oldest waiting message was received, leaving out held messages and those behind them.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub oldest_received_at: Option<Timestamp>,
    /// In how many seconds all waiting messages will be delivered, at the speed of the last minutes; null if nothing
    /// waits or nothing is delivered.
    #[schema(required)]
    pub empty_in_s: Option<u64>,
    /// Since when Loops has accepted nothing, although requests were sent.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    /// The status of Loops' last response; 0: there was none.
    #[schema(required)]
    pub failing_status: Option<u16>,
    /// When the next retry is due.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub next_retry_at: Option<Timestamp>,
    /// Deliveries that Loops accepted in the last hour.
    pub delivered_hour: u64,
    /// Contacts that Loops was not known to have before it accepted a request for them, since the day began (UTC).
    pub new_contacts_today: u64,
    /// Deliveries that were shadowed in the last hour.
    pub shadowed_hour: u64,
    /// How many contacts may be created in a day (`new_contacts_per_day`); null: no limit.
    #[schema(required)]
    pub new_contacts_per_day: Option<u32>,
    /// How many more were released for today.
    pub released_today: u64,
    /// How many messages are held because they would create too many contacts, not counting the messages behind them.
    pub held: u64,
    /// Since when the first of them has been held.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub held_since: Option<Timestamp>,
    /// Deliveries that failed, by reason.
    pub failed: Vec<Failed>,
}

/// Why a destination is paused.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// `key`: Loops refuses the API key. `base_url`: there is no Loops at the base URL.
    #[schema(value_type = String, example = "key")]
    pub reason: PauseReason,
    /// When Loops is asked again.
    #[schema(value_type = String, format = DateTime)]
    pub check_at: Timestamp,
}

/// How many messages wait, by class.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Waiting {
    /// All.
    pub total: u64,
    /// Events that can trigger an e-mail.
    pub event: u64,
    /// Live messages that only change a contact.
    pub live: u64,
    /// Bulk loads.
    pub bulk: u64,
}

impl Waiting {
    /// How many of a class.
    pub(in crate::console) fn of(self, class: Class) -> u64 {
        match class {
            Class::Event => self.event,
            Class::Live => self.live,
            Class::Bulk => self.bulk,
        }
    }
}

/// Deliveries that failed for a reason.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Failed {
    /// The reason.
    pub reason: FailureReason,
    /// How many in the last hour.
    pub hour: u64,
    /// How many in the last 24 hours.
    pub day: u64,
}

/// The current state of a source.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceNow {
    /// Its name; empty for requests whose source is not known.
    pub name: String,
    /// Whether it is in the configuration of the process that responds.
    pub is_configured: bool,
    /// When its last message was accepted, to the minute, or to the hour if it was more than an hour ago; null if
    /// there was none in the last week.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub last_received_at: Option<Timestamp>,
    /// How many messages were accepted in the last hour.
    pub received_hour: u64,
    /// How many were accepted in the last 24 hours.
    pub received_day: u64,
    /// How many requests and messages were rejected in the last hour, by code.
    pub rejected: BTreeMap<String, u64>,
}

/// The outcomes of messages in a period.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Funnel {
    /// `1h`, `24h` or `7d`.
    pub span: &'static str,
    /// Accepted, without duplicates.
    pub received: u64,
    /// Made pending again by a replay.
    pub replayed: u64,
    /// Loops accepted all their deliveries.
    pub delivered: u64,
    /// A delivery was not sent, because the destination was in shadow mode, and none failed.
    pub shadowed: u64,
    /// A delivery failed.
    pub failed: u64,
    /// No subscription took them.
    pub unmatched: u64,
    /// The same by reason.
    pub unmatched_reasons: BTreeMap<String, u64>,
    /// Requests to Loops, each counted once, however often it was tried.
    pub requests: u64,
    /// Requests that were not needed, by how they were saved: `merged`, `unchanged`. Those under `unchanged_would`
    /// were sent.
    pub requests_saved: BTreeMap<String, u64>,
}
