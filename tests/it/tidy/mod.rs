//! The import rules: a module may import the modules after it on a message's way, never those before it. The rules are
//! checked on parsed source, so that it does not matter how an import is written.

mod files;
mod references;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use files::Files;
use references::{Kind, Reference, references};

/// Modules that every module may import: `telemetry` (names of metrics), `crash` (points for tests), and `simulation`,
/// which exists only in unit tests.
const OPEN: [&str; 3] = ["telemetry", "crash", "simulation"];

/// The modules that each module may import besides those in `OPEN`.
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
        // From `config` only `StoreConfig`: only the store knows which keys concern its engine.
        ("store", &["queue", "action", "segment", "clock", "secret", "config"]),
        (
            "delivery",
            &["js", "queue", "action", "destination", "loops", "segment", "clock", "large"],
        ),
        ("feedback", &["queue", "segment", "secret"]),
        ("alerts", &["queue"]),
        ("http", &["js", "queue", "segment", "clock", "secret", "large", "feedback"]),
        // Its API uses the error type of `http`. From `config` it uses only the reading of texts.
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
        // From `feedback` only the check that a secret contains a key.
        ("config", &["js", "destination", "secret", "feedback"]),
        // From `http` only the marker that makes the server drop a connection; from `loops` and `feedback` what it
        // needs to send webhooks as Loops does.
        ("sandbox", &["clock", "secret", "http", "loops", "feedback"]),
        // Only in tests: it wraps everything between the intake and Loops.
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

/// Crates that only some modules may use.
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

/// The code of a file, without comments and without its unit tests.
pub fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let tested = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    tested.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Our top-level modules that a file refers to.
fn imported<'r>(found: &'r [Reference], modules: &[&str]) -> Vec<&'r str> {
    let ours = found.iter().filter(|reference| reference.is_ours);
    let tops = ours.filter_map(|reference| reference.path.first());
    tops.map(String::as_str).filter(|top| modules.contains(top)).collect()
}

/// Whether `names` follow each other in a path.
fn has(reference: &Reference, names: [&str; 2]) -> bool {
    reference.path.windows(2).any(|pair| pair == names)
}

#[test]
fn imports_are_seen_however_they_are_written() {
    let cases: [(&str, &str, &[&str]); 15] = [
        ("use crate::queue::Work;\nuse crate::clock;", "a", &["queue", "clock"]),
        ("use crate::{delivery, loops};", "a::b", &["delivery", "loops"]),
        (
            "use crate::{loops::{Client, Slot}, queue::{self, Work}, Thing};",
            "a",
            &["loops", "loops", "queue", "queue"],
        ),
        ("use {crate::store, std::fmt};", "a", &["store"]),
        ("pub(crate) use crate::store as kept;", "a", &["store"]),
        ("fn f() { let it = crate::store::open(); }", "a::b::c", &["store"]),
        (
            "fn f(work: &dyn crate::queue::Work) -> Vec<crate::loops::Slot> {}",
            "a",
            &["queue", "loops"],
        ),
        (
            "fn f() { assert_eq!(crate::store::open(), [(crate::clock::now())]); }",
            "a",
            &["store", "clock"],
        ),
        (
            "fn f() { select! { it = g() => { use crate::{loops, queue::Work}; } } }",
            "a",
            &["loops", "queue"],
        ),
        ("macro_rules! m { () => { $crate::store::open() } }", "a", &["store"]),
        ("#[derive(crate::store::Row)] struct Row;", "a", &["store"]),
        ("use super::super::loops::Client;\nuse super::lanes::Lanes;", "a::b", &["loops"]),
        ("use super::{http, Error};", "a", &["http"]),
        ("mod inner { use super::super::super::http; }", "a::b", &["http"]),
        (
            "// crate::http\n/// [`crate::http`]\nconst A: &str = \"crate::http\";\n#[cfg(test)] mod t { use crate::http; }",
            "a",
            &[],
        ),
    ];
    let modules = ["clock", "delivery", "http", "loops", "queue", "store"];
    for (source, module, expected) in cases {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        let found = references(source, &module);
        assert_eq!(imported(&found, &modules), expected, "{source}");
    }
}

#[test]
fn crates_are_seen_however_they_are_written() {
    for source in [
        "use axum::Router;",
        "use axum;",
        "use {std::fmt, axum::{self}};",
        "fn f(it: axum::Router) {}",
        "fn f() { g!(axum::serve(it)); }",
    ] {
        let found = references(source, &["a".to_owned()]);
        assert!(found.iter().any(|reference| reference.path[0] == "axum"), "{source}");
    }
}

