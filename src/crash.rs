//! Crashes on purpose: at a named point, debug builds end as if by `kill -9`, so that tests can show that nothing is
//! lost wherever it happens. Release builds contain none of it.
//!
//! Armed once, by the environment variable `SEGMENT_LOOPS_CRASH_AT`: `settle.before:2` crashes the second time that
//! this point is passed. This is the only global state of the program, which is acceptable because a crash ends it all.

/// The points before and after each change of state, in the order of a message's journey.
pub const POINTS: [&str; 10] = [
    // The message is not on disk, or it is and its sender does not know.
    "accept.before",
    "accept.after",
    // A group of writes of any kind.
    "commit.before",
    "commit.after",
    // The request is not frozen, or it is and was not sent.
    "freeze.before",
    "freeze.after",
    // Loops may have the request, and nobody here knows.
    "send.after",
    "settle.before",
    // The outcome is recorded, and the lane has not gone on.
    "settle.after",
    // The lease is taken, and nothing has been done with it.
    "lease.after",
];

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static AT: OnceLock<(String, u32)> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    /// Arms a point. Any other text changes nothing.
    pub fn arm(at: &str) {
        if let Some((point, times)) = at.split_once(':')
            && let Ok(times) = times.parse()
        {
            let _ = AT.set((point.to_owned(), times));
        }
    }

    /// Ends the process if it is armed for this pass of the point.
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

/// Does nothing in release builds.
#[cfg(not(debug_assertions))]
pub fn arm(_at: &str) {}

/// Does nothing in release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str) {}
