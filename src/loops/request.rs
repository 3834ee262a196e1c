//! A request that delivers something, as Loops' published contract defines it.

use bytes::Bytes;

use crate::action::Endpoint;

/// A request to be made: where it goes and its JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The endpoint it goes to.
    pub endpoint: Endpoint,
    /// The body, as JSON.
    pub body: Bytes,
}
