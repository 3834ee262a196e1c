//! The documents are correct: their examples are run.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::golden::eval;
use crate::tidy;

/// The fenced blocks of a document with their languages, without indentation.
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

/// The pages about subscriptions and mappings, in reading order.
const MAPPING: &str = concat!(
    include_str!("../../docs/mapping.md"),
    include_str!("../../docs/trying.md"),
    include_str!("../../docs/recipes.md"),
    include_str!("../../docs/contacts.md"),
    include_str!("../../docs/migrating.md"),
);

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
    let (mut shown, mut recipe) = (0, String::new());
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
        let (language, is_cases) = match language.strip_suffix(" cases") {
            Some(language) => (language, true),
            None => (language.as_str(), false),
        };
        let extension = language.trim_end_matches(" recipe");
        if is_cases {
            let file = folder.path().join("cases.yaml");
            std::fs::write(&file, text).unwrap();
            // The cases of a recipe test its own subscriptions; those in YAML test the first ones.
            let of = if language == extension { "1.yaml".to_owned() } else { recipe.clone() };
            check(&[&folder.path().join(of), &file]);
        } else if ["toml", "yaml", "json"].contains(&extension)
            && !text.starts_with("[destinations")
        {
            let name = format!("{shown}.{extension}");
            let file = folder.path().join(&name);
            std::fs::write(&file, text).unwrap();
            check(&[&file]);
            if language != extension {
                recipe = name;
            }
        } else {
            continue;
        }
        shown += 1;
    }
    assert_eq!(shown, 13);
}

#[test]
fn the_subscriptions_of_the_readme_take_its_first_messages() {
    let readme = blocks(include_str!("../../README.md"));
    let (_, text) = readme.iter().find(|(language, _)| language == "toml").unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    for (sample, request) in [("identify", "PUT /contacts/update"), ("track", "POST /events/send")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.env_clear().args(["preview", &format!("samples/{sample}.json")]);
        let output = command.arg("--subscriptions").arg(file.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(request), "{text}");
    }
}

#[test]
fn the_program_logs_the_lines_that_the_runbook_explains() {
    let mut files = Vec::new();
    tidy::sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let code: String = files.iter().map(|file| tidy::code(file)).collect();
    let runbook = include_str!("../../docs/runbook.md");
    let (_, table) = runbook.split_once("## At 3 a.m.").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let seen: Vec<&str> = rows.skip(1).map(|row| row.split(" | ").next().unwrap()).collect();
    assert!(seen.len() > 20);
    // Every second piece between backticks is quoted; values of fields are not messages.
    let quoted = seen.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2));
    for line in quoted.filter(|line| !line.starts_with("outcome: ")) {
        for part in line.split('…').map(str::trim).filter(|part| !part.is_empty()) {
            assert!(code.contains(part), "nothing logs `{part}`");
        }
    }
}

/// The anchors that GitHub generates for the headings of a document.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents =
        std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name));
    let mut found = 0;
    for document in documents.chain(top) {
        let text = std::fs::read_to_string(&document).unwrap();
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let anchors = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(anchors.iter().any(|one| one == anchor), "{}: {link}", document.display());
            }
            found += 1;
        }
    }
    assert!(found > 30);
}
