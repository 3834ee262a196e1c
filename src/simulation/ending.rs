//! The end of a run: faults stop, everything is delivered, and the promises are checked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::loops::Weather;
use super::model::id;
use super::process::{LEASE_TTL, RETRY_MAX};
use super::runtime::{engine, wait};
use super::world::{DESTINATION, Running, World};
use crate::queue::{MessageRecord, Stage, Store, TallyStep};

impl World {
    /// Cuts the power, in some runs for about a day.
    pub(super) async fn switch_off(&self) {
        if self.knobs.off.is_zero() {
            return;
        }
        self.trace(format_args!("off for {:?}", self.knobs.off));
        *self.off_until.lock().unwrap() = Instant::now() + self.knobs.off;
        for running in self.running.lock().unwrap().iter().flatten() {
            running.process.crash.cancel();
        }
        self.wait_while_off().await;
    }

    pub(super) fn calm_down(&self) {
        self.trace(format_args!("calm"));
        self.is_calm.store(true, Ordering::Relaxed);
        self.disk_is_full.store(false, Ordering::Relaxed);
        *self.weather.lock().unwrap() = Weather::Fine;
        for running in self.running.lock().unwrap().iter().skip(1).flatten() {
            running.process.stop.cancel();
        }
    }

    /// Waits until nothing is pending, but no longer than the longest retry and the rate can explain.
    pub(super) async fn drain(&self) {
        let patience = RETRY_MAX + LEASE_TTL * 3 + Duration::from_secs(90);
        let messages = self.ledger().messages.len() as u32;
        let until = Instant::now() + patience + Duration::from_secs(4) * messages / self.knobs.rate;
        loop {
            sleep(Duration::from_secs(1)).await;
            let Some(Running { store, .. }) = self.any_running() else { continue };
            let depth = store.inner.depth(DESTINATION);
            let depth = wait(engine().handle(), depth).unwrap();
            if depth.messages == 0 {
                return;
            }
            if Instant::now() > until {
                let text = format!("{} messages are still pending", depth.messages);
                self.violate(text);
                return;
            }
        }
    }

    /// Stops all processes, and checks the promises.
    pub(super) async fn finish(&self, supervisors: Vec<JoinHandle<()>>) {
        self.is_over.store(true, Ordering::Relaxed);
        for running in self.running.lock().unwrap().iter().flatten() {
            running.process.stop.cancel();
        }
        for supervisor in supervisors {
            if let Err(panicked) = supervisor.await {
                self.violate(format!("a process panicked: {panicked}"));
            }
        }
        let store = self.open_store();
        let engine = engine().handle();
        let mut ledger = self.ledger();
        let find = |number: usize| -> Vec<MessageRecord> {
            let hash = self.digests.message_id(&id(number));
            wait(engine, store.by_message_id(hash, &id(number))).unwrap()
        };
        let records: Vec<Vec<MessageRecord>> = (0..ledger.messages.len()).map(find).collect();
        ledger.check(&records, &self.loops());
        let (received, ended) = wait(engine, counts(&*store));
        let pending = wait(engine, store.depth(DESTINATION)).unwrap().messages;
        if received != ended + pending {
            ledger.violate(format!(
                "{received} received or replayed, {ended} ended, {pending} pending"
            ));
        }
        wait(engine, store.close());
    }
}

/// Returns how many messages were received or replayed, and how many ended.
async fn counts(store: &dyn Store) -> (u64, u64) {
    let (from, to) =
        (Timestamp::from_second(0).unwrap(), Timestamp::from_second(4_000_000_000).unwrap());
    let mut counts = (0, 0);
    for tally in store.tallies(TallyStep::Hour, from, to).await.unwrap() {
        match tally.stage {
            Stage::Received | Stage::Replayed => counts.0 += tally.count,
            Stage::Unmatched | Stage::Delivered | Stage::Shadowed | Stage::Failed => {
                counts.1 += tally.count;
            }
            Stage::DeliveryDelivered
            | Stage::DeliveryShadowed
            | Stage::DeliveryFailed
            | Stage::DeliveryWarned
            | Stage::Request
            | Stage::RequestSaved
            | Stage::NewContact => {}
        }
    }
    counts
}
