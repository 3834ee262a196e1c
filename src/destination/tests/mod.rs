//! From a message to its plan; and what is wrong, or likely to be wrong, with subscriptions.

mod guards;
mod likely_errors;
mod mailing_lists;
mod requests;
mod subscriptions;
mod unmatched;

use super::*;
use crate::js::Value;
use crate::js::decode::decode;
use crate::segment::{Message, MessageType};

fn message(text: &str) -> Message {
    Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap()
}

fn defaults() -> Destination {
    Destination::compile(&Destination::default_subscriptions(), Unsupported::default()).unwrap()
}

fn plan(text: &str) -> Plan {
    defaults().plan(&message(text))
}

/// The one request's path and body, or why there is none; then the warnings.
fn planned(text: &str) -> (String, Vec<String>) {
    let mut plan = plan(text);
    assert_eq!(plan.deliveries.len(), 1, "{text}");
    let delivery = plan.deliveries.remove(0);
    let told = match delivery.outcome {
        Ok(request) => {
            format!("{} {}", request.endpoint.path(), String::from_utf8_lossy(&request.body))
        }
        Err(failure) => failure.detail,
    };
    (told, delivery.warnings)
}

fn body(written: &str, unsupported: Unsupported, text: &str) -> (serde_json::Value, Vec<String>) {
    let one = subscription(written).unwrap();
    let destination = Destination::compile(&[one], unsupported).unwrap();
    let delivery = destination.plan(&message(text)).deliveries.remove(0);
    let told = match delivery.outcome {
        Ok(request) => serde_json::from_slice(&request.body).unwrap(),
        Err(failure) => failure.detail.into(),
    };
    (told, delivery.warnings)
}

const CONTACT: &str =
    r#"{"name":"s","action":"createOrUpdateContact","trigger":"type = \"identify\""}"#;
const DELETE: &str = r#"{"name":"s","action":"deleteContact","trigger":"type = \"delete\""}"#;

/// A subscription that sends every event with these contact properties.
fn sending(contact_properties: &str) -> String {
    format!(
        r#"{{"name":"s","action":"sendEvent","events":["*"],"mapping":{{"contactProperties":{contact_properties}}}}}"#
    )
}

fn subscription(written: &str) -> Result<Subscription, Vec<SubscriptionProblem>> {
    subscription::read(&decode(written.as_bytes()).unwrap(), 0)
}

fn guarded(placeholder_ids: Option<&[&str]>, consent_categories: &[&str]) -> Destination {
    let mut options = DestinationOptions::default();
    if let Some(ids) = placeholder_ids {
        options.placeholder_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    }
    options.consent_categories = consent_categories.iter().map(|one| (*one).to_owned()).collect();
    Destination::compile(&Destination::default_subscriptions(), options).unwrap()
}
