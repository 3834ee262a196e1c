//! A message as a case for `check --cases`, with the requests that a plan makes of it.

use serde_json::{Value as Json, json};

use crate::console::preview::PreviewedRequest;
use crate::destination::Plan;
use crate::segment::Message;

/// The longest message that becomes a case, in bytes.
const BYTES_MAX: usize = 16 * 1024;

/// Returns a case that expects what the plan makes of the message; `None` if the message is too long. With
/// `destination`, the case names it, as it must if there are several.
pub fn case(message: &Message, plan: &Plan, destination: Option<&str>) -> Option<Json> {
    let text = message.value().to_json();
    if text.len() > BYTES_MAX {
        return None;
    }
    let (made, failed): (Vec<_>, Vec<_>) =
        plan.deliveries.iter().map(|one| one.outcome.as_ref()).partition(Result::is_ok);
    let requests: Vec<_> = made.into_iter().flatten().map(PreviewedRequest::from).collect();
    let errors: Vec<&str> =
        failed.into_iter().filter_map(Result::err).map(|failure| failure.detail.as_str()).collect();
    let name = format!("message {}", message.message_id());
    let message: Json = serde_json::from_str(&text).ok()?;
    let mut case = json!({"name": name, "message": message, "expect": {"requests": requests}});
    if let Some(destination) = destination {
        case["destination"] = json!(destination);
    }
    if !errors.is_empty() {
        case["expect"]["errors"] = json!(errors);
    }
    Some(case)
}

/// Writes cases as a file.
pub fn file(cases: Vec<Json>) -> String {
    // The alternate form indents the JSON.
    format!("{:#}\n", Json::Array(cases))
}
