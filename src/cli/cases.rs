//! Mapping tests that users write: messages, and the requests that they must produce.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{self, Planner};
use crate::console::preview::{PreviewedRequest, message_of};
use crate::destination::Plan;
use crate::js::Value;

/// The result of a file of cases.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// How many cases passed.
    pub(super) passed: usize,
    /// A description of each case that failed, for people.
    pub(super) failures: Vec<String>,
}

/// Runs the cases of a file. The error says why the file cannot be used.
pub(super) fn run(file: &Path, planners: &BTreeMap<String, Planner>) -> Result<Outcome, String> {
    let value = config::read_value(file)?;
    let cases = match &value {
        Value::Array(cases) => Some(cases.as_slice()),
        value => value.get("cases").and_then(Value::as_array),
    };
    let cases = cases.filter(|cases| !cases.is_empty()).ok_or(
        "holds no cases: allowed is a list of {\"name\": …, \"message\": {…}, \"expect\": {\"requests\": […]}}, or an object with it as `cases`",
    )?;
    let mut outcome = Outcome::default();
    for (place, case) in cases.iter().enumerate() {
        let name = case.get("name").and_then(Value::as_str);
        let name = name.map_or_else(|| format!("case {}", place + 1), str::to_owned);
        match run_case(case, planners) {
            Ok(()) => outcome.passed += 1,
            Err(problem) => outcome.failures.push(format!("{name}: {problem}")),
        }
    }
    Ok(outcome)
}

fn run_case(case: &Value, planners: &BTreeMap<String, Planner>) -> Result<(), String> {
    known_keys(case, &["name", "message", "destination", "expect"])?;
    let planner = match case.get("destination").map(|name| name.as_str().unwrap_or_default()) {
        Some(name) => planners.get(name).ok_or(format!("there is no destination `{name}`"))?,
        None if planners.len() == 1 => planners.values().next().ok_or("there is no destination")?,
        None => return Err("say which `destination`".to_owned()),
    };
    let expected = case.get("expect").ok_or("`expect` is missing")?;
    known_keys(expected, &["requests", "errors", "warnings"])?;
    let message = case.get("message").cloned().ok_or("`message` is missing")?;
    let message = message_of(message).map_err(|error| format!("message: {error}"))?;
    let plan = planner.destination.plan(&message);
    // A case expects no requests and no errors beyond those it lists; warnings may be left out.
    compare("requests", expected.get("requests"), &requests(&plan))?;
    compare("errors", expected.get("errors"), &errors(&plan))?;
    match expected.get("warnings") {
        Some(warnings) => compare("warnings", Some(warnings), &warnings_of(&plan)),
        None => Ok(()),
    }
}

fn known_keys(value: &Value, known: &[&str]) -> Result<(), String> {
    let object = value.as_object().ok_or("a case and its `expect` are objects")?;
    match object.keys().find(|key| !known.contains(key)) {
        Some(key) => Err(format!("`{key}` is unknown; allowed are {}", known.join(", "))),
        None => Ok(()),
    }
}

fn compare(what: &str, expected: Option<&Value>, made: &Value) -> Result<(), String> {
    let nothing = Value::Array(Vec::new());
    let expected = expected.unwrap_or(&nothing);
    if expected == made {
        return Ok(());
    }
    Err(format!(
        "{what} differ\n      expected {}\n      made     {}",
        expected.to_json(),
        made.to_json()
    ))
}

fn requests(plan: &Plan) -> Value {
    let requests = plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().ok());
    let requests = requests.map(|request| {
        // Strings and JSON can always be serialized.
        let json = serde_json::to_value(PreviewedRequest::from(request)).unwrap_or_default();
        Value::from(&json)
    });
    Value::Array(requests.collect())
}

fn errors(plan: &Plan) -> Value {
    let failures = plan.deliveries.iter().filter_map(|delivery| delivery.outcome.as_ref().err());
    Value::Array(failures.map(|failure| Value::from(failure.detail.as_str())).collect())
}

fn warnings_of(plan: &Plan) -> Value {
    let warnings = plan.deliveries.iter().flat_map(|delivery| &delivery.warnings);
    Value::Array(warnings.map(|warning| Value::from(warning.as_str())).collect())
}
