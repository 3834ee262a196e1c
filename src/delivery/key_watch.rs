//! Watches whether Loops accepts the key of a destination, and whether Loops is at its base URL.
//!
//! Nothing can be delivered while either is wrong. Requests then wait instead of failing: the destination is paused,
//! and the key is checked again and again until Loops accepts it.

use metrics::gauge;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::board::Activity;
use super::disposition::KeyCheck;
use super::obstacle::Obstacle;
use super::pause::{KeyRefusals, Pause};
use crate::loops::{Client, Reply};
use crate::segment::LaneKey;
use crate::telemetry;

/// Whether requests may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Requests may be sent.
    Open,
    /// No request may be sent until the running check of the key is done.
    Checking,
    /// No request may be sent before the next check of the key.
    Paused {
        /// When the key is checked.
        check_at: Instant,
    },
}

/// Tracks what Loops' responses reveal about the key of one destination.
pub(super) struct KeyWatch {
    destination: String,
    client: Client,
    pause: Pause,
    refusals: KeyRefusals,
    is_checking: bool,
    activity: Activity,
    /// Why the destination was last paused.
    obstacle: Obstacle,
}

impl KeyWatch {
    pub(super) fn new(destination: String, client: Client, activity: Activity) -> Self {
        Self {
            destination,
            client,
            pause: Pause::default(),
            refusals: KeyRefusals::default(),
            is_checking: false,
            activity,
            obstacle: Obstacle::Key,
        }
    }

    pub(super) fn gate(&self) -> Gate {
        match self.pause.check_at() {
            _ if self.is_checking => Gate::Checking,
            Some(check_at) => Gate::Paused { check_at },
            None => Gate::Open,
        }
    }

    /// Notes that a check of the key begins. The gate stays closed until the reply is given to
    /// [`KeyWatch::judge`], or [`KeyWatch::check_failed`] is called.
    pub(super) fn begin_check(&mut self) {
        self.is_checking = true;
    }

    /// Notes that the check ended without a reply: a pause continues.
    pub(super) fn check_failed(&mut self) {
        self.is_checking = false;
        if self.pause.is_on() {
            self.pause.go_on();
        }
        self.show_pause();
    }

    /// Returns whether to blame the request itself if the first request of this lane is refused once more, as if the
    /// key were wrong or by something between us and Loops.
    pub(super) fn is_singled_out(&self, lane: LaneKey) -> bool {
        self.refusals.is_singled_out(lane)
    }

    /// Notes that a request was taken, or refused for its contents: the key is right.
    pub(super) fn proved(&mut self) {
        self.pause.proved();
        self.refusals.proved();
    }

    /// Notes that the lane has another first request, or none.
    pub(super) fn forget(&mut self, lane: LaneKey) {
        self.refusals.forget(lane);
    }

    /// Notes that something between us and Loops refused the first request of a lane, although Loops accepts the key.
    pub(super) fn doubted(&mut self, lane: LaneKey) {
        self.refusals.refused(lane);
    }

    /// Notes that the first request of a lane met an obstacle.
    pub(super) fn blocked(&mut self, lane: LaneKey, obstacle: Obstacle) {
        if obstacle == Obstacle::Key {
            self.refusals.refused(lane);
        }
        self.stop_for(obstacle);
    }

    /// Interprets the reply to a check of the key.
    pub(super) fn judge(&mut self, reply: &Reply) {
        self.is_checking = false;
        match KeyCheck::of(reply) {
            KeyCheck::Right => {
                if self.pause.is_on() {
                    info!(
                        destination = self.destination,
                        "Loops accepts the API key: delivery resumes"
                    );
                }
                self.pause.end();
            }
            KeyCheck::Wrong if !self.pause.is_on() => self.stop_for(Obstacle::Key),
            KeyCheck::NotFound if !self.pause.is_on() => self.stop_for(Obstacle::BaseUrl),
            KeyCheck::Wrong | KeyCheck::NotFound => self.pause.go_on(),
            // It is unknown whether the key is right. A pause continues; without one, deliveries will show it.
            KeyCheck::Foreign | KeyCheck::Unknown => {
                self.warn_unchecked(reply);
                if self.pause.is_on() {
                    self.pause.go_on();
                }
            }
        }
        self.show_pause();
    }

    fn warn_unchecked(&self, reply: &Reply) {
        let destination = &self.destination;
        match &reply.result {
            Ok(answer) if answer.status >= 400 => warn!(
                destination,
                status = answer.status,
                "the API key could not be checked: Loops is not responding properly at the moment"
            ),
            Ok(answer) => warn!(
                destination,
                status = answer.status,
                base_url = self.client.shown_url(),
                "the API key could not be checked: the response does not come from Loops; check base_url (LOOPS_BASE_URL)"
            ),
            Err(fault) => warn!(
                destination,
                error = %fault,
                base_url = self.client.shown_url(),
                "Loops cannot be reached: check base_url (LOOPS_BASE_URL), DNS and the firewall"
            ),
        }
    }

    /// Pauses the destination, and logs why unless it was paused already.
    fn stop_for(&mut self, obstacle: Obstacle) {
        self.obstacle = obstacle;
        if self.pause.start() {
            error!(destination = self.destination, "{}", obstacle.advice());
        }
        self.show_pause();
    }

    fn show_pause(&self) {
        self.activity.pause(self.pause.check_at().map(|check_at| (self.obstacle, check_at)));
        let is_on = if self.pause.is_on() { 1.0 } else { 0.0 };
        gauge!(telemetry::DESTINATION_PAUSED, "destination" => self.destination.clone()).set(is_on);
    }
}
