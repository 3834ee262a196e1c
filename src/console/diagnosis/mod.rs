//! The diagnosis: one sentence about the state of the service, the first of a closed list that applies.

mod find;
mod kind;

pub use kind::{Diagnosis, DiagnosisCode};
