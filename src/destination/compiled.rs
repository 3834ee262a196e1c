//! A compiled subscription, and the request that it makes of a message.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::body;
use super::entries::Entries;
use super::field::validate;
use super::guard::{ConsentGuard, Guard, subscribes};
use super::literals::LiteralNames;
use super::plan::{Noted, PlanFailure, PlanFailureKind, PlannedDelivery};
use super::subscription::{Subscription, SubscriptionProblem, TriggerText};
use super::terms::Terms;
use super::unsupported::Unsupported;
use crate::action::ActionKind;
use crate::js::{Value, object_json};
use crate::loops::Request;
use crate::mapping::{Fields, Mapping};
use crate::segment::MessageType;
use crate::trigger::{Trigger, TriggerError};

/// A compiled subscription.
#[derive(Debug, Clone)]
pub struct CompiledSubscription {
    pub(super) written: Subscription,
    pub(super) trigger: Trigger,
    pub(super) mapping: Mapping,
    /// The mailing lists that the mapping contains literally, by id or by name.
    pub(super) list_names: BTreeSet<String>,
}

impl CompiledSubscription {
    /// Compiles a subscription as Segment's runtime does. [`CompiledSubscription::latent_problems`] returns
    /// the errors that Segment's runtime would report only for a message that meets them.
    pub fn compile(subscription: &Subscription) -> Result<Self, Vec<SubscriptionProblem>> {
        let problem_of = |field: &str, problem: String| SubscriptionProblem {
            subscription: subscription.name.clone(),
            field: field.to_owned(),
            problem,
        };
        let mut problems = Vec::new();
        let trigger = Self::compile_trigger(&subscription.trigger)
            .map_err(|(field, error)| problems.push(problem_of(field, error.to_string())));
        let mapping = Mapping::compile(&subscription.mapping).map_err(|errors| {
            let all = errors.problems.iter().map(|error| problem_of("mapping", error.to_string()));
            problems.extend(all);
        });
        match (trigger, mapping) {
            (Ok(trigger), Ok(mapping)) => Ok(Self::new(subscription.clone(), trigger, mapping)),
            _ => Err(problems),
        }
    }

    /// Creates a subscription from compiled parts.
    pub fn new(written: Subscription, trigger: Trigger, mapping: Mapping) -> Self {
        let list_names = LiteralNames::of(&written).mailing_lists;
        Self { written, trigger, mapping, list_names }
    }

    /// Compiles a trigger; an error comes with the key in question.
    pub fn compile_trigger(written: &TriggerText) -> Result<Trigger, (&'static str, TriggerError)> {
        match written {
            TriggerText::Fql(text) => Trigger::compile(text).map_err(|error| ("trigger", error)),
            TriggerText::Events(names) => {
                Trigger::events(names.iter().map(String::as_str)).map_err(|error| ("events", error))
            }
        }
    }

    /// Returns errors that affect only the messages that reach them.
    pub fn latent_problems(&self) -> Vec<SubscriptionProblem> {
        let trigger = self
            .trigger
            .latent_problem()
            .map(|failure| self.problem("trigger", failure.to_string()));
        let mapping = self.mapping.latent_problems().iter();
        let mapping = mapping.map(|error| self.problem("mapping", error.to_string()));
        trigger.into_iter().chain(mapping).collect()
    }

    pub(super) fn action(&self) -> ActionKind {
        self.written.action
    }

    pub(super) fn problem(&self, field: &str, problem: String) -> SubscriptionProblem {
        let subscription = self.written.name.clone();
        SubscriptionProblem { subscription, field: field.to_owned(), problem }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.written.name
    }

    /// Whether it takes anything.
    pub fn is_enabled(&self) -> bool {
        self.written.enabled
    }

    /// Whether its requests may subscribe people again who left.
    pub(super) fn resubscribes(&self) -> bool {
        self.written.enabled && self.written.resubscribe
    }

    /// Whether it deletes contacts.
    pub(super) fn deletes(&self) -> bool {
        self.written.action == ActionKind::DeleteContact
    }

    /// Whether it may take some message of this type.
    pub fn may_match(&self, kind: MessageType) -> bool {
        self.trigger.may_match(kind)
    }

    /// Whether it may take some message of this type with this `event`.
    pub fn may_match_event(&self, kind: MessageType, event: &str) -> bool {
        self.trigger.may_match_event(kind, event)
    }

