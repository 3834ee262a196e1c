//! The state of the handlers.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::watch;

use super::asker::Asker;
use super::compare::Turn;
use super::status::Depths;
use super::tails::Tails;
use super::tokens::Tokens;
use super::view::{ReloadProblem, Reloaded};
use crate::clock::SharedClock;
use crate::destination::Destination;
use crate::http::error::ApiError;
use crate::http::{Guesses, Sources};
use crate::large::Turns;
use crate::queue::{Store, Unavailable};
use crate::telemetry;

/// The state that the handlers share.
#[derive(Clone)]
pub struct AdminState(Arc<AdminParts>);

/// Everything that the handlers use: the parts of an [`AdminState`].
pub struct AdminParts {
    /// Keeps the messages, their outcomes, what Loops reported, and what people did.
    pub store: Arc<dyn Store>,
    /// The latest counts of waiting messages.
    pub depths: Depths,
    /// Asks Loops what it holds.
    pub asker: Arc<dyn Asker>,
    /// The name of this process, as in leases.
    pub process: String,
    /// The time.
    pub clock: SharedClock,
    /// The tokens of people.
    pub tokens: Tokens,
    /// Tracks wrong tokens by address.
    pub guesses: Arc<Guesses>,
    /// The sources in force.
    pub sources: watch::Receiver<Arc<Sources>>,
    /// The subscriptions in force.
    pub planners: Planners,
    /// The turns to decode large messages.
    pub turns: Turns,
    /// The slots for live lists.
    pub tails: Tails,
    /// The turn to compare messages with a changed subscription.
    pub turn: Turn,
    /// The configuration in force, for people.
    pub settings: Arc<dyn Fn() -> Vec<Setting> + Send + Sync>,
    /// The result of the last reload; `None` if there was none since the start.
    pub last_reload: Arc<dyn Fn() -> Option<Reloaded> + Send + Sync>,
    /// Reads the configuration again and puts it into force. Reads files, so it blocks.
    pub reload: Arc<dyn Fn() -> Reload + Send + Sync>,
}

/// A key of the configuration and its value, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Its value in words.
    pub value: String,
}

/// The subscriptions in force, by the name of their destination.
pub type Planners = HashMap<String, watch::Receiver<Arc<Destination>>>;

/// The result of a reload: what was loaded, or why the configuration was rejected.
pub type Reload = Result<Reloaded, Vec<ReloadProblem>>;

impl Deref for AdminState {
    type Target = AdminParts;

    fn deref(&self) -> &AdminParts {
        &self.0
    }
}

impl AdminState {
    /// Creates the state from its parts.
    pub fn new(parts: AdminParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Returns the subscriptions of a destination, or of the only destination if no name is given.
    pub(super) fn planner(&self, name: Option<&str>) -> Option<Arc<Destination>> {
        self.destination(name).map(|(_, planner)| planner)
    }

    /// Does the same, and returns the name of the destination as well.
    pub(super) fn destination(&self, name: Option<&str>) -> Option<(&str, Arc<Destination>)> {
        let found = match name {
            Some(name) => self.planners.get_key_value(name),
            None if self.planners.len() == 1 => self.planners.iter().next(),
            None => None,
        };
        found.map(|(name, planner)| (name.as_str(), Arc::clone(&planner.borrow())))
    }

    /// Returns the names of all subscriptions in force.
    pub(super) fn subscription_names(&self) -> BTreeSet<String> {
        let planners = self.planners.values().map(|planner| Arc::clone(&planner.borrow()));
        planners
            .flat_map(|planner| planner.subscription_names().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Lists the names of all destinations, for error messages.
    pub(super) fn destination_names(&self) -> String {
        let mut names: Vec<&str> = self.planners.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }
}

/// Logs a failure of the store, and returns the error for it.
pub(super) fn store_fault(fault: Unavailable) -> ApiError {
    tracing::error!(error = %telemetry::chain(&fault), "the store failed");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "store_fault",
        "the store does not work at the moment: see the log for the cause",
    )
}
