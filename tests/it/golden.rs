//! Mapping is exact: for every recorded case, the program returns the result of Segment's own runtime.
//!
//! The cases of `tests/golden/` are results of Segment's published runtime. All of them run through `eval`. Cases that
//! differ are listed here by name with the reason, and a listed case that does not differ is a failure too.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const BASE_URL: &str = "https://app.loops.so/api/v1";

/// Runs lines through `eval`.
pub fn eval(lines: &[String]) -> Vec<Value> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_segment-loops"))
        .arg("eval")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let input = lines.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len(), "one answer a line");
    answers
}

/// The lines of a file, one case each, untouched: their numbers and the order of their keys matter.
fn cases(text: &str) -> Vec<(String, Value)> {
    let lines = text.lines().map(|line| line.trim_end_matches(','));
    let cases = lines.filter(|line| line.starts_with('{'));
    cases.map(|line| (line.to_owned(), serde_json::from_str(line).unwrap())).collect()
}

/// Converts every number of a JSON value to a double, as in JavaScript.
fn doubles(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(doubles).collect(),
        Value::Object(object) => {
            object.iter().map(|(key, item)| (key.clone(), doubles(item))).collect()
        }
        other => other.clone(),
    }
}

/// Compares all cases of a file; `departures` are the names of those that differ, with the reason.
fn compare(
    text: &str,
    count: usize,
    departures: &[(&str, &str)],
    input: impl Fn(&str) -> String,
    expected: impl Fn(&Value, &Value) -> Result<(), Value>,
) {
    let cases = cases(text);
    assert_eq!(cases.len(), count, "no case is lost");
    let lines: Vec<String> = cases.iter().map(|(line, _)| input(line)).collect();
    let mut wrong = Vec::new();
    for ((_, case), answer) in cases.iter().zip(eval(&lines)) {
        let name = case["name"].as_str().unwrap();
        let departs = departures.iter().any(|(departure, _)| *departure == name);
        match expected(case, &answer) {
            Ok(()) if departs => wrong.push(format!("{name}: no longer differs")),
            Err(expected) if !departs => {
                wrong.push(format!("{name}\n  expected {expected}\n  answered {answer}"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn same(expected: Value, answer: &Value) -> Result<(), Value> {
    if doubles(&expected) == doubles(answer) { Ok(()) } else { Err(expected) }
}

#[test]
fn triggers_take_what_segment_takes() {
    compare(
        include_str!("../golden/fql.json"),
        281,
        &[],
        |line| line.replacen("\"fql\":", "\"trigger\":", 1),
        |case, answer| {
            let expect = &case["expect"];
            if expect["parse"] == "error" || expect["throws"] == true {
                return if answer["error"].is_string() { Ok(()) } else { Err(expect.clone()) };
            }
            same(json!({"match": expect["match"]}), answer)
        },
    );
}

#[test]
fn mappings_give_what_segment_gives() {
    compare(include_str!("../golden/mapping.json"), 403, &[], str::to_owned, |case, answer| {
        let expect = &case["expect"];
        match expect.get("error") {
            Some(error) => same(json!({"error": error}), answer),
            None => same(json!({"output": expect["output"]}), answer),
        }
    });
}

#[test]
fn subscriptions_make_the_requests_that_segment_makes() {
    compare(
        include_str!("../golden/action.json"),
        362,
        &[],
        |line| {
            let case: Value = serde_json::from_str(line).unwrap();
            if case["onDelete"] != true {
                return line.to_owned();
            }
            // Segment's destination has a separate handler for deletions, where this program has a subscription.
            let subscription = json!({"name": "delete", "action": "deleteContact", "trigger": "type = \"delete\""});
            json!({"subscription": subscription, "event": case["event"]}).to_string()
        },
        |case, answer| {
            let expect = &case["expect"];
            if case["onDelete"] == true {
                return same(deletion(case), answer);
            }
            if let Some(requests) = expect.get("requests") {
                return same(json!({"requests": requests_of(requests), "warnings": []}), answer);
            }
            match expect.get("error") {
                Some(error) => same(json!({"error": error["message"]}), answer),
                None => same_skip(&expect["output"], answer),
            }
        },
    );
}

/// After "Invalid subscription :", the runtime prints its internal error, and this program a readable one.
fn same_skip(output: &Value, answer: &Value) -> Result<(), Value> {
    let start =
        |value: &Value| value.as_str().map(|text| text.split(" : ").next().unwrap().to_owned());
    let expected = start(output);
    if expected.is_some() && start(&answer["skipped"]) == expected {
        Ok(())
    } else {
        Err(output.clone())
    }
}

/// Segment sends the id unchanged in a list, where Loops' API expects a string. Without an id, Segment sends a list
/// with null, and this program sends no request.
fn deletion(case: &Value) -> Value {
    match &case["event"]["userId"] {
        Value::Null => json!({"error": "The root value is missing the required field 'userId'."}),
        id => {
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            json!({"requests": [{"method": "POST", "path": "/contacts/delete", "body": {"userId": id}}], "warnings": []})
        }
    }
}

fn requests_of(requests: &Value) -> Value {
    let request = |request: &Value| {
        let path = request["url"].as_str().unwrap().strip_prefix(BASE_URL).unwrap();
        json!({"method": request["method"], "path": path, "body": request["body"]})
    };
    requests.as_array().unwrap().iter().map(request).collect()
}

/// Cases that depend on the settings are not about mappings: keys are checked when the configuration is loaded, and by
/// `check`. Each case is listed by name, so that none is overlooked.
#[test]
fn cases_that_depend_on_settings_are_all_known() {
    let cases = cases(include_str!("../golden/calls.json"));
    let bodies = [
        "settings: empty key",
        "settings: key is a number",
        "settings: other settings beside the key",
    ];
    let elsewhere = [
        // Refused when the configuration is loaded: see configuration.rs.
        "settings: no key",
        "settings: key is an object",
        // `check` and the probe of a paused destination: see checking.rs and outcomes/paused.rs.
        "check of the key",
        "check of the key, refused",
    ];
    assert_eq!(cases.len(), bodies.len() + elsewhere.len());
    for (line, case) in &cases {
        let name = case["name"].as_str().unwrap();
        if bodies.contains(&name) {
            let requests = requests_of(&case["expect"]["requests"]);
            let answer = eval(std::slice::from_ref(line)).remove(0);
            assert_eq!(doubles(&answer["requests"]), doubles(&requests), "{name}");
        } else {
            assert!(elsewhere.contains(&name), "{name}");
        }
    }
}
