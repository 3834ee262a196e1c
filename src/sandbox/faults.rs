//! The faults that the sandbox injects, and the random choices of when.

use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Loops allows 10 requests a second per team, by its API introduction.
const RATE_LIMIT_DEFAULT: u32 = 10;
/// The most that each of the two delays can be: ten minutes.
const LATENCY_MS_MAX: u64 = 600_000;

/// The faults of the simulated Loops. The default has none, and Loops' own rate.
///
/// A request with the right key and within the rate meets at most one error or reset, so the sum of the three rates may
/// be at most 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The time that every request takes, in milliseconds: half before it takes effect, half after.
    pub latency_ms: u64,
    /// The most milliseconds that are added to that, chosen at random for each request.
    pub latency_jitter_ms: u64,
    /// The most requests that are served in any second. Further requests get 429; if this is zero, all requests do.
    pub rate_limit: u32,
    /// Share of requests (0 to 1) that get `error_status` and have no effect.
    pub error_rate: f64,
    /// The status of these errors, 400 to 599.
    pub error_status: u16,
    /// Share of requests (0 to 1) whose connection is dropped before they take effect.
    pub reset_before_rate: f64,
    /// Share of requests (0 to 1) whose connection is dropped instead of a response, after they took effect.
    pub reset_after_rate: f64,
    /// Whether every key is wrong, so that every request gets 401.
    pub reject_key: bool,
    /// The seed of the random choices. With the same seed, the same requests in the same order meet the same faults.
    pub seed: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            latency_jitter_ms: 0,
            rate_limit: RATE_LIMIT_DEFAULT,
            error_rate: 0.0,
            error_status: 500,
            reset_before_rate: 0.0,
            reset_after_rate: 0.0,
            reject_key: false,
            seed: 0,
        }
    }
}

/// Why faults cannot be put into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// A key is unknown or its value is of the wrong type.
    #[error("{0}")]
    Unreadable(String),
    /// A value is not allowed.
    #[error("`{key}` must be {allowed}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The values that are allowed.
        allowed: &'static str,
    },
}

impl Faults {
    /// Checks that every value is allowed.
    pub fn check(&self) -> Result<(), FaultsError> {
        let out_of_range = |key, allowed| Err(FaultsError::OutOfRange { key, allowed });
        let latencies =
            [("latency_ms", self.latency_ms), ("latency_jitter_ms", self.latency_jitter_ms)];
        if let Some((key, _)) = latencies.into_iter().find(|(_, ms)| *ms > LATENCY_MS_MAX) {
            return out_of_range(key, "at most 600000 (ten minutes)");
        }
        let rates = [
            ("error_rate", self.error_rate),
            ("reset_before_rate", self.reset_before_rate),
            ("reset_after_rate", self.reset_after_rate),
        ];
        if let Some((key, _)) = rates.into_iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            return out_of_range(key, "between 0 and 1");
        }
        // The margin is for sums such as 0.7 + 0.2 + 0.1, which doubles do not represent exactly.
        if rates.into_iter().map(|(_, rate)| rate).sum::<f64>() > 1.0 + 1e-9 {
            return out_of_range("error_rate", "at most 1 together with the two reset rates");
        }
        if !(400..600).contains(&self.error_status) {
            return out_of_range("error_status", "between 400 and 599");
        }
        Ok(())
    }

    /// Returns these faults with the keys of `patch` replaced.
    pub(super) fn patched(&self, patch: Map<String, Value>) -> Result<Self, FaultsError> {
        let unreadable = |error: serde_json::Error| FaultsError::Unreadable(error.to_string());
        let mut merged = serde_json::to_value(self).map_err(unreadable)?;
        if let Value::Object(fields) = &mut merged {
            fields.extend(patch);
        }
        let faults: Self = serde_path_to_error::deserialize(merged)
            .map_err(|error| FaultsError::Unreadable(format!("Not a fault: {error}")))?;
        faults.check()?;
        Ok(faults)
    }
}

/// The fault that one request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Error(StatusCode),
    ResetBefore,
    ResetAfter,
}

