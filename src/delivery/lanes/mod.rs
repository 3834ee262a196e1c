//! The lanes of one destination: which message may be worked on next.
//!
//! Pure bookkeeping, no I/O. A lane holds the heads of one order key's pending messages, in order. Only its first
//! message is ever worked on. While that message waits for its retry, so does the rest of its lane, but no other lane.
//! Lanes of an urgent class go first. Every eighth turn goes to the oldest lane, so that nothing starves.
//!
//! A step that finds no room in memory for its large message is refused. From then on the message is known to be large.
//! Its lane stays ready, but [`Lanes::next`] takes it only if there is room, in the same order as all others.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::queue::{Class, Head, LaneAsk, LanePart, Seq};
use crate::segment::LaneKey;

/// Every eighth turn goes to the oldest lane, whatever its class, so that bulk never starves.
const AGEING_TURNS: u32 = 8;

/// A lane's first messages (`LANE_TURNS_FREE`) keep their rank among all lanes; each further one sets the lane back by
/// `LANE_TURN_PLACES` messages. Otherwise ten thousand messages of one person would hold up everyone else.
const LANE_TURNS_FREE: u32 = 16;
const LANE_TURN_PLACES: i64 = 64;

/// The most heads of a class that are in memory for one lane, and how many are read when these run out. A hundred
/// thousand messages of one person must not use up the room of all lanes.
const LANE_HEADS_MAX: u32 = 1_000;
const LANE_PART: u32 = 500;

/// The rank of a ready lane: the sequence number of its first message, plus a handicap after many turns.
type Rank = i64;

/// Ready lanes by class, lowest rank first.
type Line = [BTreeSet<(Rank, LaneKey)>; Class::COUNT];

/// All lanes with pending messages.
#[derive(Debug)]
pub struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes whose first message may be worked on.
    ready: Line,
    /// Ready lanes whose first message is known to be large.
    ready_large: Line,
    /// Waiting lanes, in the order in which they wake.
    waiting: BTreeSet<(Instant, LaneKey)>,
    /// Lanes whose first message had been tried when it was read, and the time at which its retry is due.
    tried_before: Vec<(LaneKey, Timestamp)>,
    /// Lanes whose first message is held, and the stretch that begins with it. None of their heads is in memory.
    on_hold: HashMap<LaneKey, Gap>,
    /// Lanes on hold in which a message was found that may be a deletion.
    touched: Vec<LaneKey>,
    /// How many heads of each class are in memory.
    heads: [usize; Class::COUNT],
    turns: u32,
    /// Counts how often ready lanes had to wait for the rate.
    shortages: u64,
    /// The most heads of a class that are in memory for one lane.
    lane_heads_max: u32,
}

#[derive(Debug)]
struct Lane {
    heads: VecDeque<Head>,
    /// How many heads of each class are in memory. The most urgent class among them is the lane's.
    classes: [u32; Class::COUNT],
    state: LaneState,
    /// Messages finished since the lane was last empty.
    done: u32,
    /// Its class and rank among the ready lanes, while it is ready.
    place: (usize, Rank),
    /// Whether its place is in `ready_large`.
    is_among_large: bool,
    /// The message that was refused because it is large.
    refused: Option<Seq>,
    /// The value of `shortages` when the lane became ready.
    ready_at_shortage: u64,
    /// `None`: every pending message that was read is in memory.
    gap: Option<Gap>,
    /// The last message that was known when its turn began.
    known_at_turn: Seq,
}

/// The stretch of a lane (after `after`, up to `through`) in which messages may be pending that are not in memory: they
/// were not read yet, or there was no room for them. No message after `after` is worked on before the gap is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    after: Seq,
    through: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Ready,
    Busy,
    Waiting(Instant),
}

/// A turn: the first message of a lane, and the messages behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The message to work on.
    pub head: Head,
    /// The messages behind it in its lane, in order, if the lane has waited for the rate: neighbours are
    /// merged only then.
    pub neighbours: Vec<Seq>,
    /// Whether the message is known to be large.
    pub is_large: bool,
    /// If Loops responds with 401 or 403, blame the request, not the key.
    pub is_singled_out: bool,
}

/// A lane whose next part is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The part to read.
    pub ask: LaneAsk,
    /// The end of the gap when the part was requested.
    through: Seq,
}

impl Lane {
    fn new(ready_at_shortage: u64) -> Self {
        Self {
            heads: VecDeque::new(),
            classes: [0; Class::COUNT],
            state: LaneState::Busy,
            done: 0,
            place: (Class::COUNT - 1, 0),
            is_among_large: false,
            refused: None,
            ready_at_shortage,
            gap: None,
            known_at_turn: Seq::default(),
        }
    }

