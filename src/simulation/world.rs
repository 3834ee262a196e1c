//! What happens in a run, and when: senders, operators, crashes, weather. All of it follows from the seed.

use std::fmt::Arguments;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::clock::SimulatedClock;
use super::loops::{Loops, Weather};
use super::model::{Kind, Ledger, id};
use super::process::{LEASE_TTL, Process, RETRY_MAX, supervise};
use super::store::{Access, FlakyStore, wait};
use crate::clock::Clock as _;
use crate::destination::{ActionKind, Destination, DestinationOptions};
use crate::queue::intake::Intake;
use crate::queue::suite::Fixture;
use crate::queue::{
    Accepted, Inbox as _, MessageRecord, NewMessage, ReplayAsk, ReplayState, Replays as _,
    Selection, Stage, Store, TallyStep,
};
use crate::segment::decode::decode_strict;
use crate::segment::{Digests, Object, Value};

pub(super) const DESTINATION: &str = "main";
const SOURCE: &str = "web";

/// How long a sender waits for its answer.
const ACK_TIMEOUT: Duration = Duration::from_secs(4);

/// Everybody that the messages are about.
const USERS: [&str; 5] = ["ada", "bob", "cyn", "dan", "eve"];

/// The properties that are set.
const PROPERTIES: [&str; 4] = ["p1", "p2", "p3", "p4"];

/// A run: everything that happened, and the promises that were broken.
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    pub(super) trace: Vec<String>,
    pub(super) simulated: Duration,
}

/// What a run has, as its seed decides. Most runs have some kinds of trouble and not others: with all of them at
/// once, little would ever get done.
#[derive(Debug)]
pub(super) struct Knobs {
    pub(super) rate: u32,
    pub(super) requests_max: usize,
    processes: usize,
    /// How long there is trouble.
    trouble: Duration,
    /// How often something happens.
    pause_ms: u64,
    crash: f64,
    store_failure: f64,
    lost_answer: f64,
    bad_weather: bool,
    stall: f64,
    full_disks: bool,
    jumps: bool,
    replays: bool,
    reloads: bool,
    deletions: bool,
}

pub(super) struct World {
    pub(super) knobs: Knobs,
    pub(super) clock: Arc<SimulatedClock>,
    began: Instant,
    chance: Mutex<fastrand::Rng>,
    ledger: Mutex<Ledger>,
    loops: Mutex<Loops>,
    trace: Mutex<Vec<String>>,
    weather: Mutex<Weather>,
    disk_is_full: AtomicBool,
    /// When the clock was set last.
    jumped_at: Mutex<Option<Instant>>,
    /// The earliest setting of the clock so far, in seconds from the right one.
    earliest_setting: Mutex<i64>,
    is_calm: AtomicBool,
    is_over: AtomicBool,
    configuration: watch::Sender<Arc<Destination>>,
    running: Mutex<Vec<Option<Running>>>,
    open: Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>,
    digests: Digests,
}

/// A process that is up.
#[derive(Clone)]
struct Running {
    process: Arc<Process>,
    store: Arc<FlakyStore>,
}

impl Knobs {
    fn new(chance: &mut fastrand::Rng) -> Self {
        let mut often = |share: f64| chance.f64() < share;
        let (crashes, failures, lost) = (often(0.6), often(0.4), often(0.3));
        let (bad_weather, stalls, full_disks, jumps) =
            (often(0.8), often(0.3), often(0.2), often(0.3));
        let (replays, reloads, deletions) = (often(0.4), often(0.5), often(0.4));
        let processes = if often(0.4) { 2 } else { 1 };
        Self {
            rate: chance.u32(2..=12),
            requests_max: chance.usize(2..=32),
            processes,
            trouble: Duration::from_secs(chance.u64(10..=60)),
            pause_ms: chance.u64(200..=2_000),
            crash: if crashes { 0.02 * chance.f64() * chance.f64() } else { 0.0 },
            store_failure: if failures { 0.1 * chance.f64() } else { 0.0 },
            lost_answer: if lost { 0.1 * chance.f64() } else { 0.0 },
            bad_weather,
            stall: if stalls { 0.02 * chance.f64() } else { 0.0 },
            full_disks,
            jumps,
            replays,
            reloads,
            deletions,
        }
    }
}

