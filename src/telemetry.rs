//! What operators see: the log subscriber and the names of the metrics. Any module may use the names.

/// Messages accepted as new, by `source` and `type`.
pub const MESSAGES_ACCEPTED: &str = "segment_loops_messages_accepted_total";
/// Messages that had been accepted before, by `source` and `type`.
pub const MESSAGES_DUPLICATE: &str = "segment_loops_messages_duplicate_total";
/// Messages refused, by `source`, `type` and `code`.
pub const MESSAGES_REFUSED: &str = "segment_loops_messages_refused_total";
/// Deliveries that ended, by `destination`, `action` and `outcome`.
pub const DELIVERIES: &str = "segment_loops_deliveries_total";
/// Requests to Loops, by `destination`, `endpoint` and `status`.
pub const LOOPS_REQUESTS: &str = "segment_loops_loops_requests_total";
/// Duration of requests to Loops in seconds, by `destination`, `endpoint` and `status`.
pub const LOOPS_REQUEST_SECONDS: &str = "segment_loops_loops_request_duration_seconds";
/// Pending messages, by `destination`.
pub const QUEUE_DEPTH: &str = "segment_loops_queue_depth_messages";
/// Age of the oldest pending message in seconds, by `destination`.
pub const QUEUE_OLDEST_SECONDS: &str = "segment_loops_queue_oldest_age_seconds";
/// Requests per second in force, by `destination`.
pub const RATE_LIMIT: &str = "segment_loops_rate_limit_requests_per_second";
/// 1 while a destination is paused because Loops refuses its key, else 0, by `destination`.
pub const DESTINATION_PAUSED: &str = "segment_loops_destination_paused";
/// 1 while this process holds the lease of a destination, else 0, by `destination`.
pub const LEASE_HELD: &str = "segment_loops_lease_held";
