//! The background tasks of an [`App`](super::App), besides serving and delivering.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::reload::Reloader;
use super::report::Reporter;
use crate::clock::SharedClock;
use crate::queue::{Class, Housekeeping, Log, Receipts, Replays, Store, Unavailable, Work};
use crate::telemetry;

/// How long a process waits before it removes anything if its clock may be wrong, for example on a machine that has
/// just booted.
const PURGE_AFTER: Duration = Duration::from_secs(60 * 60);

/// The clock may be wrong if it shows a time before the newest one in the store, or a time this long after it.
const CLOCK_BEHIND_MAX: SignedDuration = SignedDuration::from_mins(1);
const CLOCK_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24);

/// How often records past their retention are removed.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// How often to look for delivered deletions, to erase the contents of the people they were about.
const ERASE_EVERY: Duration = Duration::from_secs(2);

/// How often to look for events whose contacts exist now.
const REVIVE_EVERY: Duration = Duration::from_secs(1);

/// How often the process records that it is running.
const CHECK_IN_EVERY: Duration = Duration::from_secs(5);

/// How often the clock is checked.
const CLOCK_CHECK_EVERY: Duration = Duration::from_secs(1);

/// How often the store is checked, so that a failure is reported even while no messages come in.
const STORE_CHECK_EVERY: Duration = Duration::from_secs(5);

/// How often the metrics recorder aggregates its samples.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Warns of messages that wait for a destination that is no longer configured, because it was renamed or removed.
pub(super) async fn warn_of_orphans(store: &dyn Work, configured: &[String]) {
    // `watch_store` reports a store that does not work.
    for name in store.destinations().await.unwrap_or_default() {
        if configured.contains(&name) {
            continue;
        }
        let depth = store.depth(&name).await.unwrap_or_default();
        warn!(
            destination = name,
            messages = depth.messages,
            "messages wait for a destination that is not configured: they are delivered once there is one of this name"
        );
        for class in Class::ALL {
            let labels = [("destination", name.clone()), ("class", class.as_str().to_owned())];
            gauge!(telemetry::QUEUE_DEPTH, &labels).set(depth.by_class[class.index()] as f64);
        }
    }
}

/// The SIGHUPs of this process.
pub(super) struct Hangups {
    #[cfg(unix)]
    signals: Option<tokio::signal::unix::Signal>,
}

impl Hangups {
    /// Listens for the signal. Until then, the signal ends the process.
    pub(super) fn listen() -> Self {
        #[cfg(unix)]
        use tokio::signal::unix::{SignalKind, signal};
        Self {
            #[cfg(unix)]
            signals: signal(SignalKind::hangup()).ok(),
        }
    }
}

/// Reloads the configuration at each SIGHUP.
pub(super) async fn reload_on_hangup(hangups: Hangups, reloader: Arc<Reloader>) {
    #[cfg(unix)]
    if let Some(mut signals) = hangups.signals {
        while signals.recv().await.is_some() {
            let reloader = Arc::clone(&reloader);
            // Reading files blocks. The result is logged by the reload.
            let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
        }
    }
    #[cfg(not(unix))]
    let _ = (hangups, reloader);
    // On systems without this signal, `POST /api/reload` does the same.
    std::future::pending().await
}

/// Reads the clock regularly, so that a change is noticed soon even if nothing else asks for the time.
pub(super) async fn watch_clock(clock: SharedClock) {
    loop {
        clock.now();
        tokio::time::sleep(CLOCK_CHECK_EVERY).await;
    }
}

/// Returns how long nothing is removed after the start. It must be asked before anything new is written.
pub(super) async fn purge_after(store: &dyn Housekeeping, clock: &SharedClock) -> Duration {
    match is_plausible(clock.now(), store.newest().await) {
        true => Duration::ZERO,
        false => PURGE_AFTER,
    }
}

