//! The lanes, step by step, and against a model of the store.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

pub(in crate::delivery) fn head(seq: i64, lane: i64) -> Head {
    Head { seq: Seq(seq), lane: LaneKey(lane), class: Class::Event, next_attempt_at: None }
}

fn of_class(seq: i64, lane: i64, class: Class) -> Head {
    Head { class, ..head(seq, lane) }
}

fn next(lanes: &mut Lanes) -> Option<i64> {
    lanes.next(0, true).map(|turn| turn.head.seq.0)
}

fn is_empty(lanes: &Lanes) -> bool {
    lanes.heads == [0; Class::COUNT] && lanes.lanes.is_empty() && !lanes.has_ready(true)
}

#[test]
fn a_lane_has_one_message_in_work_and_lanes_are_independent() {
    let mut lanes = Lanes::default();
    for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
        lanes.push(head(seq, lane), None);
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
fn a_long_lane_lets_later_messages_of_others_through() {
    let mut lanes = Lanes::default();
    let (long, count) = (7, 2_000);
    for seq in 1..=count {
        lanes.push(head(seq, long), None);
    }
    lanes.push(head(count + 1, 8), None);
    let mut turns = 0;
    while next(&mut lanes) != Some(count + 1) {
        lanes.finish(LaneKey(long));
        turns += 1;
    }
    assert_eq!(turns, i64::from(LANE_TURNS_FREE) + count / LANE_TURN_PLACES);
    // After that, the long lane continues in order.
    assert_eq!(next(&mut lanes), Some(turns + 1));
}

#[test]
fn a_waiting_lane_holds_back_no_other() {
    let mut lanes = Lanes::default();
    for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
        lanes.push(head(seq, lane), None);
    }
    let until = Instant::now();
    assert_eq!(next(&mut lanes), Some(1));
    lanes.wait(LaneKey(7), until);
    assert_eq!(next(&mut lanes), Some(3));
    lanes.finish(LaneKey(8));
    lanes.wake(until - Duration::from_millis(1));
    assert_eq!(next(&mut lanes), None);
    assert_eq!(lanes.next_wake(), Some(until));
    lanes.wake(until);
    assert_eq!(next(&mut lanes), Some(1));
}

#[test]
fn a_head_that_was_tried_before_it_was_read_waits_for_as_long_as_its_owner_says() {
    let mut lanes = Lanes::default();
    let due_at = Timestamp::UNIX_EPOCH;
    lanes.push(Head { next_attempt_at: Some(due_at), ..head(1, 7) }, None);
    lanes.push(head(2, 7), None);
    assert_eq!(next(&mut lanes), None);
    assert_eq!(lanes.take_tried_before(), [(LaneKey(7), due_at)]);
    assert_eq!(lanes.take_tried_before(), []);
    let until = Instant::now();
    lanes.wait(LaneKey(7), until);
    assert_eq!(next(&mut lanes), None);
    lanes.wake(until);
    assert_eq!(next(&mut lanes), Some(1));
}

#[test]
fn heads_pushed_in_any_order_or_twice_are_handed_out_once_and_in_order() {
    let mut lanes = Lanes::default();
    lanes.push(head(5, 7), None);
    lanes.push(head(3, 7), None);
    lanes.push(head(5, 7), None);
    lanes.push(head(4, 7), None);
    for expected in [3, 4, 5] {
        assert_eq!(next(&mut lanes), Some(expected));
        lanes.finish(LaneKey(7));
    }
    assert!(is_empty(&lanes));
}

#[test]
fn an_urgent_message_makes_its_whole_lane_urgent() {
    let mut lanes = Lanes::default();
    lanes.push(of_class(1, 1, Class::Bulk), None);
    lanes.push(of_class(2, 2, Class::Live), None);
    lanes.push(of_class(3, 3, Class::Live), None);
    // The lane's identify goes before its track, and both before other lanes.
    lanes.push(of_class(4, 3, Class::Event), None);
    for (seq, lane) in [(3, 3), (4, 3), (2, 2), (1, 1)] {
        assert_eq!(next(&mut lanes), Some(seq));
        lanes.finish(LaneKey(lane));
    }
    assert!(is_empty(&lanes));
}

