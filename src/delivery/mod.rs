//! The delivery engine: reads pending messages in order and sends their requests to Loops.
//!
//! Every process runs one [`Engine`] for each destination; the engine that holds the destination's
//! lease delivers, the others wait for it. Within an engine each order key has a lane, which takes one
//! step at a time in the order of acceptance, independently of other lanes. A step opens the lane's
//! first message, plans it unless it is planned already, freezes its requests on disk, makes one
//! attempt and records it. Nothing in memory matters: after a crash the queue alone determines the
//! next steps.
//!
//! The engine never decides by matching text, and knows no SQL and no HTTP beyond [`crate::loops`].

mod assembly;
mod attempt;
mod backoff;
mod disposition;
mod engine;
mod gauges;
mod key_watch;
mod lanes;
mod lease;
mod panics;
mod pause;
mod planning;
mod reader;
mod stepper;
mod stop;
mod tenure;
mod union;
mod verdict;

pub use backoff::RetryOptions;
pub use engine::{Engine, EngineOptions};
pub use stop::Stop;

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Ticks at once and then with this period, which also holds after a tick that was late.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
