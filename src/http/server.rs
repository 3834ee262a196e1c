//! Serves a router on a listener.

/// Put into a response's extensions, makes the server drop the connection without an answer.
#[derive(Debug, Clone, Copy)]
pub struct ResetConnection;
