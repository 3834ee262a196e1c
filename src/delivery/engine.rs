//! The engine of one destination: holds the lease, reads pending messages, starts steps.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use super::backoff::RetryOptions;
use super::disposition::KeyCheck;
use super::lanes::{Lanes, Reading};
use super::pause::{KeyRefusals, Pause};
use super::step::{StepEnd, StepOutcome, Stepper};
use super::stop::Stop;
use crate::clock::SharedClock;
use crate::destination::Destination;
use crate::loops::{Client, Reply, Slot};
use crate::queue::{
    Class, Head, LanePart, Lease, LeaseRequest, PendingAsk, Seq, Unavailable, Work,
};
use crate::segment::LaneKey;
use crate::telemetry;

/// Heads read from the store at once.
const PAGE: u32 = 5_000;

/// Heads of each class held in memory; the rest stay in the store until there is room.
const HEADS_MAX: usize = 100_000;

/// How many of the messages behind one are considered for merging with it.
const NEIGHBOURS_MAX: usize = 50;

/// How often the store is polled without a hint: another process may have accepted messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two hints that are followed: each costs a read, and under load there is
/// one for every group that is written, for any destination. A hint after a quiet time is followed at once.
const HINT_EVERY: Duration = Duration::from_millis(10);

/// The longest wait before asking again for a lease that another process holds, so that a lease which a
/// stopping process gives back is taken soon.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two measurements of depth and rate for `/metrics`.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Counting the depth takes longer the more is pending. Sleep 200 times as long as the last count took, at
/// most a minute, so that counting costs under 0.5 % and the gauge stays fresh.
const COUNT_RESTS: u32 = 200;
const COUNT_REST_MAX: Duration = Duration::from_secs(60);

/// How an engine works.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The name of this process in leases.
    pub holder: String,
    /// How long a lease holds without renewal.
    pub lease_ttl: Duration,
    /// The most requests in flight at once.
    pub requests_max: usize,
    /// When failed requests are retried.
    pub retry: RetryOptions,
    /// How long requests in flight may take to finish after the lease was lost.
    pub grace: Duration,
}

/// The engine of one destination.
pub struct Engine {
    stepper: Arc<Stepper>,
    options: EngineOptions,
}

/// Another process has the lease.
struct LeaseLost;

impl Engine {
    /// Creates an engine; it does nothing until it is run.
    pub fn new(
        name: String,
        destination: watch::Receiver<Arc<Destination>>,
        client: Client,
        queue: Arc<dyn Work>,
        clock: SharedClock,
        options: EngineOptions,
    ) -> Self {
        let retry = options.retry;
        let stepper = Arc::new(Stepper { name, destination, client, queue, clock, retry });
        Self { stepper, options }
    }

    /// Delivers whenever it holds the lease, until `stop` is ordered; then lets the requests in flight
    /// finish by the deadline, and gives the lease back.
    pub async fn run(self, stop: Stop) {
        let name = self.stepper.name.clone();
        gauge!(telemetry::LEASE_HELD, "destination" => name.clone()).set(0.0);
        let mut is_logged = false;
        while !stop.is_ordered() {
            let asked_at = Instant::now();
            let mut wait = self.options.lease_ttl / 3;
            match self.ask_for_lease().await {
                Ok(Some(lease)) => {
                    is_logged = false;
                    info!(destination = name, token = lease.token, "lease taken");
                    crate::crash::point("lease.after");
                    gauge!(telemetry::LEASE_HELD, "destination" => name.clone()).set(1.0);
                    let tenure = Tenure::new(&self, lease.clone(), asked_at);
                    // Concurrently, so that delivery never waits for a count.
                    let ended = tokio::select! {
                        ended = tenure.run(&stop) => ended,
                        never = self.measure() => match never {},
                    };
                    gauge!(telemetry::LEASE_HELD, "destination" => name.clone()).set(0.0);
                    match ended {
                        Ok(()) => return self.give_back(&lease).await,
                        Err(LeaseLost) => warn!(destination = name, "lease lost"),
                    }
                }
                Ok(None) => {
                    wait = wait.min(ASK_EVERY);
                    if !std::mem::replace(&mut is_logged, true) {
                        self.log_holder().await;
                    }
                }
                Err(fault) => error!(
                    destination = name,
                    error = %telemetry::chain(&fault),
                    "the lease cannot be asked for; trying again"
                ),
            }
            let again_at = asked_at + wait;
            tokio::select! {
                () = sleep_until(again_at) => {}
                _ = stop.ordered() => {}
            }
        }
    }

