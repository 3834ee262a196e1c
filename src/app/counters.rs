//! Sets the counters of everything that is configured to zero. A counter that first appears with its first failure
//! would hide that failure, because `rate()` and `increase()` need an earlier value.

use metrics::{counter, gauge};

use crate::action::{ActionKind, UnmatchedReason};
use crate::config::Config;
use crate::feedback;
use crate::queue::{Economy, FailureReason, NotNeededReason};
use crate::segment::MessageType;
use crate::telemetry;

/// Creates the counters of all sources and destinations. Existing counters keep their values.
pub(super) fn begin(config: &Config) {
    let add = |name: &'static str, labels: &[(&'static str, &str)]| {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        counter!(name, &labels).increment(0);
    };
    for (name, source) in &config.sources {
        for kind in MessageType::ALL {
            let labels = [("source", name.as_str()), ("type", kind.as_str())];
            add(telemetry::MESSAGES_ACCEPTED, &labels);
            add(telemetry::MESSAGES_DUPLICATE, &labels);
        }
        let silent_after = source.silent_after.unwrap_or_default();
        gauge!(telemetry::SILENT_AFTER, "source" => name.clone()).set(silent_after.as_secs_f64());
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

/// Stops expecting messages from sources that were removed from the configuration.
pub(super) fn end(before: &Config, now: &Config) {
    for name in before.sources.keys().filter(|name| !now.sources.contains_key(*name)) {
        gauge!(telemetry::SILENT_AFTER, "source" => name.clone()).set(0.0);
    }
}

/// The revision that this build was made from, as the Dockerfile passes it.
const REVISION: Option<&str> = option_env!("SEGMENT_LOOPS_REVISION");

/// Sets the gauges that never change while the process runs, and those that change only with an event.
pub(super) fn begin_gauges(started_at: jiff::Timestamp) {
    let revision = REVISION.unwrap_or_default();
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision)];
    gauge!(telemetry::BUILD_INFO, &labels).set(1.0);
    gauge!(telemetry::PROCESS_START).set(started_at.as_millisecond() as f64 / 1_000.0);
    gauge!(telemetry::RELOAD_SUCCESSFUL).set(1.0);
    loaded(started_at);
}

/// Records when the configuration was loaded.
pub(super) fn loaded(at: jiff::Timestamp) {
    gauge!(telemetry::RELOAD_TIMESTAMP).set(at.as_millisecond() as f64 / 1_000.0);
}
