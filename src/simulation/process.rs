//! A process: a store and an engine that run until it crashes or is stopped, and are then started again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::world::{DESTINATION, FlakyStore, Process, World};
use crate::clock::{SharedClock, WatchedClock};
use crate::delivery::{Board, Engine, EngineOptions, RetryOptions, Room, Stop};
use crate::large::Turns;
use crate::loops::Client;
use crate::queue::{Housekeeping as _, Log as _, Store as _};
use crate::telemetry::Traces;

/// How long a lease lasts without renewal.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(10);

/// The longest wait between two attempts, shorter than usual so that runs end soon.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(20);

/// How often contents are erased and records purged.
const CHORES_EVERY: Duration = Duration::from_secs(15);

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(7);

impl Process {
    fn new(name: String) -> Self {
        let stalled_until = Mutex::new(Instant::now());
        let (crash, stop) = (CancellationToken::new(), CancellationToken::new());
        Self { name, crash, stop, stalled_until }
    }

    pub(super) async fn wait_while_stalled(&self) {
        let until = *self.stalled_until.lock().unwrap();
        if until > Instant::now() {
            sleep_until(until).await;
        }
    }

    /// Passes a named point in the processing of a message. This takes a moment, and the process may be suspended or
    /// crash there.
    pub(super) async fn pass(&self, world: &World, point: &str) {
        sleep(world.latency()).await;
        if let Some(time) = world.stalls() {
            world.trace(format_args!("{} is suspended at {point} for {time:?}", self.name));
            *self.stalled_until.lock().unwrap() = Instant::now() + time;
        }
        self.wait_while_stalled().await;
        if world.crashes() {
            world.trace(format_args!("{} crashes at {point}", self.name));
            self.crash.cancel();
        }
        if self.crash.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

/// Starts a process again and again, until the end of the run.
pub(super) async fn supervise(world: Arc<World>, number: usize) {
    let mut life = 0;
    while world.needs(number) {
        life += 1;
        live(&world, number, format!("process-{number}.{life}")).await;
        let rest = if world.is_calm() { 100..=1_000 } else { 10..=8_000 };
        sleep(world.ms(rest)).await;
        world.wait_while_off().await;
    }
}

/// Runs one life of a process, until it crashes or must stop.
async fn live(world: &Arc<World>, number: usize, name: String) {
    world.trace(format_args!("{name} starts"));
    let process = Arc::new(Process::new(name));
    let inner = world.open_store();
    let (world_, process_) = (Arc::clone(world), Arc::clone(&process));
    let store = Arc::new(FlakyStore { inner, world: world_, process: process_ });
    let clock: SharedClock = Arc::new(WatchedClock::new(world.clock.clone()));
    let connection = Connection { world: Arc::clone(world), process: Arc::clone(&process) };
    let client = Client::over(Arc::new(connection), world.knobs.rate, clock.clone());
    let second = Duration::from_secs(1);
    let options = EngineOptions {
        holder: process.name.clone(),
        lease_ttl: LEASE_TTL,
        requests_max: world.knobs.requests_max,
        retry: RetryOptions { min: second, max: RETRY_MAX, window: 24 * 3600 * second },
        grace: second,
        room: Room::new(Turns::default()),
        digests: store.digests(),
        board: Board::default(),
        traces: Traces::default(),
    };
    let queue = store.clone();
    let planner = world.planner();
    let engine =
        Engine::new(DESTINATION.to_owned(), planner, client, queue, clock.clone(), options);
    let order = Stop::default();
    let mut engine = tokio::spawn(engine.run(order.clone()));
    let chores = tokio::spawn(chores(clock, store.clone()));
    world.begin(number, &process, &store);
    let stopping = async {
        process.stop.cancelled().await;
        world.trace(format_args!("{} stops", process.name));
        order.by(Instant::now() + GRACE);
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        biased;
        () = process.crash.cancelled() => None,
        () = stopping => None,
        ended = &mut engine => Some(ended),
    };
    world.end(number);
    chores.abort();
    let _ = chores.await;
    match ended {
        Some(Ok(())) if process.stop.is_cancelled() => store.close().await,
        Some(ended) => world.violate(format!("the engine ended by itself: {ended:?}")),
        None => {
            engine.abort();
            let _ = engine.await;
        }
    }
}

/// Erases and purges, as the program does.
async fn chores(clock: SharedClock, store: Arc<FlakyStore>) {
    loop {
        // The clock is read as often as in the program, so that a change is noticed.
        for _ in 0..CHORES_EVERY.as_secs() {
            clock.now();
            sleep(Duration::from_secs(1)).await;
        }
        while matches!(store.erase(clock.now()).await, Ok(rows) if rows > 0) {}
        while matches!(store.purge(clock.earliest_now()).await, Ok(rows) if rows > 0) {}
    }
}
