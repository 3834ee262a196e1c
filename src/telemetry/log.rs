//! Writes log lines on a separate thread, so that no request waits for a system call, or for a reader of the log that
//! has stopped reading.
//!
//! If too many lines are waiting, further lines are dropped and counted, and this is reported once there is room again.
//! A process that is killed loses the lines that are waiting.

use std::io::{BufWriter, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use metrics::counter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::metrics::LOG_LINES_DROPPED;

/// The most lines that wait to be written.
const LINES_MAX: usize = 8_192;

/// How long the process waits for the last lines before it ends. The library gives up earlier, after 1.1 s.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the thread that writes to `out`. It flushes only when no line is waiting, so that a burst of lines takes few
/// system calls.
pub(super) fn start(out: impl Write + Send + 'static) -> (NonBlocking, DroppedLines, LogGuard) {
    let builder = NonBlockingBuilder::default().thread_name("log").lossy(true);
    let builder = builder.buffered_lines_limit(LINES_MAX);
    let (writer, guard) = builder.finish(BufWriter::new(out));
    let dropped = DroppedLines { counter: writer.error_counter(), reported: 0 };
    (writer, dropped, LogGuard(Some(guard)))
}

/// Reports dropped log lines.
#[derive(Debug, Clone)]
pub struct DroppedLines {
    counter: ErrorCounter,
    reported: usize,
}

impl DroppedLines {
    /// Reports, in the log and in the metrics, the lines that were dropped since the last report that was not itself
    /// dropped. The caller must call it every few seconds.
    pub fn report(&mut self) {
        let dropped = self.counter.dropped_lines();
        counter!(LOG_LINES_DROPPED).absolute(dropped as u64);
        if dropped == self.reported {
            return;
        }
        tracing::warn!(
            lines = dropped - self.reported,
            "log lines were dropped: too many were waiting to be written"
        );
        if self.counter.dropped_lines() == dropped {
            self.reported = dropped;
        }
    }
}

/// Writes the lines that are still waiting when it is dropped, unless that takes too long.
#[derive(Debug)]
pub(super) struct LogGuard(Option<WorkerGuard>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        // The library bounds its wait for the log, but then complains on standard output. That blocks forever if
        // standard output is the same pipe that nobody reads. A thread may block, but the process must end.
        let guard = self.0.take();
        let (ended, wait) = mpsc::channel::<()>();
        let spawned = thread::Builder::new().name("log end".to_owned()).spawn(move || {
            drop(guard);
            drop(ended);
        });
        if spawned.is_ok() {
            let _ = wait.recv_timeout(END_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A log that is written only while it is read.
    struct Pipe(mpsc::SyncSender<String>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let line = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(line).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_report_that_is_dropped_itself_is_made_again() {
        let (pipe, read) = mpsc::sync_channel(0);
        let builder = NonBlockingBuilder::default().buffered_lines_limit(1);
        let (mut writer, guard) = builder.finish(Pipe(pipe));
        let mut lines = DroppedLines { counter: writer.error_counter(), reported: 0 };
        let counter = writer.error_counter();
        let subscriber = tracing_subscriber::fmt().with_writer(writer.clone()).finish();
        let _default = tracing::subscriber::set_default(subscriber);
        // One line is being written and one is waiting: nothing else has room.
        let mut written = 0;
        while written - counter.dropped_lines() < 2 {
            writer.write_all(b"a line").unwrap();
            written += 1;
        }
        writer.write_all(b"a line").unwrap();
        let dropped = counter.dropped_lines();
        lines.report();
        assert_eq!(counter.dropped_lines(), dropped + 1);
        assert_eq!(read.recv().unwrap(), "a line");
        assert_eq!(read.recv().unwrap(), "a line");
        lines.report();
        let report = read.recv().unwrap();
        assert!(report.contains(&format!("{}", dropped + 1)), "{report}");
        // Nothing was dropped since the report, so the next line is not a report.
        lines.report();
        writer.write_all(b"the end").unwrap();
        assert_eq!(read.recv().unwrap(), "the end");
        drop(guard);
    }

    #[test]
    fn every_line_is_written_in_order_before_the_end() {
        let (pipe, read) = mpsc::sync_channel(1_000);
        let (mut writer, _, guard) = start(Pipe(pipe));
        let expected: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        for n in 0..1_000 {
            writer.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(guard);
        drop(writer);
        assert_eq!(read.iter().collect::<String>(), expected);
    }
}
