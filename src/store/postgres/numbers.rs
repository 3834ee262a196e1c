//! Numbers of messages and requests.
//!
//! A message's number is `second << 23 | no << 15 | index`: the second at which it was accepted, counted from 2020; the
//! number of its destination; and an index within that second. A stream counts `second << 15 | index`, so an index that
//! overflows borrows from the next second, and setting a clock back changes nothing. A request's number is `second <<
//! 23 | index`.
//!
//! Numbers stay below 2^53 until 2054, so that JSON readers can parse them as doubles.

use std::collections::HashMap;

/// 2020-01-01T00:00:00Z.
const EPOCH_S: i64 = 1_577_836_800;
const SECOND_BITS: u32 = 23;
const INDEX_BITS: u32 = 15;
const DAY_S: i64 = 86_400;

/// The maximum number of destinations with a stream.
pub(super) const STREAMS_MAX: i16 = 256;

/// A message's time of receipt is usually within this time of the moment that its number stands for.
pub(super) const SLACK_MS: i64 = 60_000;

/// Returns the first number that is given at a time in Unix milliseconds.
pub(super) fn first_at(ms: i64) -> i64 {
    (ms.div_euclid(1_000) - EPOCH_S).clamp(0, i64::MAX >> SECOND_BITS) << SECOND_BITS
}

/// Returns when a number was given, in Unix milliseconds: the beginning of its second.
#[cfg(test)]
pub(super) fn given_at(number: i64) -> i64 {
    ((number >> SECOND_BITS) + EPOCH_S).saturating_mul(1_000)
}

/// Returns the day of a number, in days since 1970.
pub(super) fn day(number: i64) -> i32 {
    let day = ((number >> SECOND_BITS) + EPOCH_S).div_euclid(DAY_S);
    i32::try_from(day).unwrap_or(i32::MAX)
}

/// Returns the day of a time in Unix milliseconds, limited to the days for which there are numbers.
pub(super) fn day_at(ms: i64) -> i32 {
    day(first_at(ms))
}

/// Returns the first number of a day.
pub(super) fn first_of_day(day: i32) -> i64 {
    (i64::from(day) * DAY_S - EPOCH_S).max(0) << SECOND_BITS
}

/// Returns the last number that any stream can give in the second of this number.
pub(super) fn last_of_second(number: i64) -> i64 {
    number | ((1 << SECOND_BITS) - 1)
}

/// Returns the count of a stream that has used up the second of this number, so that it gives only greater numbers.
pub(super) fn counted_through(number: i64) -> i64 {
    (number >> SECOND_BITS << INDEX_BITS) | ((1 << INDEX_BITS) - 1)
}

/// The counter of one destination's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) no: i16,
    pub(super) last: i64,
}

impl Stream {
    /// Gives the next number at a time in Unix milliseconds.
    pub(super) fn next(&mut self, now_ms: i64) -> i64 {
        let second = first_at(now_ms) >> SECOND_BITS;
        self.last = (self.last + 1).max(second << INDEX_BITS);
        self.number()
    }

    /// Returns the last number that was given.
    pub(super) fn number(&self) -> i64 {
        let (second, index) = (self.last >> INDEX_BITS, self.last & ((1 << INDEX_BITS) - 1));
        second << SECOND_BITS | i64::from(self.no) << INDEX_BITS | index
    }
}

/// Renumbers the messages and requests of another store, in the same order. The same calls give the same numbers.
#[derive(Debug)]
pub(in crate::store) struct Renumbering {
    now_ms: i64,
    streams: HashMap<String, Stream>,
    request: i64,
}

impl Renumbering {
    pub(in crate::store) fn new(now_ms: i64) -> Self {
        Self { now_ms, streams: HashMap::new(), request: 0 }
    }

    /// Returns the number of the next message of a destination, received at a time in Unix milliseconds. A message
    /// received in the future, by a clock that was ahead, must not move later messages there. Returns `None` if there
    /// are too many destinations.
    pub(in crate::store) fn message(&mut self, destination: &str, ms: i64) -> Option<i64> {
        let ms = ms.min(self.now_ms);
        if let Some(stream) = self.streams.get_mut(destination) {
            return Some(stream.next(ms));
        }
        let no = i16::try_from(self.streams.len()).ok().filter(|no| *no < STREAMS_MAX)?;
        let stream = self.streams.entry(destination.to_owned()).or_insert(Stream { no, last: 0 });
        Some(stream.next(ms))
    }

