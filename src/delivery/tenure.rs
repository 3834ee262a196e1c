//! A tenure: the time during which this process holds the lease of a destination. It reads the destination's messages,
//! and starts the steps of its lanes as fast as the rate allows.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, Interval, sleep_until};
use tracing::{debug, error, warn};

use super::catalogue::{self, CatalogueKeeper};
use super::key_watch::{Gate, KeyWatch};
use super::lanes::{Lanes, Reading};
use super::lease::{HeldLease, LeaseKeeper, LeaseLost};
use super::options::EngineOptions;
use super::panics::{Panics, Task};
use super::reader::Reader;
use super::room::Place;
use super::stepper::{Hopeless, StepEnd, Stepper};
use super::stop::Stop;
use super::ticks;
use super::verdict::Next;
use crate::loops::{Reply, Slot};
use crate::queue::{HoldsAnswer, LanePart, Lease, Seq, Unavailable, day_of};
use crate::segment::LaneKey;
use crate::telemetry;

/// How many messages behind one are considered for merging with it.
const NEIGHBOURS_MAX: usize = 50;

/// How often the store is polled without a hint: another process may have accepted messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most lanes on hold that are taken up at once.
const TAKEN_UP_MAX: u32 = 1_000;

/// The shortest time between two hints that are followed. Each costs a read, and under load every group that is written
/// makes one, whatever its destinations. A hint after a quiet time is followed at once.
const HINT_EVERY: Duration = Duration::from_millis(10);

/// The result of a task.
enum Done {
    Step(LaneKey, Result<StepEnd, LeaseLost>),
    Read(Reading, Result<LanePart, Unavailable>),
    /// The reply to a check of the key; `None`: the check was not made.
    Check(Option<Reply>),
    Catalogue(Box<catalogue::Reading>),
    Holds(Result<Holds, Unavailable>),
}

/// Which held messages may be sent now.
struct Holds {
    /// The day that the answer is for.
    day: Timestamp,
    answer: HoldsAnswer,
    /// All held messages, if someone has discarded messages since they were last read.
    held: Option<Vec<(Seq, LaneKey)>>,
}

/// A lease, and the work that is done while it holds.
pub(super) struct Tenure<'a> {
    stepper: &'a Arc<Stepper>,
    keeper: &'a LeaseKeeper,
    options: &'a EngineOptions,
    held: HeldLease,
    lanes: Lanes,
    reader: Reader,
    key: KeyWatch,
    catalogue: CatalogueKeeper,
    /// The task that reads which held messages may go on.
    holds: Option<Id>,
    /// The day and its number of discarded messages, as last read.
    discarded: Option<(Timestamp, u64)>,
    tasks: JoinSet<Done>,
    /// The work of each running task, so that a panic can be traced to it.
    busy: HashMap<Id, Task>,
    panics: Panics,
    /// When the last hint was followed.
    hinted_at: Instant,
}

impl<'a> Tenure<'a> {
    pub(super) fn new(
        stepper: &'a Arc<Stepper>,
        keeper: &'a LeaseKeeper,
        options: &'a EngineOptions,
        held: HeldLease,
    ) -> Self {
        Self {
            stepper,
            keeper,
            options,
            held,
            lanes: Lanes::default(),
            reader: Reader::default(),
            key: KeyWatch::new(
                stepper.name.clone(),
                stepper.client.clone(),
                stepper.activity.clone(),
            ),
            catalogue: CatalogueKeeper::new(stepper),
            holds: None,
            discarded: None,
            tasks: JoinSet::new(),
            busy: HashMap::new(),
            panics: Panics::default(),
            hinted_at: Instant::now(),
        }
    }