    async fn ask_for_lease(&self) -> Result<Option<Lease>, Unavailable> {
        let ask = LeaseRequest {
            destination: self.stepper.name.clone(),
            holder: self.options.holder.clone(),
            now: self.stepper.clock.now(),
            ttl: self.options.lease_ttl,
        };
        self.stepper.queue.lease(ask).await
    }

    /// Keeps the gauges of rate and depth up to date.
    async fn measure(&self) -> Infallible {
        let (name, clock) = (&self.stepper.name, &self.stepper.clock);
        let mut tick = ticks(MEASURE_EVERY);
        let mut count_at = Instant::now();
        loop {
            tick.tick().await;
            let now = Instant::now();
            gauge!(telemetry::RATE_LIMIT, "destination" => name.clone())
                .set(self.stepper.client.pacer().rate());
            if now < count_at {
                continue;
            }
            if let Ok(depth) = self.stepper.queue.depth(name).await {
                let age = depth
                    .oldest_received_at
                    .map_or(0.0, |at| clock.now().duration_since(at).as_secs_f64().max(0.0));
                gauge!(telemetry::QUEUE_DEPTH, "destination" => name.clone())
                    .set(depth.messages as f64);
                gauge!(telemetry::QUEUE_OLDEST_SECONDS, "destination" => name.clone()).set(age);
            }
            count_at = now + (now.elapsed() * COUNT_RESTS).min(COUNT_REST_MAX);
        }
    }

    /// Logs which process delivers instead of this one.
    async fn log_holder(&self) {
        let name = &self.stepper.name;
        match self.stepper.queue.lease_holder(name).await {
            Ok(other) => info!(
                destination = name,
                holder = other.as_ref().map(|other| other.holder.as_str()),
                until = other.as_ref().map(|other| tracing::field::display(other.until)),
                "another process holds the lease; waiting for it"
            ),
            Err(fault) => warn!(
                destination = name,
                error = %telemetry::chain(&fault),
                "another process holds the lease; its name cannot be read"
            ),
        }
    }

    async fn give_back(&self, lease: &Lease) {
        match self.stepper.queue.release(lease).await {
            Ok(()) => info!(destination = lease.destination, "lease given back"),
            Err(fault) => warn!(
                destination = lease.destination,
                error = %telemetry::chain(&fault),
                "the lease could not be given back; it will expire"
            ),
        }
    }
}

/// A fault that blocks a whole destination until a person removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Key,
    BaseUrl,
}

impl Obstacle {
    fn advice(self) -> &'static str {
        match self {
            Obstacle::Key => {
                "Loops refuses the API key: delivery is paused, nothing is lost; set the correct key (api_key of this destination) and restart, or enable the key in Loops"
            }
            Obstacle::BaseUrl => {
                "there is no Loops at base_url, where every call is answered with 404 or by another server: delivery is paused, nothing is lost; set base_url of this destination (LOOPS_BASE_URL) to a URL that ends in /v1, such as https://app.loops.so/api/v1, and restart"
            }
        }
    }
}

/// The result of a task.
enum Done {
    Step(LaneKey, StepEnd),
    Read(Reading, Result<LanePart, Unavailable>),
    Probe(Reply),
}

/// The time during which an engine holds its lease.
struct Tenure<'a> {
    engine: &'a Engine,
    lease: Lease,
    /// Until when the lease certainly holds, by this process's clock.
    lease_until: Instant,
    lanes: Lanes,
    /// The last sequence number that was read, for each class.
    cursors: [Seq; Class::COUNT],
    /// Whether the store may hold more than was read, for each class.
    may_have_more: [bool; Class::COUNT],
    tasks: JoinSet<Done>,
    /// The lanes of running tasks, to find the lane of a task that panicked.
    busy: std::collections::HashMap<Id, LaneKey>,
    pause: Pause,
    refusals: KeyRefusals,
    is_probing: bool,
    hinted_at: Instant,
}

impl<'a> Tenure<'a> {
    fn new(engine: &'a Engine, lease: Lease, asked_at: Instant) -> Self {
        Self {
            engine,
            lease,
            lease_until: asked_at + engine.options.lease_ttl,
            lanes: Lanes::default(),
            cursors: [Seq::default(); Class::COUNT],
            may_have_more: [true; Class::COUNT],
            hinted_at: asked_at,
            tasks: JoinSet::new(),
            busy: std::collections::HashMap::new(),
            pause: Pause::default(),
            refusals: KeyRefusals::default(),
            is_probing: false,
        }
    }