    /// Returns the class of its most urgent message, or its last class while no message is in memory.
    fn class(&self) -> usize {
        self.classes.iter().position(|count| *count > 0).unwrap_or(self.place.0)
    }

    fn rank(&self) -> Rank {
        let first = self.heads.front().map(|head| head.seq).or(self.gap.map(|gap| gap.after));
        let turns = self.done.saturating_sub(LANE_TURNS_FREE);
        let behind = LANE_TURN_PLACES * i64::from(turns);
        first.unwrap_or_default().0.saturating_add(behind)
    }

    fn hold(&mut self, place: usize, head: Head) {
        self.heads.insert(place, head);
        self.classes[head.class.index()] += 1;
    }

    /// Returns whether every pending message before this one is in memory.
    fn is_known(&self, seq: Seq) -> bool {
        self.gap.is_none_or(|gap| seq <= gap.after)
    }

    /// Returns whether its first message may be worked on.
    fn is_open(&self) -> bool {
        self.heads.front().is_some_and(|head| self.is_known(head.seq))
    }

    /// Returns whether its first message may be worked on and is known to be large.
    fn is_large(&self) -> bool {
        self.is_open() && self.heads.front().map(|head| head.seq) == self.refused
    }

    /// Returns the last message that is known to be pending, or may be.
    fn last(&self) -> Seq {
        let held = self.heads.back().map(|head| head.seq);
        held.max(self.gap.map(|gap| gap.through)).unwrap_or_default()
    }

    /// Notes that messages that are not in memory may be pending between `known` and `seq`.
    fn miss_before(&mut self, seq: Seq, known: Seq) {
        // Without a gap, every message up to the last one in memory is known.
        let held = self.heads.back().map_or(known, |last| last.seq.max(known));
        self.widen(Gap { after: held, through: Seq(seq.0 - 1) });
    }

    /// Notes that this message is pending but not in memory.
    fn miss(&mut self, seq: Seq) {
        let before = Seq(seq.0 - 1);
        self.widen(Gap { after: before, through: seq });
        if let Some(gap) = &mut self.gap {
            gap.after = gap.after.min(before);
        }
    }

    fn widen(&mut self, by: Gap) {
        let gap = self.gap.unwrap_or(by);
        let gap = Gap { through: gap.through.max(by.through), ..gap };
        self.gap = (gap.after < gap.through).then_some(gap);
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new(LANE_HEADS_MAX)
    }
}

