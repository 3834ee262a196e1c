//! Explains the plan for a message step by step, for people.

use super::compiled::CompiledSubscription;
use super::plan::{Noted, PlanFailure};
use super::planner::Destination;
use super::terms::Terms;
use crate::action::ActionKind;
use crate::js::Value;
use crate::loops::Request;
use crate::mapping::Fields;
use crate::segment::Message;

/// What each subscription would do with a message, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Why the destination is turned off for the message, by `integrations` or a lack of consent.
    pub turned_off: Option<String>,
    /// All subscriptions, including disabled ones, in their order.
    pub subscriptions: Vec<Explained>,
}

/// What one subscription would do with a message, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// Name of the subscription.
    pub subscription: String,
    /// Its action.
    pub action: ActionKind,
    /// Its trigger as it is written.
    pub trigger: String,
    /// Why it does not take the message; `None` if it does.
    pub why_not: Option<String>,
    /// What the mapping finds for each field, in the mapping's order.
    pub fields: Vec<ExplainedField>,
    /// What would be left out of the request or changed in it.
    pub warnings: Vec<String>,
    /// The request, or why there is none; `None` if it does not take the message.
    pub outcome: Option<Result<Request, PlanFailure>>,
}

/// Where a field's value comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedField {
    /// Name of the field.
    pub name: String,
    /// The part of the mapping that decides the value, such as `$.traits.email`.
    pub from: String,
    /// The value; `None` if there is none.
    pub value: Option<Value>,
}

impl Destination {
    /// Explains what [`Destination::plan`] does with a message, and why.
    ///
    /// ```
    /// use segment_loops::destination::{Destination, Unsupported};
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::segment::Message;
    ///
    /// let destination = Destination::compile(&Destination::default_subscriptions(), Unsupported::Omit).unwrap();
    /// let message = Message::from_stored(decode(br#"{"type": "delete", "messageId": "m1", "userId": "u1"}"#)?)?;
    /// let [upsert, event, deletion] = destination.explain(&message).subscriptions.try_into().unwrap();
    /// assert_eq!(upsert.why_not.unwrap(), r#"type is "delete", which is not the string "identify""#);
    /// assert_eq!(event.why_not.unwrap(), r#"type is "delete", which is not the string "track""#);
    /// assert_eq!(deletion.why_not, None);
    /// assert_eq!(deletion.fields[0].from, "$.userId");
    /// assert_eq!(deletion.outcome.unwrap().unwrap().body, r#"{"userId":"u1"}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, message: &Message) -> Explanation {
        let subscriptions = self.subscriptions.iter();
        Explanation {
            turned_off: self.turned_off(message).map(|unmatched| unmatched.detail),
            subscriptions: subscriptions
                .map(|subscription| subscription.explain(message.value(), self.terms()))
                .collect(),
        }
    }
}

impl CompiledSubscription {
    fn explain(&self, message: &Value, terms: Terms<'_>) -> Explained {
        let mut explained = Explained {
            subscription: self.written.name.clone(),
            action: self.written.action,
            trigger: self.written.trigger.to_string(),
            why_not: None,
            fields: Vec::new(),
            warnings: Vec::new(),
            outcome: None,
        };
        if !self.written.enabled {
            explained.why_not = Some("it is disabled".to_owned());
            return explained;
        }
        match self.trigger.matches(message) {
            Ok(true) => {}
            Ok(false) => {
                explained.why_not = Some(self.trigger.why_not(message));
                return explained;
            }
            Err(failure) => {
                explained.outcome = Some(Err(PlanFailure::invalid(failure.to_string())));
                return explained;
            }
        }
        let mut noted = Noted::default();
        explained.outcome = Some(self.fields(message).and_then(|fields| {
            explained.fields = self.explain_fields(message, &fields, &|| false);
            self.request(message, fields, terms, &mut noted)
        }));
        explained.warnings = noted.warnings;
        explained
    }

    pub(super) fn explain_fields(
        &self,
        message: &Value,
        found: &Fields<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Vec<ExplainedField> {
        let origins = self.mapping.origins_until(message, stop);
        let value_of = |name: &str| match found {
            Fields::Object(fields) => {
                let found = fields.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.as_ref().clone())
            }
            Fields::Other(_) => None,
        };
        if !origins.is_empty() {
            let explained = origins.into_iter();
            return explained
                .map(|(name, from)| ExplainedField { value: value_of(&name), name, from })
                .collect();
        }
        // The mapping is a single directive.
        let Fields::Object(fields) = found else {
            return Vec::new();
        };
        let explained = fields.iter().map(|(name, value)| ExplainedField {
            name: name.clone().into_owned(),
            from: "the mapping as a whole".to_owned(),
            value: Some(value.as_ref().clone()),
        });
        explained.collect()
    }
}
