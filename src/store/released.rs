//! Records the schema of each release, so that a test fails if a released migration is edited.

use sha2::{Digest as _, Sha256};

use super::{postgres, sqlite};

/// A release. For each engine: its number of migrations, and the first 16 hexadecimal digits of their SHA-256.
struct Release {
    version: &'static str,
    sqlite: (usize, &'static str),
    postgres: (usize, &'static str),
}

/// All releases, oldest first. When the changelog gets a new release, a test fails and prints the entry to add.
const RELEASES: &[Release] = &[];

fn digest(migrations: &[&str]) -> String {
    let digest = Sha256::digest(migrations.concat());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn no_migration_of_a_release_was_edited() {
    let (sqlite, postgres) = (sqlite::migrations(), postgres::migrations());
    for release in RELEASES {
        let all = [("sqlite", &sqlite, release.sqlite), ("postgres", &postgres, release.postgres)];
        for (engine, migrations, (count, expected)) in all {
            assert_eq!(
                migrations.get(..count).map(digest).as_deref(),
                Some(expected),
                "{engine}: what {} was released with must stay as it is: undo the edit, and add a migration",
                release.version
            );
        }
    }
}

#[test]
fn each_release_in_the_changelog_has_its_schemas_here() {
    let changelog = include_str!("../../CHANGELOG.md");
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let mut released: Vec<&str> = headings
        .filter_map(|heading| heading.split(' ').next())
        .filter(|first| *first != "Unreleased")
        .collect();
    released.reverse();
    let known: Vec<&str> = RELEASES.iter().map(|release| release.version).collect();
    let (sqlite, postgres) = (sqlite::migrations(), postgres::migrations());
    assert_eq!(
        released,
        known,
        "add to RELEASES: sqlite: ({}, {:?}), postgres: ({}, {:?})",
        sqlite.len(),
        digest(&sqlite),
        postgres.len(),
        digest(&postgres)
    );
}
