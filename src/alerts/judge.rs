//! Finds out what is wrong from what one process knows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Subject, Topic};
use crate::queue::{DestinationStatus, FailureReason, PauseReason, Stage, Tally};

/// An event should not wait longer than this.
const EVENT_WAIT_MAX: SignedDuration = SignedDuration::from_mins(10);

/// Failures are counted over this time. They matter if there are at least `FAILURES_MIN`, and more than one in
/// `FAILURES_PART` deliveries.
const FAILURES_TIME: SignedDuration = SignedDuration::from_mins(30);
const FAILURES_MIN: u64 = 10;
const FAILURES_PART: u64 = 100;

/// Expired deliveries are counted over this time.
const EXPIRED_TIME: SignedDuration = SignedDuration::from_hours(1);

/// A source does not count as silent before the process has run for this long: senders may be about to retry.
const SILENT_UPTIME_MIN: Duration = Duration::from_secs(10 * 60);

/// What one process knows.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The time.
    pub now: Timestamp,
    /// How long the process has been running.
    pub uptime: Duration,
    /// The name of its machine or container.
    pub host: &'a str,
    /// Whether the process can store messages.
    pub is_store_ready: bool,
    /// Whether little space is free on the disk of the database.
    pub is_space_low: bool,
    /// The free bytes; `None` if they are not known.
    pub free_bytes: Option<u64>,
    /// The destinations that this process delivers to.
    pub destinations: &'a BTreeMap<String, DestinationStatus>,
    /// Counts by minute, from [`View::tallies_from`] on; `None` if they could not be read.
    pub tallies: Option<&'a [Tally]>,
    /// The sources whose silence is worth an alert.
    pub sources: &'a [SourceWatch],
}

/// A source that sends regularly.
#[derive(Debug, Clone)]
pub struct SourceWatch {
    /// Its name.
    pub name: String,
    /// The destination that it delivers to.
    pub destination: String,
    /// How long it may send nothing before it counts as silent.
    pub silent_after: Duration,
}

/// A judgement: whether something is wrong with a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What it is about.
    pub topic: Topic,
    /// What it names.
    pub subject: Subject,
    /// What is wrong, for people; `None` if nothing is.
    pub problem: Option<String>,
}

impl View<'_> {
    /// Returns the time from which on the counts must be read.
    pub fn tallies_from(now: Timestamp, sources: &[SourceWatch]) -> Timestamp {
        let silent = sources.iter().map(|source| signed(source.silent_after)).max();
        let longest = silent.unwrap_or_default().max(EXPIRED_TIME).max(FAILURES_TIME);
        now.checked_sub(longest).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn has_passed(&self, since: Timestamp, limit: SignedDuration) -> bool {
        self.now.duration_since(since) > limit
    }

    /// Returns the counts whose minutes end within this time before now.
    fn within(&self, time: SignedDuration) -> impl Iterator<Item = &Tally> {
        let from = self.now.checked_sub(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let ends_after = move |tally: &&Tally| {
            let end = tally.at.checked_add(SignedDuration::from_mins(1));
            end.is_ok_and(|end| end > from)
        };
        self.tallies.unwrap_or_default().iter().filter(ends_after)
    }

    fn count(&self, time: SignedDuration, is_counted: impl Fn(&Tally) -> bool) -> u64 {
        self.within(time).filter(|tally| is_counted(tally)).map(|tally| tally.count).sum()
    }
}

/// Judges everything that a process can judge. What is missing from the result is unknown to it.
pub fn judge(view: &View<'_>) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut put = |topic, subject: Subject, problem: Option<String>| {
        judged.push(Judged { topic, subject, problem });
    };
    let host = || Subject::Host(view.host.to_owned());
    let not_ready = (!view.is_store_ready).then(|| {
        format!(
            "{} cannot store messages: senders are asked to retry; its log and /readyz say why",
            view.host
        )
    });
    put(Topic::StoreNotReady, host(), not_ready);
    let disk_low = view.is_space_low.then(|| {
        let free = view.free_bytes.map(|bytes| format!(" ({} MiB)", bytes / (1024 * 1024)));
        format!(
            "little space is left on the disk of {}{}: the senders that can wait longest are asked to retry",
            view.host,
            free.unwrap_or_default()
        )
    });
    put(Topic::DiskLow, host(), disk_low);
    for (name, status) in view.destinations {
        let subject = || Subject::Destination(name.clone());
        put(Topic::DestinationPaused, subject(), paused(name, status));
        put(Topic::QueueOld, subject(), waiting(view, name, status));
        put(Topic::NewContactsHeld, subject(), held(name, status));
        if view.tallies.is_some() {
            put(Topic::FailuresRate, subject(), failing(view, name));
            put(Topic::Expired, subject(), expired(view, name));
        }
    }
    for source in view.sources {
        let is_ours = view.destinations.contains_key(&source.destination);
        if is_ours && view.tallies.is_some() && view.uptime >= SILENT_UPTIME_MIN {
            let subject = Subject::Source(source.name.clone());
            put(Topic::SourceSilent, subject, silent(view, source));
        }
    }
    judged
}

