//! The sandbox: a simulated Loops, all in memory, for development, demonstration and tests.
//!
//! It keeps Loops' published contract (its OpenAPI document) under [`API_BASE`]: contacts, contact
//! properties, mailing lists, events, idempotency keys for 24 hours, and the rate with its headers.
//! Under `/sandbox` it has a control API of its own, without a key, that shows what arrived and
//! makes the simulated Loops slow, failing or rude ([`Faults`]). It must never be reachable from
//! outside: it is a test tool.
//!
//! What the contract leaves open, the sandbox decides like this:
//!
//! * One sandbox is one team: all keys share its contacts and its rate.
//! * `email` and `userId` that are `null` or empty count as missing. E-mail addresses are compared
//!   without regard to case.
//! * `email` and `userId` of two different contacts: 400 from update and from events (their
//!   contract has no 409 for that), 409 from create.
//! * Mailing lists that the team does not have are accepted and kept with the contact.
//! * A property seen for the first time becomes known with the type of its value; a later value of
//!   another type is accepted. A `null` clears a property and makes none known.
//! * Where Loops' documentation says more than its OpenAPI document, the documentation holds: a
//!   `userId` that no contact has needs an `email` beside it, names of events hold no colon, event
//!   properties are strings, numbers and booleans (no `null`, nothing nested), and strings have at
//!   most 500 characters.
//! * Each refusal has a line in the log that says which rule was broken, with no value of the request.
//! * A used idempotency key is answered with 409 before the body is looked at.
//! * With a URL ([`Sandbox::send_webhooks`]), it sends webhooks: each event triggers a mail, which is sent
//!   and delivered; one to an address with `+bounce`, `+softbounce`, `+spam`, `+open`, `+click`, `+unsubscribe` or
//!   `+resubscribe` meets that fate.
//! * Requests with a wrong key are answered with 401 and use up nothing of the rate.

mod answer;
mod api;
mod audience;
mod contact;
mod control;
mod faults;
mod fields;
mod gate;
mod keys;
mod properties;
mod rate;
mod ring;
mod state;
#[cfg(test)]
mod tests;
mod webhooks;

pub use faults::{Faults, FaultsError};
pub use state::{Counts, InjectedFault, SeenEvent, SeenRequest};
pub use webhooks::WebhookTarget;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::Router;
use serde_json::Value;
use tokio::time::Instant;

use crate::clock::SharedClock;
use crate::loops::ClientError;
use crate::secret::Secret;
use state::State;

/// Where the simulated Loops API begins: the path of the base URL to configure.
pub const API_BASE: &str = "/api/v1";

/// Largest request body that is read; more is answered with 413.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What a sandbox starts with.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// The API key that is right. `None`: any key that is not empty.
    pub api_key: Option<Secret>,
    /// The team's name, as `GET /api-key` tells it.
    pub team_name: String,
    /// The faults in force at the start and after every reset.
    pub faults: Faults,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self { api_key: None, team_name: "Sandbox".to_owned(), faults: Faults::default() }
    }
}

/// A simulated Loops. Clones share one state.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: SandboxOptions,
    clock: SharedClock,
    started: Instant,
    state: Mutex<State>,
    /// Where events go of which webhooks are sent; empty: none are.
    outbox: OnceLock<webhooks::Outbox>,
}

/// Why no webhooks can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SandboxWebhookError {
    /// The secret holds no key.
    #[error("the webhook secret is not one of Loops' form: whsec_ and base64, such as whsec_ZGV2")]
    Secret,
    /// The URL cannot be used.
    #[error("the webhook URL cannot be used: give one such as http://127.0.0.1:8080/loops/default")]
    Client(#[source] ClientError),
}

impl Sandbox {
    /// Makes an empty sandbox. `clock` tells the age of idempotency keys and when events arrived;
    /// the rate is measured with tokio's own clock, as durations are.
    pub fn new(options: SandboxOptions, clock: SharedClock) -> Self {
        let state = Mutex::new(State::new(options.faults.clone()));
        let outbox = OnceLock::new();
        Self(Arc::new(Shared { options, clock, started: Instant::now(), state, outbox }))
    }

    /// The simulated API under [`API_BASE`] and the control API under `/sandbox`.
    pub fn router(&self) -> Router {
        Router::new()
            .nest(API_BASE, api::router(self))
            .nest("/sandbox", control::router(self))
            .fallback(answer::no_such_path)
    }

    /// The accepted events that are still kept, newest last.
    pub fn events(&self) -> Vec<SeenEvent> {
        self.state().events.to_vec()
    }

    /// The requests to the simulated API that are still kept, in the order of arrival.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state().requests.to_vec()
    }

    /// All contacts as Loops shows them, oldest first.
    pub fn contacts(&self) -> Vec<Value> {
        self.state().audience.contacts().map(contact::Contact::to_json).collect()
    }

    /// What was counted since the start or the last reset.
    pub fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// The faults in force.
    pub fn faults(&self) -> Faults {
        self.state().faults.settings().clone()
    }

    /// Puts other faults in force and starts their random choices from their seed.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults.replace(faults, true);
    }

    /// Forgets everything that arrived and goes back to the faults of the start. Request numbers
    /// go on, so that requests under way do not get mixed up with later ones.
    pub fn reset(&self) {
        self.state().reset(self.0.options.faults.clone());
    }

    /// The state, for a moment: never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
