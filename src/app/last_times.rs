//! Shows when sources and Loops were last heard from before this process started: otherwise each restart would make a
//! silent source look as if it had just sent something.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use metrics::gauge;
use tracing::debug;

use crate::config::Config;
use crate::queue::{Stage, Store, Tally, TallyStep, Unavailable};
use crate::telemetry;

/// How far back counts are read to find the last message of each source, and by which step. The longest
/// `silent_after_s` is a day, and for a source that has been silent for longer, the hour is exact enough. A source that
/// has been silent for a month counts from the start of the process.
const COUNTS: [(TallyStep, SignedDuration); 2] = [
    (TallyStep::Minute, SignedDuration::from_hours(25)),
    (TallyStep::Hour, SignedDuration::from_hours(30 * 24)),
];

/// Sets the gauges. If the store cannot be read, they are set by what comes next.
pub(super) async fn show(config: &Config, store: &dyn Store, now: Timestamp) {
    let unread = |fault: Unavailable| {
        debug!(error = %telemetry::chain(&fault), "the last times before the start cannot be read");
    };
    match last_messages(config, store, now).await {
        Ok(last) => {
            for (source, at) in last {
                set(telemetry::LAST_MESSAGE, ("source", source), at);
            }
        }
        Err(fault) => unread(fault),
    }
    for (name, destination) in &config.destinations {
        if destination.loops_webhook_secrets.is_empty() {
            continue;
        }
        match store.last_heard(name).await {
            Ok(Some(at)) => set(telemetry::LAST_FEEDBACK, ("destination", name.clone()), at),
            Ok(None) => {}
            Err(fault) => unread(fault),
        }
    }
}

fn set(name: &'static str, label: (&'static str, String), at: Timestamp) {
    gauge!(name, label.0 => label.1).set(at.as_millisecond() as f64 / 1_000.0);
}

/// Returns when each configured source last sent something, as exactly as the counts show it.
async fn last_messages(
    config: &Config,
    store: &dyn Store,
    now: Timestamp,
) -> Result<BTreeMap<String, Timestamp>, Unavailable> {
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    for (step, back) in COUNTS {
        if config.sources.keys().all(|name| last.contains_key(name)) {
            break;
        }
        let from = now.checked_sub(back).unwrap_or(Timestamp::UNIX_EPOCH);
        let found = last_counted(&store.tallies(step, from, now).await?, step, now);
        for (source, at) in found {
            last.entry(source).or_insert(at);
        }
    }
    last.retain(|name, _| config.sources.contains_key(name));
    Ok(last)
}

/// Returns the end of the last interval in which each source sent something: the message came no later.
fn last_counted(tallies: &[Tally], step: TallyStep, now: Timestamp) -> BTreeMap<String, Timestamp> {
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    for tally in tallies.iter().filter(|tally| tally.stage == Stage::Received) {
        let end = tally.at.checked_add(SignedDuration::from_millis(step.ms()));
        let end = end.map_or(now, |end| end.min(now));
        last.entry(tally.source.clone()).and_modify(|at| *at = end.max(*at)).or_insert(end);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_came_by_the_end_of_the_last_interval_that_counts_one_and_not_later_than_now() {
        let now: Timestamp = "2026-11-01T12:00:30Z".parse().unwrap();
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        let tally = |source: &str, stage, seconds| Tally {
            at: ago(seconds),
            stage,
            destination: "default".to_owned(),
            source: source.to_owned(),
            subscription: None,
            reason: None,
            count: 1,
        };
        let tallies = [
            tally("web", Stage::Received, 210),
            tally("web", Stage::Received, 150),
            tally("web", Stage::Replayed, 90),
            tally("shop", Stage::Received, 30),
            tally("idle", Stage::Delivered, 90),
        ];
        let last = last_counted(&tallies, TallyStep::Minute, now);
        assert_eq!(last, [("shop".to_owned(), now), ("web".to_owned(), ago(90))].into());
        assert_eq!(last_counted(&tallies, TallyStep::Hour, now)["web"], now);
    }
}
