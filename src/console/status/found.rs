//! Makes the state of the service out of the data that was read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::reported::{Rejected, Reported, alive, holder, rejected_by, reported};
use super::view::{Conflict, DestinationNow, Failed, Funnel, Paused, SourceNow, Status, Waiting};
use crate::console::diagnosis::Diagnosis;
use crate::queue::{Class, Depth, FailureReason, NewContactsDay, Replicas, Stage, Tally, day_of};

/// Throughput is measured over this many whole minutes.
pub(super) const THROUGHPUT_MINUTES: i64 = 5;

pub(super) const MINUTE: SignedDuration = SignedDuration::from_mins(1);
pub(super) const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
pub(super) const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The data behind a status.
pub(super) struct Found {
    pub(super) accepts: bool,
    pub(super) replicas: Replicas,
    /// How much waits for the configured destinations, and for others with pending messages, where this process counted
    /// it.
    pub(super) depths: BTreeMap<String, Depth>,
    pub(super) configured: BTreeSet<String>,
    /// The destinations among them that are in shadow mode.
    pub(super) shadows: BTreeSet<String>,
    pub(super) sources: BTreeSet<String>,
    /// Counts by minute of the last hour, and by hour of the last week.
    pub(super) minutes: Vec<Tally>,
    pub(super) hours: Vec<Tally>,
    /// What people did today about new contacts.
    pub(super) days: Vec<NewContactsDay>,
    /// How many contacts may be created in a day, for each destination with such a cap.
    pub(super) caps: BTreeMap<String, u32>,
    /// How many messages to these destinations are held, and since when. Processes report it a few seconds late.
    pub(super) held: BTreeMap<String, (u64, Option<Timestamp>)>,
    pub(super) conflicts: Vec<Conflict>,
}

impl Status {
    pub(super) fn of(found: Found) -> Self {
        let now = found.replicas.now;
        let (mut is_space_low, mut free_bytes) = (false, None::<u64>);
        for (_, status) in alive(&found.replicas) {
            is_space_low |= status.is_space_low;
            free_bytes = free_bytes.into_iter().chain(status.free_bytes).min();
        }
        let mut status = Self {
            now,
            diagnosis: Diagnosis::store_down(),
            accepts: found.accepts,
            is_space_low,
            free_bytes,
            destinations: found.destinations(),
            sources: sources(&found, rejected_by(&found.replicas)),
            funnel: funnel(&found),
            conflicts: found.conflicts,
        };
        status.diagnosis = Diagnosis::of(&status);
        status
    }
}

impl Found {
    fn destinations(&self) -> Vec<DestinationNow> {
        let reported = reported(&self.replicas);
        let counted = self.depths.iter().filter(|(_, depth)| depth.messages > 0);
        let mut names: BTreeSet<&str> = self.configured.iter().map(String::as_str).collect();
        names.extend(counted.map(|(name, _)| name.as_str()));
        names.extend(reported.keys());
        names.into_iter().map(|name| self.destination(name, &reported)).collect()
    }

    pub(super) fn destination(&self, name: &str, reported: &Reported<'_>) -> DestinationNow {
        let report = reported.get(name).map(|(_, one)| *one);
        let (by_class, oldest) = match (report.and_then(|one| one.waiting), self.depths.get(name)) {
            (Some(by_class), _) => (by_class, report.and_then(|one| one.oldest_received_at)),
            (None, Some(depth)) => (depth.by_class, depth.oldest_received_at()),
            (None, None) => ([0; 3], None),
        };
        let reported = report.and_then(|one| Some((one.held?, one.held_since)));
        let counted = self.depths.get(name).map(|depth| (depth.held, depth.held_since));
        let held = self.held.get(name).copied().or(reported).or(counted);
        let (held, held_since) = held.unwrap_or_default();
        let of = |class: Class| by_class[class.index()];
        let waiting = Waiting {
            total: by_class.iter().sum(),
            event: of(Class::Event),
            live: of(Class::Live),
            bulk: of(Class::Bulk),
        };
        let failed = |reason: FailureReason| {
            let is_it = |tally: &Tally| {
                tally.stage == Stage::DeliveryFailed
                    && tally.reason.as_deref() == Some(reason.as_str())
            };
            let hour = self.count(name, HOUR, &is_it);
            Failed { reason, hour, day: self.count(name, DAY, &is_it).max(hour) }
        };
        let pause = report.and_then(|one| one.pause.as_ref());
        let is_delivered = |tally: &Tally| tally.stage == Stage::DeliveryDelivered;
        let is_shadowed = |tally: &Tally| tally.stage == Stage::DeliveryShadowed;
        DestinationNow {
            name: name.to_owned(),
            is_configured: self.configured.contains(name),
            // The configuration of the process that delivers is the one that counts.
            is_shadow: report.map_or_else(|| self.shadows.contains(name), |one| one.is_shadow),
            holder: holder(&self.replicas, name).map(str::to_owned),
            paused: pause.map(|pause| Paused {
                since: pause.since,
                reason: pause.reason,
                check_at: pause.check_at,
            }),
            rate: report.map(|one| one.rate),
            rate_max: report.map(|one| one.rate_max),
            requests5m: report.map(|one| one.requests),
            waiting,
            oldest_received_at: oldest,
            // While the destination is paused, its earlier speed says nothing.
            empty_in_s: pause.is_none().then(|| empty_in(waiting.total, self, name)).flatten(),
            failing_since: report.and_then(|one| one.failing_since),
            failing_status: report.and_then(|one| one.failing_status),
            next_retry_at: report.and_then(|one| one.next_retry_at),
            delivered_hour: self.count(name, HOUR, &is_delivered),
            new_contacts_today: self.new_contacts_today(name),
            shadowed_hour: self.count(name, HOUR, &is_shadowed),
            new_contacts_per_day: self.caps.get(name).copied(),
            released_today: self
                .days
                .iter()
                .find(|day| day.destination == name)
                .map_or(0, |day| day.released),
            held,
            held_since,
            failed: FailureReason::ALL.map(failed).into_iter().filter(|one| one.day > 0).collect(),
        }
    }

