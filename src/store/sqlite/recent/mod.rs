//! The newest messages, which are not in the tables `message_ids` and `persons` yet.
//!
//! An index over random values costs a page of the write-ahead log for each inserted row, which is most of
//! the cost of a message. So the writer keeps the digests of new messages in memory and adds them to the
//! two tables in sorted order, a slice at a time, so that one page takes many rows: preferably while idle, and
//! with each group once too many have gathered.
//!
//! Only the writer has access. It looks up duplicates here and in `message_ids`. Readers look in the tables, and in
//! `messages` behind `sorted_through`. To find people or ids, they ask the writer first, so that they need not read all
//! the messages behind that point. After a crash or a start, the writer reads the digests of those messages back. A
//! message is added here only after its transaction is committed. The memory may name messages that no longer exist.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rusqlite::{Connection, params};

use super::error::Fault;
use super::rows::number;

/// Rows that are sorted in along with a group: somewhat more than arrived, so that sorting keeps pace and is
/// spread evenly; at least this many, because each slice costs a few statements; at most this many, so that
/// no commit is long.
const SLICE_MIN: usize = 512;
const SLICE_MAX: usize = 16_384;

/// Rows that are sorted in at once while the store is idle: a message that arrives meanwhile waits for them.
const SLICE_QUIET: usize = 1_024;

/// An idle store starts to sort at this fraction of the maximum. Sooner would cost a page for few rows.
const QUIET_PART: usize = 4;

/// An SQL expression: all messages up to this one are in the tables.
macro_rules! sorted_through {
    () => {
        "(SELECT value FROM meta WHERE name = 'sorted_through')"
    };
}
pub(super) use sorted_through;

pub(super) const SORTED_THROUGH: &str = "SELECT value FROM meta WHERE name = 'sorted_through'";
/// ?1 the last sequence number that is known.
pub(super) const UNKNOWN: &str = "
    SELECT seq, message_hash, lane, anonymous, email FROM messages WHERE seq > ?1 ORDER BY seq";
/// ?1 message_hash, ?2 seq. Skips a message that was purged in the meantime.
pub(super) const SORT_ID: &str = "
    INSERT OR IGNORE INTO message_ids (message_hash, seq)
    SELECT ?1, ?2 FROM messages WHERE seq = ?2";
/// ?1 digest, ?2 seq. Skips a message that was erased in the meantime, which no longer has the digest.
pub(super) const SORT_PERSON: &str = "
    INSERT OR IGNORE INTO persons (person, seq)
    SELECT ?1, ?2 FROM messages WHERE seq = ?2 AND ?1 IN (lane, anonymous, email)";
/// ?1 the last sequence number that was sorted in. Another process may have sorted further.
pub(super) const SORTED: &str =
    "UPDATE meta SET value = MAX(value, ?1) WHERE name = 'sorted_through'";

/// The digests of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) message_hash: i64,
    /// Its digests `lane`, `anonymous` and `email`; `None` where it has none.
    pub(super) persons: [Option<i64>; 3],
}

/// What a reader looks for.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Digest of a message id.
    Id(i64),
    /// Digests of persons.
    Persons(Vec<i64>),
}

/// The writer's reply to a reader. In a snapshot made later, all other messages are in the tables or behind `through`.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) through: i64,
    /// Unordered.
    pub(super) seqs: Vec<i64>,
}

/// Pairs of a digest and a sequence number.
type Pairs = Vec<(i64, i64)>;

#[derive(Debug)]
pub(super) struct Recent {
    /// Sorting starts at this number of messages. As many again may arrive until it ends.
    max: usize,
    /// Every message up to this one is known here or is in the tables.
    through: i64,
    ids: Chains,
    persons: Pairs,
    sorting: Option<Sorting>,
    /// Messages added since the last slice.
    noted: usize,
}

/// Messages that are being sorted into the tables.
#[derive(Debug)]
struct Sorting {
    through: i64,
    ids: Pairs,
    persons: Pairs,
    /// How many of each are in the tables already.
    done: Slice,
}

/// The progress after a slice, to be applied once the slice is committed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slice {
    ids: usize,
    persons: usize,
}

