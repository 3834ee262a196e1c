//! http.
pub mod server;
