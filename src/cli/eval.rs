//! `eval`: evaluates triggers, mappings and subscriptions over messages in bulk: JSON Lines in, JSON Lines out.

use std::io::{self, BufRead, BufWriter, Write};

use clap::Args;

use super::error::CliError;
use crate::destination::subscription::{Subscription, TriggerText, read};
use crate::destination::{ActionKind, CompiledSubscription, DestinationOptions, Unsupported};
use crate::js::Value;
use crate::js::decode::decode;
use crate::loops::Request;
use crate::mapping::Mapping;
use crate::trigger::Trigger;

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Options of `eval`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is a JSON object with an `event` (a Segment message) and one of these, and gives:
  {\"trigger\": \"type = \\\"track\\\"\", \"event\": {…}}
    -> {\"match\": true}
  {\"mapping\": {…}, \"event\": {…}}
    -> {\"output\": …}
  {\"subscription\": {…}, \"event\": {…}}
    -> {\"requests\": […], \"warnings\": […]} or {\"skipped\": \"…\"}
A line with a subscription may have \"unsupported\": \"pass\" (the default here), \"omit\" or \"flatten\". \
Failures give {\"error\": \"…\"}. Other keys and blank lines are ignored.

  segment-loops eval < lines.jsonl > answers.jsonl")]
pub struct EvalArgs {}

pub(super) fn run(_: EvalArgs) -> Result<(), CliError> {
    let output = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match eval(io::stdin().lock(), output) {
        // The reader, as in `segment-loops eval | head`, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|source| CliError::Io {
            what: "standard input or output ended early".to_owned(),
            source,
        }),
    }
}

fn eval(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return output.flush();
        }
        if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            let problem = format!("the line has more than {LINE_BYTES_MAX} bytes");
            writeln!(output, "{}", error(&problem))?;
        } else if !line.trim_ascii().is_empty() {
            writeln!(output, "{}", eval_line(&line))?;
        }
    }
}

/// Returns the output line for an input line.
fn eval_line(line: &[u8]) -> String {
    let asked = match decode(line) {
        Ok(Value::Object(asked)) => asked,
        Ok(_) => return error("a line must be a JSON object"),
        Err(problem) => return error(&problem.to_string()),
    };
    let Some(event) = asked.get("event") else {
        return error("`event` is missing: give the message, such as {\"type\": \"track\", …}");
    };
    if let Some(subscription) = asked.get("subscription") {
        let unsupported = match asked.get("unsupported") {
            None => Some(Unsupported::Pass),
            Some(given) => given.as_str().and_then(Unsupported::parse),
        };
        return match unsupported {
            Some(unsupported) => eval_subscription(subscription, event, unsupported),
            None => error("`unsupported` must be \"pass\", \"omit\" or \"flatten\""),
        };
    }
    if let Some(mapping) = asked.get("mapping") {
        return eval_mapping(mapping, event);
    }
    match asked.get("trigger") {
        Some(Value::String(trigger)) => eval_trigger(trigger, event),
        Some(_) => error("`trigger` must be a text"),
        None => error("give one of `trigger`, `mapping`, `subscription`"),
    }
}

fn eval_trigger(trigger: &str, event: &Value) -> String {
    let matches = Trigger::compile(trigger)
        .map_err(|problem| problem.to_string())
        .and_then(|trigger| trigger.matches(event).map_err(|failure| failure.to_string()));
    match matches {
        Ok(matches) => format!("{{\"match\":{matches}}}"),
        Err(problem) => error(&problem),
    }
}

fn eval_mapping(mapping: &Value, event: &Value) -> String {
    let output = Mapping::compile(mapping)
        .map_err(|problems| problems.segment_text())
        .and_then(|mapping| mapping.resolve(event).map_err(|failure| failure.to_string()));
    match output {
        Ok(output) => format!("{{\"output\":{}}}", output.unwrap_or_default().to_json()),
        Err(problem) => error(&problem),
    }
}

fn eval_subscription(written: &Value, event: &Value, unsupported: Unsupported) -> String {
    let compiled = match compiled(written, event) {
        Ok(compiled) => compiled,
        Err(answer) => return answer,
    };
    let Some(delivery) = compiled.plan(event, &DestinationOptions::unguarded(unsupported)) else {
        return skipped("not subscribed");
    };
    match delivery.outcome {
        Ok(request) => requests(Some(&request), &delivery.warnings),
        Err(failure) => error(&failure.detail),
    }
}

/// Compiles a subscription the way Segment's runtime does, or returns the output line that says why there is none. A
/// subscription with an invalid shape or trigger is no error to Segment: it is just not subscribed. A mapping is not
/// looked at before the trigger takes the message.
fn compiled(written: &Value, event: &Value) -> Result<CompiledSubscription, String> {
    let is_short = written.get("action").is_some() || written.get("events").is_some();
    let subscription = if is_short {
        read(&with_name(written), 0).map_err(|problems| error(&lines(&problems)))?
    } else {
        segment_shape(written)?
    };
    if !subscription.enabled {
        return Err(skipped("disabled"));
    }
    let trigger = CompiledSubscription::compile_trigger(&subscription.trigger)
        .map_err(|(_, problem)| skipped(&format!("Invalid subscription : {problem}")))?;
    if trigger.matches(event) == Ok(false) {
        return Err(skipped("not subscribed"));
    }
    let mapping = Mapping::compile(&subscription.mapping)
        .map_err(|problems| error(&problems.segment_text()))?;
    Ok(CompiledSubscription::new(subscription, trigger, mapping))
}

fn segment_shape(written: &Value) -> Result<Subscription, String> {
    let given = |keys: [&str; 2]| keys.into_iter().find_map(|key| written.get(key));
    let Some(trigger) =
        given(["subscribe", "trigger"]).and_then(Value::as_str).filter(|text| !text.is_empty())
    else {
        return Err(skipped("Failed to validate subscription"));
    };
    let action = given(["partnerAction", "actionSlug"]).and_then(Value::as_str);
    let Some(action) = action.and_then(ActionKind::parse) else {
        // An action that Segment does not know does nothing, and reports no error.
        return Err(requests(None, &[]));
    };
    Ok(Subscription {
        name: "subscription".to_owned(),
        enabled: written.get("enabled") != Some(&Value::Bool(false)),
        action,
        trigger: TriggerText::Fql(trigger.to_owned()),
        mapping: given(["mapping", "settings"]).cloned().unwrap_or_default(),
        merge: true,
        max_age_s: None,
        resubscribe: false,
    })
}

/// Adds a name, which the evaluation does not use.
fn with_name(written: &Value) -> Value {
    let mut written = written.clone();
    if let Value::Object(object) = &mut written
        && !object.contains_key("name")
    {
        object.insert("name", Value::from("subscription"));
    }
    written
}

fn lines(problems: &[impl ToString]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn requests(request: Option<&Request>, warnings: &[String]) -> String {
    let requests = request.map_or(String::new(), |request| {
        let (method, path) = (request.endpoint.method(), request.endpoint.path());
        let body = String::from_utf8_lossy(&request.body);
        format!("{{\"method\":\"{method}\",\"path\":\"{path}\",\"body\":{body}}}")
    });
    let warnings: Vec<Value> =
        warnings.iter().map(|warning| Value::from(warning.as_str())).collect();
    format!("{{\"requests\":[{requests}],\"warnings\":{}}}", Value::Array(warnings).to_json())
}

fn skipped(reason: &str) -> String {
    format!("{{\"skipped\":{}}}", Value::from(reason).to_json())
}

fn error(problem: &str) -> String {
    format!("{{\"error\":{}}}", Value::from(problem).to_json())
}
