//! The import rules: a module knows the ones behind it on a message's way, never those before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module may import of ours. `telemetry` (names of metrics) and `crash` (points for tests) are
/// open to all, and so is `simulation`, which exists in unit tests alone.
const OPEN: [&str; 3] = ["telemetry", "crash", "simulation"];

/// The others.
fn rules() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("clock", &[] as &[_]),
        ("secret", &[]),
        ("telemetry", &[]),
        ("crash", &[]),
        ("js", &[]),
        ("segment", &["js"]),
        ("action", &[]),
        ("trigger", &["js", "segment"]),
        ("mapping", &["js"]),
        ("loops", &["action", "clock", "secret"]),
        ("destination", &["js", "action", "segment", "trigger", "mapping", "loops"]),
        ("large", &[]),
        ("queue", &["js", "action", "segment", "clock"]),
        // Of `config` only `StoreConfig`: the store alone knows which keys concern its engine.
        ("store", &["queue", "action", "segment", "clock", "secret", "config"]),
        (
            "delivery",
            &["js", "queue", "action", "destination", "loops", "segment", "clock", "large"],
        ),
        ("feedback", &["queue", "segment", "secret"]),
        ("alerts", &["queue"]),
        ("http", &["js", "queue", "segment", "clock", "secret", "large", "feedback"]),
        // Its API speaks with the error type of `http`. Of `config` only how texts are read.
        (
            "console",
            &[
                "js",
                "queue",
                "action",
                "destination",
                "segment",
                "clock",
                "secret",
                "http",
                "large",
                "config",
            ],
        ),
        // Of `feedback` only whether a secret holds a key.
        ("config", &["js", "destination", "secret", "feedback"]),
        // Of `http` only the marker that makes the server drop a connection; of `loops` and `feedback` what it needs to
        // send webhooks as Loops does.
        ("sandbox", &["clock", "secret", "http", "loops", "feedback"]),
        // Only in tests: around everything between the intake and Loops.
        (
            "simulation",
            &[
                "js",
                "queue",
                "action",
                "delivery",
                "destination",
                "loops",
                "segment",
                "clock",
                "large",
            ],
        ),
    ])
}

/// Crates that belong to some modules alone.
const CRATES: [(&str, &[&str]); 14] = [
    ("rusqlite", &["store"]),
    ("tokio_postgres", &["store"]),
    ("tokio_rustls", &["store"]),
    ("reqwest", &["loops", "simulation"]),
    ("axum", &["http", "console", "sandbox", "app"]),
    ("hyper", &["http"]),
    ("utoipa", &["http", "console", "app"]),
    (
        "tokio",
        &[
            "clock",
            "http",
            "console",
            "sandbox",
            "alerts",
            "app",
            "cli",
            "delivery",
            "loops",
            "queue",
            "store",
            "large",
            "simulation",
        ],
    ),
    ("clap", &["cli", "config"]),
    ("indicatif", &["cli"]),
    ("flate2", &["cli", "http"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
];

pub fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
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

/// How many modules a file is below the root: 1 for `a.rs` and `a/mod.rs`, 2 for `a/b.rs`.
fn depth(file: &Path, src: &Path) -> usize {
    let parts = file.strip_prefix(src).unwrap().components().count();
    parts - usize::from(file.ends_with("mod.rs"))
}

/// The code of a file, without comments and without its unit tests.
pub fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let tested = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    tested.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The modules of ours that the code of a file names: by `crate::NAME`, by `crate::{NAME, NAME::…}`, or by as
/// many `super::` as lead from a file at this depth to the root.
fn imports(code: &str, depth: usize) -> Vec<String> {
    let root = "super::".repeat(depth);
    let up = code.match_indices(&root).map(|(at, root)| &code[at + root.len()..]);
    let rest = code.split("crate::").skip(1).chain(up);
    rest.flat_map(named).filter(|name| !name.is_empty() && name != "super").collect()
}

/// The first names of what stands behind `crate::`.
fn named(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = vec![name(group)];
    let mut open = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    names
}

#[test]
fn imports_are_seen_however_they_are_written() {
    let cases: [(&str, usize, &[&str]); 8] = [
        ("use crate::queue::Work;\nuse crate::clock;", 1, &["queue", "clock"]),
        ("use crate::{delivery, loops};", 2, &["delivery", "loops"]),
        (
            "use crate::{\n    loops::{Client, Slot},\n    queue::{self, Work},\n    Thing,\n};\nuse x::{a};",
            1,
            &["loops", "queue"],
        ),
        ("let it = crate::store::open();", 3, &["store"]),
        ("use super::lanes::Lanes;", 2, &[]),
        ("use super::super::loops::Client;", 2, &["loops"]),
        ("use super::store;", 1, &["store"]),
        ("use super::{http, Error};", 1, &["http"]),
    ];
    for (code, depth, expected) in cases {
        assert_eq!(imports(code, depth), expected, "{code}");
    }
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
            for import in imports(&code, depth(file, &src)) {
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
            // `main` looks at a variable of the allocator, which is none of the configuration.
            let others = if owner == "config" { &["simulation", "main"][..] } else { &[] };
            let is_owner = module == owner || others.contains(&module.as_str());
            assert!(!code.contains(text) || is_owner, "{}: {text}", file.display());
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
