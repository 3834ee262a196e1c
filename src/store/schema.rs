//! How the schema of a store compares with that of this program.

/// How the schema of a store compares with the one that this program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// There is no schema yet: [`open`](super::open) creates it.
    Missing,
    /// The schema is this program's own.
    Current {
        /// Its version.
        version: i32,
    },
    /// The schema is older: [`open`](super::open) migrates it.
    Older {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
    /// A newer program made the schema, and this one can use it.
    Newer {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
}
