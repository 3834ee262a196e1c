//! Previews a message: what would become of it, for programs (JSON) and for people (text). Needs no network and changes
//! nothing.

use std::fmt;

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::destination::{
    ActionKind, Destination, Explained, ExplainedField, Request, UnmatchedReason,
};
use crate::js::Value;
use crate::segment::Message;

/// Why a message cannot be previewed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoMessage(String);

/// Stands for the id of a message that has none: the service would assign one.
const NO_ID: &str = "(given when it is accepted)";

/// Parses a message as a sender writes it.
pub fn message_of(value: Value) -> Result<Message, NoMessage> {
    let Value::Object(object) = value else {
        let problem = "a message must be a JSON object, such as {\"type\": \"track\", \"userId\": \"…\", \"event\": \"…\"}";
        return Err(NoMessage(problem.to_owned()));
    };
    if object.get("type").is_none() && object.get("batch").is_some() {
        return Err(NoMessage("this is a batch: preview takes one message".to_owned()));
    }
    let id = crate::segment::message::id_text(object.get("messageId"));
    let id = id.map_or_else(|| NO_ID.to_owned(), std::borrow::Cow::into_owned);
    Message::new(object, id)
        .map_err(|problem| NoMessage(format!("it would be rejected: {problem}")))
}

/// What would happen to a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    /// Why no subscription would take the message, for programs; null if one would.
    #[schema(required)]
    pub reason: Option<UnmatchedReason>,
    /// Why no subscription would take the message, for people; null if one would.
    #[schema(required)]
    pub detail: Option<String>,
    /// What each subscription would do, including disabled ones.
    pub subscriptions: Vec<PreviewedSubscription>,
    /// The requests that would be sent to Loops.
    pub requests: Vec<PreviewedRequest>,
}

/// What a subscription would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedSubscription {
    /// Name of the subscription.
    pub subscription: String,
    /// The action of the subscription.
    pub action: ActionKind,
    /// The trigger as it is written.
    pub trigger: String,
    /// Whether the trigger matches the message.
    pub matched: bool,
    /// Why the trigger does not match; null if it does.
    #[schema(required)]
    pub why_not: Option<String>,
    /// What the mapping finds for each field of the action.
    pub fields: Vec<PreviewedField>,
    /// What would be left out of the request or changed in it.
    pub warnings: Vec<String>,
    /// The request to Loops; null if there would be none.
    #[schema(required)]
    pub request: Option<PreviewedRequest>,
    /// Why the delivery would fail; null if it would not.
    #[schema(required)]
    pub error: Option<String>,
}

/// What the mapping finds for a field.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewedField {
    /// Name of the field.
    pub name: String,
    /// The part of the mapping that decides the value, such as `$.traits.email`.
    pub from: String,
    /// The value, of any JSON type; null if nothing is found.
    #[schema(required, value_type = serde_json::Value)]
    pub value: Option<Json>,
}

/// A request as it would be sent to Loops.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewedRequest {
    /// HTTP method.
    #[schema(example = "POST")]
    pub method: &'static str,
    /// Path below the base URL of Loops.
    #[schema(example = "/events/send")]
    pub path: &'static str,
    /// The JSON body.
    #[schema(value_type = Object)]
    pub body: Json,
}

impl Preview {
    /// Previews a message under the subscriptions of a destination.
    pub fn of(destination: &Destination, message: &Message) -> Self {
        let plan = destination.plan(message);
        let planned = plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().ok());
        Self {
            requests: planned.map(PreviewedRequest::from).collect(),
            subscriptions: destination
                .explain(message)
                .subscriptions
                .into_iter()
                .map(PreviewedSubscription::from)
                .collect(),
            reason: plan.unmatched.as_ref().map(|unmatched| unmatched.reason),
            detail: plan.unmatched.map(|unmatched| unmatched.detail),
        }
    }
}

impl From<Explained> for PreviewedSubscription {
    fn from(explained: Explained) -> Self {
        let (request, error) = match &explained.outcome {
            Some(Ok(request)) => (Some(PreviewedRequest::from(request)), None),
            Some(Err(failure)) => (None, Some(failure.detail.clone())),
            None => (None, None),
        };
        Self {
            subscription: explained.subscription,
            action: explained.action,
            trigger: explained.trigger,
            matched: explained.why_not.is_none(),
            why_not: explained.why_not,
            fields: explained.fields.into_iter().map(PreviewedField::from).collect(),
            warnings: explained.warnings,
            request,
            error,
        }
    }
}

impl From<ExplainedField> for PreviewedField {
    fn from(field: ExplainedField) -> Self {
        let value = field.value.map(|value| {
            // `Value` always writes valid JSON.
            serde_json::from_str(&value.to_json()).unwrap_or(Json::Null)
        });
        Self { name: field.name, from: field.from, value }
    }
}

impl From<&Request> for PreviewedRequest {
    fn from(request: &Request) -> Self {
        Self {
            method: request.endpoint.method(),
            path: request.endpoint.path(),
            body: serde_json::from_slice(&request.body).unwrap_or(Json::Null),
        }
    }
}

/// Writes the preview for a terminal.
impl fmt::Display for Preview {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // If the destination is turned off, it does not matter what the subscriptions would do.
        if let Some(detail) = &self.detail
            && self.subscriptions.iter().any(|subscription| subscription.matched)
        {
            return writeln!(out, "\nNothing would be sent: {detail}.");
        }
        for subscription in &self.subscriptions {
            write!(out, "\n{subscription}")?;
        }
        match (self.requests.len(), &self.detail) {
            (0, Some(detail)) => writeln!(out, "\nNo request would be sent: {detail}."),
            (0, None) => writeln!(out, "\nNo request would be sent."),
            (1, _) => writeln!(out, "\n1 request would be sent."),
            (more, _) => writeln!(out, "\n{more} requests would be sent."),
        }
    }
}

impl fmt::Display for PreviewedSubscription {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} ({})", self.subscription, self.action.as_str())?;
        writeln!(out, "  trigger   {}", self.trigger)?;
        match &self.why_not {
            Some(reason) => return writeln!(out, "  skipped   {reason}"),
            None => writeln!(out, "  matched")?,
        }
        let width = self.fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
        for PreviewedField { name, from, value } in &self.fields {
            let value = value.as_ref().map_or("(nothing)".to_owned(), Json::to_string);
            writeln!(out, "  {name:width$}  {value}  <- {from}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "  warning   {warning}")?;
        }
        if let Some(error) = &self.error {
            writeln!(out, "  fails     {error}")?;
        }
        match &self.request {
            Some(request) => write!(out, "{request}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PreviewedRequest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "  request   {} {}", self.method, self.path)?;
        // The alternate form indents the JSON.
        format!("{:#}", self.body).lines().try_for_each(|line| writeln!(out, "    {line}"))
    }
}