    /// Delivers until a stop is ordered, or the lease is lost.
    async fn run(mut self, stop: &Stop) -> Result<(), LeaseLost> {
        let mut arrivals = self.engine.stepper.queue.arrivals();
        let mut renewal = ticks(self.engine.options.lease_ttl / 3);
        let mut look = ticks(LOOK_EVERY);
        self.engine.stepper.client.pacer().begin_after_another();
        self.probe_in_turn();
        loop {
            self.read().await;
            let wake_at = self.hand_out();
            let listen_at = self.hinted_at + HINT_EVERY;
            let held = tokio::select! {
                biased;
                _ = stop.ordered() => break,
                _ = renewal.tick() => self.renew().await,
                Some(done) = self.tasks.join_next_with_id() => self.take_in(done),
                is_open = hint(&mut arrivals, listen_at) => {
                    self.may_have_more = [true; Class::COUNT];
                    self.hinted_at = Instant::now();
                    if !is_open { break }
                    Ok(())
                }
                _ = look.tick() => {
                    self.may_have_more = [true; Class::COUNT];
                    Ok(())
                }
                () = sleep_until(wake_at) => Ok(()),
            };
            if held.is_err() {
                finish_tasks(&mut self.tasks, self.engine, stop).await;
                return held;
            }
        }
        // Requests in flight may outlast the lease: keep renewing it, so that no other process takes over.
        let keep = async {
            loop {
                renewal.tick().await;
                let _ = self.engine.ask_for_lease().await;
            }
        };
        tokio::select! {
            () = finish_tasks(&mut self.tasks, self.engine, stop) => {}
            () = keep => {}
        }
        Ok(())
    }

    /// Whether the store may hold more messages of a class, and there is room for them.
    fn wants(&self, class: Class) -> bool {
        self.may_have_more[class.index()] && self.lanes.len(class) + PAGE as usize <= HEADS_MAX
    }

    fn wants_more(&self) -> bool {
        Class::ALL.into_iter().any(|class| self.wants(class))
    }

    /// Reads heads while there is room and the store may have more.
    async fn read(&mut self) {
        if !self.wants_more() {
            return;
        }
        // Read all classes in one snapshot: otherwise a message could overtake an earlier one of its lane
        // that belongs to another class.
        let ask = Class::ALL.map(|class| PendingAsk {
            after: self.cursors[class.index()],
            limit: if self.lanes.len(class) + PAGE as usize <= HEADS_MAX { PAGE } else { 0 },
        });
        let stepper = &self.engine.stepper;
        match stepper.queue.pending(&stepper.name, ask).await {
            Ok(found) => self.take_heads(ask, found),
            Err(fault) => {
                self.may_have_more = [false; Class::COUNT];
                error!(
                    destination = stepper.name,
                    error = %telemetry::chain(&fault),
                    "pending messages cannot be read; trying again"
                );
            }
        }
    }

    fn take_heads(&mut self, ask: [PendingAsk; Class::COUNT], found: [Vec<Head>; Class::COUNT]) {
        for (class, heads) in found.iter().enumerate() {
            // A full page, or a class that was not read for want of room (limit 0).
            self.may_have_more[class] = heads.len() as u32 == ask[class].limit;
            self.cursors[class] = heads.last().map_or(self.cursors[class], |head| head.seq);
        }
        // Messages of a class that has more are known only up to its cursor.
        let known = Class::ALL.into_iter().filter(|class| self.may_have_more[class.index()]);
        let known_through = known.map(|class| self.cursors[class.index()]).min();
        for head in found.into_iter().flatten() {
            self.lanes.push(head, known_through);
        }
    }

    /// Starts steps while lanes are ready and the rate allows; returns when to look again.
    fn hand_out(&mut self) -> Instant {
        let stepper = Arc::clone(&self.engine.stepper);
        let now = Instant::now();
        let horizon = now + LOOK_EVERY;
        if now >= self.lease_until {
            // Renewal is late: another process may be delivering already.
            return horizon;
        }
        if self.is_probing {
            return horizon;
        }
        if let Some(probe_at) = self.pause.probe_at() {
            if probe_at > now {
                return probe_at.min(horizon);
            }
            return match stepper.client.pacer().try_slot() {
                Ok(slot) => {
                    self.probe(slot);
                    horizon
                }
                Err(again_at) => again_at.min(horizon),
            };
        }
        self.lanes.wake(stepper.clock.now());
        let requests_max = self.engine.options.requests_max;
        while self.lanes.has_ready() && self.tasks.len() < requests_max {
            // Read before a slot is taken: a slot must not wait for the store.
            if let Some(reading) = self.lanes.next_to_read(requests_max) {
                self.read_lane(reading);
                continue;
            }
            match stepper.client.pacer().try_slot() {
                Ok(slot) => self.step(slot),
                Err(again_at) => {
                    self.lanes.fall_short();
                    return again_at.min(horizon);
                }
            }
        }
        if self.wants_more() {
            return now;
        }
        self.lanes.next_wake().map_or(horizon, |at| self.instant_of(at).min(horizon))
    }

