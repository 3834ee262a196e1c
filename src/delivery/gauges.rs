//! Keeps the gauges of a destination's rate and backlog up to date while this process delivers.

use std::convert::Infallible;
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use super::stepper::Stepper;
use super::ticks;
use crate::queue::{Class, Depth};
use crate::telemetry;

/// The shortest time between two measurements of depth and rate for `/metrics`.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Measures until it is dropped.
pub(super) async fn measure(stepper: &Stepper) -> Infallible {
    let mut tick = ticks(MEASURE_EVERY);
    let mut count_at = Instant::now();
    loop {
        tick.tick().await;
        let now = Instant::now();
        let (name, pacer) = (&stepper.name, stepper.client.pacer());
        gauge!(telemetry::RATE_LIMIT, "destination" => name.clone()).set(pacer.rate());
        gauge!(telemetry::RATE_LIMIT_MAX, "destination" => name.clone()).set(pacer.rate_max());
        if now >= count_at {
            count(stepper).await;
            count_at = now + Depth::valid_for(now.elapsed());
        }
    }
}

/// Resets the gauges of a destination for which this process does not deliver. Another process may deliver for it, and
/// two values for one queue would contradict each other.
pub(super) fn clear(destination: &str) {
    gauge!(telemetry::DESTINATION_PAUSED, "destination" => destination.to_owned()).set(0.0);
    show(destination, |_| OfClass::default());
    show_held(destination, 0);
}

fn show_held(destination: &str, held: u64) {
    gauge!(telemetry::HELD_MESSAGES, "destination" => destination.to_owned()).set(held as f64);
}

async fn count(stepper: &Stepper) {
    // If the count fails, the gauges keep their values. The steps report that the store fails.
    let Ok(depth) = stepper.queue.depth(&stepper.name).await else {
        return;
    };
    stepper.activity.counted(depth);
    show_held(&stepper.name, depth.held);
    let rate = stepper.client.pacer().rate();
    show(&stepper.name, |class| {
        let oldest = depth.oldest_by_class[class.index()];
        OfClass {
            messages: depth.by_class[class.index()],
            age: oldest.map_or(Duration::ZERO, |at| stepper.clock.age(at)),
            drain: drain(&depth, class, rate),
        }
    });
}

/// What the gauges show of a class.
#[derive(Debug, Default)]
struct OfClass {
    /// How many messages are pending.
    messages: u64,
    /// How old the oldest is.
    age: Duration,
    /// How long these, and those of the classes before it, take to be sent.
    drain: Duration,
}

fn show(destination: &str, of: impl Fn(Class) -> OfClass) {
    for class in Class::ALL {
        let labels =
            [("destination", destination.to_owned()), ("class", class.as_str().to_owned())];
        let OfClass { messages, age, drain } = of(class);
        gauge!(telemetry::QUEUE_DEPTH, &labels).set(messages as f64);
        gauge!(telemetry::QUEUE_OLDEST_SECONDS, &labels).set(age.as_secs_f64());
        gauge!(telemetry::QUEUE_DRAIN_SECONDS, &labels).set(drain.as_secs_f64());
    }
}

/// Returns how long the pending messages of a class, and of those before it, take to be sent at this many requests a
/// second. An estimate: a message may need no request or several, messages may be merged, and only the number of all
/// held messages is known.
fn drain(depth: &Depth, class: Class, rate: u32) -> Duration {
    let through: u64 = depth.by_class.iter().take(class.index() + 1).sum();
    let may_go = through.min(depth.messages.saturating_sub(depth.held));
    Duration::from_secs(may_go) / rate.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_drained_after_those_before_it_and_without_what_is_held() {
        let drained = |by_class: [u64; 3], held, rate| {
            let messages = by_class.iter().sum();
            let depth = Depth { messages, by_class, held, ..Depth::default() };
            Class::ALL.map(|class| drain(&depth, class, rate).as_secs_f64())
        };
        assert_eq!(drained([0, 0, 0], 0, 10), [0.0; 3]);
        assert_eq!(drained([1, 20, 300], 0, 10), [0.1, 2.1, 32.1]);
        assert_eq!(drained([1, 20, 300], 310, 10), [0.1, 1.1, 1.1]);
        assert_eq!(drained([5, 0, 0], 5, 0), [0.0; 3]);
    }
}
