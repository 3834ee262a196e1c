//! destination.
