//! The settings of a run, which its seed decides.

use std::time::Duration;

use crate::destination::SkipUnchanged;

/// The settings of a run. Most runs have only some kinds of faults: with all of them at once, little would ever be
/// delivered.
#[derive(Debug)]
pub(super) struct Knobs {
    pub(super) rate: u32,
    pub(super) requests_max: usize,
    pub(super) processes: usize,
    /// How long faults occur.
    pub(super) trouble: Duration,
    /// How often something happens.
    pub(super) pause_ms: u64,
    pub(super) crash: f64,
    pub(super) store_failure: f64,
    pub(super) lost_answer: f64,
    pub(super) bad_weather: bool,
    pub(super) stall: f64,
    pub(super) full_disks: bool,
    pub(super) jumps: bool,
    pub(super) replays: bool,
    pub(super) reloads: bool,
    pub(super) deletions: bool,
    pub(super) skip_unchanged: SkipUnchanged,
    /// How long the machine is off afterwards: about as long as Loops keeps idempotency keys.
    pub(super) off: Duration,
}

impl Knobs {
    pub(super) fn new(chance: &mut fastrand::Rng) -> Self {
        let mut often = |share: f64| chance.f64() < share;
        let (crashes, failures, lost) = (often(0.6), often(0.4), often(0.3));
        let (bad_weather, stalls, full_disks, jumps) =
            (often(0.8), often(0.3), often(0.2), often(0.3));
        let (replays, reloads, deletions) = (often(0.4), often(0.5), often(0.4));
        let is_off = often(0.15);
        let skip_unchanged = match (often(0.6), often(0.5)) {
            (true, _) => SkipUnchanged::On,
            (false, true) => SkipUnchanged::Observe,
            (false, false) => SkipUnchanged::Off,
        };
        let processes = if often(0.4) { 2 } else { 1 };
        Self {
            rate: chance.u32(2..=12),
            requests_max: chance.usize(2..=32),
            processes,
            trouble: Duration::from_secs(chance.u64(10..=40)),
            pause_ms: chance.u64(200..=2_000),
            crash: if crashes { 0.02 * chance.f64() * chance.f64() } else { 0.0 },
            store_failure: if failures { 0.1 * chance.f64() } else { 0.0 },
            lost_answer: if lost { 0.1 * chance.f64() } else { 0.0 },
            bad_weather,
            stall: if stalls { 0.02 * chance.f64() } else { 0.0 },
            full_disks,
            // After a jump of the clock, no process can know how long the machine was off.
            jumps: jumps && !is_off,
            replays,
            reloads,
            deletions,
            skip_unchanged,
            off: Duration::from_secs(if is_off { chance.u64(20 * 3600..=30 * 3600) } else { 0 }),
        }
    }
}