fn paused(name: &str, status: &DestinationStatus) -> Option<String> {
    let why = match status.pause.as_ref()?.reason {
        PauseReason::Key => "Loops refuses its API key",
        PauseReason::BaseUrl => "there is no Loops at its base URL",
    };
    Some(format!("nothing is sent to the destination {name}: {why}; messages are kept"))
}

fn waiting(view: &View<'_>, name: &str, status: &DestinationStatus) -> Option<String> {
    let oldest = status.oldest_event_at.filter(|at| view.has_passed(*at, EVENT_WAIT_MAX))?;
    let minutes = view.now.duration_since(oldest).as_mins();
    Some(format!("an event for the destination {name} has waited for {minutes} minutes"))
}

fn held(name: &str, status: &DestinationStatus) -> Option<String> {
    let held = status.held.filter(|held| *held > 0)?;
    let (messages, are) = if held == 1 { ("message", "is") } else { ("messages", "are") };
    Some(format!(
        "{held} {messages} to the destination {name} {are} held: as many contacts as new_contacts_per_day allows were created today"
    ))
}

fn failing(view: &View<'_>, name: &str) -> Option<String> {
    let discarded = FailureReason::Discarded.as_str();
    let of = |stage: Stage| {
        let is_counted = |tally: &Tally| {
            // Somebody discarded these on purpose.
            let is_discarded = tally.reason.as_deref() == Some(discarded);
            tally.stage == stage && tally.destination == name && !is_discarded
        };
        view.count(FAILURES_TIME, is_counted)
    };
    let failed = of(Stage::DeliveryFailed);
    let all = failed + of(Stage::DeliveryDelivered) + of(Stage::DeliveryShadowed);
    let is_many = failed >= FAILURES_MIN && failed.saturating_mul(FAILURES_PART) > all;
    let minutes = FAILURES_TIME.as_mins();
    is_many.then(|| {
        format!(
            "{failed} of {all} deliveries to the destination {name} failed within {minutes} minutes"
        )
    })
}

fn expired(view: &View<'_>, name: &str) -> Option<String> {
    let reason = FailureReason::Expired.as_str();
    let count = view.count(EXPIRED_TIME, |tally| {
        tally.stage == Stage::DeliveryFailed
            && tally.destination == name
            && tally.reason.as_deref() == Some(reason)
    });
    let (deliveries, were) = if count == 1 { ("delivery", "was") } else { ("deliveries", "were") };
    (count > 0).then(|| {
        format!(
            "{count} {deliveries} to the destination {name} {were} too late to be sent, within an hour"
        )
    })
}

