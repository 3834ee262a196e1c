//! Why a call of the store failed, by what the caller can do about it.

/// The store cannot be read or written (full disk, lost database). The caller must retry later.
#[derive(Debug, thiserror::Error)]
#[error("the store is unavailable")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why messages were not accepted, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too much is waiting to be written. The sender must retry later.
    #[error("the queue cannot take more messages at the moment")]
    Busy,
    /// Too many messages, or too many bytes, are waiting to be delivered. The sender must retry much later.
    #[error(
        "the backlog of messages is full: find out what delays their delivery, or raise store.backlog_messages_max and store.backlog_bytes_max"
    )]
    Full,
    /// The disk has little free space, which is reserved for messages that matter more. The sender must retry much
    /// later.
    #[error(
        "the disk has little free space: make room, or lower store.free_bytes_min, the reserve for other messages"
    )]
    Reserved,
    /// Nothing can be stored at the moment.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a step of a delivery failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Another process holds the lease. This process must stop delivering for the destination.
    #[error("the lease was lost to another process")]
    Fenced,
    /// The store is unavailable. The caller must retry later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The records of this message contradict each other, or this release cannot read them. A retry would fail in the
    /// same way, so the message must be set aside.
    #[error("the records of the message are broken")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}
