//! The migrations of the schema.

/// All migrations. The first one makes the schema, each of the others changes it. A released migration is never edited.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];
