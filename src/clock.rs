//! The only reader of "now". Everything else is handed a [`Clock`], so that tests decide the time.
//!
//! The time of day can be wrong: a machine without a battery-backed clock boots in 1970, and a user can set the
//! clock forward and back. Waits within a process are therefore measured with `tokio::time::Instant`, which is
//! monotonic. Times on disk can only be compared with the time of day; [`WatchedClock`] notices when that is set,
//! and for a day counts the former settings too: a record is too old only if it is too old by all of them.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::warn;

/// Smaller jumps of the clock are ordinary corrections by time synchronization.
const JUMP_MIN: SignedDuration = SignedDuration::from_secs(2);

/// How long a former setting of the clock counts: for as long as Loops keeps idempotency keys, so no request
/// looks younger than it is for longer than that.
const FORMER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Former settings that lie this close together count as one range. An age is then too low by at most this.
const RANGE_MAX: SignedDuration = SignedDuration::from_mins(1);

/// The most ranges of former settings. If the clock is set to yet another time, the nearest range grows as far as
/// that. So no setting is forgotten, and at worst a record is taken for younger than it is, never for older.
const FORMER_MAX: usize = 64;

/// Returns the time of day. Durations inside one process are measured with `tokio::time::Instant`.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the present moment.
    fn now(&self) -> Timestamp;

    /// Returns the time since a fixed moment, including the time that the machine slept, which `Instant` leaves out on
    /// Linux and macOS. `None` if there is no such clock.
    fn with_sleep(&self) -> Option<Duration> {
        None
    }

    /// Returns the age of a time on disk. It is zero for a time in the future: the clock was ahead when it was written.
    /// If the clock was set, it is the smallest age by any setting under which the time can have been written.
    fn age(&self, at: Timestamp) -> Duration {
        Duration::try_from(self.now().duration_since(at)).unwrap_or_default()
    }

    /// Returns the present moment by the earliest setting of the clock that counts: a record that is too old by this
    /// time is too old by all settings.
    fn earliest_now(&self) -> Timestamp {
        self.now()
    }

    /// Returns whether the clock was set within this time.
    fn was_set_within(&self, _time: Duration) -> bool {
        false
    }
}

/// A limit to the computing time of the present thread. Waiting does not count, not even for a processor.
#[derive(Debug)]
pub struct CpuLimit {
    limit: Duration,
    /// The computing time of the thread; `None` if it cannot be read. In that case, elapsed time counts instead.
    computed: Option<Duration>,
    began: Instant,
    asked: Cell<u32>,
    is_over: Cell<bool>,
}

impl CpuLimit {
    /// Reading the clock takes about as long as ten steps of the limited work.
    const LOOK_EVERY: u32 = 64;

    /// Starts the limit now.
    pub fn new(limit: Duration) -> Self {
        let (asked, is_over) = (Cell::new(0), Cell::new(limit.is_zero()));
        Self { limit, computed: thread_time(), began: Instant::now(), asked, is_over }
    }

    /// Returns whether the thread has computed for longer. Only some of the calls read the clock.
    pub fn is_over(&self) -> bool {
        let asked = self.asked.get().wrapping_add(1);
        self.asked.set(asked);
        if asked.is_multiple_of(Self::LOOK_EVERY) && self.spent() > self.limit {
            self.is_over.set(true);
        }
        self.is_over.get()
    }

    /// Returns how long the thread has computed since the start.
    pub fn spent(&self) -> Duration {
        match (self.computed, thread_time()) {
            (Some(computed), Some(now)) => now.saturating_sub(computed),
            _ => self.began.elapsed(),
        }
    }
}

/// Returns the computing time of the present thread.
fn thread_time() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()
    }
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    None
}

/// A clock shared between the parts of the program.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    fn with_sleep(&self) -> Option<Duration> {
        use rustix::time::{ClockId, clock_gettime};
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        // Unlike that of Linux, Apple's monotonic clock runs on while the machine sleeps: its clock_gettime(3).
        #[cfg(target_vendor = "apple")]
        let clock = ClockId::Monotonic;
        Duration::try_from(clock_gettime(clock)).ok()
    }
}

/// A clock that notices and logs when it is set.
///
/// Each call compares the time of day with the time that has passed, by [`Clock::with_sleep`] or else by
/// `Instant`. So on Linux and on Apple's systems, waking up does not look like a change of the clock. On other
/// systems whose `Instant` stops in sleep, it looks as if the clock was set forward: for a day, records expire
/// later by the time asleep.
#[derive(Debug)]
pub struct WatchedClock {
    clock: SharedClock,
    began: Instant,
    /// [`Clock::with_sleep`] at the time this was created.
    began_with_sleep: Option<Duration>,
    settings: Mutex<Settings>,
}

