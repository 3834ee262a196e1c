//! The lanes of one destination: which message may be worked on next.
//!
//! Pure bookkeeping, no I/O. A lane holds the heads of one order key's pending messages, in order.
//! At most its first message is worked on at any time; while that waits for its retry, the whole
//! lane waits, and no other does.

use std::collections::{BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;

use crate::queue::{Head, Seq};
use crate::segment::LaneKey;

/// All lanes that have something pending.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes whose first message may be worked on, the longest accepted first.
    ready: BTreeSet<(Seq, LaneKey)>,
    /// Lanes that wait, the first to wake first.
    waiting: BTreeSet<(Timestamp, LaneKey)>,
    heads: usize,
}

#[derive(Debug)]
struct Lane {
    heads: VecDeque<Head>,
    state: LaneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Ready,
    Busy,
    Waiting(Timestamp),
}

impl Lanes {
    /// Adds a head behind all others of its lane. Heads come in the order of acceptance.
    pub fn push(&mut self, head: Head) {
        self.heads += 1;
        if let Some(lane) = self.lanes.get_mut(&head.lane) {
            lane.heads.push_back(head);
            return;
        }
        let state = match head.next_attempt_at {
            Some(at) => {
                self.waiting.insert((at, head.lane));
                LaneState::Waiting(at)
            }
            None => {
                self.ready.insert((head.seq, head.lane));
                LaneState::Ready
            }
        };
        self.lanes.insert(head.lane, Lane { heads: VecDeque::from([head]), state });
    }

    /// How many messages are held.
    pub fn len(&self) -> usize {
        self.heads
    }

    /// Whether some lane may be worked on now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the lane whose first message was accepted before those of all other ready lanes, and
    /// marks it busy until [`Lanes::finish`], [`Lanes::again`] or [`Lanes::wait`].
    pub fn next(&mut self) -> Option<Head> {
        let (_, key) = self.ready.pop_first()?;
        let lane = self.lanes.get_mut(&key)?;
        lane.state = LaneState::Busy;
        lane.heads.front().copied()
    }

    /// The first message of a busy lane is done: the next one may be worked on.
    pub fn finish(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        if lane.heads.pop_front().is_some() {
            self.heads -= 1;
        }
        match lane.heads.front() {
            None => {
                self.lanes.remove(&key);
            }
            Some(head) => match head.next_attempt_at {
                Some(at) => self.wait(key, at),
                None => self.again(key),
            },
        }
    }

    /// The first message of a busy lane needs another step, at once.
    pub fn again(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        let Some(head) = lane.heads.front() else {
            return;
        };
        lane.state = LaneState::Ready;
        self.ready.insert((head.seq, key));
    }

    /// The first message of a busy lane needs another step, not before `until`.
    pub fn wait(&mut self, key: LaneKey, until: Timestamp) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.state = LaneState::Waiting(until);
        self.waiting.insert((until, key));
    }

    /// Makes ready what has waited long enough.
    pub fn wake(&mut self, now: Timestamp) {
        while let Some(&(until, key)) = self.waiting.first() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            if self.lanes.get(&key).is_some_and(|lane| lane.state == LaneState::Waiting(until)) {
                self.again(key);
            }
        }
    }

    /// When the next waiting lane wakes.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Class;
    use crate::segment::MessageType;
    use proptest::prelude::*;

    fn head(seq: i64, lane: i64) -> Head {
        Head {
            seq: Seq(seq),
            lane: LaneKey(lane),
            kind: MessageType::Track,
            class: Class::Live,
            next_attempt_at: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).unwrap()
    }

    fn next(lanes: &mut Lanes) -> Option<i64> {
        lanes.next().map(|head| head.seq.0)
    }

    #[test]
    fn one_message_of_a_lane_at_a_time_and_lanes_side_by_side() {
        let mut lanes = Lanes::default();
        for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
            lanes.push(head(seq, lane));
        }
        assert_eq!(next(&mut lanes), Some(1));
        assert_eq!(next(&mut lanes), Some(3));
        assert_eq!(next(&mut lanes), None);
        lanes.finish(LaneKey(7));
        assert_eq!(next(&mut lanes), Some(2));
        lanes.finish(LaneKey(7));
        lanes.finish(LaneKey(8));
        assert_eq!(lanes.len(), 0);
        assert!(lanes.lanes.is_empty());
    }

    #[test]
    fn a_waiting_lane_holds_back_itself_alone() {
        let mut lanes = Lanes::default();
        for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
            lanes.push(head(seq, lane));
        }
        assert_eq!(next(&mut lanes), Some(1));
        lanes.wait(LaneKey(7), at(10));
        assert_eq!(next(&mut lanes), Some(3));
        lanes.finish(LaneKey(8));
        lanes.wake(at(9));
        assert_eq!(next(&mut lanes), None);
        assert_eq!(lanes.next_wake(), Some(at(10)));
        lanes.wake(at(10));
        assert_eq!(next(&mut lanes), Some(1));
    }

    #[test]
    fn a_head_that_waits_from_the_start_waits() {
        let mut lanes = Lanes::default();
        lanes.push(Head { next_attempt_at: Some(at(5)), ..head(1, 7) });
        lanes.push(head(2, 7));
        assert_eq!(next(&mut lanes), None);
        lanes.wake(at(5));
        assert_eq!(next(&mut lanes), Some(1));
    }

    proptest! {
        #[test]
        fn order_within_a_lane_always_holds(
            pushes in prop::collection::vec(0i64..5, 1..60),
            choices in prop::collection::vec(0u8..4, 0..400),
        ) {
            let mut lanes = Lanes::default();
            for (place, lane) in pushes.iter().enumerate() {
                lanes.push(head(i64::try_from(place).unwrap() + 1, *lane));
            }
            let mut busy: Vec<Head> = Vec::new();
            let mut done: HashMap<LaneKey, Seq> = HashMap::new();
            let mut now = 0;
            let mut choices = choices.into_iter();
            loop {
                let choice = choices.next().unwrap_or(0);
                while let Some(head) = lanes.next() {
                    prop_assert!(busy.iter().all(|other| other.lane != head.lane));
                    prop_assert!(done.get(&head.lane).is_none_or(|last| *last < head.seq));
                    busy.push(head);
                }
                let Some(head) = busy.pop() else {
                    match lanes.next_wake() {
                        Some(until) => { lanes.wake(until); continue; }
                        None => break,
                    }
                };
                now += 1;
                match choice {
                    1 => lanes.wait(head.lane, at(now + 3)),
                    2 => lanes.again(head.lane),
                    _ => { done.insert(head.lane, head.seq); lanes.finish(head.lane); }
                }
            }
            prop_assert_eq!(lanes.len(), 0);
        }
    }
}
