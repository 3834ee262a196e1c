//! Reads the heads of pending messages into the lanes, class by class.
//!
//! The order within a lane depends on this file. Each class has its own cursor, so a message may be read before an
//! earlier one of its lane that belongs to another class. After each read, the lanes therefore learn up to which
//! sequence number the messages of *all* classes are known. They work on a later message only after reading its lane up
//! to that message.

use tracing::error;

use super::lanes::Lanes;
use crate::queue::{Class, PendingAsk, Seq, Work};
use crate::telemetry;

/// The most heads of a class that are read from the store at once.
const PAGE: u32 = 5_000;

/// The most heads of a class that are kept in memory. The rest stay in the store until there is room.
const HEADS_MAX: usize = 100_000;

/// How far each class was read.
#[derive(Debug)]
pub(super) struct Reader {
    cursors: [Cursor; Class::COUNT],
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// The last sequence number that was read.
    read_through: Seq,
    /// Whether the store may have more messages after it.
    may_have_more: bool,
}

impl Default for Reader {
    fn default() -> Self {
        let start = Cursor { read_through: Seq::default(), may_have_more: true };
        Self { cursors: [start; Class::COUNT] }
    }
}

impl Reader {
    /// Notes that messages may have arrived.
    pub(super) fn look_again(&mut self) {
        self.cursors.iter_mut().for_each(|cursor| cursor.may_have_more = true);
    }

    /// Returns whether the store may have more messages that the lanes have room for.
    pub(super) fn wants_more(&self, lanes: &Lanes) -> bool {
        let wants = |class: Class| self.cursors[class.index()].may_have_more;
        Class::ALL.into_iter().any(|class| wants(class) && has_room(lanes, class))
    }

    /// Reads a page of each class that has room, if the store may have more messages.
    pub(super) async fn read(&mut self, queue: &dyn Work, destination: &str, lanes: &mut Lanes) {
        if !self.wants_more(lanes) {
            return;
        }
        let ask = self.ask(lanes);
        match queue.pending(destination, ask).await {
            Ok(found) => {
                for (class, heads) in found.iter().enumerate() {
                    self.cursors[class]
                        .advance(ask[class].limit, heads.iter().map(|head| head.seq));
                }
                let known_through = self.known_through();
                for head in found.into_iter().flatten() {
                    lanes.push(head, known_through);
                }
            }
            Err(fault) => {
                self.cursors.iter_mut().for_each(|cursor| cursor.may_have_more = false);
                error!(
                    destination,
                    error = %telemetry::chain(&fault),
                    "pending messages cannot be read; trying again"
                );
            }
        }
    }

    /// Returns what to read next. All classes are read in one snapshot. Otherwise a message could overtake an earlier
    /// one of its lane that belongs to another class.
    fn ask(&self, lanes: &Lanes) -> [PendingAsk; Class::COUNT] {
        Class::ALL.map(|class| PendingAsk {
            after: self.cursors[class.index()].read_through,
            limit: if has_room(lanes, class) { PAGE } else { 0 },
        })
    }

    /// Returns the sequence number up to which the messages of all classes are known; `None` if the last read reached
    /// the end of every class.
    fn known_through(&self) -> Option<Seq> {
        let cut_off = self.cursors.iter().filter(|cursor| cursor.may_have_more);
        cut_off.map(|cursor| cursor.read_through).min()
    }
}

impl Cursor {
    /// Moves the cursor past the messages that a read with this limit found.
    ///
    /// The store may have more if the page is full, or if the limit was zero. The latter is the zero-limit rule: a
    /// class without room was not read, so it may have a message that precedes one just read of another class, even if
    /// an earlier read had reached its end. Such a class is known only up to its cursor. Otherwise the later message
    /// would overtake the earlier one.
    fn advance(&mut self, limit: u32, found: impl ExactSizeIterator<Item = Seq>) {
        self.may_have_more = limit == 0 || found.len() >= limit as usize;
        self.read_through = found.last().unwrap_or(self.read_through);
    }
}

/// Returns whether the lanes can take a whole page of a class.
fn has_room(lanes: &Lanes, class: Class) -> bool {
    lanes.len(class) + PAGE as usize <= HEADS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads with these limits from classes with these messages pending after their cursors.
    fn known_through(
        reader: &mut Reader,
        limits: [u32; Class::COUNT],
        pending: [&[i64]; Class::COUNT],
    ) -> Option<i64> {
        for (class, cursor) in reader.cursors.iter_mut().enumerate() {
            let page = pending[class].iter().take(limits[class] as usize);
            cursor
                .advance(limits[class], page.map(|seq| Seq(*seq)).collect::<Vec<_>>().into_iter());
        }
        reader.known_through().map(|seq| seq.0)
    }

    #[test]
    fn messages_are_known_up_to_the_cursor_of_the_class_that_was_read_least() {
        let mut reader = Reader::default();
        // Nothing precedes a message when all classes were read to their ends.
        assert_eq!(known_through(&mut reader, [3; 3], [&[1, 4], &[2], &[3, 5]]), None);
        // Full pages end at different messages.
        assert_eq!(known_through(&mut reader, [2; 3], [&[6, 9, 11], &[7, 8, 12], &[10]]), Some(8));
        assert_eq!(known_through(&mut reader, [3; 3], [&[11], &[12], &[]]), None);
    }

    #[test]
    fn a_class_without_room_is_known_only_up_to_its_cursor() {
        let mut reader = Reader::default();
        assert_eq!(known_through(&mut reader, [9; 3], [&[1], &[2], &[3, 4]]), None);
        // Message 5 is pending in the class that is not read: no later message may overtake it.
        assert_eq!(known_through(&mut reader, [9, 9, 0], [&[6], &[7], &[5]]), Some(4));
        assert_eq!(known_through(&mut reader, [9; 3], [&[], &[], &[5]]), None);
    }
}
