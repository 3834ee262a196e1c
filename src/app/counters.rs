//! Counters at zero for everything that is configured. A counter that appeared with its first failure would hide it:
//! `rate()` and `increase()` need a value before.

use metrics::{counter, gauge};

use crate::action::{ActionKind, UnmatchedReason};
use crate::config::Config;
use crate::feedback;
use crate::queue::{Economy, FailureReason, NotNeededReason};
use crate::segment::MessageType;
use crate::telemetry;

/// Makes the counters of all sources and destinations, and leaves those that exist alone.
pub(super) fn begin(config: &Config) {
    let add = |name: &'static str, labels: &[(&'static str, &str)]| {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        counter!(name, &labels).increment(0);
    };
    for source in config.sources.keys() {
        for kind in MessageType::ALL {
            let labels = [("source", source.as_str()), ("type", kind.as_str())];
            add(telemetry::MESSAGES_ACCEPTED, &labels);
            add(telemetry::MESSAGES_DUPLICATE, &labels);
        }
    }
    for (name, destination) in &config.destinations {
        let of = ("destination", name.as_str());
        for action in ActionKind::ALL {
            let failed = FailureReason::ALL.into_iter().map(FailureReason::as_str);
            let not_needed = NotNeededReason::ALL.into_iter().map(NotNeededReason::as_str);
            for outcome in failed.chain(not_needed).chain(["delivered", "shadowed"]) {
                let labels = [of, ("action", action.as_str()), ("outcome", outcome)];
                add(telemetry::DELIVERIES, &labels);
            }
        }
        for reason in UnmatchedReason::ALL {
            add(telemetry::UNMATCHED, &[of, ("reason", reason.as_str())]);
        }
        for (how, _) in Economy::default().saved() {
            add(telemetry::REQUESTS_SAVED, &[of, ("how", how)]);
        }
        if !destination.loops_webhook_secrets.is_empty() {
            for event in feedback::EVENTS.into_iter().chain(["other"]) {
                add(telemetry::FEEDBACK, &[of, ("event", event)]);
            }
        }
        if destination.loops_webhook_forward.is_some() {
            for outcome in telemetry::FORWARD_OUTCOMES {
                add(telemetry::FEEDBACK_FORWARDS, &[of, ("outcome", outcome)]);
            }
        }
    }
}

/// The gauges that do not change while the process runs, and those that change only with an event.
pub(super) fn begin_gauges(started_at: jiff::Timestamp) {
    gauge!(telemetry::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(telemetry::PROCESS_START).set(started_at.as_millisecond() as f64 / 1_000.0);
    gauge!(telemetry::RELOAD_SUCCESSFUL).set(1.0);
}