#[test]
fn modules_import_only_what_they_may() {
    let rules = rules();
    let files = Files::read(&src());
    let modules = files.tops();
    assert!(files.iter().count() > 30);
    let mut wrong = Vec::new();
    for (file, found) in files.iter() {
        // Unit tests may import anything, also in a separate file.
        if file.last().is_some_and(|name| name == "tests") {
            continue;
        }
        let module = file.first().map_or("lib", String::as_str);
        if let Some(allowed) = rules.get(module) {
            for import in imported(found, &modules) {
                if import != module && !OPEN.contains(&import) && !allowed.contains(&import) {
                    wrong.push(format!("{}: {module} imports {import}", file.join("::")));
                }
            }
        } else {
            assert!(["app", "cli", "lib", "main"].contains(&module), "no rule for {module}");
        }
        // References through another name of the crate would not be found.
        let renames = |it: &&Reference| it.is_ours && it.path.is_empty() && it.alias.is_some();
        if found.iter().any(|it| renames(&it)) {
            wrong.push(format!("{}: {module} gives the crate another name", file.join("::")));
        }
        for (name, owners) in CRATES {
            let is_used = found.iter().any(|other| !other.is_ours && other.path[0] == name);
            if is_used && !owners.contains(&module) {
                wrong.push(format!("{}: {module} uses the crate {name}", file.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn circles_are_found() {
    let file = |path: &str, source: &str| (PathBuf::from(path), source.to_owned());
    let with = |c: &str| {
        Files::of([
            file("a/mod.rs", "mod b; mod c; mod d; pub use b::B; use c::C;"),
            file("a/b.rs", "use super::c::C;"),
            file("a/c.rs", c),
            file("a/d.rs", "use super::*; fn f() { c::g(); }"),
        ])
    };
    for straight in [
        "",
        "use crate::x::B;",
        "#[cfg(test)] mod tests { use super::super::B; }",
        "macro_rules! m { () => { pub(super) const D: () = ::d::g!(); } }",
        "mod d; fn f() { ::d::g(); }",
    ] {
        assert!(with(straight).circles("a").is_empty(), "{straight}");
    }
    // A name that the module re-exports belongs to the file that defines it.
    for (round, circle) in [
        ("use super::B;", &["a::b", "a::c"][..]),
        ("fn f() { crate::a::b::g(); }", &["a::b", "a::c"]),
        ("use super::d::D;", &["a", "a::c", "a::d"]),
        ("use super::Other;", &["a", "a::c"]),
    ] {
        let found = with(round).circles("a");
        assert_eq!(found.len(), 1, "{round}");
        assert_eq!(found[0].iter().collect::<Vec<_>>(), circle, "{round}");
    }
    // A module that uses what it re-exports depends on it.
    for (source, count) in
        [("mod b; pub use b::B;", 0), ("mod b; pub use b::B; fn f(it: &B) {}", 1)]
    {
        let files = Files::of([file("a/mod.rs", source), file("a/b.rs", "use super::A;")]);
        assert_eq!(files.circles("a").len(), count, "{source}");
    }
}

#[test]
fn files_of_a_module_do_not_import_each_other_in_circles() {
    let files = Files::read(&src());
    let mut wrong = Vec::new();
    for module in files.tops() {
        let circles = files.circles(module);
        if !circles.is_empty() {
            wrong.push(format!("{module}: {circles:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_time_and_the_environment_have_one_reader_each() {
    let readers = [
        (["Timestamp", "now"], &["clock"][..]),
        (["SystemTime", "now"], &["clock"]),
        // `main` reads a variable of the allocator, which is not configuration.
        (["env", "var"], &["config", "simulation", "main"]),
        (["env", "vars"], &["config", "simulation", "main"]),
        (["env", "var_os"], &["config", "simulation", "main"]),
    ];
    for (file, found) in Files::read(&src()).iter() {
        let module = file.first().map_or("lib", String::as_str);
        for (names, owners) in readers {
            let reads =
                |reference: &&Reference| reference.kind != Kind::Test && has(reference, names);
            let is_owner = owners.contains(&module);
            assert!(
                is_owner || !found.iter().any(|it| reads(&it)),
                "{}: {names:?}",
                file.join("::")
            );
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
