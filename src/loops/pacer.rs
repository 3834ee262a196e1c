//! Keeps a destination's requests within Loops' rate, and uses all of it.
//!
//! Loops allows each team a number of requests a second (10, by its API introduction) and sends it in
//! `x-ratelimit-limit`. A limiter with fixed windows of N requests lets 2N through around the edge of a
//! window, and a limiter that spaces requests evenly delays the second of two that could go at once. So
//! this one records each request: at most N slots are taken, and a slot is free again one second after the
//! latest time at which its request can have reached Loops. While requests wait for slots, the slots are
//! handed out in parts over the second; otherwise all slots of a second would be used at its beginning,
//! and an urgent request would have to wait for the next second.
//!
//! A request reaches Loops after it was sent and before its response arrives. A slow response says nothing about how
//! long the request took to get there, so at most [`TRANSIT_MAX`] is assumed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::RateHeaders;

/// Loops' default rate in requests a second, by its API introduction.
const RATE_DEFAULT: u32 = 10;

/// The window of the rate.
const WINDOW: Duration = Duration::from_secs(1);

/// The longest time that a request is assumed to take to reach Loops.
const TRANSIT_MAX: Duration = Duration::from_millis(50);

/// How many parts a second has while requests wait, and how long all parts take together. This is less than a second,
/// so that the whole rate is used even though timers fire late.
const PARTS_MAX: u32 = 10;
const PARTS_TIME: Duration = Duration::from_millis(900);

/// A limit in a header that is higher than this is ignored as implausible.
const RATE_CREDIBLE_MAX: u32 = 1_000;

/// How long a 429 without `Retry-After` holds everything back.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);

/// The longest `Retry-After` that is honoured.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// After a 429, the rate grows back by a tenth of the whole at this interval.
const RECOVERY_STEP: Duration = Duration::from_secs(2);

/// The number of steps in which the rate grows back from nothing.
const RECOVERY_STEPS: u32 = 10;

/// The limiter of one destination.
#[derive(Debug)]
pub struct Pacer {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// The configured rate; `None`: the rate that Loops sends.
    configured: Option<u32>,
    /// The rate that Loops sent.
    learnt: Option<u32>,
    /// How many requests a second are withheld after 429s.
    withheld: u32,
    withheld_changed_at: Instant,
    /// Slots below this number were taken before the rate was last halved. A 429 for one of them does not halve the
    /// rate again. Otherwise the responses to one burst would bring the rate down to nothing.
    halved_through: u64,
    /// Taken slots, with the time at which each is free again; `None` before its request is sent.
    slots: BTreeMap<u64, Option<Instant>>,
    next_slot: u64,
    blocked_until: Option<Instant>,
    /// Until when slots are handed out in parts, because a request had to wait for a slot.
    in_parts_until: Option<Instant>,
    part_began_at: Instant,
    part_taken: u32,
}

/// The right to make one request. If it is dropped unused, the slot is free again at once.
#[derive(Debug)]
pub struct Slot {
    pacer: Arc<Pacer>,
    number: u64,
}