/// Runs a seed over the data of a fixture.
pub(super) async fn run<F: Fixture + Send + Sync + 'static>(seed: u64, fixture: F) -> Outcome {
    let mut chance = fastrand::Rng::with_seed(seed);
    let knobs = Knobs::new(&mut chance);
    let engine = super::engine().handle();
    let open: Box<dyn Fn() -> Arc<dyn Store> + Send + Sync> =
        Box::new(move || wait(engine, fixture.open()));
    let first = open();
    let digests = first.digests();
    wait(engine, first.close());
    let world = Arc::new(World {
        clock: Arc::new(SimulatedClock::new()),
        began: Instant::now(),
        chance: Mutex::new(chance),
        ledger: Mutex::default(),
        loops: Mutex::default(),
        trace: Mutex::default(),
        weather: Mutex::new(Weather::Fine),
        disk_is_full: AtomicBool::new(false),
        jumped_at: Mutex::new(None),
        earliest_setting: Mutex::new(0),
        is_calm: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        configuration: watch::channel(Arc::new(configuration(0))).0,
        running: Mutex::new(vec![None, None]),
        open,
        digests,
        knobs,
    });
    world.trace(format_args!("seed {seed}: {:?}", world.knobs));
    let supervisors: Vec<_> = (0..world.knobs.processes)
        .map(|number| tokio::spawn(supervise(Arc::clone(&world), number)))
        .collect();
    let mut senders = tokio::task::JoinSet::new();
    while world.began.elapsed() < world.knobs.trouble {
        sleep(world.ms(0..=world.knobs.pause_ms)).await;
        world.something_happens(&mut senders);
    }
    world.calm_down();
    while senders.join_next().await.is_some() {}
    world.drain().await;
    world.finish(supervisors).await;
    let simulated = world.began.elapsed();
    let violations = std::mem::take(&mut world.ledger().violations);
    let trace = std::mem::take(&mut *world.trace.lock().unwrap());
    Outcome { violations, trace, simulated }
}