    /// Returns how many new contacts of a destination there have been since the day began.
    fn new_contacts_today(&self, destination: &str) -> u64 {
        let day = day_of(self.replicas.now);
        let new = self.hours.iter().filter(|tally| tally.stage == Stage::NewContact);
        let of_here = new.filter(|tally| tally.destination == destination && tally.at >= day);
        of_here.map(|tally| tally.count).sum()
    }

    /// Adds up the counts of a destination over a span, for the tallies that `is_it` picks.
    fn count(
        &self,
        destination: &str,
        span: SignedDuration,
        is_it: &dyn Fn(&Tally) -> bool,
    ) -> u64 {
        let tallies = if span == HOUR { &self.minutes } else { &self.hours };
        let of_here = tallies.iter().filter(|tally| tally.destination == destination);
        let of_span = of_here.filter(|tally| within(tally, self.replicas.now, span));
        of_span.filter(|tally| is_it(tally)).map(|tally| tally.count).sum()
    }
}

/// Returns whether the interval of a count began within a span.
fn within(tally: &Tally, now: Timestamp, span: SignedDuration) -> bool {
    now.duration_since(tally.at) <= span
}

/// Returns in how many seconds this many messages will be done, at the speed of the last whole minutes.
fn empty_in(waiting: u64, found: &Found, destination: &str) -> Option<u64> {
    let now = found.replicas.now;
    let is_recent = |tally: &&Tally| {
        let age = now.duration_since(tally.at);
        age >= MINUTE && age < MINUTE * (THROUGHPUT_MINUTES as i32 + 1)
    };
    let ends = [Stage::Delivered, Stage::Shadowed, Stage::Failed, Stage::Unmatched];
    let of_here = found.minutes.iter().filter(|tally| tally.destination == destination);
    let done = of_here.filter(is_recent).filter(|tally| ends.contains(&tally.stage));
    let done: u64 = done.map(|tally| tally.count).sum();
    let seconds = 60 * THROUGHPUT_MINUTES.unsigned_abs();
    (waiting > 0 && done > 0).then(|| waiting.saturating_mul(seconds).div_ceil(done))
}

pub(super) fn sources(found: &Found, rejected: Rejected) -> Vec<SourceNow> {
    let now = found.replicas.now;
    let mut sources: BTreeMap<&str, SourceNow> = BTreeMap::new();
    for (name, codes) in &rejected {
        sources.entry(name).or_default().rejected = codes.clone();
    }
    for name in &found.sources {
        sources.entry(name).or_default().is_configured = true;
    }
    let received = |tally: &&Tally| tally.stage == Stage::Received;
    for tally in found.hours.iter().filter(received) {
        let source = sources.entry(&tally.source).or_default();
        source.last_received_at = source.last_received_at.max(Some(tally.at));
        if within(tally, now, DAY) {
            source.received_day += tally.count;
        }
    }
    for tally in found.minutes.iter().filter(received) {
        let source = sources.entry(&tally.source).or_default();
        source.last_received_at = source.last_received_at.max(Some(tally.at));
        source.received_hour += tally.count;
    }
    let named = |(name, source): (&str, SourceNow)| SourceNow { name: name.to_owned(), ..source };
    sources.into_iter().map(named).collect()
}

pub(super) fn funnel(found: &Found) -> Vec<Funnel> {
    let now = found.replicas.now;
    let of = |span: &'static str, tallies: &[Tally], length: SignedDuration| {
        let mut funnel = Funnel { span, ..Funnel::default() };
        for tally in tallies.iter().filter(|tally| within(tally, now, length)) {
            match tally.stage {
                Stage::Received => funnel.received += tally.count,
                Stage::Replayed => funnel.replayed += tally.count,
                Stage::Unmatched => {
                    funnel.unmatched += tally.count;
                    let reason = tally.reason.clone().unwrap_or_default();
                    *funnel.unmatched_reasons.entry(reason).or_default() += tally.count;
                }
                Stage::Delivered => funnel.delivered += tally.count,
                Stage::Shadowed => funnel.shadowed += tally.count,
                Stage::Failed => funnel.failed += tally.count,
                Stage::Request => funnel.requests += tally.count,
                Stage::RequestSaved => {
                    let how = tally.reason.clone().unwrap_or_default();
                    *funnel.requests_saved.entry(how).or_default() += tally.count;
                }
                Stage::DeliveryDelivered
                | Stage::DeliveryShadowed
                | Stage::DeliveryFailed
                | Stage::DeliveryWarned
                | Stage::NewContact => {}
            }
        }
        funnel
    };
    vec![of("1h", &found.minutes, HOUR), of("24h", &found.hours, DAY), of("7d", &found.hours, WEEK)]
}
