//! The format of the write-ahead log: a header, then frames of one page each.
//!
//! The header and each frame have a checksum that continues the one before it. SQLite reads a page through the index of
//! the log and checks nothing. Only when it makes the index again, after a crash, does it follow the checksums, and it
//! stops at the first wrong one: the frames behind it are lost.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};

const HEADER_BYTES: usize = 32;
/// The last bit is the byte order of the checksums: 1 is big-endian.
const MAGIC: u32 = 0x377f_0682;
const FRAME_HEADER_BYTES: usize = 24;

/// How much of the log is in memory while it is verified: at least one frame of the largest page (64 KiB).
const BUFFER_BYTES: usize = 256 * 1024;

/// The values that are new each time the log starts over. Each frame repeats them.
pub(super) type Salts = [u8; 8];

/// The header of a log. Its checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) salts: Salts,
    page_bytes: usize,
    checksum: Checksum,
}

impl Header {
    /// Reads the header of a log; returns `None` if it is not whole.
    pub(super) fn read(log: &mut File) -> io::Result<Option<Self>> {
        Ok(read_at::<HEADER_BYTES>(log, 0)?.as_ref().and_then(Self::parse))
    }

    /// Whether the log has nothing where its header should be: it is empty, or was truncated and then continued.
    pub(super) fn is_hole(log: &mut File) -> io::Result<bool> {
        Ok(read_at(log, 0)?.is_none_or(|bytes| bytes == [0; HEADER_BYTES]))
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [magic, page_bytes] = [word(bytes, 0), word(bytes, 8)];
        let page_bytes = usize::try_from(page_bytes).ok()?;
        let is_page = page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
        let mut checksum = Checksum { sums: [0; 2], is_big_endian: magic & 1 == 1 };
        checksum.add(&bytes[..24]);
        let is_whole = magic & !1 == MAGIC && is_page && checksum.is_at(bytes, 24);
        let salts = std::array::from_fn(|n| bytes[16 + n]);
        is_whole.then_some(Self { salts, page_bytes, checksum })
    }

    /// Where a frame ends. The first frame has the number 1.
    pub(super) fn end_of(&self, frame: u64) -> u64 {
        end_of(frame, self.page_bytes as u64)
    }

    fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.page_bytes
    }

    /// Reads the bytes where a frame should be. Its checksum must continue that of the frame before it.
    pub(super) fn find(&self, log: &mut File, frame: u64) -> io::Result<Place> {
        let before = match frame {
            0 | 1 => Some(self.checksum),
            _ => read_at::<FRAME_HEADER_BYTES>(log, self.end_of(frame - 2))?
                .map(|before| self.checksum.continued(&before)),
        };
        let mut found = vec![0; self.frame_bytes()];
        log.seek(SeekFrom::Start(self.end_of(frame.saturating_sub(1))))?;
        let before = match (log.read_exact(&mut found), before) {
            (Ok(()), Some(before)) => before,
            (Err(error), _) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(Place::Hole),
        };
        if self.follows(&found, before).is_some() {
            return Ok(Place::Frame);
        }
        let is_empty = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        // A hole that begins inside the frame reaches its end, since SQLite continues after it.
        let is_hole = match found[8..16] == self.salts {
            true => is_empty(&found[found.len() - 1..]),
            false => is_empty(&found[..FRAME_HEADER_BYTES]) || is_empty(&found[16..]),
        };
        Ok(if is_hole { Place::Hole } else { Place::Other })
    }

    /// Returns the checksum of a frame that follows the one with this checksum; `None` if the frame is wrong.
    fn follows(&self, frame: &[u8], mut checksum: Checksum) -> Option<Checksum> {
        checksum.add(&frame[..8]);
        checksum.add(&frame[FRAME_HEADER_BYTES..]);
        (frame[8..16] == self.salts && checksum.is_at(frame, 16)).then_some(checksum)
    }

    /// Follows the checksums from the header through this many frames; returns the first frame that is wrong.
    pub(super) fn first_wrong(&self, log: &mut File, frames: u64) -> io::Result<Option<u64>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let frames_at_once = BUFFER_BYTES / self.frame_bytes();
        let mut checksum = self.checksum;
        let mut verified = 0;
        log.seek(SeekFrom::Start(self.end_of(0)))?;
        while verified < frames {
            let count =
                frames_at_once.min(usize::try_from(frames - verified).unwrap_or(usize::MAX));
            let part = &mut buffer[..count * self.frame_bytes()];
            log.read_exact(part)?;
            for frame in part.chunks_exact(self.frame_bytes()) {
                verified += 1;
                match self.follows(frame, checksum) {
                    Some(next) => checksum = next,
                    None => return Ok(Some(verified)),
                }
            }
        }
        Ok(None)
    }
}

/// What was found where a frame should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A whole frame of this log.
    Frame,
    /// Nothing, or a part of a frame: the log ends there, or was truncated there and then continued.
    Hole,
    /// A frame of an earlier log, or anything else.
    Other,
}

/// Where a frame ends in a log with pages of this size.
pub(super) fn end_of(frame: u64, page_bytes: u64) -> u64 {
    HEADER_BYTES as u64 + frame * (FRAME_HEADER_BYTES as u64 + page_bytes)
}

