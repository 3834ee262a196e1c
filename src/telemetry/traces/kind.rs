//! The kinds of spans.

/// The kinds of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within this program.
    Internal,
    /// A request to another program.
    Client,
}
