//! The pause of a destination whose key Loops refuses: when to check the key again, and how to tell a wrong key from a
//! single request that gets the same response. Pure, apart from reading the time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::segment::LaneKey;

/// The first wait before the key is checked again.
const PROBE_WAIT_MIN: Duration = Duration::from_secs(2);

/// The longest wait before the key is checked again: a corrected key is noticed within this time.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Whether a destination is paused, and when its key is checked next.
#[derive(Debug, Default)]
pub struct Pause {
    check_at: Option<Instant>,
    /// The last wait. It is kept when a pause ends: if Loops accepts the key in a check but refuses it for every
    /// request, pauses still grow longer, instead of alternating with checks at full speed.
    wait: Duration,
}

impl Pause {
    /// Returns whether the destination is paused.
    pub fn is_on(&self) -> bool {
        self.check_at.is_some()
    }

    /// Starts the pause; returns whether it is new, which is worth a log line.
    pub fn start(&mut self) -> bool {
        let is_new = !self.is_on();
        if is_new {
            self.schedule();
        }
        is_new
    }

    /// Continues the pause: the key is still refused, or the check had no result.
    pub fn go_on(&mut self) {
        self.schedule();
    }

    /// Ends the pause: the key is right.
    pub fn end(&mut self) {
        self.check_at = None;
    }

    /// Notes that a request has shown that the key is right: the next pause starts with the shortest wait.
    pub fn proved(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// Returns when to check the key again.
    pub fn check_at(&self) -> Option<Instant> {
        self.check_at
    }

    fn schedule(&mut self) {
        self.wait = (self.wait * 2).clamp(PROBE_WAIT_MIN, PROBE_WAIT_MAX);
        self.check_at = Some(Instant::now() + self.wait);
    }
}

/// After this many refusals with 401 or 403, each after another request succeeded with the same key, the request is to
/// blame and not the key.
const REFUSALS_MAX: u32 = 3;

/// The requests that Loops, or a proxy in front of it, refuses as if the key were wrong, although others succeed with
/// the same key. Without this record, one such request would pause the destination forever.
#[derive(Debug, Default)]
pub struct KeyRefusals {
    /// How many requests have shown that the key is right.
    proofs: u64,
    lanes: HashMap<LaneKey, Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    count: u32,
    /// The number of proofs at the last refusal.
    proofs: u64,
}

impl KeyRefusals {
    /// Notes that a request was taken, or refused for its contents: the key is right.
    pub fn proved(&mut self) {
        self.proofs += 1;
    }

    /// Notes that the first request of a lane was refused as if the key were wrong.
    pub fn refused(&mut self, lane: LaneKey) {
        let proofs = self.proofs;
        let refusals = self.lanes.entry(lane).or_default();
        if refusals.count == 0 || proofs > refusals.proofs {
            refusals.count += 1;
        }
        refusals.proofs = proofs;
    }

    /// Returns whether to blame the first request of a lane, and not the key, if it is refused again.
    pub fn is_singled_out(&self, lane: LaneKey) -> bool {
        let refusals = self.lanes.get(&lane);
        refusals.is_some_and(|one| one.count >= REFUSALS_MAX && self.proofs > one.proofs)
    }

    /// Notes that the lane has another first request, or none.
    pub fn forget(&mut self, lane: LaneKey) {
        self.lanes.remove(&lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_blamed_only_if_others_succeed_with_the_same_key() {
        let (mut refusals, lane) = (KeyRefusals::default(), LaneKey(7));
        // While the key is wrong, no request is blamed, however often it is refused.
        for _ in 0..10 {
            refusals.refused(lane);
        }
        assert!(!refusals.is_singled_out(lane));
        for _ in 1..REFUSALS_MAX {
            refusals.proved();
            assert!(!refusals.is_singled_out(lane));
            refusals.refused(lane);
        }
        assert!(!refusals.is_singled_out(lane), "no other request has succeeded since");
        refusals.proved();
        assert!(refusals.is_singled_out(lane) && !refusals.is_singled_out(LaneKey(8)));
        refusals.forget(lane);
        assert!(!refusals.is_singled_out(lane));
    }
}