#[derive(Debug, Clone, Copy)]
struct Checksum {
    sums: [u32; 2],
    is_big_endian: bool,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        match self.is_big_endian {
            true => self.add_words(bytes, u32::from_be_bytes),
            false => self.add_words(bytes, u32::from_le_bytes),
        }
    }

    fn add_words(&mut self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) {
        let [mut first, mut second] = self.sums;
        for &[a, b, c, d, e, f, g, h] in bytes.as_chunks().0 {
            first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
        }
        self.sums = [first, second];
    }

    /// The checksum in the header of a frame, in the same byte order.
    fn continued(&self, header: &[u8; FRAME_HEADER_BYTES]) -> Self {
        Self { sums: [word(header, 16), word(header, 20)], ..*self }
    }

    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        self.sums == [word(bytes, at), word(bytes, at + 4)]
    }
}

/// Reads bytes at a position; returns `None` if the file ends before.
fn read_at<const BYTES: usize>(file: &mut File, at: u64) -> io::Result<Option<[u8; BYTES]>> {
    let mut bytes = [0; BYTES];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|n| bytes[at + n]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log as SQLite writes it on this machine, with pages of this size.
    fn written(page_bytes: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let _database = write(folder.path(), page_bytes);
        std::fs::read(folder.path().join("x-wal")).unwrap()
    }

    fn write(folder: &std::path::Path, page_bytes: u32) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(folder.join("x")).unwrap();
        database.pragma_update(None, "page_size", page_bytes).unwrap();
        database.pragma_update(None, "journal_mode", "wal").unwrap();
        database.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        database.execute_batch("CREATE TABLE t (x)").unwrap();
        for _ in 0..200 {
            database.execute("INSERT INTO t VALUES (randomblob(500))", []).unwrap();
        }
        database
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        file
    }

    /// The same log with checksums in the other byte order, which SQLite accepts.
    fn turned(mut log: Vec<u8>) -> Vec<u8> {
        let header = Header::parse(log.first_chunk().unwrap()).unwrap();
        let mut checksum = Checksum { sums: [0; 2], is_big_endian: !header.checksum.is_big_endian };
        let mut put = |bytes: &mut [u8], skipped: std::ops::Range<usize>| {
            let at = skipped.end - 8;
            checksum.add(&bytes[..skipped.start]);
            checksum.add(&bytes[skipped.end..]);
            bytes[at..at + 4].copy_from_slice(&checksum.sums[0].to_be_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&checksum.sums[1].to_be_bytes());
        };
        log[3] ^= 1;
        let (start, frames) = log.split_at_mut(HEADER_BYTES);
        put(start, 24..32);
        for frame in frames.chunks_exact_mut(header.frame_bytes()) {
            put(frame, 8..24);
        }
        log
    }

    #[test]
    fn a_wrong_bit_is_found_in_the_frame_that_has_it_and_nowhere_else() {
        for page_bytes in [512, 4_096, 65_536] {
            for log in [written(page_bytes), turned(written(page_bytes))] {
                let mut whole = file(&log);
                let header = Header::read(&mut whole).unwrap().unwrap();
                let frames = (log.len() - HEADER_BYTES) / header.frame_bytes();
                let all = frames as u64;
                assert!(frames > 100);
                assert_eq!(header.first_wrong(&mut whole, all).unwrap(), None, "{page_bytes}");
                assert_eq!(header.find(&mut whole, all).unwrap(), Place::Frame);
                assert_eq!(header.find(&mut whole, all + 1).unwrap(), Place::Hole);
                assert!(header.first_wrong(&mut whole, all + 1).is_err());
                // (frame, byte of it)
                for (frame, byte) in
                    [(1, 0), (2, 7), (50, 8), (50, 23), (frames, 24), (frames, log.len())]
                {
                    let start = HEADER_BYTES + (frame - 1) * header.frame_bytes();
                    let at = (start + byte).min(log.len() - 1);
                    let mut damaged = log.clone();
                    damaged[at] ^= 1;
                    let mut damaged = file(&damaged);
                    let wrong = |frames| header.first_wrong(&mut damaged, frames).unwrap();
                    assert_eq!([all, frame as u64 - 1].map(wrong), [Some(frame as u64), None]);
                }
                for at in 0..HEADER_BYTES {
                    let mut damaged = log.clone();
                    damaged[at] ^= 0x10;
                    assert!(Header::read(&mut file(&damaged)).unwrap().is_none(), "{at}");
                }
            }
        }
    }

    #[test]
    fn a_log_that_was_cut_inside_a_frame_and_then_written_on_has_a_hole_there() {
        let log = written(512);
        for number in [1, 50] {
            let mut whole = file(&log);
            let header = Header::read(&mut whole).unwrap().unwrap();
            let [start, end] = [number - 1, number].map(|frame| header.end_of(frame) as usize);
            for kept in start..end {
                let mut cut = log.clone();
                cut[kept..end].fill(0);
                // Zeros that replace zeros are no loss.
                let expected = if cut == log { Place::Frame } else { Place::Hole };
                assert_eq!(header.find(&mut file(&cut), number).unwrap(), expected, "{kept}");
            }
        }
    }

    #[test]
    fn sqlite_reads_checksums_of_both_byte_orders_as_we_do() {
        let [folder, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let _database = write(folder.path(), 4_096);
        std::fs::copy(folder.path().join("x"), copy.path().join("x")).unwrap();
        let log = std::fs::read(folder.path().join("x-wal")).unwrap();
        std::fs::write(copy.path().join("x-wal"), turned(log)).unwrap();
        let database = rusqlite::Connection::open(copy.path().join("x")).unwrap();
        let rows: i64 = database.query_row("SELECT COUNT(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 200);
    }
}
