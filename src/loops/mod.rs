//! Loops' vocabulary and the client that speaks it. Knows nothing of messages, mappings or queues.

mod request;

pub use request::{Endpoint, Request};