/// Segment's subscriptions, in one of their versions: it shows in the requests of events.
fn configuration(version: u64) -> Destination {
    let mut subscriptions = Destination::default_subscriptions();
    for subscription in &mut subscriptions {
        if let (ActionKind::SendEvent, Value::Object(mapping)) =
            (subscription.action, &mut subscription.mapping)
        {
            let properties = decode_strict(&format!(r#"{{"version": {version}}}"#)).unwrap();
            mapping.insert("contactProperties", properties);
        }
    }
    Destination::compile(&subscriptions, DestinationOptions::default()).unwrap()
}

/// What chance decides, and what the parts of the simulation share.
impl World {
    pub(super) fn chance(&self, share: f64) -> bool {
        share > 0.0 && self.chance.lock().unwrap().f64() < share
    }

    pub(super) fn ms(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.chance.lock().unwrap().u64(range))
    }

    fn below(&self, end: usize) -> usize {
        self.chance.lock().unwrap().usize(..end)
    }

    fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(super) fn trace(&self, what: Arguments<'_>) {
        let at = self.began.elapsed().as_secs_f64();
        self.trace.lock().unwrap().push(format!("{at:10.3} {what}"));
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Notes a broken promise, also where it happened.
    pub(super) fn violate(&self, what: String) {
        self.trace(format_args!("BROKEN: {what}"));
        self.ledger().violate(what);
    }

    pub(super) fn loops(&self) -> MutexGuard<'_, Loops> {
        self.loops.lock().unwrap()
    }

    pub(super) fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// Whether this process is to run. In the end, one is enough.
    pub(super) fn needs(&self, number: usize) -> bool {
        !self.is_over.load(Ordering::Relaxed) && (number == 0 || !self.is_calm())
    }

    pub(super) fn open_store(&self) -> Arc<dyn Store> {
        (self.open)()
    }

    pub(super) fn planner(&self) -> watch::Receiver<Arc<Destination>> {
        self.configuration.subscribe()
    }

    /// How long a call of the store takes.
    pub(super) fn latency(&self) -> Duration {
        self.ms(0..=2)
    }

    pub(super) fn crashes(&self) -> bool {
        !self.is_calm() && self.chance(self.knobs.crash)
    }

    /// For how long a process stands still, if it does: it was stopped by a signal, or waits for its disk.
    pub(super) fn stalls(&self) -> Option<Duration> {
        (!self.is_calm() && self.chance(self.knobs.stall)).then(|| self.ms(100..=40_000))
    }

    pub(super) fn store_fails(&self, access: Access) -> bool {
        if self.is_calm() {
            return false;
        }
        let is_full = access == Access::Write && self.disk_is_full.load(Ordering::Relaxed);
        is_full || self.chance(self.knobs.store_failure)
    }

    pub(super) fn loses_answer(&self) -> bool {
        !self.is_calm() && self.chance(self.knobs.lost_answer)
    }

    /// A process that stood still while the clock was set may ask for the lease by the time before, and get it too
    /// early: until the other process notices, the two may exceed the rate.
    pub(super) fn excuses_the_rate(&self) -> bool {
        let (knobs, jumped_at) = (&self.knobs, *self.jumped_at.lock().unwrap());
        let is_recent = |at: Instant| at.elapsed() < Duration::from_secs(60);
        knobs.processes > 1 && knobs.stall > 0.0 && jumped_at.is_some_and(is_recent)
    }

    /// Notes the setting of the clock under which a process starts. A process that does not know that the clock was
    /// set forward has to take it that Loops has forgotten the keys of events that were tried before.
    fn starts_by_the_clock(&self) {
        let off_by = self.clock.off_by().as_secs();
        let mut earliest = self.earliest_setting.lock().unwrap();
        *earliest = (*earliest).min(off_by);
        if off_by - *earliest > 23 * 3600 {
            self.ledger().may_expire = true;
        }
    }

    pub(super) fn begin(&self, number: usize, process: &Arc<Process>, store: &Arc<FlakyStore>) {
        let running = Running { process: Arc::clone(process), store: Arc::clone(store) };
        self.starts_by_the_clock();
        self.running.lock().unwrap()[number] = Some(running);
    }

    pub(super) fn end(&self, number: usize) {
        self.running.lock().unwrap()[number] = None;
    }

    fn any_running(&self) -> Option<Running> {
        let running: Vec<_> = self.running.lock().unwrap().iter().flatten().cloned().collect();
        if running.is_empty() { None } else { Some(running[self.below(running.len())].clone()) }
    }
}

/// What senders and operators do, and what befalls them.
impl World {
    fn something_happens(self: &Arc<Self>, senders: &mut tokio::task::JoinSet<()>) {
        let knobs = &self.knobs;
        match self.below(100) {
            0..50 => {
                let batch = (0..=self.below(4)).map(|_| self.new_message()).collect();
                senders.spawn(Arc::clone(self).send(batch, false));
            }
            50..56 => {
                let batch = (0..=self.below(10)).map(|_| self.new_message()).collect();
                senders.spawn(Arc::clone(self).send(batch, true));
            }
            56..60 => {
                let sent = self.ledger().messages.len();
                if sent > 0 {
                    senders.spawn(Arc::clone(self).send(vec![self.below(sent)], false));
                }
            }
            60..72 if knobs.bad_weather => {
                let weather = self.one_of(&Weather::ALL);
                self.trace(format_args!("weather: {weather:?}"));
                *self.weather.lock().unwrap() = weather;
            }
            72..76 if knobs.reloads => {
                let version = self.below(1_000) as u64;
                self.trace(format_args!("reload: version {version}"));
                self.configuration.send_replace(Arc::new(configuration(version)));
            }
            76..80 if knobs.replays => {
                senders.spawn(Arc::clone(self).replay());
            }
            80..84 if knobs.full_disks => {
                let is_full = !self.disk_is_full.fetch_not(Ordering::Relaxed);
                self.trace(format_args!("the disk is full: {is_full}"));
            }
            84..87 if knobs.jumps => self.jump(),
            87..89 => {
                if let Some(running) = self.any_running() {
                    running.process.stop.cancel();
                }
            }
            89..91 if knobs.crash > 0.0 => {
                if let Some(running) = self.any_running() {
                    self.trace(format_args!("{} is killed", running.process.name));
                    running.process.crash.cancel();
                }
            }
            _ => {}
        }
    }

    /// Sets the clock: by seconds, hours or a day, forward or back, or to long ago.
    fn jump(&self) {
        const HOUR: i64 = 3_600;
        // Never so far ahead that records are past their retention.
        let ahead = self.clock.off_by().as_hours();
        let by = match self.one_of(&[-10, 10, -HOUR, HOUR, -25 * HOUR, 25 * HOUR]) {
            by if by > 0 && ahead > 24 => -by,
            by => by,
        };
        self.trace(format_args!("the clock jumps by {by} s"));
        self.clock.jump(SignedDuration::from_secs(by));
        *self.jumped_at.lock().unwrap() = Some(Instant::now());
        let mut earliest = self.earliest_setting.lock().unwrap();
        *earliest = (*earliest).min(self.clock.off_by().as_secs());
    }

    /// Makes a message up; returns its number.
    fn new_message(&self) -> usize {
        let kind = match self.below(100) {
            0..45 => Kind::Track,
            45..80 => Kind::Identify,
            80..86 => Kind::Poison,
            86..91 => Kind::Page,
            91..94 => Kind::Placeholder,
            _ if self.knobs.deletions => Kind::Delete,
            _ => Kind::Track,
        };
        let mut user = self.one_of(&USERS);
        let mut ledger = self.ledger();
        let is_deleted = |user: &str| {
            ledger.messages.iter().any(|one| one.kind == Kind::Delete && one.user == user)
        };
        // Each person is deleted once at most, so that it is clear which deletion Loops got.
        let kind = if kind == Kind::Delete && is_deleted(user) { Kind::Track } else { kind };
        if kind == Kind::Placeholder {
            user = "undefined";
        }
        let properties = match kind {
            Kind::Track => vec!["p0"],
            Kind::Identify => PROPERTIES.into_iter().filter(|_| self.chance(0.4)).collect(),
            _ => Vec::new(),
        };
        let properties = properties.into_iter().map(str::to_owned).collect();
        ledger.sent(user.to_owned(), kind, properties)
    }

    /// A message as its sender writes it, and as it is stamped.
    fn stamped(&self, number: usize, is_bulk: bool) -> NewMessage {
        let ledger = self.ledger();
        let message = &ledger.messages[number];
        let user = &message.user;
        let mut values: serde_json::Map<_, _> =
            message.properties.iter().map(|name| (name.clone(), number.into())).collect();
        if message.kind == Kind::Poison {
            values.insert("poison".to_owned(), true.into());
            values.insert("p0".to_owned(), number.into());
        }
        let (kind, place) = match message.kind {
            Kind::Track => ("track", "properties"),
            Kind::Poison if number.is_multiple_of(2) => ("track", "properties"),
            Kind::Delete => ("delete", "traits"),
            Kind::Page => ("page", "properties"),
            Kind::Identify | Kind::Poison | Kind::Placeholder => ("identify", "traits"),
        };
        let written = serde_json::json!({
            "type": kind, "messageId": id(number), "userId": user, "event": "Done", place: values,
        });
        drop(ledger);
        let intake = Intake {
            digests: &self.digests,
            source: SOURCE,
            destination: DESTINATION,
            is_bulk,
            kind: None,
            is_from_segment: false,
            is_sent_now: !is_bulk,
            ip: None,
            message_bytes_max: 1_000_000,
            takes_delete: true,
        };
        let raw = written.to_string();
        intake.read(raw.as_bytes(), &Object::new(), self.clock.now(), String::new).unwrap()
    }

    /// Sends messages until they are acknowledged.
    async fn send(self: Arc<Self>, batch: Vec<usize>, is_bulk: bool) {
        loop {
            if let Some(Running { process, store }) = self.any_running() {
                let messages = batch.iter().map(|number| self.stamped(*number, is_bulk)).collect();
                let accepted = timeout(ACK_TIMEOUT, store.accept(messages)).await;
                if let Ok(Ok(accepted)) = accepted {
                    let new = accepted.iter().filter(|one| **one == Accepted::New).count();
                    self.trace(format_args!("{} acknowledges {batch:?}, {new} new", process.name));
                    let mut ledger = self.ledger();
                    batch.iter().for_each(|number| ledger.messages[*number].is_acknowledged = true);
                    return;
                }
            }
            sleep(self.ms(200..=3_000)).await;
        }
    }

    /// Replays some messages, as far as it gets.
    async fn replay(self: Arc<Self>) {
        let Some(Running { process, store }) = self.any_running() else { return };
        let selection = Selection {
            state: self.one_of(&ReplayState::ALL),
            message_ids: Vec::new(),
            user: self.chance(0.7).then(|| self.one_of(&USERS).to_owned()),
            reason: None,
            destination: Some(DESTINATION.to_owned()),
            subscription: None,
            from: None,
            to: None,
        };
        let mut position = None;
        loop {
            let (selection, now) = (selection.clone(), self.clock.now());
            let ask = ReplayAsk { selection, position, is_dry_run: false, now };
            let Ok(Ok(chunk)) = timeout(ACK_TIMEOUT, store.replay(&ask)).await else { return };
            self.trace(format_args!("{} replayed {}", process.name, chunk.replayed));
            position = chunk.next;
            if position.is_none() {
                return;
            }
        }
    }
}

/// The end of a run: no more trouble, everything is delivered, the promises are checked.
impl World {
    fn calm_down(&self) {
        self.trace(format_args!("calm"));
        self.is_calm.store(true, Ordering::Relaxed);
        self.disk_is_full.store(false, Ordering::Relaxed);
        *self.weather.lock().unwrap() = Weather::Fine;
        for running in self.running.lock().unwrap().iter().skip(1).flatten() {
            running.process.stop.cancel();
        }
    }

    /// Waits until nothing is pending. It must not take longer than the longest wait and the rate explain.
    async fn drain(&self) {
        let patience = RETRY_MAX + LEASE_TTL * 3 + Duration::from_secs(90);
        let messages = self.ledger().messages.len() as u32;
        let until = Instant::now() + patience + Duration::from_secs(4) * messages / self.knobs.rate;
        loop {
            sleep(Duration::from_secs(1)).await;
            let Some(Running { store, .. }) = self.any_running() else { continue };
            let depth = store.inner.depth(DESTINATION);
            let depth = wait(super::engine().handle(), depth).unwrap();
            if depth.messages == 0 {
                return;
            }
            if Instant::now() > until {
                let text = format!("{} messages are still pending", depth.messages);
                self.violate(text);
                return;
            }
        }
    }

    /// Stops all processes, and checks the promises.
    async fn finish(&self, supervisors: Vec<tokio::task::JoinHandle<()>>) {
        self.is_over.store(true, Ordering::Relaxed);
        for running in self.running.lock().unwrap().iter().flatten() {
            running.process.stop.cancel();
        }
        for supervisor in supervisors {
            if let Err(panicked) = supervisor.await {
                self.violate(format!("a process panicked: {panicked}"));
            }
        }
        let store = self.open_store();
        let engine = super::engine().handle();
        let mut ledger = self.ledger();
        let find = |number: usize| -> Vec<MessageRecord> {
            let hash = self.digests.message_id(&id(number));
            wait(engine, store.by_message_id(hash, &id(number))).unwrap()
        };
        let records: Vec<Vec<MessageRecord>> = (0..ledger.messages.len()).map(find).collect();
        ledger.check(&records);
        let (received, ended) = wait(engine, counts(&*store));
        let pending = wait(engine, store.depth(DESTINATION)).unwrap().messages;
        if received != ended + pending {
            ledger.violate(format!(
                "{received} received or replayed, {ended} ended, {pending} pending"
            ));
        }
        wait(engine, store.close());
    }
}

/// How many messages were received or replayed, and how many ended.
async fn counts(store: &dyn Store) -> (u64, u64) {
    let (from, to) =
        (Timestamp::from_second(0).unwrap(), Timestamp::from_second(4_000_000_000).unwrap());
    let mut counts = (0, 0);
    for tally in store.tallies(TallyStep::Hour, from, to).await.unwrap() {
        match tally.stage {
            Stage::Received | Stage::Replayed => counts.0 += tally.count,
            Stage::Unmatched | Stage::Delivered | Stage::Failed => counts.1 += tally.count,
            Stage::DeliveryDelivered | Stage::DeliveryFailed => {}
        }
    }
    counts
}