    /// Returns the number of the next request, made at a time in Unix milliseconds.
    pub(in crate::store) fn request(&mut self, ms: i64) -> i64 {
        self.request = (self.request + 1).max(first_at(ms.min(self.now_ms)));
        self.request
    }

    /// Returns the destinations with their numbers and the counts of their streams.
    pub(in crate::store) fn streams(&self) -> impl Iterator<Item = (&str, i16, i64)> {
        self.streams
            .iter()
            .map(|(destination, stream)| (destination.as_str(), stream.no, stream.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_whatever_the_clock_does() {
        let now = 1_700_000_000_000;
        let mut stream = Stream { no: 255, last: 0 };
        let mut before = 0;
        let times = [now, now, now + 999, now + 1_000, now - 86_400_000, 0, now + 1_000];
        for ms in times {
            let number = stream.next(ms);
            assert!(number > before && number < 1 << 53, "{ms}");
            assert_eq!(number >> INDEX_BITS & 0xff, 255);
            before = number;
        }
        // More than a second has room for.
        let first = stream.next(now + 2_000);
        let mut last = first;
        for _ in 0..40_000 {
            let number = stream.next(now + 2_000);
            assert!(number > last);
            last = number;
        }
        assert_eq!(last >> INDEX_BITS & 0xff, 255);
        assert_eq!(last >> SECOND_BITS, (first >> SECOND_BITS) + 1);
    }

    #[test]
    fn a_day_is_a_range_of_numbers() {
        // 2023-11-14.
        let day_ms = 19_675 * 86_400_000;
        for ms in [day_ms, day_ms + 86_399_999] {
            let number = Stream { no: 3, last: 0 }.next(ms);
            assert_eq!((day(number), day_at(ms)), (19_675, 19_675));
            assert!((first_of_day(19_675)..first_of_day(19_676)).contains(&number));
            assert_eq!(given_at(number), ms / 1_000 * 1_000);
        }
        assert_eq!(first_at(-5), 0);
    }

    #[test]
    fn no_stream_gives_a_number_of_a_second_that_was_closed() {
        let now = 1_700_000_000_000;
        let until = last_of_second(Stream { no: 7, last: 0 }.next(now));
        for no in [0, 255] {
            let mut stream = Stream { no, last: 0 };
            assert!(stream.next(now) <= until);
            stream.last = stream.last.max(counted_through(until));
            let next = stream.next(now);
            assert!(next > until && next <= last_of_second(until + 1));
        }
    }

    #[test]
    fn moved_messages_keep_the_order_of_their_destination() {
        let now = 1_700_000_000_000;
        let mut numbers = Renumbering::new(now);
        let calls =
            [("a", now - 86_400_000), ("b", now - 5_000), ("a", now + 86_400_000), ("a", 0)];
        let given: Vec<i64> = calls.map(|(name, ms)| numbers.message(name, ms).unwrap()).to_vec();
        assert!(given[0] < given[2] && given[2] < given[3], "{given:?}");
        let at: Vec<i64> = given.iter().map(|number| given_at(*number)).collect();
        assert_eq!(at, [now - 86_400_000, now - 5_000, now, now]);
        for (name, no, last) in numbers.streams() {
            let last_given = if name == "a" { given[3] } else { given[1] };
            assert_eq!(Stream { no, last }.number(), last_given, "{name}");
        }
        let requests =
            [now - 1_000, now - 1_000, now + 86_400_000, 0].map(|ms| numbers.request(ms));
        assert_eq!(requests.map(given_at), [now - 1_000, now - 1_000, now, now]);
        assert!(requests.is_sorted_by(|a, b| a < b));
        for n in 2..256 {
            assert!(numbers.message(&n.to_string(), now).is_some(), "{n}");
        }
        assert_eq!(numbers.message("one more", now), None);
    }
}
