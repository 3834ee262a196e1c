//! Runs a property within bounds of time and memory.
//!
//! libFuzzer's own bounds are rough: `-timeout` counts the time that other processes take, `-malloc_limit_mb`
//! counts single allocations, and `-rss_limit_mb` everything that the process has ever used, AddressSanitizer's
//! shadow memory included. So the allocator counts here, and the time is that of the thread.

pub mod properties;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The most time and memory that a run may take.
const TIME_MAX: Duration = Duration::from_secs(1);
const BYTES_MAX: usize = 64 * 1024 * 1024;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Checks a property, and that this took no more than a second and 64 MB.
pub fn check(property: properties::Property, input: &[u8]) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let began = cpu_time();
    property(input);
    let took = cpu_time() - began;
    let bytes = PEAK.load(Relaxed) - before;
    assert!(took <= TIME_MAX, "the run took {took:?}");
    assert!(bytes <= BYTES_MAX, "the run took {bytes} bytes");
}
