//! What a span is about.

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within this program.
    Internal,
    /// A request to another program.
    Client,
}
