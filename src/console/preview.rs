//! What would become of a message: as JSON for programs and as text for people. Needs no network and
//! changes nothing.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::destination::{Destination, Explained, Explanation, PlanFailure, Request};
use crate::segment::{Message, Value};

/// Why there is nothing to preview.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoMessage(String);

/// The message id of one that has none yet: the service would give it one.
const NO_ID: &str = "(given when it is accepted)";

/// Takes a message as a sender writes it.
pub fn message_of(value: Value) -> Result<Message, NoMessage> {
    let Value::Object(object) = value else {
        let problem = "a message must be a JSON object, such as {\"type\": \"track\", \"userId\": \"…\", \"event\": \"…\"}";
        return Err(NoMessage(problem.to_owned()));
    };
    let id = crate::segment::message::id_text(object.get("messageId"));
    let id = id.map_or_else(|| NO_ID.to_owned(), std::borrow::Cow::into_owned);
    Message::new(object, id).map_err(|problem| NoMessage(format!("it would be refused: {problem}")))
}

/// The preview as JSON.
pub fn as_json(destination: &Destination, message: &Message) -> Json {
    let explanation = destination.explain(message);
    let plan = destination.plan(message);
    let requests = plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().ok());
    json!({
        "unmatched": plan.unmatched,
        "subscriptions": explanation.subscriptions.iter().map(subscription_json).collect::<Vec<_>>(),
        "requests": requests.map(request_json).collect::<Vec<_>>(),
    })
}

fn subscription_json(explained: &Explained) -> Json {
    let fields = explained.fields.iter().map(|field| {
        json!({"name": field.name, "from": field.from, "value": field.value.as_ref().map(json_of)})
    });
    let (request, error) = match &explained.outcome {
        Some(Ok(request)) => (Some(request_json(request)), None),
        Some(Err(failure)) => (None, Some(failure.detail.clone())),
        None => (None, None),
    };
    json!({
        "subscription": explained.subscription,
        "action": explained.action.as_str(),
        "trigger": explained.trigger,
        "matched": explained.why_not.is_none(),
        "whyNot": explained.why_not,
        "fields": fields.collect::<Vec<_>>(),
        "warnings": explained.warnings,
        "request": request,
        "error": error,
    })
}

/// A request as it would be sent.
pub fn request_json(request: &Request) -> Json {
    let body: Json = serde_json::from_slice(&request.body).unwrap_or(Json::Null);
    json!({"method": request.endpoint.method(), "path": request.endpoint.path(), "body": body})
}

fn json_of(value: &Value) -> Json {
    serde_json::from_str(&value.to_json()).unwrap_or(Json::Null)
}

/// The preview as text for a terminal.
pub fn as_text(destination: &Destination, message: &Message) -> String {
    let Explanation { turned_off, subscriptions } = destination.explain(message);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} message of {}", message.kind(), person(message));
    if let Some(reason) = turned_off {
        let _ = writeln!(text, "\nNothing would be sent: {reason}.");
        return text;
    }
    let mut requests = 0;
    for explained in &subscriptions {
        let _ = writeln!(text, "\n{} ({})", explained.subscription, explained.action.as_str());
        let _ = writeln!(text, "  trigger   {}", explained.trigger);
        match &explained.why_not {
            Some(reason) => {
                let _ = writeln!(text, "  skipped   {reason}");
                continue;
            }
            None => {
                let _ = writeln!(text, "  matched");
            }
        }
        write_fields(&mut text, explained);
        for warning in &explained.warnings {
            let _ = writeln!(text, "  warning   {warning}");
        }
        match &explained.outcome {
            Some(Ok(request)) => {
                requests += 1;
                write_request(&mut text, request);
            }
            Some(Err(PlanFailure { detail })) => {
                let _ = writeln!(text, "  fails     {detail}");
            }
            None => {}
        }
    }
    let told = match requests {
        0 => "No request would be sent.".to_owned(),
        1 => "1 request would be sent.".to_owned(),
        more => format!("{more} requests would be sent."),
    };
    let _ = writeln!(text, "\n{told}");
    text
}

fn person(message: &Message) -> String {
    message.order_key().map_or_else(String::new, |(_, key)| key.into_owned())
}

fn write_fields(text: &mut String, explained: &Explained) {
    let width = explained.fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    for field in &explained.fields {
        let value = field.value.as_ref().map_or("(nothing)".to_owned(), Value::to_json);
        let _ = writeln!(text, "  {:width$}  {value}  <- {}", field.name, field.from);
    }
}

fn write_request(text: &mut String, request: &Request) {
    let _ = writeln!(text, "  request   {} {}", request.endpoint.method(), request.endpoint.path());
    let body = serde_json::from_slice::<Json>(&request.body).unwrap_or(Json::Null);
    for line in serde_json::to_string_pretty(&body).unwrap_or_default().lines() {
        let _ = writeln!(text, "    {line}");
    }
}
