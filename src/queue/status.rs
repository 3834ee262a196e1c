//! What each process reports of itself, for people: written beside its name at each check-in, as JSON, so that any
//! process can show it. Fields that an older or newer version does not know are left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a process reports of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Free bytes on the disk of the store; `None` if the store has none in sight.
    pub free_bytes: Option<u64>,
    /// Whether messages are refused, or soon will be, because little space is free.
    pub is_space_low: bool,
    /// When the configuration was last loaded again; `None`: not since the start.
    pub reloaded_at: Option<Timestamp>,
    /// How many requests and messages were rejected in the last hour, by source and code.
    pub rejected: BTreeMap<String, BTreeMap<String, u64>>,
    /// The destinations whose leases it holds.
    pub destinations: BTreeMap<String, DestinationStatus>,
}

/// The delivery for one destination.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationStatus {
    /// Whether it is in shadow mode: all is done but sending.
    pub is_shadow: bool,
    /// Why nothing is sent; `None`: it is not paused.
    pub pause: Option<PauseStatus>,
    /// Requests a second that are sent at most at the moment.
    pub rate: u32,
    /// The highest rate that Loops and the configuration allow, in requests a second.
    pub rate_max: u32,
    /// Requests in the last five minutes, including shadowed ones.
    pub requests: u64,
    /// Since when Loops has accepted nothing although requests were sent; `None`: the last answer was final.
    pub failing_since: Option<Timestamp>,
    /// The status of the last answer that was not final; 0: there was none.
    pub failing_status: Option<u16>,
    /// When the next retry is due.
    pub next_retry_at: Option<Timestamp>,
    /// How many messages waited when they were last counted, by class, the most urgent first; `None`: not yet
    /// counted.
    pub waiting: Option<[u64; 3]>,
    /// When the oldest waiting message was received, leaving out held messages and those behind them.
    pub oldest_received_at: Option<Timestamp>,
    /// When the oldest event among them was received.
    pub oldest_event_at: Option<Timestamp>,
    /// How many messages were held when they were last counted; `None`: not yet counted.
    pub held: Option<u64>,
    /// Since when the first of them has been held.
    pub held_since: Option<Timestamp>,
}

/// Why a destination is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: PauseReason,
    /// When Loops is asked again.
    pub check_at: Timestamp,
}

/// Why nothing is sent to a destination, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Loops refuses the key.
    Key,
    /// There is no Loops at the base URL.
    BaseUrl,
}

impl PauseReason {
    /// All of them.
    pub const ALL: [PauseReason; 2] = [PauseReason::Key, PauseReason::BaseUrl];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            PauseReason::Key => "key",
            PauseReason::BaseUrl => "base_url",
        }
    }
}

impl ProcessStatus {
    /// As it is stored.
    pub fn to_json(&self) -> String {
        // Maps with keys of text and numbers can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads [`ProcessStatus::to_json`]; what cannot be read is as if nothing had been reported.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_another_version_is_read_as_far_as_it_is_known() {
        let newer = r#"{"free_bytes": 7, "moon": "full", "destinations": {"default": {"rate": 5, "x": 1}}}"#;
        let destination = DestinationStatus { rate: 5, ..DestinationStatus::default() };
        let expected = ProcessStatus {
            free_bytes: Some(7),
            destinations: [("default".to_owned(), destination)].into(),
            ..ProcessStatus::default()
        };
        assert_eq!(ProcessStatus::from_json(newer), expected);
        assert_eq!(ProcessStatus::from_json(&expected.to_json()), expected);
        for unreadable in ["", "{}", "[]", "no"] {
            assert_eq!(ProcessStatus::from_json(unreadable), ProcessStatus::default());
        }
    }
}
