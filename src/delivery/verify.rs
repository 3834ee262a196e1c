//! Asking Loops whether it has a contact, before the contact counts as new, is held or is not created
//! (`verify_unknown`).
//!
//! A step that finds such a contact asks Loops with its slot, and plans the message again afterwards. While Loops gives
//! no usable response, the lane waits as it does for a request: a contact that Loops has must not count as new because
//! Loops was down or the key was revoked. This process remembers for a while that Loops does not have a contact.

use tracing::warn;

use super::lanes::Turn;
use super::lease::HeldLease;
use super::obstacle::Obstacle;
use super::sought::Sought;
use super::stepper::{StepEnd, Stepper};
use super::union::object;
use super::verdict::Next;
use crate::destination::{Destination, Plan};
use crate::js::Value;
use crate::loops::{FindBy, ReadError, Slot};
use crate::queue::{Unavailable, WorkError};
use crate::segment::PersonDigest;
use crate::telemetry;

impl Stepper {
    /// Returns the first contact that a plan would create and that Loops must still be asked about; `None` if there is
    /// none, or `verify_unknown` is off.
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

    /// Asks Loops whether it has a contact, and remembers the result. Without a usable response, the lane waits and
    /// asks again.
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

    /// Returns what a lane does after Loops has not said whether it has a contact.
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
        // Otherwise a contact about which Loops never says anything would block its lane forever.
        if is_refused || waited > self.retry.window {
            warn!(
                destination,
                seq,
                %error,
                "Loops does not say whether it has a contact: the contact counts as new"
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

    /// Returns whether Loops has a contact with the address or the `userId`.
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
