//! Crashes on purpose: debug builds end at a named point as `kill -9` ends them, so that tests can
//! show that nothing is lost wherever it happens. In release builds there is nothing of it.
//!
//! Armed once, by the environment variable `SEGMENT_LOOPS_CRASH_AT` (`settle.before:2`: the second
//! time that this point is passed); the one global state of the program, since a crash ends it all.

/// Before and after each change of state, in the order of a message's way.
pub const POINTS: [&str; 10] = [
    // The message is not on disk, or is and its sender does not know.
    "accept.before",
    "accept.after",
    // A group of writes, whatever they are.
    "commit.before",
    "commit.after",
    // The request is not frozen, or is and was not sent.
    "freeze.before",
    "freeze.after",
    // Loops may have it, and nobody here knows.
    "send.after",
    "settle.before",
    // It is recorded, and the lane has not gone on.
    "settle.after",
    // The lease is taken and nothing was done with it.
    "lease.after",
];

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static AT: OnceLock<(String, u32)> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    /// Arms a point; anything that is none changes nothing.
    pub fn arm(at: &str) {
        if let Some((point, times)) = at.split_once(':')
            && let Ok(times) = times.parse()
        {
            let _ = AT.set((point.to_owned(), times));
        }
    }

    /// Ends the process here and now, if it is armed for this time that the point is passed.
    pub fn point(name: &'static str) {
        debug_assert!(super::POINTS.contains(&name));
        if let Some((at, times)) = AT.get()
            && at == name
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times
        {
            std::process::abort();
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{arm, point};

/// Nothing, in release builds.
#[cfg(not(debug_assertions))]
pub fn arm(_at: &str) {}

/// Nothing, in release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str) {}