impl Recent {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            through: 0,
            ids: Chains::default(),
            persons: Pairs::new(),
            sorting: None,
            noted: 0,
        }
    }

    /// Reads the digests of all messages that are not in the tables.
    pub(super) fn load(&mut self, connection: &Connection) -> Result<(), Fault> {
        let unknown = self.unknown(connection)?;
        self.note(&unknown);
        Ok(())
    }

    /// Returns the messages that are neither known here nor in the tables: another process accepted them, or this one
    /// replayed them. Processes that share the file leave at most `2 * max` messages unsorted, which bounds the rows.
    pub(super) fn unknown(&self, connection: &Connection) -> Result<Vec<Row>, Fault> {
        let known = self.through.max(read_sorted_through(connection)?);
        let mut statement = connection.prepare_cached(UNKNOWN)?;
        let rows = statement.query_map([known], |row| {
            Ok(Row {
                seq: row.get(0)?,
                message_hash: row.get(1)?,
                // A person whose digest cannot be read is not found, but the store must open.
                persons: [number(row, 2)?, number(row, 3)?, number(row, 4)?],
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Returns the sequence numbers of known messages whose id has this digest.
    pub(super) fn of_id(&self, message_hash: i64) -> impl Iterator<Item = i64> {
        let sorting = self.sorting.as_ref().map_or(&[][..], |sorting| &sorting.ids);
        let sorting = of_digest(sorting, message_hash);
        self.ids.of(message_hash).chain(sorting.map(|(_, seq)| *seq))
    }

    /// Finds messages for a reader.
    pub(super) fn find(&self, wanted: &Wanted) -> Known {
        let seqs = match wanted {
            Wanted::Id(id) => self.of_id(*id).collect(),
            Wanted::Persons(persons) => {
                let all = self.persons.iter();
                let unsorted = all.filter(|(person, _)| persons.contains(person));
                let sorting = self.sorting.as_ref().map_or(&[][..], |sorting| &sorting.persons);
                let sorting = persons.iter().flat_map(|person| of_digest(sorting, *person));
                unsorted.chain(sorting).map(|(_, seq)| *seq).collect()
            }
        };
        Known { through: self.through, seqs }
    }

    /// Adds the messages of a committed transaction: all that were unknown, and all that it inserted.
    pub(super) fn note(&mut self, rows: &[Row]) {
        for row in rows {
            self.ids.add(row.message_hash, row.seq);
            self.persons.extend(row.persons.iter().flatten().map(|person| (*person, row.seq)));
            self.through = self.through.max(row.seq);
        }
        self.noted += rows.len();
    }

    /// Whether enough messages have gathered for sorting while idle.
    pub(super) fn has_enough(&self) -> bool {
        self.sorting.is_some() || self.ids.len() >= (self.max / QUIET_PART).max(1)
    }

    /// Writes a slice in a transaction: with a group if too many messages have gathered, or while the store `is_quiet`.
    pub(super) fn sort_slice(
        &mut self,
        transaction: &Connection,
        is_quiet: bool,
    ) -> Result<Option<Slice>, Fault> {
        let Some(sorting) = &self.sorting else {
            if is_quiet || self.ids.len() >= self.max {
                // Write no slice yet: the sorting itself takes long enough for one group.
                self.start_sorting(read_sorted_through(transaction)?);
            }
            return Ok(None);
        };
        let slice_min = SLICE_MIN.min(self.max);
        let rows = if is_quiet {
            SLICE_QUIET.min(self.max)
        } else if self.noted >= slice_min {
            (self.noted + self.noted / 4).clamp(slice_min, SLICE_MAX)
        } else {
            return Ok(None);
        };
        // Both end at the same time.
        let persons = rows * sorting.persons.len().div_ceil(sorting.ids.len().max(1)).max(1);
        let end = Slice {
            ids: (sorting.done.ids + rows).min(sorting.ids.len()),
            persons: (sorting.done.persons + persons).min(sorting.persons.len()),
        };
        for (text, slice) in [
            (SORT_ID, &sorting.ids[sorting.done.ids..end.ids]),
            (SORT_PERSON, &sorting.persons[sorting.done.persons..end.persons]),
        ] {
            let mut statement = transaction.prepare_cached(text)?;
            for (digest, seq) in slice {
                statement.execute(params![digest, seq])?;
            }
        }
        if sorting.is_ended_by(end) {
            transaction.prepare_cached(SORTED)?.execute([sorting.through])?;
        }
        Ok(Some(end))
    }

    /// Starts to sort, without the messages that another process has sorted in.
    fn start_sorting(&mut self, sorted_through: i64) {
        let mut ids = std::mem::take(&mut self.ids).into_pairs();
        let mut persons = std::mem::take(&mut self.persons);
        for pairs in [&mut ids, &mut persons] {
            pairs.retain(|(_, seq)| *seq > sorted_through);
            pairs.sort_unstable();
        }
        self.sorting =
            Some(Sorting { through: self.through, ids, persons, done: Slice::default() });
    }

    /// Applies the progress of a committed slice.
    pub(super) fn sorted(&mut self, end: Slice) {
        self.noted = 0;
        if let Some(sorting) = &mut self.sorting {
            sorting.done = end;
            if sorting.is_ended_by(end) {
                self.sorting = None;
            }
        }
    }
}

/// Returns the sorted pairs with this digest.
fn of_digest(pairs: &[(i64, i64)], digest: i64) -> impl Iterator<Item = &(i64, i64)> {
    let first = pairs.partition_point(|(other, _)| *other < digest);
    pairs[first..].iter().take_while(move |(other, _)| *other == digest)
}

fn read_sorted_through(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.prepare_cached(SORTED_THROUGH)?.query_row([], |row| row.get(0))?)
}

impl Sorting {
    fn is_ended_by(&self, end: Slice) -> bool {
        end.ids == self.ids.len() && end.persons == self.persons.len()
    }
}

/// Sequence numbers by digest. A digest may have any number of them: each link names the one before it of
/// the same digest.
#[derive(Debug, Default)]
struct Chains {
    last: HashMap<i64, u32, BuildHasherDefault<DigestHasher>>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    digest: i64,
    seq: i64,
    /// The index of the previous link; `u32::MAX` if there is none.
    before: u32,
}

impl Chains {
    fn len(&self) -> usize {
        self.links.len()
    }

    fn add(&mut self, digest: i64, seq: i64) {
        // Far more than `max` allows.
        let index = u32::try_from(self.links.len()).unwrap_or(u32::MAX - 1);
        let before = self.last.insert(digest, index).unwrap_or(u32::MAX);
        self.links.push(Link { digest, seq, before });
    }

    fn of(&self, digest: i64) -> impl Iterator<Item = i64> {
        let link = |index: u32| self.links.get(index as usize);
        let last = self.last.get(&digest).and_then(|index| link(*index));
        std::iter::successors(last, move |one| link(one.before)).map(|one| one.seq)
    }

    fn into_pairs(self) -> Pairs {
        self.links.into_iter().map(|link| (link.digest, link.seq)).collect()
    }
}

/// A hasher that returns the digest itself, which is as random as any hash of it.
#[derive(Debug, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_i64(&mut self, digest: i64) {
        self.0 = digest.cast_unsigned();
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
