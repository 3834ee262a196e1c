//! The result of a reload.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// What is in force after a reload.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Number of subscriptions by destination.
    pub subscriptions: BTreeMap<String, usize>,
    /// Keys that were changed, and are in force.
    pub changed: Vec<ChangedKey>,
    /// Keys that were changed but keep their old values until a restart.
    pub needs_restart: Vec<String>,
}

/// A key of the configuration that a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangedKey {
    /// The key.
    #[schema(example = "sources.web.stamp_ip")]
    pub key: String,
    /// `added`, `removed`, `changed`, or the old value and the new one, for people. Secrets are never shown.
    #[schema(example = "false → true")]
    pub change: String,
}

/// Why a configuration was not put into force.
#[derive(Debug, Serialize, ToSchema)]
pub struct BadConfiguration {
    /// Always `bad_configuration`.
    #[schema(example = "bad_configuration")]
    pub code: &'static str,
    /// A summary for people.
    pub message: &'static str,
    /// Everything that is wrong.
    pub problems: Vec<ReloadProblem>,
}

/// One error in a configuration.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReloadProblem {
    /// The file, or `environment`; `database` if its contents do not allow the value.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}