/// The settings of a clock. Each is the time of day that the clock, set so, would have shown when the
/// [`WatchedClock`] was created, as the time since 1970.
#[derive(Debug)]
struct Settings {
    present: SignedDuration,
    former: Vec<Former>,
    /// When the clock was last set, as the time since the [`WatchedClock`] was created.
    set_at: Option<Duration>,
}

/// A range of settings.
#[derive(Debug)]
struct Former {
    lowest: SignedDuration,
    highest: SignedDuration,
    /// The time until which the range counts, as the time since the [`WatchedClock`] was created.
    counts_until: Duration,
}

impl Former {
    /// Returns the range extended to this setting.
    fn with(&self, setting: SignedDuration) -> (SignedDuration, SignedDuration) {
        (self.lowest.min(setting), self.highest.max(setting))
    }

    fn width_with(&self, setting: SignedDuration) -> SignedDuration {
        let (lowest, highest) = self.with(setting);
        highest.saturating_sub(lowest)
    }
}

impl WatchedClock {
    /// Watches a clock from now on.
    pub fn new(clock: SharedClock) -> Self {
        let settings =
            Settings { present: clock.now().as_duration(), former: Vec::new(), set_at: None };
        let began_with_sleep = clock.with_sleep();
        Self { clock, began: Instant::now(), began_with_sleep, settings: Mutex::new(settings) }
    }

    /// Returns the time since this was created, by a monotonic clock.
    fn elapsed(&self) -> Duration {
        match (self.clock.with_sleep(), self.began_with_sleep) {
            (Some(now), Some(began)) => now.saturating_sub(began),
            _ => self.began.elapsed(),
        }
    }

    /// Compares the clock with the time that has passed. Returns the settings and that time.
    fn look(&self) -> (MutexGuard<'_, Settings>, SignedDuration) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let setting = || self.clock.now().as_duration().saturating_sub(signed(self.elapsed()));
        let is_set = |to: SignedDuration| to.saturating_sub(settings.present).abs() >= JUMP_MIN;
        let mut found = setting();
        if is_set(found) {
            // The process may have been stopped between the two readings.
            found = setting();
        }
        let is_set = is_set(found);
        let elapsed = self.elapsed();
        if is_set {
            settings.change(found, elapsed);
        }
        settings.present = found;
        settings.former.retain(|former| former.counts_until > elapsed);
        (settings, signed(elapsed))
    }
}

impl Settings {
    fn change(&mut self, to: SignedDuration, elapsed: Duration) {
        let by = to.saturating_sub(self.present);
        let seconds = by.abs().as_secs();
        match by.is_negative() {
            true => warn!(seconds, "the clock was set back"),
            false => warn!(seconds, "the clock was set forward"),
        }
        self.remember(self.present, elapsed.saturating_add(FORMER_KEPT));
        self.set_at = Some(elapsed);
    }

    fn remember(&mut self, setting: SignedDuration, counts_until: Duration) {
        let is_full = self.former.len() >= FORMER_MAX;
        let nearest = self.former.iter_mut().min_by_key(|former| former.width_with(setting));
        match nearest {
            Some(former) if is_full || former.width_with(setting) <= RANGE_MAX => {
                (former.lowest, former.highest) = former.with(setting);
                former.counts_until = counts_until;
            }
            _ => self.former.push(Former { lowest: setting, highest: setting, counts_until }),
        }
    }

    /// Returns the lowest and the highest setting of each range, and of the present one.
    fn ranges(&self) -> impl Iterator<Item = (SignedDuration, SignedDuration)> {
        let former = self.former.iter().map(|former| (former.lowest, former.highest));
        former.chain([(self.present, self.present)])
    }
}

impl Clock for WatchedClock {
    fn now(&self) -> Timestamp {
        drop(self.look());
        self.clock.now()
    }

    fn with_sleep(&self) -> Option<Duration> {
        self.clock.with_sleep()
    }

    fn age(&self, at: Timestamp) -> Duration {
        let (settings, elapsed) = self.look();
        let by = |setting: SignedDuration| {
            setting.saturating_add(elapsed).saturating_sub(at.as_duration())
        };
        // A setting by which the time still lies in the future is impossible: nothing can have been written under it.
        let possible = settings.ranges().filter(|(_, highest)| !by(*highest).is_negative());
        let ages = possible.map(|(lowest, _)| Duration::try_from(by(lowest)).unwrap_or_default());
        ages.min().unwrap_or_default()
    }

