//! The migrations of the schema.

/// A migration from one version of the schema to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    /// Runs in one transaction with the change of the version. A released migration is never edited.
    pub(super) sql: &'static str,
    /// The lowest version whose programs work with the schema after this migration.
    ///
    /// While an operator replaces processes one by one, programs of the previous version use the migrated schema. So a
    /// migration only adds what they can ignore; what they still use is removed by the next version.
    pub(super) usable_from: i32,
}

/// All migrations. The first one makes the schema.
pub(super) const MIGRATIONS: &[Migration] =
    &[Migration { sql: include_str!("schema.sql"), usable_from: 1 }];
