//! The status that each process reports, for people. It is written as JSON beside the name of the process at each
//! check-in, so that any process can show it. A version ignores fields that it does not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The status of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Free bytes on the disk of the store; `None` if the store cannot see its disk.
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
    /// Whether it is in shadow mode: everything is done except sending.
    pub is_shadow: bool,
    /// Why nothing is sent; `None`: it is not paused.
    pub pause: Option<PauseStatus>,
    /// The current limit, in requests a second.
    pub rate: u32,
    /// The highest rate that Loops and the configuration allow, in requests a second.
    pub rate_max: u32,
    /// Requests in the last five minutes, including shadowed ones.
    pub requests: u64,
    /// Since when Loops has accepted nothing although requests were sent; `None`: the last response was final.
    pub failing_since: Option<Timestamp>,
    /// The status of the last response that was not final; 0: there was no response.
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
    /// When Loops is checked again.
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
    /// All variants.
    pub const ALL: [PauseReason; 2] = [PauseReason::Key, PauseReason::BaseUrl];

    /// Returns the name, as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            PauseReason::Key => "key",
            PauseReason::BaseUrl => "base_url",
        }
    }
}

impl ProcessStatus {
    /// Returns the JSON that is stored.
    pub fn to_json(&self) -> String {
        // Maps with string keys and plain values always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads [`ProcessStatus::to_json`]. A status that cannot be read counts as if nothing had been reported.
    ///
    /// ```
    /// use segment_loops::queue::ProcessStatus;
    ///
    /// let status = ProcessStatus { free_bytes: Some(5_000_000), ..ProcessStatus::default() };
    /// assert_eq!(ProcessStatus::from_json(&status.to_json()), status);
    /// assert_eq!(ProcessStatus::from_json("of another age"), ProcessStatus::default());
    /// ```
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
