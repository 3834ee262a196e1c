//! The lanes of one destination: which message may be worked on next.
//!
//! Pure bookkeeping, no I/O. A lane holds the heads of one order key's pending messages, in order.
//! At most its first message is worked on at any time; while that waits for its retry, the whole
//! lane waits, and no other does. Lanes with something urgent go first; every eighth turn belongs to
//! whoever has waited longest, so that nothing starves.

use std::collections::{BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;

use crate::queue::{Class, Head, Seq};
use crate::segment::LaneKey;

/// Each so many turns, the lane that was accepted first goes, however urgent others are.
const AGEING_TURNS: u32 = 8;

/// How many messages of a lane go in the order of acceptance among all lanes, and behind how many places
/// of that order each further one stands: ten thousand messages of one person must not make all others
/// wait until they are through.
const LANE_TURNS_FREE: u32 = 16;
const LANE_TURN_PLACES: i64 = 64;

/// A place among the ready lanes: that of acceptance, further back for a lane that had many turns.
type Rank = i64;

/// All lanes that have something pending.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes whose first message may be worked on, by their class, the longest accepted first.
    ready: [BTreeSet<(Rank, LaneKey)>; Class::COUNT],
    /// Lanes that wait, the first to wake first.
    waiting: BTreeSet<(Timestamp, LaneKey)>,
    /// How many heads of each class are held.
    heads: [usize; Class::COUNT],
    turns: u32,
    /// Grows each time that ready lanes had to wait for the rate.
    shortages: u64,
}

#[derive(Debug)]
struct Lane {
    heads: VecDeque<Head>,
    /// How many of them are of each class: the most urgent one is the lane's.
    classes: [u32; Class::COUNT],
    state: LaneState,
    /// How many of its messages were done since it was last empty.
    done: u32,
    /// Its place among the ready lanes, while it is one.
    rank: Rank,
    /// The shortages there had been when it became ready.
    ready_at_shortage: u64,
    /// The last head before which messages may stand that were not read yet.
    unknown_before: Option<Head>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Ready,
    Busy,
    Waiting(Timestamp),
}

/// A turn: the first message of a lane, and those behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The message to work on.
    pub head: Head,
    /// What follows it in its lane, in order, if the lane has waited for the rate: only then may
    /// neighbours be merged.
    pub neighbours: Vec<Seq>,
}

impl Lane {
    fn class(&self) -> usize {
        self.classes.iter().position(|count| *count > 0).unwrap_or(Class::COUNT - 1)
    }

    fn rank_of(&self, head: Seq) -> Rank {
        let turns = self.done.saturating_sub(LANE_TURNS_FREE);
        head.0.saturating_add(LANE_TURN_PLACES * i64::from(turns))
    }
}

impl Lanes {
    /// Adds a head to its lane. One that is there already changes nothing. Unless all that stands before
    /// it in its lane `is_known`, the lane's next turn is to find that out.
    pub fn push(&mut self, head: Head, is_known: bool) {
        let shortages = self.shortages;
        let lane = self.lanes.entry(head.lane).or_insert_with(|| Lane {
            heads: VecDeque::new(),
            classes: [0; Class::COUNT],
            state: LaneState::Busy,
            done: 0,
            rank: 0,
            ready_at_shortage: shortages,
            unknown_before: None,
        });
        let Err(place) = lane.heads.binary_search_by_key(&head.seq, |head| head.seq) else {
            return;
        };
        if !is_known && lane.unknown_before.is_none_or(|last| last.seq < head.seq) {
            lane.unknown_before = Some(head);
        }
        let (is_new, class, rank) = (lane.heads.is_empty(), lane.class(), lane.rank);
        lane.heads.insert(place, head);
        lane.classes[head.class.index()] += 1;
        self.heads[head.class.index()] += 1;
        if is_new {
            return match head.next_attempt_at {
                Some(at) => self.wait(head.lane, at),
                None => self.again(head.lane),
            };
        }
        if lane.state == LaneState::Ready && (place == 0 || lane.class() != class) {
            self.ready[class].remove(&(rank, head.lane));
            self.put_ready(head.lane);
        }
    }

    /// How many messages of a class are held.
    pub fn len(&self, class: Class) -> usize {
        self.heads[class.index()]
    }

    /// Whether some lane may be worked on now.
    pub fn has_ready(&self) -> bool {
        self.ready.iter().any(|ready| !ready.is_empty())
    }

    /// Notes that the rate does not allow what is ready now.
    pub fn fall_short(&mut self) {
        self.shortages += 1;
    }

    /// Takes a lane of which nothing may be worked on before it is known what stands before the head that
    /// is told, and marks it busy until [`Lanes::complete`]. One of the first `ahead`, or the longest
    /// accepted: as long as there is such a lane, it is nobody's turn.
    pub fn next_unknown(&mut self, ahead: usize) -> Option<Head> {
        let ready = self.ready.iter().enumerate();
        let urgent =
            ready.flat_map(|(class, ready)| ready.iter().map(move |entry| (*entry, class)));
        let mut first = urgent.take(ahead).chain(self.oldest());
        let (entry, class, head) = first.find_map(|(entry, class)| {
            Some((entry, class, self.lanes.get(&entry.1)?.unknown_before?))
        })?;
        self.ready[class].remove(&entry);
        self.lanes.get_mut(&entry.1)?.state = LaneState::Busy;
        Some(head)
    }

