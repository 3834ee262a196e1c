//! The delivery engine: takes pending messages up in order and brings their requests to Loops.
//!
//! For each destination one [`Engine`] runs in every process; the one that holds the destination's
//! lease delivers, the others wait for it. Within an engine each order key has its lane: one step at
//! a time, in the order of acceptance, while other lanes go on. A step opens the lane's first
//! message, plans it if that was not done, freezes its requests on disk, makes one attempt and
//! records it. Nothing in memory matters: after a crash the same steps follow from the queue alone.
//!
//! The engine decides nothing by text and knows no HTTP beyond [`crate::loops`], and no SQL.

mod backoff;
mod disposition;
mod engine;
mod lanes;
mod merge;
mod merging;
mod pause;
mod step;
mod stop;

pub use backoff::RetryOptions;
pub use engine::{Engine, EngineOptions};
pub use stop::Stop;
