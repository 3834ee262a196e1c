//! The oldest compiler that builds the program is the one that `rust-version` names.
//!
//! Clippy's `incompatible_msrv` checks our own code's use of the standard library, and this test checks the
//! dependencies. Each release is also built with that compiler.

use std::process::Command;

use serde_json::Value;

/// Parses a version such as 1.90 or 1.90.0 for comparison.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap()).chain([0, 0]).take(3).collect()
}

#[test]
fn no_dependency_needs_a_newer_compiler_than_we_promise() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .filter(|(_, needed)| version(needed) > ours)
        .map(|(package, needed)| format!("{} needs {needed}", package["name"]))
        .collect();
    assert!(packages.len() > 100 && newer.is_empty(), "{newer:?}");
}
