//! The present state of the service, for the page Now and `GET /api/status`. It is the same from every process, because
//! each publishes its own part in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::diagnosis::Diagnosis;
use super::state::AdminState;
use crate::queue::{
    Class, ConflictKind, Depth, DestinationStatus, FailureReason, IdentityConflict, NewContactsDay,
    PauseReason, ProcessStatus, Replicas, RequestId, Seq, Stage, Tally, TallyStep, Unavailable,
    day_of,
};

/// How many requests and messages were rejected in the last hour, by source and code. An unknown source has an empty
/// name.
pub(super) type Rejected = BTreeMap<String, BTreeMap<String, u64>>;

/// A process that has not been seen for this long does not count.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(20);

/// Throughput is measured over this many whole minutes.
const THROUGHPUT_MINUTES: i64 = 5;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

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
    /// How many addresses, or user ids.
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
    pub(super) fn of(self, class: Class) -> u64 {
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

/// Counts what waits for destinations that no process reports on. Each count is kept for a while, because the page Now
/// is read again every few seconds. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Depths(Arc<Mutex<HashMap<String, Counted>>>);

#[derive(Debug)]
struct Counted {
    depth: Depth,
    valid_until: Instant,
}

impl Depths {
    /// Returns how much waits for a destination, counting it unless the last count is still valid. Callers at the same
    /// time wait for one count.
    async fn of(
        &self,
        name: &str,
        count: impl AsyncFnOnce() -> Result<Depth, Unavailable>,
    ) -> Result<Depth, Unavailable> {
        let mut counts = self.0.lock().await;
        let began = Instant::now();
        counts.retain(|_, counted| began < counted.valid_until);
        if let Some(counted) = counts.get(name) {
            return Ok(counted.depth);
        }
        let depth = count().await?;
        let valid_until = Instant::now() + Depth::valid_for(began.elapsed());
        counts.insert(name.to_owned(), Counted { depth, valid_until });
        Ok(depth)
    }
}

/// Reads the present state of the service.
pub(super) async fn read(state: &AdminState) -> Result<Status, Unavailable> {
    let now = state.clock.now();
    let replicas = state.log.replicas(now).await?;
    let configured: BTreeSet<String> = state.planners.keys().cloned().collect();
    let mut names = configured.clone();
    names.extend(state.work.destinations().await?);
    let reported = reported(&replicas);
    let mut depths = BTreeMap::new();
    for name in names {
        // The process that delivers counts regularly; without one, count here.
        if reported.get(name.as_str()).is_none_or(|(_, one)| one.waiting.is_none()) {
            let depth = state.depths.of(&name, async || state.work.depth(&name).await).await?;
            depths.insert(name, depth);
        }
    }
    let since = |span| now.checked_sub(span).unwrap_or(Timestamp::MIN);
    let minutes = state.log.tallies(TallyStep::Minute, since(HOUR), Timestamp::MAX).await?;
    let hours = state.log.tallies(TallyStep::Hour, since(WEEK), Timestamp::MAX).await?;
    let days = state.new_contacts.new_contacts(now).await?;
    let accepts = state.log.ready().await.is_ok();
    let conflicts = conflicts(state, since(WEEK)).await?;
    let caps = caps(state);
    let mut held = BTreeMap::new();
    for name in caps.keys() {
        held.insert(name.clone(), state.new_contacts.count_held(name).await?);
    }
    Ok(Status::of(Found {
        accepts,
        replicas,
        depths,
        configured,
        shadows: shadows(state),
        sources: state.sources.borrow().names().map(str::to_owned).collect(),
        minutes,
        hours,
        days,
        caps,
        held,
        conflicts,
    }))
}

/// The conflicts to show, each with a message.
async fn conflicts(state: &AdminState, since: Timestamp) -> Result<Vec<Conflict>, Unavailable> {
    let mut found = state.log.conflicts(since).await?;
    found.retain(|one| match one.kind {
        ConflictKind::Addresses => {
            let planner = state.planners.get(&one.destination);
            let most = planner.map_or(0, |destination| {
                destination.borrow().contact_options().identity_addresses_max
            });
            one.count > u64::from(most)
        }
        ConflictKind::UserIds => true,
    });
    let requests: Vec<RequestId> = found.iter().map(|one| one.request).collect();
    let messages: HashMap<RequestId, Seq> = state
        .log
        .request_contents(&requests)
        .await?
        .into_iter()
        .filter_map(|one| Some((one.id, *one.seqs.last()?)))
        .collect();
    let conflict = |one: IdentityConflict| Conflict {
        destination: one.destination,
        kind: one.kind,
        day: one.day,
        count: one.count,
        seq: messages.get(&one.request).map(|seq| seq.0),
    };
    Ok(found.into_iter().map(conflict).collect())
}

/// Returns the state of delivery to one destination, as [`read`] does, but without the counts of an hour and a day.
pub(super) async fn delivery(
    state: &AdminState,
    destination: &str,
) -> Result<DestinationNow, Unavailable> {
    let now = state.clock.now();
    let replicas = state.log.replicas(now).await?;
    let mut depths = BTreeMap::new();
    if reported(&replicas).get(destination).is_none_or(|(_, one)| one.waiting.is_none()) {
        let depth = state.depths.of(destination, async || state.work.depth(destination).await);
        depths.insert(destination.to_owned(), depth.await?);
    }
    let from = now.checked_sub(MINUTE * (THROUGHPUT_MINUTES as i32 + 2)).unwrap_or(Timestamp::MIN);
    let found = Found {
        accepts: true,
        replicas,
        depths,
        configured: state.planners.keys().cloned().collect(),
        shadows: shadows(state),
        sources: BTreeSet::new(),
        minutes: state.log.tallies(TallyStep::Minute, from, Timestamp::MAX).await?,
        hours: Vec::new(),
        days: Vec::new(),
        caps: caps(state),
        held: BTreeMap::new(),
        conflicts: Vec::new(),
    };
    Ok(found.destination(destination, &reported(&found.replicas)))
}

/// Returns the destinations that are in shadow mode in this process.
fn shadows(state: &AdminState) -> BTreeSet<String> {
    let all = state.planners.iter().filter(|(_, planner)| planner.borrow().is_shadow());
    all.map(|(name, _)| name.clone()).collect()
}

/// Returns how many contacts may be created in a day, for each destination with such a cap.
fn caps(state: &AdminState) -> BTreeMap<String, u32> {
    let caps = state.planners.iter().map(|(name, planner)| {
        (name.clone(), planner.borrow().contact_options().new_contacts_per_day)
    });
    caps.filter(|(_, per_day)| *per_day > 0).collect()
}

/// Returns what all processes rejected in the last hour.
pub(super) async fn rejected(state: &AdminState) -> Result<Rejected, Unavailable> {
    Ok(rejected_by(&state.log.replicas(state.clock.now()).await?))
}

fn rejected_by(replicas: &Replicas) -> Rejected {
    let mut rejected = Rejected::new();
    for (_, status) in alive(replicas) {
        for (source, codes) in &status.rejected {
            for (code, count) in codes {
                *rejected.entry(source.clone()).or_default().entry(code.clone()).or_default() +=
                    count;
            }
        }
    }
    rejected
}

/// Returns the processes that were seen recently.
pub(super) fn alive(replicas: &Replicas) -> impl Iterator<Item = (&str, &ProcessStatus)> {
    let is_alive = |seen: Timestamp| replicas.now.duration_since(seen) <= SEEN_WITHIN;
    let alive = replicas.replicas.iter().filter(move |one| is_alive(one.last_seen_at));
    alive.map(|one| (one.name.as_str(), &one.status))
}

/// Returns what each delivering process reports about its destinations.
fn reported(replicas: &Replicas) -> Reported<'_> {
    let mut reported = BTreeMap::new();
    for (process, status) in alive(replicas) {
        for (destination, one) in &status.destinations {
            if holder(replicas, destination) == Some(process) {
                reported.insert(destination.as_str(), (process, one));
            }
        }
    }
    reported
}