impl Pacer {
    /// Creates a limiter. Without a configured rate, it follows the rate that Loops sends (10 a second until then).
    pub fn new(configured: Option<u32>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            state: Mutex::new(State {
                configured,
                learnt: None,
                withheld: 0,
                withheld_changed_at: now,
                halved_through: 0,
                slots: BTreeMap::new(),
                next_slot: 0,
                blocked_until: None,
                in_parts_until: None,
                part_began_at: now,
                part_taken: 0,
            }),
            changed: Notify::new(),
        })
    }

    /// Takes a slot if one is free; otherwise returns when to try again.
    pub fn try_slot(self: &Arc<Self>) -> Result<Slot, Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        state.take(now).map(|number| Slot { pacer: Arc::clone(self), number })
    }

    /// Waits for a slot.
    pub async fn slot(self: &Arc<Self>) -> Slot {
        loop {
            let changed = self.changed.notified();
            match self.try_slot() {
                Ok(slot) => return slot,
                Err(again_at) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(again_at) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    /// Treats the past second as used up, by another process or by this process before a crash.
    pub fn begin_after_another(&self) {
        self.lock().block(Instant::now() + TRANSIT_MAX + WINDOW);
    }

    /// Returns the current rate, in requests a second.
    pub fn rate(&self) -> u32 {
        let mut state = self.lock();
        state.recover(Instant::now());
        state.rate()
    }

    /// Returns the highest rate that Loops and the configuration allow, in requests a second.
    pub fn rate_max(&self) -> u32 {
        self.lock().ceiling()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ceiling(&self) -> u32 {
        match (self.configured, self.learnt) {
            (Some(configured), Some(learnt)) => configured.min(learnt),
            (Some(rate), None) | (None, Some(rate)) => rate,
            (None, None) => RATE_DEFAULT,
        }
        .max(1)
    }

    fn rate(&self) -> u32 {
        self.ceiling().saturating_sub(self.withheld).max(1)
    }

    fn take(&mut self, now: Instant) -> Result<u64, Instant> {
        self.slots.retain(|_, free_at| free_at.is_none_or(|free_at| free_at > now));
        self.recover(now);
        if let Some(until) = self.blocked_until.filter(|until| *until > now) {
            return Err(until);
        }
        self.blocked_until = None;
        let free = self.free(now);
        if let Err(again_at) = free {
            self.in_parts_until = Some(again_at + WINDOW);
        }
        free?;
        self.part_taken += 1;
        let number = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(number, None);
        Ok(number)
    }

    /// Checks that a slot is free; the error says when to try again.
    fn free(&mut self, now: Instant) -> Result<(), Instant> {
        if self.slots.len() < self.rate() as usize {
            return self.part(now);
        }
        // If more slots are taken than the rate allows now, several must become free first.
        let surplus = self.slots.len() - self.rate() as usize;
        let mut known: Vec<Instant> = self.slots.values().copied().flatten().collect();
        known.sort_unstable();
        Err(known.get(surplus).or(known.last()).copied().unwrap_or(now + TRANSIT_MAX))
    }

    /// Checks that this part of the second has a slot left; the error says when the next part begins.
    fn part(&mut self, now: Instant) -> Result<(), Instant> {
        let rate = self.rate();
        let parts = rate.min(PARTS_MAX);
        let ends_at = self.part_began_at + PARTS_TIME / parts;
        if now >= ends_at {
            (self.part_began_at, self.part_taken) = (now, 0);
        } else if self.in_parts_until.is_some_and(|until| until > now)
            && self.part_taken >= rate.div_ceil(parts)
        {
            return Err(ends_at);
        }
        Ok(())
    }

    fn recover(&mut self, now: Instant) {
        let step = self.ceiling().div_ceil(RECOVERY_STEPS);
        while self.withheld > 0 && now >= self.withheld_changed_at + RECOVERY_STEP {
            self.withheld = self.withheld.saturating_sub(step);
            self.withheld_changed_at += RECOVERY_STEP;
        }
    }

    fn block(&mut self, until: Instant) {
        self.blocked_until = Some(self.blocked_until.map_or(until, |known| known.max(until)));
    }

    fn slow_down(&mut self, now: Instant, slot: u64, retry_after: Option<Duration>) {
        let pause = retry_after.unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX);
        let until = now + pause;
        self.block(until);
        self.withheld_changed_at = self.withheld_changed_at.max(until);
        if slot >= self.halved_through {
            let halved = self.rate() / 2;
            self.withheld = self.ceiling().saturating_sub(halved.max(1));
            self.halved_through = self.next_slot;
        }
    }

    /// Accounts for requests by others that used the same team's rate.
    fn learn(&mut self, now: Instant, headers: RateHeaders) {
        if let Some(limit) = headers.limit.filter(|limit| (1..=RATE_CREDIBLE_MAX).contains(limit)) {
            self.learnt = Some(limit);
        }
        let Some(remaining) = headers.remaining else {
            return;
        };
        // A rate that is configured below Loops' limit leaves the rest to others. Their requests count only once fewer
        // requests remain than this limiter may still send.
        let taken = self.rate().saturating_sub(remaining) as usize;
        for _ in self.slots.len()..taken {
            self.slots.insert(self.next_slot, Some(now + WINDOW));
            self.next_slot += 1;
        }
    }
}

impl Slot {
    /// Notes that the request is being sent.
    pub fn sent(&self) {
        let free_at = Instant::now() + TRANSIT_MAX + WINDOW;
        self.pacer.lock().slots.insert(self.number, Some(free_at));
        self.pacer.changed.notify_waiters();
    }

    /// Notes that the call has ended, with the headers about the rate if there was a response.
    ///
    /// `limited` is set for a 429, and holds the wait that Loops asked for, if any.
    pub fn answered(&self, headers: RateHeaders, limited: Option<Option<Duration>>) {
        let now = Instant::now();
        {
            let mut state = self.pacer.lock();
            if let Some(Some(free_at)) = state.slots.get_mut(&self.number) {
                *free_at = (*free_at).min(now + WINDOW);
            }
            state.learn(now, headers);
            if let Some(retry_after) = limited {
                state.slow_down(now, self.number, retry_after);
            }
        }
        self.pacer.changed.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.pacer.lock();
        if matches!(state.slots.get(&self.number), Some(None)) {
            state.slots.remove(&self.number);
            state.part_taken = state.part_taken.saturating_sub(1);
            drop(state);
            self.pacer.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `count` requests as fast as the pacer allows; returns the times of their responses.
    async fn drain(pacer: &Arc<Pacer>, count: usize, latency: Duration) -> Vec<Instant> {
        let mut arrivals = Vec::new();
        for _ in 0..count {
            let slot = pacer.slot().await;
            slot.sent();
            tokio::time::sleep(latency).await;
            arrivals.push(Instant::now());
            slot.answered(RateHeaders::default(), None);
        }
        arrivals
    }

    fn most_in_a_second(moments: &[Instant]) -> usize {
        (0..moments.len())
            .map(|first| {
                moments[first..].iter().take_while(|at| **at < moments[first] + WINDOW).count()
            })
            .max()
            .unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_the_rate_and_none_is_wasted() {
        let pacer = Pacer::new(Some(10));
        let began = Instant::now();
        let arrivals = drain(&pacer, 100, Duration::from_millis(3)).await;
        assert_eq!(most_in_a_second(&arrivals), 10);
        assert!(began.elapsed() < Duration::from_millis(10_000), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_gets_its_slots_all_over_the_second() {
        for (rate, most) in [(1, 1), (4, 1), (10, 1), (25, 3), (200, 20)] {
            let pacer = Pacer::new(Some(rate));
            let arrivals = drain(&pacer, rate as usize * 4, Duration::ZERO).await;
            let (burst, spread) = arrivals.split_at(rate as usize);
            assert_eq!(burst.first(), burst.last(), "{rate}: what need not wait goes at once");
            for at in spread {
                let together = spread.iter().filter(|other| *other == at).count();
                assert!(together <= most, "{rate}: {together} at once");
            }
            // Once nothing has waited for a second, all requests may go at once again.
            tokio::time::sleep(WINDOW * 3).await;
            let again = drain(&pacer, rate as usize, Duration::ZERO).await;
            assert_eq!(again.first(), again.last(), "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_slot_of_a_part_is_free_again() {
        let pacer = Pacer::new(Some(10));
        drain(&pacer, 11, Duration::ZERO).await;
        tokio::time::sleep(PARTS_TIME / 10).await;
        for _ in 0..100 {
            assert!(pacer.try_slot().is_ok());
        }
        pacer.slot().await.sent();
        assert!(pacer.try_slot().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_is_left_to_what_another_process_sent() {
        let pacer = Pacer::new(Some(10));
        let began = Instant::now();
        pacer.begin_after_another();
        drop(pacer.slot().await);
        assert!(began.elapsed() >= WINDOW, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_slot_is_free_again() {
        let pacer = Pacer::new(Some(1));
        drop(pacer.slot().await);
        assert!(pacer.try_slot().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_blocks_and_halves_and_the_rate_grows_back() {
        let pacer = Pacer::new(Some(10));
        let slot = pacer.slot().await;
        slot.sent();
        slot.answered(RateHeaders::default(), Some(Some(Duration::from_secs(3))));
        let again_at = pacer.try_slot().err();
        assert_eq!(again_at, Some(Instant::now() + Duration::from_secs(3)));
        assert_eq!(pacer.rate(), 5);
        tokio::time::sleep(Duration::from_secs(3 + 10)).await;
        assert!(pacer.try_slot().is_ok());
        assert_eq!(pacer.rate(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_429s_halves_the_rate_once_and_the_next_burst_again() {
        let pacer = Pacer::new(Some(500));
        for expected in [250, 125] {
            let slots: Vec<_> = std::iter::from_fn(|| pacer.try_slot().ok()).collect();
            for slot in &slots {
                slot.sent();
            }
            for slot in &slots {
                slot.answered(RateHeaders::default(), Some(None));
            }
            assert_eq!(pacer.rate(), expected);
            tokio::time::sleep(PAUSE_DEFAULT + TRANSIT_MAX).await;
        }
        tokio::time::sleep(RECOVERY_STEP * RECOVERY_STEPS).await;
        assert!(pacer.try_slot().is_ok());
        assert_eq!(pacer.rate(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn an_absurd_wait_is_bounded() {
        let pacer = Pacer::new(Some(10));
        let slot = pacer.slot().await;
        slot.sent();
        slot.answered(RateHeaders::default(), Some(Some(Duration::from_secs(99_999_999))));
        assert_eq!(pacer.try_slot().err(), Some(Instant::now() + PAUSE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_remaining_counts_also_where_no_limit_is_told() {
        let pacer = Pacer::new(None);
        let slot = pacer.slot().await;
        slot.sent();
        slot.answered(RateHeaders { limit: None, remaining: Some(0) }, None);
        assert_eq!(pacer.try_slot().err(), Some(Instant::now() + WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn learns_the_limit_but_not_nonsense() {
        for (configured, limit, expected) in [
            (None, 25, 25),
            (Some(10), 25, 10),
            (Some(10), 4, 4),
            (None, 0, 10),
            (None, 4_000_000, 10),
        ] {
            let pacer = Pacer::new(configured);
            let slot = pacer.slot().await;
            slot.sent();
            slot.answered(RateHeaders { limit: Some(limit), remaining: None }, None);
            assert_eq!(pacer.rate(), expected, "{configured:?} {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_used_of_the_rate_is_not_used_again() {
        // (the configured rate, how many of 10 remain according to Loops, how many more may go)
        for (configured, remaining, expected) in
            [(None, 2, 2), (None, 9, 9), (Some(5), 9, 4), (Some(5), 4, 4), (Some(5), 2, 2)]
        {
            let pacer = Pacer::new(configured);
            let slot = pacer.slot().await;
            slot.sent();
            slot.answered(RateHeaders { limit: Some(10), remaining: Some(remaining) }, None);
            let more: Vec<_> = std::iter::from_fn(|| pacer.try_slot().ok()).collect();
            assert_eq!(more.len(), expected, "{configured:?} {remaining}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_tenure_does_not_end_a_wait_that_loops_asked_for() {
        let pacer = Pacer::new(None);
        let slot = pacer.slot().await;
        slot.sent();
        slot.answered(RateHeaders::default(), Some(Some(Duration::from_secs(30))));
        pacer.begin_after_another();
        assert_eq!(pacer.try_slot().err(), Some(Instant::now() + Duration::from_secs(30)));
    }
}
