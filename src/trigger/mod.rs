//! trigger.
