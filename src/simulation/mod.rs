//! A simulation of delivery, in which one seed decides every random choice.
//!
//! The store, the intake, the planning, the delivery engine and the pacer are the real ones. Loops and the network are
//! simulated ([`loops`], [`connection`]), and so are the processes that crash, stall and lose their leases
//! ([`process`]), the store's failures ([`store`]), the clock ([`clock`]), and the actions of senders and operators
//! ([`events`]). Time is Tokio's paused time: it advances when every task is idle, so an hour takes a fraction of a
//! second. At the end, [`model`] checks the requests that Loops received and the records of the store against the
//! promises.
//!
//! Every call of the store happens completely or not at all. The state that a crash within a write leaves on a disk is
//! tested with the running program (`tests/it/crashing.rs`, `cargo bench --bench torture`).
//!
//! Each run has one thread, and a call of the store blocks it until the call returns. So a seed decides the order of
//! everything, and a failing seed fails in the same way each time:
//!
//! ```text
//! cargo test --lib simulation                                          # a few hundred seeds
//! SIMULATION_SEEDS=100000 cargo test --release --lib simulation        # a hundred thousand
//! SIMULATION_SEED=1234 cargo test --lib simulation -- --nocapture      # one, with its trace
//! ```

mod clock;
mod connection;
mod ending;
mod events;
mod knobs;
mod loops;
mod model;
mod process;
mod run;
mod runtime;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Builder;

use crate::queue::suite::Fixture;
use run::Outcome;

/// Makes the tests of the simulation over the engine of a [`Fixture`]. `seeds` is how many seeds run if
/// `SIMULATION_SEEDS` is not set, `twice` how many seeds run twice.
macro_rules! simulation {
    ($fixture:ty, seeds: $seeds:literal, twice: $twice:literal) => {
        mod simulation {
            use super::*;

            #[test]
            fn every_seed_keeps_the_promises() {
                $crate::simulation::run_seeds::<$fixture>($seeds);
            }

            #[test]
            fn a_seed_replays_exactly() {
                $crate::simulation::run_twice::<$fixture>($twice);
            }
        }
    };
}
pub(crate) use simulation;

/// Runs the seeds that the environment gives, or the default ones; fails with the seeds that broke a promise.
pub(crate) fn run_seeds<F: Fixture + Send + Sync + 'static>(seeds: u64) {
    if let Some(seed) = number("SIMULATION_SEED") {
        let outcome = run::<F>(seed);
        outcome.trace.iter().for_each(|line| eprintln!("{line}"));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(1);
    let end = first + number("SIMULATION_SEEDS").unwrap_or(seeds);
    let (next, seconds) = (AtomicU64::new(first), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end || failed.len() >= 5 {
                    return failed;
                }
                let outcome = run::<F>(seed);
                seconds.fetch_add(outcome.simulated.as_secs(), Ordering::Relaxed);
                if !outcome.violations.is_empty() {
                    failed.push((seed, outcome.violations));
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let hours = seconds.into_inner() / 3600;
    eprintln!("{} seeds from {first} on, {hours} simulated hours", end - first);
    assert!(
        failures.is_empty(),
        "seeds broke promises (SIMULATION_SEED shows the trace of one): {failures:#?}"
    );
}

/// Runs a few seeds twice, and compares everything that happened.
pub(crate) fn run_twice<F: Fixture + Send + Sync + 'static>(seeds: u64) {
    for seed in 1..=seeds {
        let (first, second) = (run::<F>(seed).trace, run::<F>(seed).trace);
        assert!(first.len() > 100, "seed {seed}: next to nothing happened: {first:#?}");
        for (n, (one, other)) in first.iter().zip(&second).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {n} of the trace");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// Runs one seed to its end.
fn run<F: Fixture + Send + Sync + 'static>(seed: u64) -> Outcome {
    // Seeds the jitter of retries.
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let fixture = runtime::wait(runtime::engine().handle(), F::empty());
    runtime.block_on(run::run(seed, fixture))
}

#[expect(clippy::disallowed_methods, reason = "it only chooses what a test does")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}