fn reading(lanes: &mut Lanes, ahead: usize) -> Option<(i64, i64, i64)> {
    let Reading { ask, through } = lanes.next_to_read(ahead)?;
    Some((ask.lane.0, ask.after.0, through.0))
}

fn asked(lane: i64, after: i64, through: i64) -> Reading {
    let ask = LaneAsk { lane: LaneKey(lane), after: Seq(after), limit: LANE_PART };
    Reading { ask, through: Seq(through) }
}

fn part(seqs: &[i64], lane: i64, through: Option<i64>) -> LanePart {
    let heads = seqs.iter().map(|seq| head(*seq, lane)).collect();
    LanePart { heads, through: through.map(Seq) }
}

#[test]
fn a_message_read_early_waits_for_earlier_ones_of_its_lane() {
    let mut lanes = Lanes::default();
    lanes.push(head(9, 7), Some(Seq(2)));
    assert_eq!(reading(&mut lanes, 5), Some((7, 2, 8)));
    assert_eq!(next(&mut lanes), None);
    lanes.push(head(11, 7), Some(Seq(2)));
    lanes.complete(&asked(7, 2, 8), part(&[3, 9], 7, None));
    // Message 3 goes before 9. Message 11 was pushed during the reading.
    for expected in [3, 9] {
        assert_eq!(reading(&mut lanes, 5), None);
        assert_eq!(next(&mut lanes), Some(expected));
        lanes.finish(LaneKey(7));
        if expected == 3 {
            // The reading ended before message 9, so the part around it is read again.
            assert_eq!(reading(&mut lanes, 5), Some((7, 8, 10)));
            lanes.complete(&asked(7, 8, 10), part(&[9, 10, 11], 7, None));
        }
    }
    for expected in [10, 11] {
        assert_eq!(next(&mut lanes), Some(expected));
        lanes.finish(LaneKey(7));
    }
    assert!(is_empty(&lanes));
}

#[test]
fn a_long_lane_is_read_part_by_part() {
    let mut lanes = Lanes::new(3);
    for seq in 1..=8 {
        lanes.push(head(seq, 7), None);
    }
    lanes.push(of_class(9, 7, Class::Bulk), None);
    assert_eq!((lanes.len(Class::Event), lanes.len(Class::Bulk)), (3, 1));
    lanes.fall_short();
    // Only messages in memory before the gap are neighbours.
    let turn = lanes.next(50, true).unwrap();
    assert_eq!((turn.head.seq, turn.neighbours), (Seq(1), vec![Seq(2), Seq(3)]));
    for expected in [1, 2, 3] {
        if expected > 1 {
            assert_eq!(next(&mut lanes), Some(expected));
        }
        lanes.finish(LaneKey(7));
    }
    assert_eq!(next(&mut lanes), None);
    assert_eq!(reading(&mut lanes, 1), Some((7, 3, 8)));
    lanes.complete(&asked(7, 3, 8), part(&[4, 5, 6], 7, Some(6)));
    for expected in [4, 5, 6] {
        assert_eq!(next(&mut lanes), Some(expected));
        lanes.finish(LaneKey(7));
    }
    assert_eq!(reading(&mut lanes, 1), Some((7, 6, 8)));
    // The messages without room are gone: they were delivered or merged in the meantime.
    lanes.complete(&asked(7, 6, 8), part(&[], 7, None));
    assert_eq!(next(&mut lanes), Some(9));
    lanes.finish(LaneKey(7));
    assert!(is_empty(&lanes));
}

