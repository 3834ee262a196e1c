//! What the documents say is true: their examples are run.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::golden::eval;

/// The fenced blocks of a document with their language, without the indent that they stand in.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|line| line.trim() != "```");
        let inside = inside.map(|line| line.get(indent..).unwrap_or_default());
        blocks.push((language.to_owned(), inside.collect::<Vec<_>>().join("\n")));
    }
    blocks
}

const MAPPING: &str = include_str!("../../docs/mapping.md");

#[test]
fn every_line_of_the_mapping_guide_gives_what_it_says() {
    let mut lines = Vec::new();
    let mut answers = Vec::new();
    for (_, text) in blocks(MAPPING).iter().filter(|(language, _)| language == "eval") {
        for line in text.lines() {
            match line.strip_prefix("=> ") {
                Some(answer) => answers.push(serde_json::from_str::<Value>(answer).unwrap()),
                None => lines.push(line.to_owned()),
            }
        }
    }
    assert!(lines.len() > 50 && lines.len() == answers.len());
    for ((line, said), given) in lines.iter().zip(answers).zip(eval(&lines)) {
        assert_eq!(given, said, "{line}");
    }
}

#[test]
fn the_mapping_guide_shows_every_directive() {
    for directive in segment_loops::mapping::DIRECTIVES {
        assert!(MAPPING.contains(&format!("### `{directive}`")), "{directive}");
    }
}

#[test]
fn the_subscriptions_and_cases_of_the_mapping_guide_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut shown = 0;
    let check = |arguments: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.env_clear().args(["check", "--offline"]);
        for (option, file) in ["--subscriptions", "--cases"].iter().zip(arguments) {
            command.arg(option).arg(file);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    for (language, text) in blocks(MAPPING) {
        if ["toml", "yaml", "json"].contains(&language.as_str()) {
            let file = folder.path().join(format!("{shown}.{language}"));
            std::fs::write(&file, text).unwrap();
            check(&[&file]);
            shown += 1;
        } else if language == "yaml cases" {
            let file = folder.path().join("cases.yaml");
            std::fs::write(&file, text).unwrap();
            // They are of the subscription in YAML before them.
            check(&[&folder.path().join("1.yaml"), &file]);
            shown += 1;
        }
    }
    assert_eq!(shown, 5);
}
