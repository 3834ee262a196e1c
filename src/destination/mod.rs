//! The destination, in Segment's sense: subscriptions, the fields of their actions, and the requests that
//! they make of a message. [`Destination::plan`] is the only entry. Pure: no I/O, no clock.

mod action;
mod body;
mod catalogue;
mod compare;
mod compiled;
mod entries;
mod explain;
mod field;
mod guard;
mod literals;
mod plan;
mod planner;
pub mod subscription;
mod terms;
mod tidy;
mod unsupported;
mod warnings;
mod written;

pub use catalogue::{
    Catalogue, CatalogueOptions, CatalogueRecord, FoundList, KnownList, Missing, UnknownProperties,
    WrongTypes, is_like_list_id,
};
pub use compare::{Change, Comparison, Made, Revision, Stopped};
pub use compiled::CompiledSubscription;
pub use explain::{Explained, ExplainedField, Explanation};
pub use field::is_email;
pub use guard::{
    ConsentGuard, ContactOptions, DestinationOptions, ERASED_BLOCK_DAYS_MAX, Guard, IdentityGuard,
    Mode, NewContactsPolicy, PLACEHOLDER_IDS_DEFAULT, SkipUnchanged, Stale, subscribes,
};
pub use literals::LiteralNames;
pub use plan::{Plan, PlanFailure, PlanFailureKind, PlannedDelivery};
pub use planner::{Destination, SUBSCRIPTIONS_MAX};
pub use subscription::{Subscription, SubscriptionProblem, TriggerText};
pub use terms::Terms;
pub use unsupported::Unsupported;

pub use crate::action::{ActionKind, Unmatched, UnmatchedReason};
pub use crate::loops::{ContactProperty, Request};

#[cfg(test)]
mod tests;
