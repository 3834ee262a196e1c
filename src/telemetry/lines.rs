//! Writes log lines on a thread of its own, so that no request waits for a system call, for a lock that
//! is held during one, or for a reader of the log that has stopped reading.
//!
//! The thread rests for a moment after each write, and then writes together all lines that came
//! meanwhile: waking it for each line would cost more than writing the line. The memory is bounded.
//! Lines that find no room are dropped, counted, and reported in the log as soon as there is room again.
//! A process that is killed loses the lines of its last moment.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;

/// How long the thread rests between two writes.
const REST: Duration = Duration::from_millis(20);

/// The most bytes of lines that wait to be written.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The thread keeps this much memory for the next lines; a burst may have taken more.
const BYTES_KEPT: usize = 64 * 1024;

/// How long a flush may take. A log that nobody reads must not keep the process from ending.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes lines, each in one `write`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    /// Signalled when there is a first line to write, and at the end.
    filled: Condvar,
    /// Signalled when a flush begins, and when the thread has written.
    flushed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
    is_writing: bool,
    /// How many flushes are under way: the thread does not rest then.
    flushes: usize,
    is_ending: bool,
}

/// The thread that writes. It ends, with all lines written, when this is dropped.
#[derive(Debug)]
#[must_use = "without it the last lines are lost"]
pub(super) struct Writer(Arc<Lines>);

impl Lines {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Arc<Self>, Writer)> {
        let lines = Arc::new(Self::default());
        let taker = Arc::clone(&lines);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || taker.write_to(out))?;
        Ok((Arc::clone(&lines), Writer(lines)))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic between plain assignments leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        while let Some(dropped) = self.next(&mut bytes) {
            // Lines that cannot be written are lost: there is no other place to report it.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
            bytes.clear();
            bytes.shrink_to(BYTES_KEPT);
            if dropped > 0 {
                counter!(super::LOG_LINES_DROPPED).increment(dropped);
                tracing::warn!(
                    lines = dropped,
                    "log lines were dropped: they came faster than they could be written"
                );
            }
            self.rest();
        }
    }

    /// Waits for lines, swaps them with `bytes`, which is empty, and returns how many were dropped;
    /// `None` at the end.
    fn next(&self, bytes: &mut Vec<u8>) -> Option<u64> {
        let is_idle = |waiting: &mut Waiting| waiting.bytes.is_empty() && !waiting.is_ending;
        let waiting = self.filled.wait_while(self.waiting(), is_idle);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes.is_empty() {
            return None;
        }
        std::mem::swap(bytes, &mut waiting.bytes);
        waiting.is_writing = true;
        Some(std::mem::take(&mut waiting.dropped))
    }

    fn rest(&self) {
        let mut waiting = self.waiting();
        waiting.is_writing = false;
        self.flushed.notify_all();
        let may_rest = |waiting: &mut Waiting| waiting.flushes == 0;
        let _ = self.flushed.wait_timeout_while(waiting, REST, may_rest);
    }
}

impl Writer {
    /// Returns once every line that was logged before is written, or when that takes too long.
    pub(super) fn flush(&self) {
        let mut waiting = self.0.waiting();
        waiting.flushes += 1;
        self.0.flushed.notify_all();
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        let flushed = self.0.flushed.wait_timeout_while(waiting, FLUSH_TIMEOUT, is_busy);
        let (mut waiting, _) = flushed.unwrap_or_else(PoisonError::into_inner);
        waiting.flushes -= 1;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
        self.0.waiting().is_ending = true;
        self.0.filled.notify_one();
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + line.len() > BYTES_MAX {
            waiting.dropped += 1;
            return Ok(line.len());
        }
        let is_first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.filled.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A log that is written on only while it is read.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_order_before_the_end() {
        let (pipe, read) = mpsc::sync_channel(1_000);
        let (lines, writer) = Lines::start(Pipe(pipe)).unwrap();
        let expected: Vec<u8> = (0..1_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        for n in 0..1_000 {
            (&*lines).write_all(format!("{n}\n").as_bytes()).unwrap();
            if n == 500 {
                writer.flush();
                assert_eq!(lines.waiting().bytes, b"");
            }
        }
        drop(writer);
        assert_eq!(read.iter().flatten().collect::<Vec<u8>>(), expected);
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_takes_bounded_memory() {
        let (pipe, read) = mpsc::sync_channel(0);
        let (lines, writer) = Lines::start(Pipe(pipe)).unwrap();
        let line = [b'x'; 1_024];
        for _ in 0..3 * BYTES_MAX / line.len() {
            (&*lines).write_all(&line).unwrap();
        }
        // Read again, it gets what was kept, all of it whole lines.
        let reader =
            std::thread::spawn(move || read.iter().map(|bytes| bytes.len()).sum::<usize>());
        drop(writer);
        let written = reader.join().unwrap();
        // The thread holds as much again that it was about to write.
        assert!((BYTES_MAX..=2 * BYTES_MAX).contains(&written), "{written}");
        assert_eq!(written % line.len(), 0, "{written}");
    }
}
