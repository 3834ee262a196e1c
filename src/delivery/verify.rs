//! Asking Loops whether it has a contact, before the contact counts as new, is held or is not created
//! (`verify_unknown`).
//!
//! A step that finds such a contact asks, with the slot that it has for a request, and plans the message again
//! afterwards. While Loops gives no answer, the lane waits as it does for a request: a contact that Loops has must not
//! count as new because Loops was down or the key was revoked. That Loops does not have a contact is remembered for a
//! while, in this process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::key_watch::Obstacle;
use super::lanes::Turn;
use super::lease::HeldLease;
use super::stepper::{StepEnd, Stepper};
use super::union::object;
use super::verdict::Next;
use crate::destination::{Destination, Plan};
use crate::js::Value;
use crate::loops::{FindBy, ReadError, Slot};
use crate::queue::{KnownContact, Unavailable, WorkError};
use crate::segment::PersonDigest;
use crate::telemetry;

/// The most contacts that are remembered; then all are forgotten, and are asked about once more.
const SOUGHT_MAX: usize = 100_000;

/// How long Loops counts as not having a contact after it said so: somebody else may create it.
const ABSENT_FOR: Duration = Duration::from_secs(10 * 60);

/// The contacts that Loops was asked about, except those that it has.
#[derive(Debug, Default)]
pub(super) struct SoughtBefore(Mutex<HashMap<PersonDigest, Finding>>);

#[derive(Debug, Clone, Copy)]
enum Finding {
    /// Loops did not have it at this time, as far as it said.
    Absent(Instant),
    /// Loops gave no answer.
    Unanswered {
        /// When it was first asked.
        first: Instant,
        /// How many times it was asked.
        count: u32,
    },
}

impl SoughtBefore {
    fn is_absent(&self, key: PersonDigest) -> bool {
        match self.lock().get(&key) {
            Some(Finding::Absent(at)) => at.elapsed() < ABSENT_FOR,
            Some(Finding::Unanswered { .. }) | None => false,
        }
    }

    fn absent(&self, key: PersonDigest) {
        self.note(key, Finding::Absent(Instant::now()));
    }

    /// Notes that Loops gave no answer; returns for how long and how many times in a row.
    fn unanswered(&self, key: PersonDigest) -> (Duration, u32) {
        let before = self.lock().get(&key).copied();
        let (first, count) = match before {
            Some(Finding::Unanswered { first, count }) => (first, count.saturating_add(1)),
            Some(Finding::Absent(_)) | None => (Instant::now(), 1),
        };
        self.note(key, Finding::Unanswered { first, count });
        (first.elapsed(), count)
    }

    fn forget(&self, key: PersonDigest) {
        self.lock().remove(&key);
    }

    fn note(&self, key: PersonDigest, finding: Finding) {
        let mut sought = self.lock();
        if sought.len() >= SOUGHT_MAX {
            sought.clear();
        }
        sought.insert(key, finding);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PersonDigest, Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A contact that Loops is to be asked about.
pub(super) struct Sought {
    contact: KnownContact,
    user: Option<String>,
    email: String,
}

impl Stepper {
    /// The first contact that a plan would create and that Loops has not been asked about, where it is to be.
    pub(super) async fn sought(
        &self,
        destination: &Destination,
        plan: &Plan,
    ) -> Result<Option<Sought>, Unavailable> {
        if !destination.contact_options().verify_unknown {
            return Ok(None);
        }
        let facts = self.facts(destination);
        for delivery in &plan.deliveries {
            let Ok(request) = &delivery.outcome else { continue };
            let created = facts.facts(request.endpoint, &request.body);
            let Some(contact) = created.and_then(|facts| facts.creation()) else { continue };
            if self.sought.is_absent(contact.key)
                || self.queue.unknown_contacts(&self.name, &[contact]).await?.is_empty()
            {
                continue;
            }
            let Some(body) = object(&request.body) else { continue };
            let text = |name| body.get(name).and_then(Value::as_str).map(str::to_owned);
            if let Some(email) = text("email") {
                return Ok(Some(Sought { contact, user: text("userId"), email }));
            }
        }
        Ok(None)
    }

    /// Asks Loops whether it has a contact, and remembers that. Without an answer, the lane waits, and asks again.
    pub(super) async fn verify(
        &self,
        held: &HeldLease,
        turn: &Turn,
        sought: Sought,
        slot: Slot,
    ) -> Result<StepEnd, WorkError> {
        if !held.is_certain() {
            return Ok(Next::Again.into());
        }
        let key = sought.contact.key;
        match self.find(&sought, slot).await {
            Ok(true) => {
                let now = self.clock.now();
                self.queue.make_known(&self.name, &[sought.contact], now).await?;
                self.sought.forget(key);
            }
            Ok(false) => self.sought.absent(key),
            Err(error) => return Ok(self.unanswered(turn, key, &error).into()),
        }
        Ok(Next::Again.into())
    }

    /// What a lane does after Loops has not said whether it has a contact.
    fn unanswered(&self, turn: &Turn, key: PersonDigest, error: &ReadError) -> Next {
        let is_refused = match error {
            ReadError::Status(401 | 403) if !turn.is_singled_out => {
                return Next::Blocked(Obstacle::Key);
            }
            ReadError::Status(400 | 401 | 403 | 422) => true,
            ReadError::Status(_) | ReadError::Call(_) | ReadError::Unreadable => false,
        };
        let (waited, count) = self.sought.unanswered(key);
        let (destination, seq) = (&self.name, turn.head.seq.0);
        let error = telemetry::chain(error);
        // Else a contact about which Loops never answers would block its lane for ever.
        if is_refused || waited > self.retry.window {
            warn!(
                destination,
                seq,
                %error,
                "Loops does not say whether it has a contact, which therefore counts as new"
            );
            self.sought.absent(key);
            return Next::Again;
        }
        warn!(
            destination,
            seq,
            %error,
            "Loops could not be asked whether it has a contact; asking again"
        );
        Next::Wait(self.retry.delay(count))
    }

    /// Whether Loops has a contact with the address, or with the `userId`.
    async fn find(&self, sought: &Sought, slot: Slot) -> Result<bool, ReadError> {
        let found = self.client.find(&slot, FindBy::Email(&sought.email)).await?;
        drop(slot);
        match &sought.user {
            Some(user) if found.is_none() => {
                let slot = self.client.pacer().slot().await;
                Ok(self.client.find(&slot, FindBy::UserId(user)).await?.is_some())
            }
            _ => Ok(found.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PersonDigest = PersonDigest(7);

    #[tokio::test(start_paused = true)]
    async fn a_contact_counts_as_absent_for_some_minutes() {
        let sought = SoughtBefore::default();
        assert!(!sought.is_absent(KEY));
        sought.absent(KEY);
        tokio::time::advance(ABSENT_FOR - Duration::from_secs(1)).await;
        assert!(sought.is_absent(KEY) && !sought.is_absent(PersonDigest(8)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!sought.is_absent(KEY));
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_not_an_absent_contact() {
        let sought = SoughtBefore::default();
        assert_eq!(sought.unanswered(KEY), (Duration::ZERO, 1));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(sought.unanswered(KEY), (Duration::from_secs(5), 2));
        assert!(!sought.is_absent(KEY));
        sought.absent(KEY);
        assert!(sought.is_absent(KEY));
        assert_eq!(sought.unanswered(KEY), (Duration::ZERO, 1), "it begins anew");
    }
}
