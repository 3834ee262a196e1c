//! Asking Loops whether it has a contact, before the contact counts as new, is held or is not created
//! (`verify_unknown`).
//!
//! A step that finds such a contact asks, with the slot that it has for a request, and plans the message again
//! afterwards. Each contact is asked about once, as far as this process remembers.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::lease::HeldLease;
use super::stepper::{StepEnd, Stepper};
use super::union::object;
use super::verdict::Next;
use crate::destination::{Destination, Plan};
use crate::loops::{FindBy, ReadError, Slot};
use crate::queue::{KnownContact, Unavailable, WorkError};
use crate::segment::{PersonDigest, Value};
use crate::telemetry;

/// The most contacts that are remembered; then all are forgotten, and are asked about once more.
const SOUGHT_MAX: usize = 100_000;

/// The contacts that Loops was asked about, and does not have as far as it said.
#[derive(Debug, Default)]
pub(super) struct SoughtBefore(Mutex<HashSet<PersonDigest>>);

impl SoughtBefore {
    fn contains(&self, key: PersonDigest) -> bool {
        self.lock().contains(&key)
    }

    fn add(&self, key: PersonDigest) {
        let mut sought = self.lock();
        if sought.len() >= SOUGHT_MAX {
            sought.clear();
        }
        sought.insert(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PersonDigest>> {
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
            if self.sought.contains(contact.key)
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

    /// Asks Loops whether it has a contact, and remembers that. If that cannot be known, the contact counts as one that
    /// Loops does not have.
    pub(super) async fn verify(
        &self,
        held: &HeldLease,
        sought: Sought,
        slot: Slot,
    ) -> Result<StepEnd, WorkError> {
        if !held.is_certain() {
            return Ok(Next::Again.into());
        }
        match self.find(&sought, slot).await {
            Ok(true) => {
                let now = self.clock.now();
                self.queue.make_known(&self.name, &[sought.contact], now).await?;
            }
            Ok(false) => {}
            Err(error) => warn!(
                destination = self.name,
                error = %telemetry::chain(&error),
                "Loops could not be asked whether it has a contact, which counts as new"
            ),
        }
        self.sought.add(sought.contact.key);
        Ok(Next::Again.into())
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