    /// Takes the lane whose turn it is, and marks it busy until [`Lanes::finish`], [`Lanes::again`] or
    /// [`Lanes::wait`]. At most `neighbours_max` messages behind its first are told.
    pub fn next(&mut self, neighbours_max: usize) -> Option<Turn> {
        self.turns = (self.turns + 1) % AGEING_TURNS;
        let is_of_the_oldest = self.turns == 0;
        let (entry, class) =
            if is_of_the_oldest { self.oldest()? } else { self.firsts().next()? };
        self.ready[class].remove(&entry);
        let lane = self.lanes.get_mut(&entry.1)?;
        lane.state = LaneState::Busy;
        let head = *lane.heads.front()?;
        let has_waited = self.shortages > lane.ready_at_shortage;
        let neighbours_max = if has_waited { neighbours_max } else { 0 };
        let neighbours =
            lane.heads.iter().skip(1).take(neighbours_max).map(|head| head.seq).collect();
        Some(Turn { head, neighbours })
    }

    /// The first ready lane of each class, the most urgent class first.
    fn firsts(&self) -> impl Iterator<Item = ((Rank, LaneKey), usize)> {
        let ready = self.ready.iter().enumerate();
        ready.filter_map(|(class, ready)| Some((*ready.first()?, class)))
    }

    /// The lane that was accepted first.
    fn oldest(&self) -> Option<((Rank, LaneKey), usize)> {
        self.firsts().min()
    }

    /// Takes in all that stands in a busy lane before `through`, which [`Lanes::next_unknown`] told.
    pub fn complete(&mut self, through: &Head, heads: Vec<Head>) {
        for head in heads {
            self.push(head, true);
        }
        if let Some(lane) = self.lanes.get_mut(&through.lane) {
            // What was pushed meanwhile may be further behind.
            lane.unknown_before = lane.unknown_before.filter(|last| last.seq > through.seq);
        }
        self.again(through.lane);
    }

    /// The first message of a busy lane is done: the next one may be worked on.
    pub fn finish(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.done = lane.done.saturating_add(1);
        if let Some(head) = lane.heads.pop_front() {
            lane.classes[head.class.index()] -= 1;
            self.heads[head.class.index()] -= 1;
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
        let shortages = self.shortages;
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.state = LaneState::Ready;
            lane.ready_at_shortage = shortages;
            self.put_ready(key);
        }
    }

    fn put_ready(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key)
            && let Some(head) = lane.heads.front()
        {
            lane.rank = lane.rank_of(head.seq);
            self.ready[lane.class()].insert((lane.rank, key));
        }
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
    use crate::segment::PersonHash;
    use proptest::prelude::*;

    fn head(seq: i64, lane: i64) -> Head {
        Head {
            seq: Seq(seq),
            lane: LaneKey(lane),
            person: PersonHash(0),
            class: Class::Event,
            next_attempt_at: None,
        }
    }

    fn of_class(seq: i64, lane: i64, class: Class) -> Head {
        Head { class, ..head(seq, lane) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).unwrap()
    }

    fn next(lanes: &mut Lanes) -> Option<i64> {
        lanes.next(0).map(|turn| turn.head.seq.0)
    }

    fn is_empty(lanes: &Lanes) -> bool {
        lanes.heads == [0; Class::COUNT] && lanes.lanes.is_empty() && !lanes.has_ready()
    }

