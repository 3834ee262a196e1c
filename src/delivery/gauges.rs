//! Keeps the gauges of a destination's rate and backlog up to date while this process delivers.

use std::convert::Infallible;
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use super::stepper::Stepper;
use super::ticks;
use crate::queue::Depth;
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
        gauge!(telemetry::RATE_LIMIT, "destination" => stepper.name.clone())
            .set(stepper.client.pacer().rate());
        if now >= count_at {
            count(stepper).await;
            count_at = now + Depth::valid_for(now.elapsed());
        }
    }
}

async fn count(stepper: &Stepper) {
    let name = &stepper.name;
    // If the count fails, the gauges keep their values: the steps report that the store fails.
    let Ok(depth) = stepper.queue.depth(name).await else {
        return;
    };
    stepper.activity.counted(depth);
    let age = depth.oldest_received_at.map_or(Duration::ZERO, |at| stepper.clock.age(at));
    gauge!(telemetry::QUEUE_DEPTH, "destination" => name.clone()).set(depth.messages as f64);
    gauge!(telemetry::QUEUE_OLDEST_SECONDS, "destination" => name.clone()).set(age.as_secs_f64());
}
