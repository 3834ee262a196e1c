//! The import rules: a module knows the ones behind it on a message's way, never those before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may import of ours. `telemetry` (names of metrics) and `crash` (points for tests) are
/// open to all.
const OPEN: [&str; 2] = ["telemetry", "crash"];

/// The others.
fn rules() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("clock", &[] as &[_]),
        ("secret", &[]),
        ("telemetry", &[]),
        ("crash", &[]),
        ("segment", &[]),
        ("action", &[]),
        ("trigger", &["segment"]),
        ("mapping", &["segment"]),
        ("loops", &["action", "clock", "secret"]),
        ("destination", &["action", "segment", "trigger", "mapping", "loops"]),
        ("queue", &["action", "segment", "clock"]),
        ("store", &["queue", "action", "segment", "clock", "secret"]),
        ("delivery", &["queue", "action", "destination", "loops", "segment", "clock"]),
        ("http", &["queue", "segment", "clock", "secret"]),
        // Its API speaks with the error type of `http`.
        ("console", &["queue", "action", "destination", "segment", "clock", "secret", "http"]),
        ("config", &["segment", "destination", "secret"]),
        // Only the marker that makes the server drop a connection.
        ("sandbox", &["clock", "secret", "http"]),
    ])
}

/// Crates that belong to some modules alone.
const CRATES: [(&str, &[&str]); 9] = [
    ("sqlx", &["store"]),
    ("reqwest", &["loops"]),
    ("axum", &["http", "console", "sandbox", "app"]),
    ("hyper", &["http"]),
    ("utoipa", &["http", "console", "app"]),
    ("tokio", &["http", "console", "sandbox", "app", "cli", "delivery", "loops", "queue", "store"]),
    ("clap", &["cli", "config"]),
    ("indicatif", &["cli"]),
    ("flate2", &["cli"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of a file below `src`.
fn module_of(file: &Path, src: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The code of a file, without comments and without its unit tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let tested = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    tested.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The modules of ours that a text names as `crate::NAME`.
fn imports(code: &str) -> Vec<String> {
    let names = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
    };
    code.split("crate::").skip(1).map(names).filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_import_only_what_they_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rules = rules();
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30);
    let mut wrong = Vec::new();
    for file in &files {
        let module = module_of(file, &src);
        let code = code(file);
        if let Some(allowed) = rules.get(module.as_str()) {
            for import in imports(&code) {
                if import != module
                    && !OPEN.contains(&import.as_str())
                    && !allowed.contains(&import.as_str())
                {
                    wrong.push(format!("{}: {module} imports {import}", file.display()));
                }
            }
        } else {
            assert!(
                ["app", "cli", "lib", "main"].contains(&module.as_str()),
                "no rule for {module}"
            );
        }
        for (name, owners) in CRATES {
            let used = code.contains(&format!("{name}::"));
            if used && !owners.contains(&module.as_str()) {
                wrong.push(format!("{}: {module} uses the crate {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_time_and_the_environment_have_one_reader_each() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let module = module_of(&file, &src);
        let code = code(&file);
        for (text, owner) in
            [("Timestamp::now(", "clock"), ("SystemTime::now(", "clock"), ("env::var", "config")]
        {
            assert!(!code.contains(text) || module == owner, "{}: {text}", file.display());
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{}", file.display());
    }
}