/// Returns whether a clock that shows this time may be right, judged by the newest time in the store.
fn is_plausible(now: Timestamp, newest: Result<Option<Timestamp>, Unavailable>) -> bool {
    match newest {
        Ok(Some(newest)) => {
            let ahead = now.duration_since(newest);
            -CLOCK_BEHIND_MAX <= ahead && ahead <= CLOCK_AHEAD_MAX
        }
        // There is nothing to remove.
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Removes records past their retention, after a wait.
pub(super) async fn purge(store: Arc<dyn Housekeeping>, clock: SharedClock, after: Duration) {
    tokio::time::sleep(after).await;
    let purge = || store.purge(clock.earliest_now());
    repeat(PURGE_EVERY, "old records cannot be removed; trying again", purge).await;
}

/// Erases the contents of people whose deletion was delivered.
pub(super) async fn erase(store: Arc<dyn Store>, clock: SharedClock, destinations: Vec<String>) {
    let failed = "contents of deleted people cannot be erased; trying again";
    let erase = || async {
        let rows = store.erase(clock.now()).await?;
        if rows == 0 {
            count_open_erasures(&*store, &destinations).await?;
        }
        Ok(rows)
    };
    repeat(ERASE_EVERY, failed, erase).await;
}

/// Records how many erasures have not ended.
async fn count_open_erasures(
    store: &dyn Receipts,
    destinations: &[String],
) -> Result<(), Unavailable> {
    let open = store.open_erasures().await?;
    let others = open.iter().map(|(name, _)| name).filter(|name| !destinations.contains(name));
    for name in destinations.iter().chain(others) {
        let count = open.iter().find(|(of, _)| of == name).map_or(0, |(_, count)| *count);
        gauge!(telemetry::ERASURES_PENDING, "destination" => name.clone()).set(count as f64);
    }
    Ok(())
}

/// Replays events that Loops refused because their contacts did not exist, once these exist.
pub(super) async fn revive(store: Arc<dyn Replays>, clock: SharedClock) {
    let failed = "events whose contacts exist now cannot be replayed; trying again";
    let step = || async {
        let revived = store.revive(clock.now()).await?;
        for destination in &revived {
            counter!(telemetry::REVIVED, "destination" => destination.clone()).increment(1);
        }
        Ok(revived.len() as u64)
    };
    repeat(REVIVE_EVERY, failed, step).await;
}

/// Repeats a chore: after each wait, takes steps until one finds nothing to do or fails. A failure is logged.
async fn repeat<F>(every: Duration, failed: &str, step: impl Fn() -> F)
where
    F: Future<Output = Result<u64, Unavailable>>,
{
    loop {
        tokio::time::sleep(every).await;
        loop {
            match step().await {
                Ok(0) => break,
                Ok(_) => tokio::task::yield_now().await,
                Err(fault) => {
                    error!(error = %telemetry::chain(&fault), "{failed}");
                    break;
                }
            }
        }
    }
}

/// Records at regular intervals that this process is running.
pub(super) async fn check_in(store: Arc<dyn Housekeeping>, clock: SharedClock, reporter: Reporter) {
    loop {
        // `watch_store` reports a store that does not work.
        if let Err(fault) = store.check_in(&reporter.check_in(clock.now())).await {
            debug!(error = %telemetry::chain(&fault), "the process could not be recorded as running");
        }
        tokio::time::sleep(CHECK_IN_EVERY).await;
    }
}

/// Logs when the store stops working and when it works again: once each, not once per request. Also notifies the
/// alerts.
pub(super) async fn watch_store(store: Arc<dyn Log>, is_ready: watch::Sender<bool>) {
    let ready = gauge!(telemetry::STORE_READY);
    let mut works = true;
    loop {
        let checked = store.ready().await;
        match &checked {
            Ok(()) if !works => info!("the store works again"),
            Err(fault) if works => error!(
                error = %telemetry::chain(fault),
                "the store does not work: senders are asked to retry"
            ),
            Ok(()) | Err(_) => {}
        }
        works = checked.is_ok();
        is_ready.send_replace(works);
        ready.set(if works { 1.0 } else { 0.0 });
        tokio::time::sleep(STORE_CHECK_EVERY).await;
    }
}

/// Lets the metrics recorder aggregate its samples at regular intervals.
pub(super) async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP_EVERY).await;
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::time::Instant;

    use crate::clock::tests::PausedClock;
    use crate::clock::{Clock as _, WatchedClock};
    use crate::queue::CheckIn;

    /// Records each call of `purge`: when it came, and the time it was given.
    struct Purged(Mutex<Vec<(Instant, Timestamp)>>);

    #[async_trait]
    impl Housekeeping for Purged {
        async fn check_in(&self, _: &CheckIn) -> Result<(), Unavailable> {
            Ok(())
        }

        async fn check_out(&self, _: &str) -> Result<(), Unavailable> {
            Ok(())
        }

        async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
            self.0.lock().unwrap().push((Instant::now(), now));
            Ok(0)
        }

        async fn erase(&self, _: Timestamp) -> Result<u64, Unavailable> {
            Ok(0)
        }

        async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
            Ok(None)
        }
    }

    #[test]
    fn a_clock_is_doubted_if_the_store_knows_a_later_time_or_none_near_it() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1_000_000);
        let ago = |seconds| Ok(Some(now - SignedDuration::from_secs(seconds)));
        let unreadable = || Err(Unavailable("unreadable".into()));
        let cases = [
            (Ok(None), true),
            (ago(0), true),
            (ago(-60), true),
            (ago(-61), false),
            (ago(86_400), true),
            (ago(86_401), false),
            (unreadable(), false),
        ];
        for (newest, expected) in cases {
            let text = format!("{newest:?}");
            assert_eq!(is_plausible(now, newest), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_past_its_retention_is_purged_a_minute_after_the_start() {
        let purged = Arc::new(Purged(Mutex::default()));
        let began = Instant::now();
        let clock = PausedClock::shared();
        let chore = tokio::spawn(purge(purged.clone(), clock, Duration::ZERO));
        tokio::time::sleep(PURGE_EVERY + Duration::from_secs(1)).await;
        chore.abort();
        let calls = purged.0.lock().unwrap();
        assert_eq!(calls[0].0 - began, PURGE_EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chore_works_until_nothing_is_left_and_goes_on_after_an_error() {
        let began = Instant::now();
        let script = Mutex::new(vec![Ok(0), Err(Unavailable("full".into())), Ok(0), Ok(1), Ok(9)]);
        let calls = Mutex::new(Vec::new());
        let step = || {
            calls.lock().unwrap().push(began.elapsed().as_secs());
            let next = script.lock().unwrap().pop();
            async move { next.unwrap_or(Ok(0)) }
        };
        let chore = repeat(ERASE_EVERY, "in vain", step);
        assert!(tokio::time::timeout(Duration::from_secs(7), chore).await.is_err());
        assert_eq!(*calls.lock().unwrap(), [2, 2, 2, 4, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_purged_in_the_first_hour_of_a_doubtful_clock_nor_by_a_clock_that_was_just_set_forward()
     {
        let purged = Arc::new(Purged(Mutex::default()));
        let clock = PausedClock::shared();
        let watched: SharedClock = Arc::new(WatchedClock::new(clock.clone()));
        let (began, began_at) = (Instant::now(), clock.now());
        let chore = tokio::spawn(purge(purged.clone(), Arc::clone(&watched), PURGE_AFTER));
        let hours = |hours| SignedDuration::from_hours(hours);
        tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
        clock.advance(hours(24 * 365));
        watched.now();
        let set_at = Instant::now();
        tokio::time::sleep(Duration::from_secs(30 * 3_600)).await;
        chore.abort();
        let calls = purged.0.lock().unwrap();
        assert!(calls[0].0 - began > Duration::from_secs(3_600), "{:?}", calls[0]);
        for (at, now) in &*calls {
            // After a day, only the new setting of the clock counts.
            let is_believed = *at - set_at.min(*at) >= Duration::from_secs(24 * 3_600);
            let ahead = if is_believed { hours(24 * 365) } else { hours(0) };
            assert_eq!(*now, began_at + ahead + (*at - began));
        }
        let last = calls.last().unwrap();
        assert!(last.1 > began_at + hours(24 * 365), "{last:?}");
    }
}