/// Returns the process that holds the lease of a destination, if the lease is in force.
fn holder<'r>(replicas: &'r Replicas, destination: &str) -> Option<&'r str> {
    let lease = replicas.leases.iter().find(|lease| lease.destination == destination)?;
    let holder = lease.holder.as_ref().filter(|holder| holder.until > replicas.now)?;
    Some(&holder.holder)
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

/// The destinations that processes report, each with the name of its process.
type Reported<'r> = BTreeMap<&'r str, (&'r str, &'r DestinationStatus)>;

impl Found {
    fn destinations(&self) -> Vec<DestinationNow> {
        let reported = reported(&self.replicas);
        let counted = self.depths.iter().filter(|(_, depth)| depth.messages > 0);
        let mut names: BTreeSet<&str> = self.configured.iter().map(String::as_str).collect();
        names.extend(counted.map(|(name, _)| name.as_str()));
        names.extend(reported.keys());
        names.into_iter().map(|name| self.destination(name, &reported)).collect()
    }

    fn destination(&self, name: &str, reported: &Reported<'_>) -> DestinationNow {
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

fn sources(found: &Found, rejected: Rejected) -> Vec<SourceNow> {
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

fn funnel(found: &Found) -> Vec<Funnel> {
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

#[cfg(test)]
mod tests;