#[test]
fn gaps_are_read_ahead_for_the_next_lanes_and_the_oldest() {
    let mut lanes = Lanes::default();
    lanes.push(of_class(2, 1, Class::Bulk), Some(Seq(0)));
    lanes.push(of_class(3, 2, Class::Bulk), None);
    for seq in 4..7 {
        lanes.push(of_class(seq, seq, Class::Event), (seq > 4).then_some(Seq(3)));
    }
    // Every message before the fourth is known, so its lane has no gap.
    let mut unknown = |ahead| std::iter::from_fn(|| reading(&mut lanes, ahead)).collect::<Vec<_>>();
    assert_eq!(unknown(1), [(1, 0, 1)]);
    assert_eq!(unknown(2), [(5, 3, 4), (6, 3, 5)]);
}

#[test]
fn bulk_does_not_starve() {
    let mut lanes = Lanes::default();
    lanes.push(of_class(1, 1, Class::Bulk), None);
    for seq in 2..100 {
        lanes.push(of_class(seq, seq, Class::Event), None);
    }
    let turns: Vec<i64> = (0..AGEING_TURNS).filter_map(|_| next(&mut lanes)).collect();
    assert!(turns.contains(&1), "{turns:?}");
}

#[test]
fn only_a_lane_that_waited_for_the_rate_gets_neighbours() {
    let mut lanes = Lanes::default();
    for seq in 1..=4 {
        lanes.push(head(seq, 7), None);
    }
    let turn = lanes.next(2, true).unwrap();
    assert_eq!((turn.head.seq, turn.neighbours.len()), (Seq(1), 0));
    lanes.finish(LaneKey(7));
    lanes.fall_short();
    assert_eq!(lanes.next(2, true).unwrap().neighbours, [Seq(3), Seq(4)]);
    lanes.finish(LaneKey(7));
    assert!(lanes.next(2, true).unwrap().neighbours.is_empty());
}

#[test]
fn large_messages_wait_for_room_in_the_order_of_all_others_and_small_ones_do_not() {
    let mut lanes = Lanes::default();
    for seq in 1..=3 {
        lanes.push(of_class(seq, seq, Class::Bulk), None);
    }
    lanes.push(of_class(4, 4, Class::Event), None);
    for seq in [4, 1, 2] {
        let turn = lanes.next(0, false).unwrap();
        assert_eq!((turn.head.seq.0, turn.is_large), (seq, false));
        lanes.refuse(LaneKey(seq));
    }
    lanes.push(of_class(5, 2, Class::Bulk), None);
    assert_eq!(lanes.next(0, false).unwrap().head.seq, Seq(3));
    lanes.finish(LaneKey(3));
    assert!(!lanes.has_ready(false));
    assert_eq!(lanes.next(0, false), None);
    assert!(lanes.has_ready(true));
    for seq in [4, 1, 2] {
        let turn = lanes.next(0, true).unwrap();
        assert_eq!((turn.head.seq.0, turn.is_large), (seq, true));
    }
    // A retry needs room again, but the message behind it may be small.
    lanes.again(LaneKey(2));
    assert!(!lanes.has_ready(false));
    assert_eq!(next(&mut lanes), Some(2));
    lanes.finish(LaneKey(2));
    assert_eq!(lanes.next(0, false).unwrap().head.seq, Seq(5));
}

/// A store's pending messages, and an engine that reads and delivers them.
struct Model {
    lanes: Lanes,
    pending: BTreeMap<i64, Head>,
    cursors: [i64; Class::COUNT],
    done: Vec<Head>,
}

impl Model {
    /// Reads a page of each class, as the engine does.
    fn read(&mut self, page: usize) {
        let mut has_more = [false; Class::COUNT];
        let mut found = Vec::new();
        for class in Class::ALL {
            let place = class.index();
            let behind = self.pending.range(self.cursors[place] + 1..);
            let own = behind.map(|(_, head)| *head).filter(|head| head.class == class);
            let heads: Vec<Head> = own.take(page).collect();
            has_more[place] = heads.len() == page;
            self.cursors[place] = heads.last().map_or(self.cursors[place], |head| head.seq.0);
            found.extend(heads);
        }
        let cursors = self.cursors.into_iter().zip(has_more);
        let known = cursors.filter(|(_, has_more)| *has_more).map(|(cursor, _)| cursor).min();
        for head in found {
            self.lanes.push(head, known.map(Seq));
        }
    }