    /// Delivers until a stop is ordered or the lease is lost, then lets the requests in flight finish. Also returns the
    /// lease that this process took last.
    pub(super) async fn run(mut self, stop: &Stop) -> (Result<(), LeaseLost>, Lease) {
        let mut renewal = ticks(self.options.lease_ttl / 3);
        self.stepper.client.pacer().begin_after_another();
        self.check_key();
        let mut ended = self.deliver(stop, &mut renewal).await;
        // Requests in flight may outlast the lease. After a stop, it is still renewed, so that no other process takes
        // over.
        let keep = async {
            while ended.is_ok() {
                renewal.tick().await;
                ended = self.keeper.renew(&mut self.held).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = finish(&mut self.tasks, &self.stepper.name, self.options.grace, stop) => {}
            () = keep => {}
        }
        (ended, self.held.lease)
    }

    async fn deliver(&mut self, stop: &Stop, renewal: &mut Interval) -> Result<(), LeaseLost> {
        // Subscribe before the first read, so that no arrival is missed between the two.
        let mut arrivals = self.stepper.queue.arrivals();
        let mut look = ticks(LOOK_EVERY);
        if self.recall(stop, renewal).await?.is_break() {
            return Ok(());
        }
        loop {
            if self.read(stop, renewal).await?.is_break() {
                return Ok(());
            }
            let wake_at = self.hand_out();
            let listen_at = self.hinted_at + HINT_EVERY;
            tokio::select! {
                biased;
                _ = stop.ordered() => return Ok(()),
                _ = renewal.tick() => self.keeper.renew(&mut self.held).await?,
                Some(done) = self.tasks.join_next_with_id() => self.take_in(done)?,
                is_open = hint(&mut arrivals, listen_at) => {
                    self.reader.look_again();
                    self.hinted_at = Instant::now();
                    if !is_open {
                        return Ok(());
                    }
                }
                _ = look.tick() => {
                    self.reader.look_again();
                    self.read_holds();
                }
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Reads which lanes are on hold, before it reads any message: such lanes need neither room nor steps.
    async fn recall(
        &mut self,
        stop: &Stop,
        renewal: &mut Interval,
    ) -> Result<ControlFlow<()>, LeaseLost> {
        let mut recalling = pin!(self.stepper.recall());
        loop {
            tokio::select! {
                biased;
                _ = stop.ordered() => return Ok(ControlFlow::Break(())),
                _ = renewal.tick() => self.keeper.renew(&mut self.held).await?,
                held = &mut recalling => {
                    self.lanes.recall(&held);
                    return Ok(ControlFlow::Continue(()));
                }
            }
        }
    }

    /// Reads pending messages into the lanes, and breaks off when a stop is ordered. A slow store must delay neither a
    /// stop nor a renewal.
    async fn read(
        &mut self,
        stop: &Stop,
        renewal: &mut Interval,
    ) -> Result<ControlFlow<()>, LeaseLost> {
        let Stepper { queue, name, .. } = &**self.stepper;
        let mut reading = pin!(self.reader.read(&**queue, name, &mut self.lanes));
        loop {
            tokio::select! {
                biased;
                _ = stop.ordered() => return Ok(ControlFlow::Break(())),
                _ = renewal.tick() => self.keeper.renew(&mut self.held).await?,
                () = &mut reading => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Starts steps while lanes are ready and the rate allows; returns when to try again.
    fn hand_out(&mut self) -> Instant {
        let now = Instant::now();
        let horizon = now + LOOK_EVERY;
        if !self.held.is_certain() {
            return horizon;
        }
        match self.key.gate() {
            Gate::Open => {}
            Gate::Checking => return horizon,
            Gate::Paused { check_at } if check_at > now => return check_at.min(horizon),
            Gate::Paused { .. } => {
                self.check_key();
                return horizon;
            }
        }
        for (lane, due_at) in self.lanes.take_tried_before() {
            let Stepper { clock, retry, .. } = &**self.stepper;
            self.lanes.wait(lane, now + retry.wait_for(due_at, clock.now()));
        }
        self.lanes.wake(now);
        self.lanes.take_up_touched();
        self.stepper.activity.retry_at(self.lanes.next_wake());
        self.stepper.meters.retrying(self.lanes.waiting());
        let requests_max = self.options.requests_max;
        if self.catalogue.turn(now) == Some(catalogue::Turn::Now)
            && let Err(again_at) = self.read_catalogue()
        {
            return again_at.min(horizon);
        }
        if self.catalogue.comes_first() {
            return horizon;
        }
        while self.tasks.len() < requests_max {
            // A message that is known to be large can be next only if there is a place for it.
            let place = self.stepper.large.take();
            if !self.lanes.has_ready(place.is_some()) {
                break;
            }
            // The lane is read before a slot is taken: a slot must not wait for the store.
            if let Some(reading) = self.lanes.next_to_read(requests_max) {
                self.read_lane(reading);
                continue;
            }
            match self.stepper.client.pacer().try_slot() {
                Ok(slot) => self.step(slot, place),
                Err(again_at) => {
                    self.lanes.fall_short();
                    return again_at.min(horizon);
                }
            }
        }
        if self.catalogue.turn(now).is_some()
            && let Err(again_at) = self.read_catalogue()
        {
            return again_at.min(horizon);
        }
        if self.reader.wants_more(&self.lanes) {
            return now;
        }
        self.lanes.next_wake().map_or(horizon, |at| at.min(horizon))
    }

    /// Starts the step of the lane whose turn it is.
    fn step(&mut self, slot: Slot, place: Option<Place>) {
        let Some(mut turn) = self.lanes.next(NEIGHBOURS_MAX, place.is_some()) else {
            return;
        };
        let lane = turn.head.lane;
        turn.is_singled_out = self.key.is_singled_out(lane);
        let task = (lane, Some(turn.head.seq));
        if self.panics.count(task) > 0 {
            turn.neighbours.clear();
        }
        let panics = self.panics.too_many(task);
        let place = place.filter(|_| turn.is_large && panics.is_none());
        let stepper = Arc::clone(self.stepper);
        let held = self.held.clone();
        let handle = self.tasks.spawn(async move {
            let end = match panics {
                None => stepper.step(&held, &turn, place, slot).await,
                Some(panics) => {
                    stepper.set_aside(&held.lease, turn.head.seq, Hopeless::Panics(panics)).await
                }
            };
            Done::Step(lane, end)
        });
        self.busy.insert(handle.id(), task);
    }

    /// Makes the next request of a catalogue reading. The error says when there may be a slot.
    fn read_catalogue(&mut self) -> Result<(), Instant> {
        let slot = self.stepper.client.pacer().try_slot()?;
        if let Some(reading) = self.catalogue.take() {
            let (stepper, held) = (Arc::clone(self.stepper), self.held.clone());
            let handle = self.tasks.spawn(async move {
                Done::Catalogue(Box::new(reading.step(&stepper, &held, slot).await))
            });
            self.catalogue.begun(handle.id());
        }
        Ok(())
    }

    /// Reads the next part of a lane that is not entirely in memory.
    fn read_lane(&mut self, reading: Reading) {
        let stepper = Arc::clone(self.stepper);
        let lane = reading.ask.lane;
        let handle = self.tasks.spawn(async move {
            let part = stepper.queue.of_lane(&stepper.name, &reading.ask).await;
            Done::Read(reading, part)
        });
        self.busy.insert(handle.id(), (lane, None));
    }

    /// Reads which held messages may go on, if any lane is on hold.
    fn read_holds(&mut self) {
        if self.holds.is_some() || !self.lanes.has_on_hold() {
            return;
        }
        let (stepper, discarded) = (Arc::clone(self.stepper), self.discarded);
        let handle = self.tasks.spawn(async move { Done::Holds(holds(&stepper, discarded).await) });
        self.holds = Some(handle.id());
    }

    /// Takes up lanes whose first message may go on.
    fn take_up(&mut self, holds: Result<Holds, Unavailable>) {
        self.holds = None;
        match holds {
            Ok(Holds { day, answer, held }) => {
                if let Some(held) = held {
                    self.lanes.take_up_all_but(&held);
                }
                answer.lanes.into_iter().for_each(|lane| self.lanes.take_up(lane));
                self.discarded = Some((day, answer.discarded));
            }
            Err(fault) => error!(
                destination = self.stepper.name,
                error = %telemetry::chain(&fault),
                "held messages cannot be read; trying again"
            ),
        }
    }

    /// Checks the key as soon as the rate allows. No step starts before that.
    fn check_key(&mut self) {
        self.key.begin_check();
        let (stepper, held) = (Arc::clone(self.stepper), self.held.clone());
        self.tasks.spawn(async move { Done::Check(stepper.probe(&held).await) });
    }

    /// Handles the result of a task.
    fn take_in(&mut self, done: Result<(Id, Done), JoinError>) -> Result<(), LeaseLost> {
        match done {
            Ok((id, Done::Step(lane, end))) => {
                let end = end?;
                match end.next {
                    // The message may still panic once there is room for it, so its panics are not forgotten.
                    Next::NoRoom => _ = self.busy.remove(&id),
                    _ => self.end_task(id),
                }
                self.advance(lane, end);
            }
            Ok((id, Done::Read(reading, part))) => {
                self.end_task(id);
                self.complete(&reading, part);
            }
            Ok((_, Done::Check(Some(reply)))) => self.key.judge(&reply),
            Ok((_, Done::Check(None))) => self.key.check_failed(),
            Ok((_, Done::Catalogue(reading))) => self.catalogue.give_back(*reading),
            Ok((_, Done::Holds(holds))) => self.take_up(holds),
            Err(panicked) => self.recover(&panicked),
        }
        Ok(())
    }

    fn end_task(&mut self, id: Id) {
        if let Some(task) = self.busy.remove(&id) {
            self.panics.forget(task);
        }
    }

    /// Repeats a task that panicked, after a wait.
    fn recover(&mut self, panicked: &JoinError) {
        let task = self.busy.remove(&panicked.id());
        let seq = task.and_then(|(_, seq)| seq).map(|seq| seq.0);
        error!(
            destination = self.stepper.name,
            seq,
            %panicked,
            "a step panicked, which is a bug: trying again; please report it"
        );
        match task {
            Some(task) => {
                let wait = self.panics.note(task);
                self.lanes.wait(task.0, Instant::now() + wait);
            }
            None if self.catalogue.is_task(panicked.id()) => self.catalogue.panicked(),
            None if self.holds == Some(panicked.id()) => self.holds = None,
            None => self.key.check_failed(),
        }
    }

    /// Advances a lane after a step.
    fn advance(&mut self, lane: LaneKey, end: StepEnd) {
        if end.proves_key {
            self.key.proved();
        }
        match end.next {
            Next::Finish => {
                self.key.forget(lane);
                self.lanes.finish(lane);
            }
            Next::Again => {
                self.key.forget(lane);
                self.lanes.again(lane);
            }
            Next::NoRoom => self.lanes.refuse(lane),
            Next::Hold => {
                self.key.forget(lane);
                self.lanes.hold(lane);
            }
            Next::Wait(wait) => self.lanes.wait(lane, Instant::now() + wait),
            Next::Doubted(wait) => {
                self.key.doubted(lane);
                self.lanes.wait(lane, Instant::now() + wait);
            }
            Next::Blocked(obstacle) => {
                self.key.blocked(lane, obstacle);
                self.lanes.again(lane);
            }
        }
    }

    /// Adds a part of a lane that was read.
    fn complete(&mut self, reading: &Reading, part: Result<LanePart, Unavailable>) {
        match part {
            Ok(part) => self.lanes.complete(reading, part),
            Err(fault) => {
                error!(
                    destination = self.stepper.name,
                    error = %telemetry::chain(&fault),
                    "pending messages cannot be read; trying again"
                );
                self.lanes.wait(reading.ask.lane, Instant::now() + LOOK_EVERY);
            }
        }
    }
}

/// Reads which held messages may go on, and all held messages if some were discarded.
async fn holds(
    stepper: &Stepper,
    discarded: Option<(Timestamp, u64)>,
) -> Result<Holds, Unavailable> {
    let ask = stepper.holds_ask(TAKEN_UP_MAX);
    let answer = stepper.queue.holds(&stepper.name, ask).await?;
    // On a new day, messages may also have been discarded at the end of the previous day.
    let day = day_of(ask.now);
    let held = match discarded == Some((day, answer.discarded)) {
        true => None,
        false => Some(stepper.queue.held_lanes(&stepper.name).await?),
    };
    Ok(Holds { day, answer, held })
}

/// Lets the requests in flight finish, until the deadline of a stop or for the grace period after the lease was lost.
/// Requests that take longer are dropped: they are on disk and will be sent again.
async fn finish(tasks: &mut JoinSet<Done>, destination: &str, grace: Duration, stop: &Stop) {
    let under_way = tasks.len();
    let grace_ends = Instant::now() + grace;
    let too_late = async {
        tokio::select! {
            biased;
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

/// Waits until `listen_at`, and then for a hint that messages arrived. A hint from before `listen_at` is not lost.
/// Returns whether more hints may follow.
async fn hint(arrivals: &mut watch::Receiver<u64>, listen_at: Instant) -> bool {
    sleep_until(listen_at).await;
    arrivals.changed().await.is_ok()
}