    /// Plans a message; `None` if the trigger does not take it.
    pub fn plan<'a>(
        &self,
        message: &Value,
        terms: impl Into<Terms<'a>>,
    ) -> Option<PlannedDelivery> {
        let mut noted = Noted::default();
        let outcome = match self.trigger.matches(message) {
            Ok(false) => return None,
            Ok(true) => self
                .fields(message)
                .and_then(|fields| self.request(message, fields, terms.into(), &mut noted)),
            Err(failure) => Err(PlanFailure::invalid(failure.to_string())),
        };
        Some(self.planned(outcome, noted))
    }

    pub(super) fn planned(
        &self,
        outcome: Result<Request, PlanFailure>,
        noted: Noted,
    ) -> PlannedDelivery {
        PlannedDelivery {
            subscription: self.written.name.clone(),
            action: self.written.action,
            // A delivery that may be too late is dropped alone.
            may_merge: self.written.merge && self.written.max_age_s.is_none(),
            max_age_s: self.written.max_age_s,
            resubscribe: self.written.resubscribe,
            guarded: noted.guarded,
            warnings: noted.warnings,
            relies_on_catalogue: noted.relies_on_catalogue,
            missing: noted.missing,
            outcome,
        }
    }

    /// Whether the mapping names `subscribed` among the properties that it lists.
    fn lists_subscribed(&self) -> bool {
        let mapping = &self.written.mapping;
        let lists = |field| {
            mapping.get(field).is_some_and(|listed: &Value| listed.get("subscribed").is_some())
        };
        lists("customAttributes") || lists("contactProperties")
    }

    pub(super) fn fields<'a>(&'a self, message: &'a Value) -> Result<Fields<'a>, PlanFailure> {
        let resolved = self.mapping.resolve_fields(message);
        resolved.map_err(|failure| PlanFailure::invalid(failure.to_string()))
    }

    pub(super) fn request(
        &self,
        message: &Value,
        fields: Fields<'_>,
        terms: Terms<'_>,
        noted: &mut Noted,
    ) -> Result<Request, PlanFailure> {
        let (options, warnings) = (terms.options, &mut noted.warnings);
        let action = self.written.action;
        let unsupported = options.unsupported;
        let fields = validate(action.fields(), fields, unsupported, warnings)?;
        if unsupported == Unsupported::Pass {
            null_context(message)?;
        }
        // The field counts as named only if it is filled with something.
        let is_named = fields.get("subscribed").is_some_and(|value| !value.is_null())
            || self.lists_subscribed();
        let (endpoint, mut body) = body::make(action, fields, unsupported, warnings);
        if options.consent == ConsentGuard::Guard
            && !is_named
            && leave_out_subscription(&mut body, warnings)
        {
            noted.guarded.push(Guard::Consent);
        }
        let user_id = body.get("userId").and_then(|id| id.as_str());
        if user_id.is_some_and(|id| options.is_placeholder(id)) {
            return Err(PlanFailure {
                kind: PlanFailureKind::PlaceholderId,
                detail: "not sent: the user id is a word that programs write when they have no id, so that different people would become one contact; fix the sender, or remove the word from placeholder_ids of the destination if it is a real id, and replay the message"
                    .to_owned(),
            });
        }
        if let Some(review) = terms.review {
            review.review(endpoint, &mut body, &self.list_names, noted)?;
        }
        let body = object_json(body.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
        Ok(Request { endpoint, body: Bytes::from(body) })
    }
}

/// Leaves out a `subscribed` that came with other properties, unless it unsubscribes; returns whether it did.
fn leave_out_subscription(body: &mut Entries<'_>, warnings: &mut Vec<String>) -> bool {
    let leaves_out = body.get("subscribed").is_some_and(|value| subscribes(value));
    if leaves_out {
        body.shift_remove("subscribed");
        warnings.push(
            "`subscribed` was left out: it came with other properties, and would subscribe people again who have unsubscribed; name the field `subscribed` in the mapping if that is meant"
                .to_owned(),
        );
    }
    leaves_out
}

/// Fails on a context of null, as Segment's runtime does once it has checked the fields. Only with "pass", which is
/// exactly Segment; otherwise such a message is like any other.
fn null_context(message: &Value) -> Result<(), PlanFailure> {
    let place = match message.get("context") {
        Some(Value::Null) => "context",
        Some(context) if context.get("personas") == Some(&Value::Null) => "context.personas",
        _ => return Ok(()),
    };
    let detail = format!(
        "{place} is null, on which Segment's destination fails: leave it out, or set unsupported = \"omit\""
    );
    Err(PlanFailure::invalid(detail))
}