    fn read_lanes(&mut self, limit: usize) {
        while let Some(reading) = self.lanes.next_to_read(2) {
            let behind = self.pending.range(reading.ask.after.0 + 1..);
            let own = behind.map(|(_, head)| *head);
            let heads: Vec<Head> =
                own.filter(|head| head.lane == reading.ask.lane).take(limit).collect();
            let through = heads.last().filter(|_| heads.len() == limit).map(|head| head.seq);
            self.lanes.complete(&reading, LanePart { heads, through });
        }
    }

    fn finish(&mut self, head: Head) {
        self.pending.remove(&head.seq.0);
        self.done.push(head);
        self.lanes.finish(head.lane);
    }
}

proptest! {
    #[test]
    fn order_within_a_lane_always_holds_and_no_message_is_left(
        messages in prop::collection::vec((0i64..4, 0usize..3), 1..120),
        choices in prop::collection::vec((0u8..9, 1usize..6), 0..400),
        lane_heads_max in 1u32..6,
    ) {
        let mut model = Model {
            lanes: Lanes::new(lane_heads_max),
            pending: BTreeMap::new(),
            cursors: [0; Class::COUNT],
            done: Vec::new(),
        };
        let mut coming = messages.iter().zip(1..).map(|((lane, class), seq)| {
            of_class(seq, *lane, Class::ALL[*class])
        });
        let mut busy: Vec<Head> = Vec::new();
        let mut refused: Vec<Seq> = Vec::new();
        let (began, mut now) = (Instant::now(), 0);
        let mut choices = choices.into_iter();
        let mut idle = 0_usize;
        while model.done.len() < messages.len() {
            // Once the choices are used up, deliver the rest without further waits.
            let (choice, count) = choices.next().unwrap_or_else(|| {
                idle += 1;
                ([0, 2, 4, 7][idle % 4], 3)
            });
            prop_assert!(idle < 10_000, "{} of {}", model.done.len(), messages.len());
            match choice {
                0 | 1 => {
                    for head in coming.by_ref().take(count) {
                        model.pending.insert(head.seq.0, head);
                    }
                }
                2 | 3 => model.read(count),
                4 | 5 => {
                    model.read_lanes(count);
                    let has_room = choice == 4;
                    if let Some(Turn { head, is_large, .. }) = model.lanes.next(3, has_room) {
                        prop_assert!(has_room || !refused.contains(&head.seq));
                        prop_assert!(!is_large || refused.contains(&head.seq));
                        prop_assert!(busy.iter().all(|other| other.lane != head.lane));
                        let own = model.pending.values().find(|other| other.lane == head.lane);
                        prop_assert_eq!(own.map(|first| first.seq), Some(head.seq));
                        busy.push(head);
                    }
                }
                6 => {
                    if let Some(head) = busy.pop() {
                        now += 1;
                        model.lanes.wait(head.lane, began + Duration::from_secs(now + 3));
                    }
                }
                8 => {
                    if let Some(head) = busy.pop() {
                        refused.push(head.seq);
                        model.lanes.refuse(head.lane);
                    }
                }
                _ => {
                    if let Some(head) = busy.pop() {
                        model.finish(head);
                    }
                }
            }
            if let Some(until) = model.lanes.next_wake() {
                model.lanes.wake(until);
            }
            for class in Class::ALL {
                prop_assert!(model.lanes.len(class) <= 4 * (lane_heads_max as usize + 6));
            }
        }
        prop_assert!(is_empty(&model.lanes));
    }
}

/// Takes the turn of the first ready lane and puts that lane on hold.
fn hold_next(lanes: &mut Lanes) -> Option<i64> {
    let turn = lanes.next(0, true)?;
    lanes.hold(turn.head.lane);
    Some(turn.head.seq.0)
}