    fn earliest_now(&self) -> Timestamp {
        let (settings, elapsed) = self.look();
        let lowest = settings.ranges().map(|(lowest, _)| lowest);
        let earliest = lowest.min().unwrap_or(settings.present);
        Timestamp::from_duration(earliest.saturating_add(elapsed)).unwrap_or(Timestamp::MIN)
    }

    fn was_set_within(&self, time: Duration) -> bool {
        let (settings, elapsed) = self.look();
        settings.set_at.is_some_and(|at| elapsed.saturating_sub(signed(at)) < signed(time))
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// A clock for tests that changes only when it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock by `by`; backwards if it is negative.
    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(*now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);
    const MINUTE: SignedDuration = SignedDuration::from_mins(1);
    const DAY: SignedDuration = SignedDuration::from_hours(24);

    /// A clock that follows the paused time of a test and can be set.
    #[derive(Debug)]
    pub(crate) struct PausedClock {
        began: Instant,
        began_at: ManualClock,
    }

    impl PausedClock {
        pub(crate) fn shared() -> Arc<Self> {
            let began_at = ManualClock::new("2026-11-26T12:00:00Z".parse().unwrap());
            Arc::new(Self { began: Instant::now(), began_at })
        }

        /// Sets the clock.
        pub(crate) fn advance(&self, by: SignedDuration) {
            self.began_at.advance(by);
        }
    }

    impl Clock for PausedClock {
        fn now(&self) -> Timestamp {
            self.began_at.now() + self.began.elapsed()
        }
    }

    /// A watched clock, and the clock that it watches.
    struct Watched {
        watched: WatchedClock,
        clock: Arc<PausedClock>,
    }

    impl Watched {
        fn new() -> Self {
            let clock = PausedClock::shared();
            Self { watched: WatchedClock::new(clock.clone()), clock }
        }

        /// Lets time pass.
        async fn pass(&self, time: SignedDuration) {
            tokio::time::advance(time.unsigned_abs()).await;
        }

        fn age(&self, at: Timestamp) -> u64 {
            self.watched.age(at).as_secs()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_before_a_jump_grows_older_by_the_time_that_passes() {
        for jump in [DAY, -DAY, 20_000 * DAY, -20_000 * DAY] {
            let clock = Watched::new();
            let written_at = clock.watched.now();
            clock.pass(MINUTE).await;
            clock.clock.advance(jump);
            assert_eq!(clock.age(written_at), 60, "{jump}");
            clock.pass(MINUTE).await;
            assert_eq!(clock.age(written_at), 120, "{jump}");
            // The same holds for what is written after it.
            let written_later = clock.watched.now();
            clock.pass(MINUTE).await;
            assert_eq!(clock.age(written_later), 60, "{jump}");
            // The clock is set right again.
            clock.clock.advance(-jump);
            clock.pass(MINUTE).await;
            assert_eq!((clock.age(written_at), clock.age(written_later)), (240, 120), "{jump}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_after_a_jump_the_new_time_alone_counts() {
        for jump in [30 * DAY, -30 * DAY] {
            let clock = Watched::new();
            let before = clock.watched.now();
            clock.clock.advance(jump);
            let earliest = clock.watched.earliest_now();
            assert_eq!(earliest, before.min(clock.clock.now()), "{jump}");
            clock.pass(DAY - MINUTE).await;
            assert_eq!(clock.watched.earliest_now(), earliest + DAY - MINUTE, "{jump}");
            assert_eq!(clock.age(before), 86_400 - 60, "{jump}");
            clock.pass(MINUTE).await;
            assert_eq!(clock.watched.earliest_now(), clock.clock.now(), "{jump}");
            let days = if jump.is_negative() { 0 } else { 31 };
            assert_eq!(clock.age(before), days * 86_400, "{jump}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_corrections_and_passing_time_are_no_jumps() {
        let clock = Watched::new();
        let began = clock.watched.now();
        for _ in 0..100 {
            clock.pass(DAY).await;
            clock.clock.advance(SignedDuration::from_millis(1_900));
            assert_eq!(clock.watched.earliest_now(), clock.clock.now());
        }
        assert!(!clock.watched.was_set_within(Duration::MAX));
        assert_eq!(clock.age(began), 100 * 86_400 + 190);
        clock.clock.advance(JUMP_MIN);
        assert!(clock.watched.was_set_within(Duration::from_secs(10)));
        clock.pass(SignedDuration::from_secs(10)).await;
        assert!(!clock.watched.was_set_within(Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_to_and_fro_forgets_none_of_its_settings() {
        let clock = Watched::new();
        let began = clock.watched.now();
        for to_and_fro in [30 * DAY, -30 * DAY].repeat(50) {
            clock.pass(MINUTE).await;
            clock.clock.advance(to_and_fro);
            clock.watched.now();
        }
        clock.clock.advance(30 * DAY);
        assert_eq!(clock.watched.earliest_now(), began + 100 * MINUTE);
        assert_eq!(clock.age(began), 6_000);
        assert_eq!(clock.watched.settings.lock().unwrap().former.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_setting_counts_for_a_day_from_its_last_use() {
        let clock = Watched::new();
        clock.clock.advance(30 * DAY);
        clock.watched.now();
        clock.pass(DAY - MINUTE).await;
        clock.clock.advance(-30 * DAY);
        clock.pass(MINUTE).await;
        let written_at = clock.watched.now();
        clock.clock.advance(30 * DAY);
        assert_eq!(clock.age(written_at), 0);
        clock.pass(DAY - MINUTE).await;
        assert_eq!(clock.age(written_at), 86_400 - 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_keeps_jumping_keeps_few_settings_and_makes_nothing_older_than_it_is() {
        for jump in [MINUTE, -MINUTE, 7 * DAY, -7 * DAY] {
            let clock = Watched::new();
            let began = clock.watched.now();
            let mut written = Vec::new();
            for second in 0..1_000 {
                clock.clock.advance(jump);
                written.push((second, clock.watched.now()));
                clock.pass(SignedDuration::from_secs(1)).await;
            }
            let settings = clock.watched.settings.lock().unwrap().former.len();
            assert!(settings <= FORMER_MAX, "{settings}");
            let earliest =
                if jump.is_negative() { clock.clock.now() } else { began + 1_000 * SECOND };
            assert_eq!(clock.watched.earliest_now(), earliest, "{jump}");
            for (second, at) in written {
                let age = clock.age(at);
                assert!(age <= 1_000 - second, "{jump}: {age} at {second}");
            }
        }
    }

    /// The clock of a machine that sleeps.
    #[derive(Debug)]
    struct Sleeper {
        awake: Instant,
        asleep: Mutex<Duration>,
    }

    impl Sleeper {
        fn since_boot(&self) -> Duration {
            self.awake.elapsed() + *self.asleep.lock().unwrap()
        }
    }

    impl Clock for Sleeper {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH + self.since_boot()
        }

        fn with_sleep(&self) -> Option<Duration> {
            Some(self.since_boot())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_has_grown_older() {
        let asleep = Mutex::new(Duration::from_secs(7));
        let sleeper = Arc::new(Sleeper { awake: Instant::now(), asleep });
        let watched = WatchedClock::new(sleeper.clone());
        let before = watched.now();
        *sleeper.asleep.lock().unwrap() += DAY.unsigned_abs();
        assert_eq!(watched.age(before), DAY.unsigned_abs());
        assert_eq!(watched.earliest_now(), sleeper.now());
        assert!(!watched.was_set_within(Duration::MAX));
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    #[test]
    fn the_time_with_sleep_is_that_of_a_monotonic_clock() {
        let (began, began_with_sleep) = (Instant::now(), SystemClock.with_sleep().unwrap());
        let with_sleep = SystemClock.with_sleep().unwrap() - began_with_sleep;
        assert!(with_sleep <= began.elapsed(), "{with_sleep:?}");
        // It counts from the boot of the machine, not from 1970.
        let years = began_with_sleep.as_secs() / (365 * 86_400);
        assert!(years < 30, "{years}");
    }

    #[test]
    fn a_time_that_has_not_come_yet_is_of_age_zero() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.age(Timestamp::MAX), Duration::ZERO);
        assert_eq!(WatchedClock::new(Arc::new(clock)).age(Timestamp::MAX), Duration::ZERO);
    }

    #[test]
    fn a_thread_computes_no_longer_than_its_limit() {
        let none = CpuLimit::new(Duration::ZERO);
        assert!(none.is_over());
        let short = CpuLimit::new(Duration::from_millis(1));
        let mut asked = 0_u64;
        while !short.is_over() {
            asked += 1;
        }
        assert!(asked > 0 && short.spent() > Duration::from_millis(1));
        let long = CpuLimit::new(Duration::from_secs(3600));
        assert!(!(0..1000).any(|_| long.is_over()));
    }
}
