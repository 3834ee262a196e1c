//! The current activity of a process's engines, for people. Engines write it as they go; the process publishes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::obstacle::Obstacle;
use crate::destination::Destination;
use crate::loops::Pacer;
use crate::queue::{Class, Depth, DestinationStatus, PauseReason, PauseStatus};

/// How far back requests are counted.
const COUNTED: Duration = Duration::from_secs(5 * 60);
/// Requests are counted in intervals of this length.
const PART: Duration = Duration::from_secs(10);

/// The activities of a process's engines. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, Activity>>>);

impl Board {
    /// Adds a destination.
    pub(super) fn add(
        &self,
        name: &str,
        pacer: &Arc<Pacer>,
        destination: watch::Receiver<Arc<Destination>>,
    ) -> Activity {
        let activity = Activity { pacer: Arc::clone(pacer), destination, state: Arc::default() };
        self.lock().insert(name.to_owned(), activity.clone());
        activity
    }

    /// Returns the status of each destination whose lease this process holds.
    pub fn read(&self, now: Timestamp) -> BTreeMap<String, DestinationStatus> {
        let all = self.lock();
        let held = all.iter().filter_map(|(name, one)| Some((name.clone(), one.read(now)?)));
        held.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Activity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The activity of one engine. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    pacer: Arc<Pacer>,
    destination: watch::Receiver<Arc<Destination>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: this process does not hold the lease.
    held: Option<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pause: Option<(Instant, Obstacle, Instant)>,
    /// For each interval of [`PART`]: when it began, and the number of requests.
    requests: VecDeque<(Instant, u64)>,
    failing: Option<(Instant, u16)>,
    next_retry: Option<Instant>,
    depth: Option<Depth>,
}

impl Activity {
    /// Notes that the lease was taken, or is no longer held. Earlier activity is forgotten.
    pub(super) fn hold(&self, is_held: bool) {
        self.lock().held = is_held.then(Held::default);
    }

    /// Notes an attempt, with or without a response from Loops, or a shadowed request. `is_final` is false if another
    /// attempt follows.
    pub(super) fn tried(&self, is_final: bool, status: Option<u16>) {
        self.change(|held| {
            let now = Instant::now();
            while held.requests.front().is_some_and(|(at, _)| now.duration_since(*at) > COUNTED) {
                held.requests.pop_front();
            }
            match held.requests.back_mut() {
                Some((at, count)) if now.duration_since(*at) < PART => *count += 1,
                _ => held.requests.push_back((now, 1)),
            }
            held.failing = match held.failing {
                _ if is_final => None,
                Some((since, _)) => Some((since, status.unwrap_or(0))),
                None => Some((now, status.unwrap_or(0))),
            };
        });
    }

    /// Notes that the destination is paused, or no longer is.
    pub(super) fn pause(&self, pause: Option<(Obstacle, Instant)>) {
        self.change(|held| {
            let since = held.pause.map_or_else(Instant::now, |(since, ..)| since);
            held.pause = pause.map(|(obstacle, check_at)| (since, obstacle, check_at));
        });
    }

    /// Notes when the next retry is due.
    pub(super) fn retry_at(&self, at: Option<Instant>) {
        self.change(|held| held.next_retry = at);
    }

    /// Notes how much is pending.
    pub(super) fn counted(&self, depth: Depth) {
        self.change(|held| held.depth = Some(depth));
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        if let Some(held) = &mut self.lock().held {
            change(held);
        }
    }

    fn read(&self, now: Timestamp) -> Option<DestinationStatus> {
        let state = self.lock();
        let held = state.held.as_ref()?;
        let here = Instant::now();
        let at = |instant: Instant| {
            let (ahead, behind) = (instant.duration_since(here), here.duration_since(instant));
            let span = |of: Duration| SignedDuration::try_from(of).unwrap_or_default();
            now.checked_add(span(ahead) - span(behind)).unwrap_or(now)
        };
        let counted = held.requests.iter().filter(|(at, _)| here.duration_since(*at) <= COUNTED);
        Some(DestinationStatus {
            is_shadow: self.destination.borrow().is_shadow(),
            pause: held.pause.map(|(since, obstacle, check_at)| PauseStatus {
                since: at(since),
                reason: match obstacle {
                    Obstacle::Key => PauseReason::Key,
                    Obstacle::BaseUrl => PauseReason::BaseUrl,
                },
                check_at: at(check_at),
            }),
            rate: self.pacer.rate(),
            rate_max: self.pacer.rate_max(),
            requests: counted.map(|(_, count)| count).sum(),
            failing_since: held.failing.map(|(since, _)| at(since)),
            failing_status: held.failing.map(|(_, status)| status),
            next_retry_at: held.next_retry.map(at),
            waiting: held.depth.map(|depth| Class::ALL.map(|class| depth.by_class[class.index()])),
            oldest_received_at: held.depth.and_then(|depth| depth.oldest_received_at()),
            oldest_event_at: held
                .depth
                .and_then(|depth| depth.oldest_by_class[Class::Event.index()]),
            held: held.depth.map(|depth| depth.held),
            held_since: held.depth.and_then(|depth| depth.held_since),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{DestinationOptions, Mode};

    #[tokio::test(start_paused = true)]
    async fn a_board_shows_what_is_done_under_a_lease_and_forgets_it_with_the_lease() {
        let now: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let board = Board::default();
        let compiled = |mode| {
            let options = DestinationOptions { mode, ..DestinationOptions::default() };
            Arc::new(Destination::compile(&[], options).unwrap())
        };
        let planner = watch::Sender::new(compiled(Mode::Live));
        let activity = board.add("default", &Pacer::new(Some(7)), planner.subscribe());
        let shown = |now| board.read(now).remove("default");
        activity.tried(true, Some(200));
        assert_eq!(shown(now), None);
        activity.hold(true);
        let idle = DestinationStatus { rate: 7, rate_max: 7, ..DestinationStatus::default() };
        assert_eq!(shown(now), Some(idle.clone()));
        activity.tried(true, Some(200));
        tokio::time::advance(Duration::from_secs(60)).await;
        activity.tried(false, Some(503));
        tokio::time::advance(Duration::from_secs(60)).await;
        activity.tried(false, None);
        let seconds = SignedDuration::from_secs;
        let failing = DestinationStatus {
            requests: 3,
            failing_since: Some(now - seconds(60)),
            failing_status: Some(0),
            ..idle.clone()
        };
        assert_eq!(shown(now), Some(failing));
        activity.tried(true, Some(400));
        activity.pause(Some((Obstacle::Key, Instant::now() + Duration::from_secs(2))));
        tokio::time::advance(Duration::from_secs(241)).await;
        activity.pause(Some((Obstacle::Key, Instant::now() + Duration::from_secs(4))));
        let pause = PauseStatus {
            since: now - seconds(241),
            reason: PauseReason::Key,
            check_at: now + seconds(4),
        };
        let paused = DestinationStatus { requests: 2, pause: Some(pause), ..idle.clone() };
        assert_eq!(shown(now), Some(paused), "requests of the last five minutes");
        activity.pause(None);
        tokio::time::advance(COUNTED).await;
        assert_eq!(shown(now), Some(idle.clone()));
        planner.send_replace(compiled(Mode::Shadow));
        assert_eq!(shown(now), Some(DestinationStatus { is_shadow: true, ..idle }));
        activity.hold(false);
        assert_eq!(shown(now), None);
    }
}