/// Reads a lane that was taken up, in which these messages are pending.
fn read_lane(lanes: &mut Lanes, pending: &[Head]) -> (i64, i64) {
    let reading = lanes.next_to_read(10).unwrap();
    lanes.complete(&reading, LanePart { heads: pending.to_vec(), through: None });
    (reading.ask.after.0, reading.through.0)
}

#[test]
fn a_lane_on_hold_takes_no_room_and_keeps_its_order() {
    let mut lanes = Lanes::default();
    for (seq, lane) in [(1, 7), (2, 7), (3, 8)] {
        lanes.push(head(seq, lane), None);
    }
    assert_eq!(hold_next(&mut lanes), Some(1));
    assert_eq!((lanes.len(Class::Event), lanes.has_on_hold()), (1, true));
    // Later messages are not kept in memory, and do not overtake.
    lanes.push(head(4, 7), None);
    assert_eq!(lanes.len(Class::Event), 1);
    assert_eq!(next(&mut lanes), Some(3));
    lanes.finish(LaneKey(8));
    assert!(is_empty(&lanes));
    lanes.take_up(LaneKey(7));
    assert_eq!(read_lane(&mut lanes, &[head(1, 7), head(2, 7), head(4, 7)]), (0, 4));
    for seq in [1, 2, 4] {
        assert_eq!(next(&mut lanes), Some(seq));
        lanes.finish(LaneKey(7));
    }
    assert!(is_empty(&lanes) && !lanes.has_on_hold());
}

#[test]
fn a_lane_that_was_on_hold_before_the_start_is_not_worked_on() {
    let mut lanes = Lanes::default();
    lanes.recall(&[(Seq(2), LaneKey(7)), (Seq(5), LaneKey(7)), (Seq(3), LaneKey(8))]);
    for (seq, lane) in [(2, 7), (3, 8), (5, 7), (6, 9)] {
        lanes.push(head(seq, lane), None);
    }
    assert_eq!(next(&mut lanes), Some(6));
    assert_eq!(next(&mut lanes), None);
    // In the store, no message of the lane is held any more.
    lanes.take_up_all_but(&[(Seq(3), LaneKey(8))]);
    assert_eq!(read_lane(&mut lanes, &[head(2, 7)]), (1, 5));
    assert_eq!(next(&mut lanes), Some(2));
    // The lane is taken up, and its message has been discarded.
    lanes.take_up(LaneKey(8));
    assert_eq!(read_lane(&mut lanes, &[]), (2, 3));
    assert_eq!(next(&mut lanes), None);
    assert!(!lanes.has_on_hold());
}

#[test]
fn a_deletion_behind_what_is_held_has_the_lane_taken_up_once() {
    let mut lanes = Lanes::default();
    lanes.push(head(1, 7), None);
    assert_eq!(hold_next(&mut lanes), Some(1));
    lanes.push(head(2, 7), None);
    lanes.take_up_touched();
    assert!(!lanes.has_ready(true), "an event is no deletion");
    lanes.push(of_class(3, 7, Class::Live), None);
    lanes.take_up_touched();
    let pending = [head(1, 7), head(2, 7), of_class(3, 7, Class::Live)];
    assert_eq!(read_lane(&mut lanes, &pending), (0, 3));
    assert_eq!(hold_next(&mut lanes), Some(1), "it was no deletion either");
    lanes.take_up_touched();
    assert!(!lanes.has_ready(true), "known already");
    // A possible deletion arrives while the first message is being worked on.
    lanes.take_up(LaneKey(7));
    read_lane(&mut lanes, &pending);
    assert_eq!(next(&mut lanes), Some(1));
    lanes.push(of_class(4, 7, Class::Bulk), None);
    lanes.hold(LaneKey(7));
    lanes.take_up_touched();
    assert!(lanes.has_ready(true));
}