fn silent(view: &View<'_>, source: &SourceWatch) -> Option<String> {
    let received = view.count(signed(source.silent_after), |tally| {
        tally.stage == Stage::Received && tally.source == source.name
    });
    let (name, minutes) = (&source.name, source.silent_after.as_secs() / 60);
    (received == 0)
        .then(|| format!("nothing has come from the source {name} for {minutes} minutes"))
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::PauseStatus;

    fn now() -> Timestamp {
        "2026-11-01T12:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        now() - SignedDuration::from_secs(seconds)
    }

    /// A count of the minute that began this many seconds ago.
    fn tally(seconds: i64, stage: Stage, reason: Option<&str>, count: u64) -> Tally {
        Tally {
            at: ago(seconds),
            stage,
            destination: "default".to_owned(),
            source: "web".to_owned(),
            subscription: None,
            reason: reason.map(str::to_owned),
            count,
        }
    }

    type Destinations = BTreeMap<String, DestinationStatus>;

    fn destinations(status: DestinationStatus) -> Destinations {
        [("default".to_owned(), status)].into()
    }

    /// A view in which nothing is wrong.
    fn fine(destinations: &Destinations) -> View<'_> {
        View {
            now: now(),
            uptime: Duration::from_secs(3_600),
            host: "host",
            is_store_ready: true,
            is_space_low: false,
            free_bytes: None,
            destinations,
            tallies: Some(&[]),
            sources: &[],
        }
    }

    /// Returns the topics of the problems found.
    fn wrong(view: &View<'_>) -> Vec<Topic> {
        let judged = judge(view).into_iter().filter(|one| one.problem.is_some());
        judged.map(|one| one.topic).collect()
    }

    #[test]
    fn what_the_process_and_its_engines_report_is_judged() {
        let ours = destinations(DestinationStatus::default());
        assert_eq!(wrong(&fine(&ours)), []);
        let view = View { is_store_ready: false, ..fine(&ours) };
        assert_eq!(wrong(&view), [Topic::StoreNotReady]);
        assert_eq!(wrong(&View { is_space_low: true, ..fine(&ours) }), [Topic::DiskLow]);
        let pause = PauseStatus { since: ago(1), reason: PauseReason::Key, check_at: now() };
        let paused = DestinationStatus { pause: Some(pause), ..DestinationStatus::default() };
        assert_eq!(wrong(&fine(&destinations(paused))), [Topic::DestinationPaused]);
        for (held, expected) in [(0, &[] as &[Topic]), (1, &[Topic::NewContactsHeld])] {
            let held = DestinationStatus { held: Some(held), ..DestinationStatus::default() };
            assert_eq!(wrong(&fine(&destinations(held))), expected);
        }
        for (seconds, expected) in [(600, &[] as &[Topic]), (601, &[Topic::QueueOld])] {
            let oldest_event_at = Some(ago(seconds));
            let waits = DestinationStatus { oldest_event_at, ..DestinationStatus::default() };
            assert_eq!(wrong(&fine(&destinations(waits))), expected);
        }
    }

    #[test]
    fn failures_count_if_they_are_many_and_recent() {
        let ours = destinations(DestinationStatus::default());
        let wrong = |tallies: &[Tally]| wrong(&View { tallies: Some(tallies), ..fine(&ours) });
        let failed = |seconds, count| tally(seconds, Stage::DeliveryFailed, Some("refused"), count);
        let delivered = |count| tally(60, Stage::DeliveryDelivered, None, count);
        assert_eq!(wrong(&[failed(60, 9)]), []);
        assert_eq!(wrong(&[failed(60, 5), failed(120, 5)]), [Topic::FailuresRate]);
        assert_eq!(wrong(&[failed(60, 10), delivered(989)]), [Topic::FailuresRate]);
        assert_eq!(wrong(&[failed(60, 10), delivered(990)]), []);
        let shadowed = tally(60, Stage::DeliveryShadowed, None, 500);
        assert_eq!(wrong(&[failed(60, 10), delivered(490), shadowed]), []);
        assert_eq!(wrong(&[failed(1_859, 10)]), [Topic::FailuresRate]);
        assert_eq!(wrong(&[failed(1_860, 10)]), []);
        let elsewhere = Tally { destination: "other".to_owned(), ..failed(60, 10) };
        assert_eq!(wrong(&[elsewhere]), []);
        let discarded = tally(60, Stage::DeliveryFailed, Some("discarded"), 100);
        assert_eq!(wrong(&[discarded]), []);
        let expired = |seconds| tally(seconds, Stage::DeliveryFailed, Some("expired"), 1);
        assert_eq!(wrong(&[expired(60)]), [Topic::Expired]);
        assert_eq!(wrong(&[expired(3_659)]), [Topic::Expired]);
        assert_eq!(wrong(&[expired(3_660)]), []);
    }

    #[test]
    fn a_source_is_silent_after_its_time_at_the_process_that_delivers_for_it() {
        let ours = destinations(DestinationStatus::default());
        let watch = |destination: &str| SourceWatch {
            name: "web".to_owned(),
            destination: destination.to_owned(),
            silent_after: Duration::from_secs(7_200),
        };
        let (here, elsewhere) = ([watch("default")], [watch("other")]);
        let received = |seconds| [tally(seconds, Stage::Received, None, 1)];
        let (late, in_time) = (received(7_260), received(7_259));
        let wrong = |tallies, uptime, sources| {
            let uptime = Duration::from_secs(uptime);
            wrong(&View { tallies, uptime, sources, ..fine(&ours) })
        };
        assert_eq!(wrong(Some(&late[..]), 600, &here), [Topic::SourceSilent]);
        assert_eq!(wrong(Some(&in_time[..]), 600, &here), []);
        assert_eq!(wrong(Some(&late[..]), 599, &here), []);
        assert_eq!(wrong(Some(&late[..]), 600, &elsewhere), []);
        assert_eq!(wrong(None, 600, &here), []);
        assert_eq!(View::tallies_from(now(), &here), ago(7_200));
        assert_eq!(View::tallies_from(now(), &[]), ago(3_600));
    }
}
