//! The plans of messages, and the requests that are frozen from them.

use jiff::Timestamp;

use super::contacts::ContactClaim;
use super::delivery::{NewDelivery, NewOutcome};
use super::failure::NotNeededReason;
use super::new_contacts::{ContactCap, Hold};
use super::order::Seq;
use super::request::{FrozenRequest, NewRequest};
use crate::action::{Unmatched, UnmatchedReason};

/// The plan of a message.
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// The current time.
    pub now: Timestamp,
    /// One delivery for each subscription that took the message.
    pub deliveries: Vec<NewDelivery>,
    /// Why no subscription took it; only if there are no deliveries.
    pub unmatched: Option<Unmatched>,
}

/// Neighbours of a lane that were planned together.
#[derive(Debug, Clone)]
pub struct NewMerge {
    /// The messages, in order; each delivery has the request that would carry it alone.
    pub plans: Vec<(Seq, NewPlan)>,
    /// Requests that carry several of these deliveries.
    pub merged: Vec<NewMergedRequest>,
    /// The contacts that these requests are about to change.
    pub claims: Vec<ContactClaim>,
    /// Whether the destination is in shadow mode, so that the first request is not about to be sent.
    pub is_shadow: bool,
    /// How many contacts these requests may create; `None`: any number.
    pub cap: Option<ContactCap>,
}

impl NewMerge {
    /// Counts the requests.
    pub fn economy(&self) -> Economy {
        let mut economy = Economy::default();
        for (index, (_, plan)) in self.plans.iter().enumerate() {
            for (position, delivery) in plan.deliveries.iter().enumerate() {
                let is_merged =
                    self.merged.iter().any(|merged| merged.carries.contains(&(index, position)));
                match &delivery.outcome {
                    NewOutcome::Request(_) if is_merged => economy.merged += 1,
                    NewOutcome::Request(request) => {
                        economy.requests += 1;
                        economy.redundant += u64::from(request.is_redundant);
                    }
                    NewOutcome::NotNeeded(why) => {
                        economy.unchanged += u64::from(why.reason == NotNeededReason::Unchanged);
                    }
                    NewOutcome::Failed(_) => {}
                }
            }
        }
        for merged in &self.merged {
            economy.merged = economy.merged.saturating_sub(1);
            economy.requests += 1;
            economy.redundant += u64::from(merged.request.is_redundant);
        }
        economy
    }
}

/// A request that carries several deliveries.
#[derive(Debug, Clone)]
pub struct NewMergedRequest {
    /// The request.
    pub request: NewRequest,
    /// The deliveries: index of the plan, and index of the delivery within it.
    pub carries: Vec<(usize, usize)>,
}

/// How many requests plans make, and how many they save or make in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Economy {
    /// Requests that are sent, each counted once.
    pub requests: u64,
    /// Requests that are saved because others carry their deliveries.
    pub merged: u64,
    /// Requests that are saved because they would change nothing.
    pub unchanged: u64,
    /// Requests among `requests` that change nothing.
    pub redundant: u64,
}

impl Economy {
    /// Returns the saved requests, each kind with the word by which it is counted.
    pub fn saved(self) -> [(&'static str, u64); 3] {
        [
            ("merged", self.merged),
            (NotNeededReason::Unchanged.as_str(), self.unchanged),
            ("unchanged_would", self.redundant),
        ]
    }
}

/// A message whose plan is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Its pending requests, in the order of its deliveries.
    pub requests: Vec<FrozenRequest>,
    /// Why this plan ended it as unmatched, if it did.
    pub unmatched: Option<UnmatchedReason>,
    /// Set if the message is held and not planned; `None`: its plan is on disk.
    pub hold: Option<Hold>,
}
