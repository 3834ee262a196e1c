//! A run, from its seed to the promises that were broken.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clock::SimulatedClock;
use super::events::configuration;
use super::knobs::Knobs;
use super::loops::Weather;
use super::process::supervise;
use super::runtime::{engine, wait};
use super::world::World;
use crate::queue::Store;
use crate::queue::suite::Fixture;

/// The outcome of a run: everything that happened, and the promises that were broken.
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    pub(super) trace: Vec<String>,
    pub(super) simulated: Duration,
}

/// Runs a seed over the data of a fixture.
pub(super) async fn run<F: Fixture + Send + Sync + 'static>(seed: u64, fixture: F) -> Outcome {
    let mut chance = fastrand::Rng::with_seed(seed);
    let knobs = Knobs::new(&mut chance);
    let engine = engine().handle();
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
        started_after_jump: AtomicBool::new(false),
        earliest_setting: Mutex::new(0),
        is_calm: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        off_until: Mutex::new(Instant::now()),
        configuration: watch::channel(Arc::new(configuration(0, knobs.skip_unchanged))).0,
        running: Mutex::new(vec![None, None]),
        open,
        digests,
        knobs,
    });
    world.trace(format_args!("seed {seed}: {:?}", world.knobs));
    let supervisors: Vec<_> = (0..world.knobs.processes)
        .map(|number| tokio::spawn(supervise(Arc::clone(&world), number)))
        .collect();
    let mut senders = JoinSet::new();
    while world.began.elapsed() < world.knobs.trouble {
        sleep(world.ms(0..=world.knobs.pause_ms)).await;
        world.something_happens(&mut senders);
    }
    world.switch_off().await;
    world.calm_down();
    while senders.join_next().await.is_some() {}
    world.drain().await;
    world.finish(supervisors).await;
    let simulated = world.began.elapsed();
    let violations = std::mem::take(&mut world.ledger().violations);
    let trace = std::mem::take(&mut *world.trace.lock().unwrap());
    Outcome { violations, trace, simulated }
}
