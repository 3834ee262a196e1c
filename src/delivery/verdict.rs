//! Decides what happens to a request whose turn it is: whether it is still worth sending, and after an attempt whether
//! it is delivered, retried, taken apart or given up. Pure, apart from reading the clock.

use std::time::Duration;

use jiff::Timestamp;

use super::backoff::RetryOptions;
use super::disposition::{Disposition, in_words};
use super::obstacle::Obstacle;
use crate::action::Endpoint;
use crate::clock::Clock;
use crate::loops::Reply;
use crate::queue::{Consequence, DeliveryState, Failure, FailureReason, FrozenRequest, Seq};
use crate::segment::LaneKey;

/// A request whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<'a> {
    pub(super) request: &'a FrozenRequest,
    /// The message whose turn it is, one of those that the request carries.
    pub(super) seq: Seq,
    pub(super) message_id: &'a str,
    /// Whether it is the last pending request of the message.
    pub(super) is_last: bool,
    /// See [`Turn::is_singled_out`](super::lanes::Turn::is_singled_out).
    pub(super) is_singled_out: bool,
    pub(super) lane: LaneKey,
    /// See [`Job::restored_from`](crate::queue::Job::restored_from).
    pub(super) restored_from: Option<Timestamp>,
}

/// An attempt that was just made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tried<'a> {
    /// 1 for the first attempt.
    pub(super) number: u32,
    pub(super) started_at: Timestamp,
    pub(super) reply: &'a Reply,
    pub(super) disposition: &'a Disposition,
}

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The consequence that is recorded for the request.
    pub(super) consequence: Consequence,
    /// What its lane does next.
    pub(super) next: Next,
}

/// What a lane does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Its first message is done: go on to the next message.
    Finish,
    /// Its first message needs another step at once.
    Again,
    /// Its first message waits for this long.
    Wait(Duration),
    /// Like `Wait`. If other requests are accepted in the meantime, this request is at fault.
    Doubted(Duration),
    /// Its first message waits until the obstacle is removed.
    Blocked(Obstacle),
    /// Its first message is large, and waits until there is room for it.
    NoRoom,
    /// Its first message is held.
    Hold,
}

impl Verdict {
    /// Returns how the deliveries of the request ended, for logs and metrics; `None` while all are pending.
    pub(super) fn ended(&self) -> Option<&'static str> {
        match &self.consequence {
            Consequence::Delivered | Consequence::EventDelivered => {
                Some(DeliveryState::Delivered.as_str())
            }
            Consequence::Shadowed => Some(DeliveryState::Shadowed.as_str()),
            Consequence::Failed(failure) | Consequence::EventFailed(failure) => {
                Some(failure.reason.as_str())
            }
            Consequence::Begin
            | Consequence::Retry(_)
            | Consequence::Hold { .. }
            | Consequence::TakenApart => None,
        }
    }
}