impl Lanes {
    fn new(lane_heads_max: u32) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: Line::default(),
            ready_large: Line::default(),
            waiting: BTreeSet::new(),
            tried_before: Vec::new(),
            on_hold: HashMap::new(),
            touched: Vec::new(),
            heads: [0; Class::COUNT],
            turns: 0,
            shortages: 0,
            lane_heads_max,
        }
    }

    /// Adds a head to its lane, unless it is there already. `known_through` is the sequence number up to which the
    /// messages of all lanes were read; `None`: every message before this one was read.
    pub fn push(&mut self, head: Head, known_through: Option<Seq>) {
        if let Some(held) = self.on_hold.get_mut(&head.lane) {
            let is_behind = head.seq.0 > held.after.0.saturating_add(1);
            held.after = held.after.min(Seq(head.seq.0 - 1));
            held.through = held.through.max(head.seq);
            if is_behind && may_be_deletion(head) {
                self.touched.push(head.lane);
            }
            return;
        }
        let shortages = self.shortages;
        let lane_heads_max = self.lane_heads_max;
        let lane = self.lanes.entry(head.lane).or_insert_with(|| Lane::new(shortages));
        let Err(place) = lane.heads.binary_search_by_key(&head.seq, |head| head.seq) else {
            return;
        };
        let is_new = lane.heads.is_empty() && lane.gap.is_none();
        let is_held = lane.classes[head.class.index()] < lane_heads_max;
        if let Some(known) = known_through.filter(|known| *known < head.seq) {
            lane.miss_before(head.seq, known);
        }
        if is_held {
            lane.hold(place, head);
            self.heads[head.class.index()] += 1;
        } else {
            lane.miss(head.seq);
        }
        if is_new {
            self.start(head.lane);
        } else if lane.state == LaneState::Ready {
            self.take_ready(head.lane);
            self.put_ready(head.lane);
        }
    }

    /// Returns how many messages of a class are in memory.
    pub fn len(&self, class: Class) -> usize {
        self.heads[class.index()]
    }

    /// Returns whether a lane may be worked on now, with or without room for a large message.
    pub fn has_ready(&self, has_room: bool) -> bool {
        self.firsts(has_room).next().is_some()
    }

    /// Notes that ready lanes have to wait for the rate.
    pub fn fall_short(&mut self) {
        self.shortages += 1;
    }

    /// Takes a lane whose next part must be read before its first message may be worked on, and marks it busy
    /// until [`Lanes::complete`]. Looks at the first `ahead` ready lanes and at the oldest one. While this
    /// returns a lane, call it again before [`Lanes::next`].
    pub fn next_to_read(&mut self, ahead: usize) -> Option<Reading> {
        let ready = self.ready.iter().enumerate();
        let urgent = ready
            .flat_map(|(class, ready)| ready.iter().map(move |(rank, key)| (class, *rank, *key)));
        // Lanes in `ready_large` need no reading: their first message may be worked on.
        let mut first = urgent.take(ahead).chain(self.oldest(false));
        let (key, gap) = first.find_map(|(_, _, key)| {
            let lane = self.lanes.get(&key)?;
            Some((key, lane.gap.filter(|_| !lane.is_open())?))
        })?;
        self.take_ready(key);
        let lane = self.lanes.get_mut(&key)?;
        lane.state = LaneState::Busy;
        let ask = LaneAsk { lane: key, after: gap.after, limit: LANE_PART };
        Some(Reading { ask, through: gap.through })
    }

    /// Takes the lane whose turn it is, and marks it busy until [`Lanes::finish`], [`Lanes::again`], [`Lanes::refuse`]
    /// or [`Lanes::wait`]. The turn names at most `neighbours_max` messages behind the first. The first message may be
    /// known to be large only if there is room for one.
    pub fn next(&mut self, neighbours_max: usize, has_room: bool) -> Option<Turn> {
        self.turns = (self.turns + 1) % AGEING_TURNS;
        let is_of_the_oldest = self.turns == 0;
        let (_, _, key) =
            if is_of_the_oldest { self.oldest(has_room)? } else { self.firsts(has_room).min()? };
        if !self.lanes.get(&key)?.is_open() {
            return None;
        }
        self.take_ready(key);
        let lane = self.lanes.get_mut(&key)?;
        lane.state = LaneState::Busy;
        let head = *lane.heads.front()?;
        let has_waited = self.shortages > lane.ready_at_shortage;
        let neighbours_max = if has_waited { neighbours_max } else { 0 };
        let behind = lane.heads.iter().skip(1).take_while(|head| lane.is_known(head.seq));
        let neighbours = behind.take(neighbours_max).map(|head| head.seq).collect();
        let is_large = lane.is_large();
        lane.known_at_turn = lane.last();
        Some(Turn { head, neighbours, is_large, is_singled_out: false })
    }

    /// Returns the first ready lanes of each class, with class and rank.
    fn firsts(&self, has_room: bool) -> impl Iterator<Item = (usize, Rank, LaneKey)> {
        let large = self.ready_large.iter().enumerate().filter(move |_| has_room);
        self.ready.iter().enumerate().chain(large).filter_map(|(class, ready)| {
            let (rank, key) = *ready.first()?;
            Some((class, rank, key))
        })
    }

    /// Returns the ready lane with the lowest rank.
    fn oldest(&self, has_room: bool) -> Option<(usize, Rank, LaneKey)> {
        self.firsts(has_room).min_by_key(|(class, rank, key)| (*rank, *key, *class))
    }

    /// Adds the part that was read of a lane taken with [`Lanes::next_to_read`].
    pub fn complete(&mut self, reading: &Reading, part: LanePart) {
        let key = reading.ask.lane;
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        for head in part.heads {
            if let Err(place) = lane.heads.binary_search_by_key(&head.seq, |head| head.seq) {
                lane.hold(place, head);
                self.heads[head.class.index()] += 1;
            }
        }
        let known = part.through.unwrap_or(reading.through);
        // Messages that were pushed during the reading may have widened the gap.
        let rest = lane.gap.filter(|gap| gap.through > known);
        lane.gap = rest.map(|gap| Gap { after: gap.after.max(known), ..gap });
        self.start(key);
    }

    /// Notes that the first message of a busy lane is done: the next one may be worked on.
    pub fn finish(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.done = lane.done.saturating_add(1);
        if let Some(head) = lane.heads.pop_front() {
            lane.place.0 = lane.class();
            lane.classes[head.class.index()] -= 1;
            self.heads[head.class.index()] -= 1;
        }
        self.start(key);
    }

    /// Ends the busy state of a lane, according to its present first message.
    fn start(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get(&key) else {
            return;
        };
        match lane.heads.front() {
            None if lane.gap.is_none() => {
                self.lanes.remove(&key);
            }
            Some(Head { next_attempt_at: Some(at), .. }) if lane.is_open() => {
                self.tried_before.push((key, *at));
            }
            Some(_) | None => self.again(key),
        }
    }

    /// Notes that the first message of a busy lane needs another step at once.
    pub fn again(&mut self, key: LaneKey) {
        let shortages = self.shortages;
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.state = LaneState::Ready;
            lane.ready_at_shortage = shortages;
            self.put_ready(key);
        }
    }

    /// Puts a busy lane on hold, because its first message is held. The lane waits until [`Lanes::take_up`], and takes
    /// no room in the meantime. If a message that may be a deletion was found behind it since its turn began, the lane
    /// is taken up again soon.
    pub fn hold(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.remove(&key) else { return };
        for (held, of_lane) in self.heads.iter_mut().zip(lane.classes) {
            *held = held.saturating_sub(of_lane as usize);
        }
        let Some(first) = lane.heads.front() else { return };
        let mut news = lane.heads.iter().filter(|head| head.seq > lane.known_at_turn);
        let is_gap_new = lane.gap.is_some_and(|gap| gap.through > lane.known_at_turn);
        if is_gap_new || news.any(|head| may_be_deletion(*head)) {
            self.touched.push(key);
        }
        self.on_hold.insert(key, Gap { after: Seq(first.seq.0 - 1), through: lane.last() });
    }

    /// Notes the messages that were held before this process started. Must be called before any head is pushed.
    pub fn recall(&mut self, held: &[(Seq, LaneKey)]) {
        for (seq, key) in held {
            let gap = Gap { after: Seq(seq.0 - 1), through: *seq };
            let held = self.on_hold.entry(*key).or_insert(gap);
            held.after = held.after.min(gap.after);
            held.through = held.through.max(gap.through);
        }
    }

    /// Returns whether any lane is on hold.
    pub fn has_on_hold(&self) -> bool {
        !self.on_hold.is_empty()
    }

    /// Takes a lane off hold, so that its first message is worked on again.
    pub fn take_up(&mut self, key: LaneKey) {
        if let Some(gap) = self.on_hold.remove(&key) {
            let mut lane = Lane::new(self.shortages);
            lane.gap = Some(gap);
            self.lanes.insert(key, lane);
            self.start(key);
        }
    }

    /// Takes lanes off hold in which a deletion may wait: it must not wait for held messages.
    pub fn take_up_touched(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            self.take_up(key);
        }
    }

    /// Takes lanes off hold of which no message is held any more.
    pub fn take_up_all_but(&mut self, held: &[(Seq, LaneKey)]) {
        let held: HashSet<LaneKey> = held.iter().map(|(_, key)| *key).collect();
        let free: Vec<LaneKey> =
            self.on_hold.keys().filter(|key| !held.contains(key)).copied().collect();
        for key in free {
            self.take_up(key);
        }
    }

    /// Notes that there was no room for the first message of a busy lane, which is large.
    pub fn refuse(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.refused = lane.heads.front().map(|head| head.seq);
        }
        self.again(key);
    }

    fn put_ready(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.place = (lane.class(), lane.rank());
            lane.is_among_large = lane.is_large();
            let (class, rank) = lane.place;
            let line = if lane.is_among_large { &mut self.ready_large } else { &mut self.ready };
            line[class].insert((rank, key));
        }
    }

    /// Takes a ready lane from its place.
    fn take_ready(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get(&key) {
            let (class, rank) = lane.place;
            let line = if lane.is_among_large { &mut self.ready_large } else { &mut self.ready };
            line[class].remove(&(rank, key));
        }
    }

    /// Takes the busy lanes whose first message had been tried when it was read, with the time at which its retry is
    /// due. The caller must call [`Lanes::wait`] for each.
    pub fn take_tried_before(&mut self) -> Vec<(LaneKey, Timestamp)> {
        std::mem::take(&mut self.tried_before)
    }

    /// Notes that the first message of a busy lane needs another step, but not before `until`.
    pub fn wait(&mut self, key: LaneKey, until: Instant) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.state = LaneState::Waiting(until);
        self.waiting.insert((until, key));
    }

    /// Makes the lanes ready that have waited long enough.
    pub fn wake(&mut self, now: Instant) {
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

    /// Returns how many lanes wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns when the next waiting lane wakes.
    pub fn next_wake(&self) -> Option<Instant> {
        self.waiting.first().map(|(until, _)| *until)
    }
}

/// Returns whether a message may be of type `delete`, which is never in the class of events.
fn may_be_deletion(head: Head) -> bool {
    head.class != Class::Event
}

#[cfg(test)]
pub(super) mod tests;