    #[test]
    fn one_message_of_a_lane_at_a_time_and_lanes_side_by_side() {
        let mut lanes = Lanes::default();
        for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
            lanes.push(head(seq, lane), true);
        }
        assert_eq!(next(&mut lanes), Some(1));
        assert_eq!(next(&mut lanes), Some(3));
        assert_eq!(next(&mut lanes), None);
        lanes.finish(LaneKey(7));
        assert_eq!(next(&mut lanes), Some(2));
        lanes.finish(LaneKey(7));
        lanes.finish(LaneKey(8));
        assert!(is_empty(&lanes));
    }

    #[test]
    fn a_long_lane_lets_others_through_that_came_later() {
        let mut lanes = Lanes::default();
        let (long, count) = (7, 2_000);
        for seq in 1..=count {
            lanes.push(head(seq, long), true);
        }
        lanes.push(head(count + 1, 8), true);
        let mut turns = 0;
        while next(&mut lanes) != Some(count + 1) {
            lanes.finish(LaneKey(long));
            turns += 1;
        }
        assert_eq!(turns, i64::from(LANE_TURNS_FREE) + count / LANE_TURN_PLACES);
        // By itself it goes on, in order.
        assert_eq!(next(&mut lanes), Some(turns + 1));
    }

    #[test]
    fn a_waiting_lane_holds_back_itself_alone() {
        let mut lanes = Lanes::default();
        for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
            lanes.push(head(seq, lane), true);
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
        lanes.push(Head { next_attempt_at: Some(at(5)), ..head(1, 7) }, true);
        lanes.push(head(2, 7), true);
        assert_eq!(next(&mut lanes), None);
        lanes.wake(at(5));
        assert_eq!(next(&mut lanes), Some(1));
    }

    #[test]
    fn heads_come_in_any_order_and_twice_and_keep_theirs() {
        let mut lanes = Lanes::default();
        lanes.push(head(5, 7), true);
        lanes.push(head(3, 7), true);
        lanes.push(head(5, 7), true);
        lanes.push(head(4, 7), true);
        for expected in [3, 4, 5] {
            assert_eq!(next(&mut lanes), Some(expected));
            lanes.finish(LaneKey(7));
        }
        assert!(is_empty(&lanes));
    }

    #[test]
    fn the_urgent_go_first_with_what_is_before_them_in_their_lane() {
        let mut lanes = Lanes::default();
        lanes.push(of_class(1, 1, Class::Bulk), true);
        lanes.push(of_class(2, 2, Class::Live), true);
        lanes.push(of_class(3, 3, Class::Live), true);
        // Its identify goes before its track, and both before the others.
        lanes.push(of_class(4, 3, Class::Event), true);
        for (seq, lane) in [(3, 3), (4, 3), (2, 2), (1, 1)] {
            assert_eq!(next(&mut lanes), Some(seq));
            lanes.finish(LaneKey(lane));
        }
        assert!(is_empty(&lanes));
    }

    #[test]
    fn what_was_read_out_of_turn_waits_for_what_stands_before_it() {
        let mut lanes = Lanes::default();
        lanes.push(head(9, 7), false);
        assert_eq!(lanes.next_unknown(5), Some(head(9, 7)));
        assert_eq!(next(&mut lanes), None);
        lanes.push(head(11, 7), false);
        lanes.complete(&head(9, 7), vec![head(3, 7)]);
        // The eleventh came meanwhile: what is between is unknown.
        assert_eq!(lanes.next_unknown(5), Some(head(11, 7)));
        lanes.complete(&head(11, 7), vec![head(3, 7), head(9, 7), head(10, 7)]);
        for expected in [3, 9, 10, 11] {
            assert_eq!(lanes.next_unknown(5), None);
            assert_eq!(next(&mut lanes), Some(expected));
            lanes.finish(LaneKey(7));
        }
        assert!(is_empty(&lanes));
    }

    #[test]
    fn what_is_unknown_is_found_out_ahead_of_its_turn_and_that_of_the_oldest() {
        let mut lanes = Lanes::default();
        lanes.push(of_class(1, 1, Class::Bulk), false);
        lanes.push(of_class(2, 2, Class::Bulk), true);
        for seq in 3..6 {
            lanes.push(of_class(seq, seq, Class::Event), seq == 3);
        }
        let mut unknown = |ahead| -> Vec<i64> {
            std::iter::from_fn(|| lanes.next_unknown(ahead)).map(|head| head.seq.0).collect()
        };
        assert_eq!(unknown(1), [1]);
        assert_eq!(unknown(2), [4, 5]);
    }

    #[test]
    fn nothing_starves() {
        let mut lanes = Lanes::default();
        lanes.push(of_class(1, 1, Class::Bulk), true);
        for seq in 2..100 {
            lanes.push(of_class(seq, seq, Class::Event), true);
        }
        let turns: Vec<i64> = (0..AGEING_TURNS).filter_map(|_| next(&mut lanes)).collect();
        assert!(turns.contains(&1), "{turns:?}");
    }

    #[test]
    fn neighbours_are_told_only_to_a_lane_that_waited_for_the_rate() {
        let mut lanes = Lanes::default();
        for seq in 1..=4 {
            lanes.push(head(seq, 7), true);
        }
        let turn = lanes.next(2).unwrap();
        assert_eq!((turn.head.seq, turn.neighbours.len()), (Seq(1), 0));
        lanes.finish(LaneKey(7));
        lanes.fall_short();
        assert_eq!(lanes.next(2).unwrap().neighbours, [Seq(3), Seq(4)]);
        lanes.finish(LaneKey(7));
        assert!(lanes.next(2).unwrap().neighbours.is_empty());
    }

    proptest! {
        #[test]
        fn order_within_a_lane_always_holds(
            pushes in prop::collection::vec((0i64..5, 0usize..3), 1..60),
            choices in prop::collection::vec(0u8..4, 0..400),
        ) {
            let classes = [Class::Event, Class::Live, Class::Bulk];
            let mut lanes = Lanes::default();
            for (place, (lane, class)) in pushes.iter().enumerate() {
                lanes.push(of_class(i64::try_from(place).unwrap() + 1, *lane, classes[*class]), true);
            }
            let mut busy: Vec<Head> = Vec::new();
            let mut done: HashMap<LaneKey, Seq> = HashMap::new();
            let mut now = 0;
            let mut choices = choices.into_iter();
            loop {
                let choice = choices.next().unwrap_or(0);
                while let Some(Turn { head, .. }) = lanes.next(3) {
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
            prop_assert!(is_empty(&lanes));
        }
    }
}