/// The faults in force and their random choices.
#[derive(Debug)]
pub(super) struct FaultInjector {
    settings: Faults,
    dice: fastrand::Rng,
}

impl FaultInjector {
    pub(super) fn new(settings: Faults) -> Self {
        let dice = fastrand::Rng::with_seed(settings.seed);
        Self { settings, dice }
    }

    pub(super) fn settings(&self) -> &Faults {
        &self.settings
    }

    /// Puts other faults into force. The random choices continue unless `reseed`.
    pub(super) fn replace(&mut self, settings: Faults, reseed: bool) {
        if reseed {
            self.dice = fastrand::Rng::with_seed(settings.seed);
        }
        self.settings = settings;
    }

    /// Chooses the delay and the fault of the next request. It always takes two random numbers, so that one setting
    /// does not shift the choices of another.
    pub(super) fn next(&mut self) -> (Duration, Trouble) {
        let jitter_ms = self.dice.f64() * self.settings.latency_jitter_ms as f64;
        let latency = Duration::from_millis(self.settings.latency_ms)
            .saturating_add(Duration::from_micros((jitter_ms * 1000.0) as u64));
        let mut throw = self.dice.f64();
        let status = StatusCode::from_u16(self.settings.error_status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let shares = [
            (self.settings.error_rate, Trouble::Error(status)),
            (self.settings.reset_before_rate, Trouble::ResetBefore),
            (self.settings.reset_after_rate, Trouble::ResetAfter),
        ];
        for (share, trouble) in shares {
            if throw < share {
                return (latency, trouble);
            }
            throw -= share;
        }
        (latency, Trouble::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_repeat_with_the_seed() {
        let settings = Faults {
            error_rate: 0.2,
            error_status: 503,
            reset_before_rate: 0.1,
            reset_after_rate: 0.3,
            latency_ms: 10,
            latency_jitter_ms: 5,
            seed: 7,
            ..Faults::default()
        };
        let run = |seed| -> Vec<_> {
            let mut injector = FaultInjector::new(Faults { seed, ..settings.clone() });
            (0..10_000).map(|_| injector.next()).collect()
        };
        let chosen = run(7);
        assert_eq!(chosen, run(7));
        assert_ne!(chosen, run(8));
        let expected = [
            (Trouble::None, 4000),
            (Trouble::Error(StatusCode::SERVICE_UNAVAILABLE), 2000),
            (Trouble::ResetBefore, 1000),
            (Trouble::ResetAfter, 3000),
        ];
        for (trouble, about) in expected {
            let count = chosen.iter().filter(|(_, what)| *what == trouble).count();
            assert!(count.abs_diff(about) < 200, "{trouble:?}: {count}");
        }
        let (low, high) = (Duration::from_millis(10), Duration::from_millis(15));
        assert!(chosen.iter().all(|(latency, _)| (low..=high).contains(latency)));
    }

    #[test]
    fn a_whole_share_means_always() {
        let settings = Faults { reset_after_rate: 1.0, ..Faults::default() };
        let mut injector = FaultInjector::new(settings);
        assert!((0..1000).all(|_| injector.next().1 == Trouble::ResetAfter));
    }

    #[test]
    fn patches_name_what_is_wrong() {
        let cases = [
            (r#"{"error_rate": 1.5}"#, "`error_rate` must be between 0 and 1"),
            (r#"{"reset_before_rate": -0.1}"#, "`reset_before_rate` must be between 0 and 1"),
            (r#"{"error_rate": 0.6, "reset_after_rate": 0.6}"#, "together"),
            (r#"{"error_status": 200}"#, "`error_status` must be between 400 and 599"),
            (r#"{"latency_ms": 600001}"#, "`latency_ms` must be at most"),
            (r#"{"rate_limit": "10"}"#, "rate_limit"),
            (r#"{"latency": 5}"#, "unknown field `latency`"),
        ];
        for (patch, expected) in cases {
            let patch = serde_json::from_str(patch).expect("a JSON object");
            let error = Faults::default().patched(patch).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
