//! What Segment calls the destination: subscriptions, the fields of their actions, and the requests
//! that they make of a message. [`Destination::plan`] is the one way in. Pure: no I/O, no clock.

mod action;
mod body;
mod field;
mod unsupported;

pub use action::ActionKind;
pub use unsupported::Unsupported;

use crate::loops::Request;
use crate::mapping::{Mapping, MappingError};
use crate::segment::{Message, MessageType, Value};
use crate::trigger::{Trigger, TriggerError};

/// A subscription as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Its name, for people.
    pub name: String,
    /// Whether it takes anything.
    pub enabled: bool,
    /// What it does.
    pub action: ActionKind,
    /// An FQL text: which messages it takes.
    pub trigger: String,
    /// What each field of the action is filled with.
    pub mapping: Value,
}

/// Why a subscription cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subscription `{name}`")]
pub struct SubscriptionError {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    #[source]
    pub mistake: SubscriptionMistake,
}

/// What can be wrong with a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionMistake {
    /// Its trigger.
    #[error("its trigger cannot be read")]
    Trigger(#[from] TriggerError),
    /// Its mapping.
    #[error("its mapping cannot be read")]
    Mapping(#[from] MappingError),
}

/// Compiled subscriptions.
#[derive(Debug, Clone)]
pub struct Destination {
    subscriptions: Vec<Compiled>,
    unsupported: Unsupported,
}

#[derive(Debug, Clone)]
struct Compiled {
    name: String,
    action: ActionKind,
    trigger: Trigger,
    mapping: Mapping,
}

/// What shall be done with a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// One for each subscription that takes it, in their order.
    pub deliveries: Vec<PlannedDelivery>,
    /// Why there are none.
    pub unmatched: Option<String>,
}

/// What shall be done with a message under one subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedDelivery {
    /// Name of the subscription.
    pub subscription: String,
    /// Its action.
    pub action: ActionKind,
    /// What was left out or changed on the way; never holds a value.
    pub warnings: Vec<String>,
    /// The request, or why there is none.
    pub outcome: Result<Request, PlanFailure>,
}

/// Why a message makes no request under a subscription that takes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PlanFailure {
    /// What a person needs to mend it, worded as Segment's validation words it.
    pub detail: String,
}

impl Destination {
    /// The subscriptions that Segment's destination starts with, and one for deletions.
    pub fn segment_defaults() -> Result<Self, Vec<SubscriptionError>> {
        let subscriptions = ActionKind::ALL.map(|action| Subscription {
            name: action.title().to_owned(),
            enabled: true,
            action,
            trigger: action.default_trigger().to_owned(),
            mapping: action.default_mapping(),
        });
        Self::compile(&subscriptions, Unsupported::default())
    }

    /// Compiles subscriptions; finds all mistakes at once.
    pub fn compile(
        subscriptions: &[Subscription],
        unsupported: Unsupported,
    ) -> Result<Self, Vec<SubscriptionError>> {
        let mut compiled = Vec::new();
        let mut errors = Vec::new();
        for subscription in subscriptions {
            match Compiled::new(subscription) {
                Ok(one) if subscription.enabled => compiled.push(one),
                Ok(_) => {}
                Err(mistake) => {
                    errors.push(SubscriptionError { name: subscription.name.clone(), mistake });
                }
            }
        }
        if errors.is_empty() {
            Ok(Self { subscriptions: compiled, unsupported })
        } else {
            Err(errors)
        }
    }

    /// What shall be done with a message.
    pub fn plan(&self, message: &Message) -> Plan {
        if let Some(reason) = turned_off(message.value()) {
            return Plan { deliveries: Vec::new(), unmatched: Some(reason) };
        }
        let deliveries: Vec<PlannedDelivery> = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.trigger.matches(message.value()))
            .map(|subscription| subscription.plan(message.value(), self.unsupported))
            .collect();
        let unmatched = deliveries
            .is_empty()
            .then(|| format!("no subscription takes this {} message", message.kind()));
        Plan { deliveries, unmatched }
    }

    /// Whether some subscription may take messages of this type.
    pub fn takes(&self, kind: MessageType) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.trigger.may_match(kind))
    }
}

impl Compiled {
    fn new(subscription: &Subscription) -> Result<Self, SubscriptionMistake> {
        Ok(Self {
            name: subscription.name.clone(),
            action: subscription.action,
            trigger: Trigger::compile(&subscription.trigger)?,
            mapping: Mapping::compile(&subscription.mapping)?,
        })
    }

    fn plan(&self, message: &Value, unsupported: Unsupported) -> PlannedDelivery {
        let fields = self.mapping.resolve(message).map(std::borrow::Cow::into_owned);
        let mut warnings = Vec::new();
        let outcome = field::validate(self.action.fields(), fields.unwrap_or_default())
            .map(|fields| body::request(self.action, fields, unsupported, &mut warnings));
        PlannedDelivery { subscription: self.name.clone(), action: self.action, warnings, outcome }
    }
}

/// The names by which `integrations` speaks of this destination.
const INTEGRATION_NAMES: [&str; 3] = ["Loops", "Loops (Actions)", "Actions Loops"];

/// Why `integrations` turns this destination off, if it does.
fn turned_off(message: &Value) -> Option<String> {
    let integrations = message.get("integrations")?;
    let own = INTEGRATION_NAMES.iter().find_map(|name| Some((*name, integrations.get(name)?)));
    match own {
        Some((name, Value::Bool(false))) => {
            Some(format!("integrations turns it off: \"{name}\" is false"))
        }
        Some((_, value)) if value.is_truthy() => None,
        _ if integrations.get("All") == Some(&Value::Bool(false)) => Some(
            "integrations turns it off: \"All\" is false and \"Loops (Actions)\" is not named"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
