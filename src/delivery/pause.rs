//! The pause of a destination whose key Loops refuses: when to ask again.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait before the key is tried again.
const PROBE_WAIT_MIN: Duration = Duration::from_secs(2);

/// The longest wait before the key is tried again: a mended key is noticed within it.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Whether a destination delivers, and when its key is tried next if not.
#[derive(Debug, Default)]
pub struct Pause {
    probe_at: Option<Instant>,
    /// Kept over a short resumption, so that a key that is right for the probe and refused for
    /// everything else does not make the two follow each other at full speed.
    wait: Duration,
}

impl Pause {
    /// Whether the destination is paused.
    pub fn is_on(&self) -> bool {
        self.probe_at.is_some()
    }

    /// Starts the pause; answers whether it was not on before, which is worth telling people.
    pub fn start(&mut self) -> bool {
        let is_new = !self.is_on();
        if is_new {
            self.schedule();
        }
        is_new
    }

    /// The key is still refused (or nobody answered): ask again later.
    pub fn go_on(&mut self) {
        self.schedule();
    }

    /// The key is right.
    pub fn end(&mut self) {
        self.probe_at = None;
    }

    /// A delivery went through: the next pause starts with a short wait.
    pub fn delivered(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// When to ask again.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    fn schedule(&mut self) {
        self.wait = (self.wait * 2).clamp(PROBE_WAIT_MIN, PROBE_WAIT_MAX);
        self.probe_at = Some(Instant::now() + self.wait);
    }
}