impl Due<'_> {
    /// Returns the verdict on a request that is no longer worth sending when its turn comes, because the destination
    /// was paused or the program was stopped for too long; `None`: send it.
    pub(super) fn before_attempt(
        &self,
        clock: &dyn Clock,
        retry: &RetryOptions,
    ) -> Option<Verdict> {
        let request = self.request;
        if request.expires_at.is_some_and(|expires_at| clock.earliest_now() > expires_at) {
            let detail =
                "not sent: when its turn came, it was older than max_age_s of its subscription";
            return Some(self.failed(FailureReason::Expired, detail.to_owned()));
        }
        if request.endpoint == Endpoint::DeleteContact {
            return self.late_deletion(clock, retry);
        }
        // After the window, Loops has forgotten the idempotency key: if it took the event before, it would take it a
        // second time. An upsert has no key and may be repeated at any time.
        let first = request.first_attempt_at.filter(|_| request.idempotency_key.is_some())?;
        if clock.age(first) <= retry.window {
            return None;
        }
        let window = duration_words(retry.window);
        let detail = match self.restored_from.filter(|made_at| *made_at == first) {
            Some(made_at) => format!(
                "not sent: it was restored from a backup made at {made_at}, more than {window} ago; Loops may have accepted the event since, and no longer recognizes its key; a replay sends it as a new event"
            ),
            None => format!(
                "not sent again: the first attempt was more than {window} ago; Loops may have accepted the event then, and no longer recognizes its key; a replay sends it as a new event"
            ),
        };
        if request.is_merged {
            // The event must not be judged again: if the clock is set back, it would be sent with another key.
            let failure = Failure { reason: FailureReason::Expired, detail };
            let consequence = Consequence::EventFailed(failure);
            return Some(Verdict { consequence, next: Next::Again });
        }
        Some(self.failed(FailureReason::Expired, detail))
    }

    /// Returns the verdict on a deletion that was restored from an old backup: if Loops has carried it out since, the
    /// person may have signed up again.
    fn late_deletion(&self, clock: &dyn Clock, retry: &RetryOptions) -> Option<Verdict> {
        let made_at = self.restored_from.filter(|made_at| clock.age(*made_at) > retry.window)?;
        let window = duration_words(retry.window);
        let detail = format!(
            "not sent: it was restored from a backup made at {made_at}, more than {window} ago; Loops may have deleted the contact since, and the person may have signed up again; a replay sends it"
        );
        Some(self.failed(FailureReason::Expired, detail))
    }

    /// Returns the verdict on a request whose turn comes while the destination is in shadow mode; `None`: Loops may
    /// have the request already, so it is sent after all.
    pub(super) fn shadowed(&self) -> Option<Verdict> {
        // A request that was restored from a backup has the time of the backup here, although no attempt is known.
        let first = self.request.first_attempt_at;
        let is_begun = first.is_some_and(|first| self.restored_from != Some(first));
        (!is_begun).then(|| self.ended(Consequence::Shadowed))
    }

    /// Returns the verdict on a request after an attempt.
    pub(super) fn after_attempt(
        &self,
        tried: &Tried<'_>,
        clock: &dyn Clock,
        retry: &RetryOptions,
    ) -> Verdict {
        let wait = match tried.disposition {
            // The event may have been sent without these updates, when the message was first accepted and before the
            // database was lost.
            Disposition::DeliveredBefore if self.request.is_merged => {
                return Verdict { consequence: Consequence::EventDelivered, next: Next::Again };
            }
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete => return self.ended(Consequence::Delivered),
            Disposition::Refused { detail } => return self.refused(detail.clone()),
            Disposition::Unauthorized { detail } | Disposition::Doubtful { detail }
                if self.is_singled_out =>
            {
                return self.refused(format!(
                    "{detail}; several times, while other requests succeeded with the same key"
                ));
            }
            Disposition::Unauthorized { .. } => return self.held_by(Obstacle::Key),
            Disposition::Misdirected => return self.held_by(Obstacle::BaseUrl),
            Disposition::Limited(Some(after)) => (*after).min(retry.max),
            Disposition::Limited(None) => retry.delay(tried.number),
            Disposition::Doubtful { .. } => {
                let verdict = self.retry_after(retry.delay(tried.number), tried, clock, retry);
                return match verdict.next {
                    Next::Wait(wait) => Verdict { next: Next::Doubted(wait), ..verdict },
                    _ => verdict,
                };
            }
            Disposition::Retry(after) => {
                let asked = after.unwrap_or_default().min(retry.max);
                retry.delay(tried.number).max(asked)
            }
        };
        self.retry_after(wait, tried, clock, retry)
    }

    /// Returns a verdict that retries the request after this wait, unless that is too late.
    fn retry_after(
        &self,
        wait: Duration,
        tried: &Tried<'_>,
        clock: &dyn Clock,
        retry: &RetryOptions,
    ) -> Verdict {
        let request = self.request;
        let first = request.first_attempt_at.unwrap_or(tried.started_at);
        let by_then = |now: Timestamp| now.checked_add(wait).unwrap_or(now);
        let expires_at = request.expires_at;
        let within = if expires_at.is_some_and(|at| by_then(clock.earliest_now()) > at) {
            "by then it would be older than max_age_s of its subscription allows".to_owned()
        } else if clock.age(first).saturating_add(wait) > retry.window {
            format!("the retry window of {} has ended", duration_words(retry.window))
        } else {
            let consequence = Consequence::Retry(by_then(clock.now()));
            return Verdict { consequence, next: Next::Wait(wait) };
        };
        let (number, last) = (tried.number, last_words(tried.reply));
        let detail = format!("gave up after {number} attempts: {within}; {last}");
        self.failed(FailureReason::Expired, detail)
    }

    /// Returns the verdict on a request that Loops will never take. The parts of a merged request are then sent alone,
    /// so that only the message at fault fails.
    fn refused(&self, detail: String) -> Verdict {
        match self.request.is_merged {
            true => taken_apart(),
            false => self.failed(FailureReason::Refused, detail),
        }
    }

    fn held_by(&self, obstacle: Obstacle) -> Verdict {
        let first_attempt_at = self.request.first_attempt_at;
        Verdict {
            consequence: Consequence::Hold { first_attempt_at },
            next: Next::Blocked(obstacle),
        }
    }

    fn failed(&self, reason: FailureReason, detail: String) -> Verdict {
        self.ended(Consequence::Failed(Failure { reason, detail }))
    }

    fn ended(&self, consequence: Consequence) -> Verdict {
        Verdict { consequence, next: if self.is_last { Next::Finish } else { Next::Again } }
    }
}