    fn instant_of(&self, at: Timestamp) -> Instant {
        let wait = at.duration_since(self.engine.stepper.clock.now());
        // Timers have a resolution of a millisecond; waking just before would only spin.
        Instant::now() + Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)
    }

    fn step(&mut self, slot: Slot) {
        let Some(mut turn) = self.lanes.next(NEIGHBOURS_MAX) else {
            return;
        };
        let lane = turn.head.lane;
        turn.is_singled_out = self.refusals.is_singled_out(lane);
        let stepper = Arc::clone(&self.engine.stepper);
        let lease = self.lease.clone();
        let handle = self
            .tasks
            .spawn(async move { Done::Step(lane, stepper.step(&lease, &turn, slot).await) });
        self.busy.insert(handle.id(), lane);
    }

    /// Reads the next part of a lane that is not wholly in memory.
    fn read_lane(&mut self, reading: Reading) {
        let stepper = Arc::clone(&self.engine.stepper);
        let lane = reading.ask.lane;
        let handle = self.tasks.spawn(async move {
            let part = stepper.of_lane(&reading.ask).await;
            Done::Read(reading, part)
        });
        self.busy.insert(handle.id(), lane);
    }

    /// Checks the key as soon as the rate allows; no step starts before.
    fn probe_in_turn(&mut self) {
        self.is_probing = true;
        let stepper = Arc::clone(&self.engine.stepper);
        self.tasks.spawn(async move {
            let slot = stepper.client.pacer().slot().await;
            Done::Probe(stepper.client.probe(&slot).await)
        });
    }

    fn probe(&mut self, slot: Slot) {
        self.is_probing = true;
        let stepper = Arc::clone(&self.engine.stepper);
        self.tasks.spawn(async move { Done::Probe(stepper.client.probe(&slot).await) });
    }

    /// Handles the result of a task.
    fn take_in(&mut self, done: Result<(Id, Done), JoinError>) -> Result<(), LeaseLost> {
        match done {
            Ok((id, Done::Step(lane, end))) => {
                self.busy.remove(&id);
                if end.proves_key {
                    self.pause.delivered();
                    self.refusals.proved();
                }
                return self.advance(lane, end.outcome);
            }
            Ok((id, Done::Read(reading, part))) => {
                self.busy.remove(&id);
                self.complete(&reading, part);
            }
            Ok((_, Done::Probe(reply))) => {
                self.is_probing = false;
                self.judge_key(&reply);
            }
            Err(panicked) => {
                error!(destination = self.lease.destination, %panicked, "a step panicked; trying again");
                match self.busy.remove(&panicked.id()) {
                    Some(lane) => {
                        let now = self.engine.stepper.clock.now();
                        let later = now.checked_add(LOOK_EVERY).unwrap_or(now);
                        self.lanes.wait(lane, later);
                    }
                    None => self.is_probing = false,
                }
            }
        }
        Ok(())
    }

    /// Adds a part of a lane that was read.
    fn complete(&mut self, reading: &Reading, part: Result<LanePart, Unavailable>) {
        match part {
            Ok(part) => self.lanes.complete(reading, part),
            Err(fault) => {
                error!(
                    destination = self.lease.destination,
                    error = %telemetry::chain(&fault),
                    "pending messages cannot be read; trying again"
                );
                let now = self.engine.stepper.clock.now();
                self.lanes.wait(reading.ask.lane, now.checked_add(LOOK_EVERY).unwrap_or(now));
            }
        }
    }

    /// Advances a lane after a step.
    fn advance(&mut self, lane: LaneKey, outcome: StepOutcome) -> Result<(), LeaseLost> {
        match outcome {
            StepOutcome::Finished => {
                self.refusals.forget(lane);
                self.lanes.finish(lane);
            }
            StepOutcome::Again => {
                self.refusals.forget(lane);
                self.lanes.again(lane);
            }
            StepOutcome::Wait(until) => self.lanes.wait(lane, until),
            StepOutcome::Unauthorized => {
                self.refusals.refused(lane);
                self.lanes.again(lane);
                self.stop_for(Obstacle::Key);
            }
            StepOutcome::Misdirected => {
                self.lanes.again(lane);
                self.stop_for(Obstacle::BaseUrl);
            }
            StepOutcome::Fenced => return Err(LeaseLost),
        }
        Ok(())
    }

    /// Pauses the destination, and logs why unless it was paused already.
    fn stop_for(&mut self, obstacle: Obstacle) {
        if self.pause.start() {
            error!(destination = self.lease.destination, "{}", obstacle.advice());
        }
        self.show_pause();
    }

    fn judge_key(&mut self, reply: &Reply) {
        match KeyCheck::of(reply) {
            KeyCheck::Right => {
                if self.pause.is_on() {
                    info!(
                        destination = self.lease.destination,
                        "Loops accepts the API key: delivery resumes"
                    );
                }
                self.pause.end();
            }
            KeyCheck::Wrong if !self.pause.is_on() => self.stop_for(Obstacle::Key),
            KeyCheck::NotFound if !self.pause.is_on() => self.stop_for(Obstacle::BaseUrl),
            KeyCheck::Wrong | KeyCheck::NotFound => self.pause.go_on(),
            // It is unknown whether the key is right: a pause continues, and without a pause the
            // deliveries will show.
            KeyCheck::Foreign | KeyCheck::Unknown => {
                match &reply.result {
                    Ok(answer) if answer.status >= 400 => warn!(
                        destination = self.lease.destination,
                        status = answer.status,
                        "the API key could not be checked: Loops does not answer as it should at the moment"
                    ),
                    Ok(answer) => warn!(
                        destination = self.lease.destination,
                        status = answer.status,
                        base_url = self.engine.stepper.client.shown_url(),
                        "the API key could not be checked: the answer is not one of Loops; check base_url (LOOPS_BASE_URL)"
                    ),
                    Err(fault) => warn!(
                        destination = self.lease.destination,
                        error = %fault,
                        base_url = self.engine.stepper.client.shown_url(),
                        "Loops cannot be reached: check base_url (LOOPS_BASE_URL), DNS and the firewall"
                    ),
                }
                if self.pause.is_on() {
                    self.pause.go_on();
                }
            }
        }
        self.show_pause();
    }

    fn show_pause(&self) {
        let is_on = if self.pause.is_on() { 1.0 } else { 0.0 };
        gauge!(telemetry::DESTINATION_PAUSED, "destination" => self.lease.destination.clone())
            .set(is_on);
    }

    /// Renews the lease.
    async fn renew(&mut self) -> Result<(), LeaseLost> {
        let asked_at = Instant::now();
        match self.engine.ask_for_lease().await {
            Ok(Some(lease)) if lease.token == self.lease.token => {
                self.lease_until = asked_at + self.engine.options.lease_ttl;
                Ok(())
            }
            Ok(Some(_) | None) => Err(LeaseLost),
            Err(fault) => {
                error!(
                    destination = self.lease.destination,
                    error = %telemetry::chain(&fault),
                    "the lease cannot be renewed; trying again"
                );
                Ok(())
            }
        }
    }
}

/// Lets the requests in flight finish: until the deadline of a stop, or for the grace after the lease was
/// lost. Requests that take longer are dropped: they are on disk and will be sent again.
async fn finish_tasks(tasks: &mut JoinSet<Done>, engine: &Engine, stop: &Stop) {
    let destination = &engine.stepper.name;
    let under_way = tasks.len();
    let grace_ends = Instant::now() + engine.options.grace;
    let too_late = async {
        tokio::select! {
            () = sleep_until(grace_ends) => {}
            deadline = stop.ordered() => sleep_until(deadline).await,
        }
    };
    tokio::select! {
        biased;
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = too_late => {
            let requests = tasks.len();
            warn!(destination, requests, "requests in flight were dropped; they will be sent again");
            tasks.shutdown().await;
        }
    }
    debug!(destination, requests = under_way, "requests in flight finished");
}

/// Waits for a hint that messages arrived, from `listen_at` on; earlier hints are kept, not lost. Returns
/// whether more hints may follow.
async fn hint(arrivals: &mut watch::Receiver<u64>, listen_at: Instant) -> bool {
    sleep_until(listen_at).await;
    arrivals.changed().await.is_ok()
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
