//! The state that the parts of a run share, and the processes that are running. Everything follows from the seed.

use std::fmt::Arguments;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clock::SimulatedClock;
use super::knobs::Knobs;
use super::loops::{Loops, Weather};
use super::model::Ledger;
use crate::destination::Destination;
use crate::queue::Store;
use crate::segment::Digests;

pub(super) const DESTINATION: &str = "main";

pub(super) struct World {
    pub(super) knobs: Knobs,
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) began: Instant,
    pub(super) chance: Mutex<fastrand::Rng>,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) loops: Mutex<Loops>,
    pub(super) trace: Mutex<Vec<String>>,
    pub(super) weather: Mutex<Weather>,
    pub(super) disk_is_full: AtomicBool,
    /// When the clock was last set.
    pub(super) jumped_at: Mutex<Option<Instant>>,
    /// Whether a process started after the clock was set, so that it does not know every setting of the clock.
    pub(super) started_after_jump: AtomicBool,
    /// The earliest setting of the clock so far, in seconds from the right time.
    pub(super) earliest_setting: Mutex<i64>,
    pub(super) is_calm: AtomicBool,
    pub(super) is_over: AtomicBool,
    /// Until when the machine is off.
    pub(super) off_until: Mutex<Instant>,
    pub(super) configuration: watch::Sender<Arc<Destination>>,
    pub(super) running: Mutex<Vec<Option<Running>>>,
    pub(super) open: Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>,
    pub(super) digests: Digests,
}

/// A running process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) process: Arc<Process>,
    pub(super) store: Arc<FlakyStore>,
}

/// One life of a process.
pub(super) struct Process {
    pub(super) name: String,
    /// Cancelled when it crashes, as `kill -9` would end it.
    pub(super) crash: CancellationToken,
    /// Cancelled when it must stop.
    pub(super) stop: CancellationToken,
    /// The end of its suspension.
    pub(super) stalled_until: Mutex<Instant>,
}

/// The store of a process: the real one, with failures.
pub(super) struct FlakyStore {
    pub(super) inner: Arc<dyn Store>,
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

/// Whether a call changes the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Random choices, and access to the state that the parts of the simulation share.
impl World {
    pub(super) fn chance(&self, share: f64) -> bool {
        share > 0.0 && self.chance.lock().unwrap().f64() < share
    }

    pub(super) fn ms(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.chance.lock().unwrap().u64(range))
    }

    pub(super) fn below(&self, end: usize) -> usize {
        self.chance.lock().unwrap().usize(..end)
    }

    pub(super) fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(super) fn trace(&self, what: Arguments<'_>) {
        let at = self.began.elapsed().as_secs_f64();
        self.trace.lock().unwrap().push(format!("{at:10.3} {what}"));
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Records a broken promise, also in the trace.
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

    /// Returns whether this process must run. At the end, one process is enough.
    pub(super) fn needs(&self, number: usize) -> bool {
        !self.is_over.load(Ordering::Relaxed) && (number == 0 || !self.is_calm())
    }

    pub(super) async fn wait_while_off(&self) {
        let until = *self.off_until.lock().unwrap();
        sleep_until(until).await;
    }

    pub(super) fn open_store(&self) -> Arc<dyn Store> {
        (self.open)()
    }

    pub(super) fn planner(&self) -> watch::Sender<Arc<Destination>> {
        self.configuration.clone()
    }

    /// Returns how long a call of the store takes.
    pub(super) fn latency(&self) -> Duration {
        self.ms(0..=2)
    }

    pub(super) fn crashes(&self) -> bool {
        !self.is_calm() && self.chance(self.knobs.crash)
    }

    /// Returns how long a process is suspended, if it is: by a signal, or while it waits for its disk.
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

    /// Returns whether the rate may be exceeded. A process that had just started, or was suspended, when the clock was
    /// set may take the lease too early. Until the other process notices, the two may exceed the rate.
    pub(super) fn excuses_the_rate(&self) -> bool {
        let jumped_at = *self.jumped_at.lock().unwrap();
        let is_recent = |at: Instant| at.elapsed() < Duration::from_secs(60);
        self.knobs.processes > 1 && jumped_at.is_some_and(is_recent)
    }

    /// Notes the setting of the clock under which a process starts. A process that does not know that the clock was set
    /// forward has to assume that Loops has forgotten the keys of events that were tried before.
    fn starts_by_the_clock(&self) {
        let off_by = self.clock.off_by().as_secs();
        let mut earliest = self.earliest_setting.lock().unwrap();
        *earliest = (*earliest).min(off_by);
        if self.jumped_at.lock().unwrap().is_some() {
            self.started_after_jump.store(true, Ordering::Relaxed);
        }
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

    pub(super) fn any_running(&self) -> Option<Running> {
        let running: Vec<_> = self.running.lock().unwrap().iter().flatten().cloned().collect();
        if running.is_empty() { None } else { Some(running[self.below(running.len())].clone()) }
    }
}