fn taken_apart() -> Verdict {
    Verdict { consequence: Consequence::TakenApart, next: Next::Again }
}

/// Describes the outcome of the last attempt, for people.
fn last_words(reply: &Reply) -> String {
    match &reply.result {
        Ok(answer) => format!("the last answer was {}", in_words(answer)),
        Err(error) => format!("the last attempt got no response: {error}"),
    }
}

/// Formats a duration in the largest unit that divides it.
fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::loops::CallError;
    use crate::queue::RequestId;

    const RETRY: RetryOptions = RetryOptions {
        min: Duration::from_secs(1),
        max: Duration::from_secs(600),
        window: Duration::from_secs(3600),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).unwrap()
    }

    /// A request that was first tried at second 0.
    fn request() -> FrozenRequest {
        FrozenRequest {
            id: RequestId(1),
            endpoint: Endpoint::SendEvent,
            body: "{}".into(),
            idempotency_key: Some("key".to_owned()),
            attempts: 1,
            first_attempt_at: Some(at(0)),
            next_attempt_at: None,
            is_merged: false,
            expires_at: None,
        }
    }

    fn due(request: &FrozenRequest, is_last: bool) -> Due<'_> {
        Due {
            request,
            seq: Seq(1),
            message_id: "m",
            is_last,
            is_singled_out: false,
            lane: LaneKey(1),
            restored_from: None,
        }
    }

    /// Returns how the request ends and what its lane does after an attempt with this disposition.
    fn after(due: Due<'_>, disposition: &Disposition, now: i64) -> (Option<&'static str>, Next) {
        let reply = Reply { result: Err(CallError::Timeout), duration: Duration::ZERO };
        let tried = Tried { number: 2, started_at: at(now), reply: &reply, disposition };
        let verdict = due.after_attempt(&tried, &ManualClock::new(at(now)), &RETRY);
        (verdict.ended(), verdict.next)
    }

    #[test]
    fn a_lane_goes_on_when_the_last_request_of_its_message_has_ended() {
        let request = request();
        let detail = String::new();
        for (disposition, word) in [
            (Disposition::Delivered, "delivered"),
            (Disposition::DeliveredBefore, "delivered"),
            (Disposition::NothingToDelete, "delivered"),
            (Disposition::Refused { detail }, "refused"),
        ] {
            let last = after(due(&request, true), &disposition, 1);
            assert_eq!(last, (Some(word), Next::Finish), "{disposition:?}");
            let not_last = after(due(&request, false), &disposition, 1);
            assert_eq!(not_last, (Some(word), Next::Again), "{disposition:?}");
        }
    }

    #[test]
    fn a_wrong_key_or_base_url_fails_nothing() {
        let request = request();
        let unauthorized = Disposition::Unauthorized { detail: String::new() };
        let blocked = |obstacle| (None, Next::Blocked(obstacle));
        assert_eq!(after(due(&request, true), &unauthorized, 1), blocked(Obstacle::Key));
        let misdirected = after(due(&request, true), &Disposition::Misdirected, 1);
        assert_eq!(misdirected, blocked(Obstacle::BaseUrl));
        // It fails only if other requests have shown that the key is right.
        let doubtful = Disposition::Doubtful { detail: String::new() };
        let doubted = after(due(&request, true), &doubtful, 1);
        assert!(matches!(doubted, (None, Next::Doubted(_))), "{doubted:?}");
        let singled_out = Due { is_singled_out: true, ..due(&request, true) };
        assert_eq!(after(singled_out, &unauthorized, 1), (Some("refused"), Next::Finish));
        assert_eq!(after(singled_out, &doubtful, 1), (Some("refused"), Next::Finish));
    }

    #[test]
    fn a_merged_request_that_is_refused_or_forgotten_is_taken_apart() {
        let request = FrozenRequest { is_merged: true, ..request() };
        let due = due(&request, true);
        let refused = Disposition::Refused { detail: String::new() };
        assert_eq!(after(due, &refused, 1), (None, Next::Again));
        let known = after(due, &Disposition::DeliveredBefore, 1);
        assert_eq!(
            known,
            (Some("delivered"), Next::Again),
            "the merged updates are still to be sent"
        );
        // Loops may have the event. It is not judged again, because the clock may be set back by then.
        let late = due.before_attempt(&ManualClock::new(at(3601)), &RETRY).unwrap();
        assert_eq!((late.ended(), late.next), (Some("expired"), Next::Again));
        assert!(matches!(late.consequence, Consequence::EventFailed(_)), "{late:?}");
    }

    #[test]
    fn a_request_is_retried_until_its_window_or_its_age_is_used_up() {
        let wait = Disposition::Limited(Some(Duration::from_secs(100)));
        let expired = (Some("expired"), Next::Finish);
        let request = request();
        let due_at = |request: &FrozenRequest, now| after(due(request, true), &wait, now);
        let waits = (None, Next::Wait(Duration::from_secs(100)));
        assert_eq!(due_at(&request, 3500), waits);
        assert_eq!(due_at(&request, 3501), expired);
        let aged = FrozenRequest { expires_at: Some(at(200)), ..request.clone() };
        assert_eq!(due_at(&aged, 100), waits);
        assert_eq!(due_at(&aged, 101), expired);
    }

    #[test]
    fn only_what_loops_may_have_is_finished_live() {
        let begun = request();
        assert_eq!(due(&begun, true).shadowed(), None);
        let new = FrozenRequest { first_attempt_at: None, ..request() };
        let verdict = due(&new, true).shadowed().unwrap();
        assert_eq!((verdict.ended(), verdict.next), (Some("shadowed"), Next::Finish));
        assert_eq!(due(&new, false).shadowed().unwrap().next, Next::Again);
        let restored = Due { restored_from: Some(at(0)), ..due(&begun, true) };
        assert!(restored.shadowed().is_some());
        let tried = Due { restored_from: Some(at(9)), ..due(&begun, true) };
        assert_eq!(tried.shadowed(), None);
    }

    #[test]
    fn a_request_that_is_too_late_is_not_sent() {
        let before = |request: &FrozenRequest, now| {
            let clock = ManualClock::new(at(now));
            let verdict = due(request, true).before_attempt(&clock, &RETRY);
            verdict.map(|verdict| (verdict.ended(), verdict.next))
        };
        let expired = Some((Some("expired"), Next::Finish));
        let event = request();
        assert_eq!(before(&event, 3600), None);
        assert_eq!(before(&event, 3601), expired);
        // For a restored event, the reason is the backup.
        let clock = ManualClock::new(at(3601));
        for (made_at, expected) in [(0, true), (1, false)] {
            let restored = Due { restored_from: Some(at(made_at)), ..due(&event, true) };
            let verdict = restored.before_attempt(&clock, &RETRY).unwrap();
            let Consequence::Failed(failure) = verdict.consequence else { panic!("{verdict:?}") };
            assert_eq!(failure.detail.contains("restored from a backup"), expected, "{failure:?}");
        }
        // A request without a key can be sent again, however late.
        let upsert = FrozenRequest { idempotency_key: None, ..event.clone() };
        assert_eq!(before(&upsert, 1_000_000), None);
        // So can a deletion, unless it was restored: the person may have signed up since the backup.
        let deletion = FrozenRequest { endpoint: Endpoint::DeleteContact, ..upsert.clone() };
        assert_eq!(before(&deletion, 1_000_000), None);
        let restored = Due { restored_from: Some(at(1)), ..due(&deletion, true) };
        for (now, expected) in [(3601, None), (3602, Some("expired"))] {
            let verdict = restored.before_attempt(&ManualClock::new(at(now)), &RETRY);
            assert_eq!(verdict.and_then(|verdict| verdict.ended()), expected, "{now}");
        }
        let aged = FrozenRequest { expires_at: Some(at(200)), ..upsert };
        assert_eq!(before(&aged, 200), None);
        assert_eq!(before(&aged, 201), expired);
    }
}
