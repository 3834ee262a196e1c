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
    show(destination, |_| (0, Duration::ZERO));
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
    show(&stepper.name, |class| {
        let oldest = depth.oldest_by_class[class.index()];
        let age = oldest.map_or(Duration::ZERO, |at| stepper.clock.age(at));
        (depth.by_class[class.index()], age)
    });
}

/// Shows how many messages of each class are pending, and how old the oldest is.
fn show(destination: &str, of: impl Fn(Class) -> (u64, Duration)) {
    for class in Class::ALL {
        let labels =
            [("destination", destination.to_owned()), ("class", class.as_str().to_owned())];
        let (messages, age) = of(class);
        gauge!(telemetry::QUEUE_DEPTH, &labels).set(messages as f64);
        gauge!(telemetry::QUEUE_OLDEST_SECONDS, &labels).set(age.as_secs_f64());
    }
}
