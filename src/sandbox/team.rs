//! The simulated team: its state, which all handlers share.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::contact::Contact;
use super::faults::Faults;
use super::state::{Counts, SeenEvent, SeenRequest, State};
use crate::clock::SharedClock;
use crate::secret::Secret;

/// The root of the simulated Loops API: the path of the base URL to configure.
pub const API_BASE: &str = "/api/v1";

/// The largest request body that is read. A larger one gets 413.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The options of a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// The API key that is accepted; `None`: any key that is not empty.
    pub api_key: Option<Secret>,
    /// The team's name, as `GET /api-key` returns it.
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
pub struct Sandbox(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: SandboxOptions,
    pub(super) clock: SharedClock,
    pub(super) started: Instant,
    pub(super) state: Mutex<State>,
    /// The channel for events that are sent as webhooks; empty: no webhooks are sent.
    pub(super) outbox: OnceLock<Outbox>,
}

/// The channel to the task that sends webhooks.
type Outbox = mpsc::Sender<Value>;

impl Sandbox {
    /// Creates an empty sandbox. `clock` is used for the age of idempotency keys and the times of events. The rate is
    /// measured with tokio's clock, like all durations.
    pub fn new(options: SandboxOptions, clock: SharedClock) -> Self {
        let state = Mutex::new(State::new(options.faults.clone()));
        let outbox = OnceLock::new();
        Self(Arc::new(Shared { options, clock, started: Instant::now(), state, outbox }))
    }

    /// Returns the accepted events that are still kept, newest last.
    pub fn events(&self) -> Vec<SeenEvent> {
        self.state().events.to_vec()
    }

    /// Returns the requests to the simulated API that are still kept, in the order of arrival.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state().requests.to_vec()
    }

    /// Returns all contacts as Loops shows them, oldest first.
    pub fn contacts(&self) -> Vec<Value> {
        self.state().audience.contacts().map(Contact::to_json).collect()
    }

    /// Returns the counts since the start or the last reset.
    pub fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Returns the faults in force.
    pub fn faults(&self) -> Faults {
        self.state().faults.settings().clone()
    }

    /// Puts other faults into force, and starts the random choices from their seed.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults.replace(faults, true);
    }

    /// Forgets everything that arrived, and returns to the initial faults. Request numbers continue, so that requests
    /// in progress are not confused with later ones.
    pub fn reset(&self) {
        self.state().reset(self.0.options.faults.clone());
    }

    /// Locks the state. The lock must not be held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
