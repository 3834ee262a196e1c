//! The names of the metrics.

/// Duration of requests until their response began, in seconds, by `http_request_method`, `http_route` (`unknown` for a
/// path that does not exist) and `http_response_status_code`.
pub const HTTP_REQUEST_SECONDS: &str = "http_server_request_duration_seconds";
/// Requests that wait for their response, by `http_request_method`.
pub const HTTP_ACTIVE: &str = "http_server_active_requests";
/// Messages accepted as new, by `source` and `type`.
pub const MESSAGES_ACCEPTED: &str = "segment_loops_messages_accepted_total";
/// Messages that had been accepted before, by `source` and `type`.
pub const MESSAGES_DUPLICATE: &str = "segment_loops_messages_duplicate_total";
/// When a message was last accepted, in seconds since 1970, by `source`; absent before the first message.
pub const LAST_MESSAGE: &str = "segment_loops_last_message_timestamp_seconds";
/// After how long without a message a source counts as silent, in seconds, by `source`; 0: never.
pub const SILENT_AFTER: &str = "segment_loops_source_silent_after_seconds";
/// Requests, and messages of batches, that were rejected, by `source` (empty if it is not known), `endpoint` (`unknown`
/// for a path that does not exist) and `code`.
pub const REJECTED: &str = "segment_loops_rejected_total";
/// Open connections, by `listener` (`public`, `admin`).
pub const CONNECTIONS_OPEN: &str = "segment_loops_connections_open";
/// Connections that were closed on purpose, by `listener` and `reason` (`address_connections_max`,
/// `write_timeout`, `no_room`).
pub const CONNECTIONS_CUT: &str = "segment_loops_connections_cut_total";
/// Messages that no subscription took, by `destination` and `reason`.
pub const UNMATCHED: &str = "segment_loops_unmatched_total";
/// Deliveries from which a guard removed something, or that it kept from being sent, by `destination` and `guard`.
pub const GUARDED: &str = "segment_loops_guarded_total";
/// Replayed messages that were planned again, by `destination`.
pub const REPLAYED: &str = "segment_loops_replayed_messages_total";
/// Failed events that were replayed automatically, by `destination`.
pub const REVIVED: &str = "segment_loops_revived_total";
/// Contacts that Loops was not known to have before it accepted a request for them, by `destination`.
pub const NEW_CONTACTS: &str = "segment_loops_new_contacts_total";
/// Requests that were not needed, by `destination` and how they were saved.
pub const REQUESTS_SAVED: &str = "segment_loops_requests_saved_total";
/// Age of the catalogue of properties, lists and events at Loops, in seconds, by `destination`.
pub const CATALOGUE_AGE: &str = "segment_loops_catalogue_age_seconds";
/// Erasures of people that have not ended, by `destination`.
pub const ERASURES_PENDING: &str = "segment_loops_erasures_pending";
/// Deliveries that ended, by `destination`, `action` and `outcome`.
pub const DELIVERIES: &str = "segment_loops_deliveries_total";
/// Requests to Loops, by `destination`, `endpoint` and `status`.
pub const LOOPS_REQUESTS: &str = "segment_loops_loops_requests_total";
/// Duration of requests to Loops in seconds, by `destination`, `endpoint` and `status`.
pub const LOOPS_REQUEST_SECONDS: &str = "segment_loops_loops_request_duration_seconds";
/// Attempts at requests to Loops, by `destination` and `outcome`.
pub const ATTEMPTS: &str = "segment_loops_attempts_total";
/// Time from accepting a message until Loops accepted a request for it, in seconds, by `destination` and `class`;
/// without replays.
pub const DELIVERY_SECONDS: &str = "segment_loops_delivery_latency_seconds";
/// Requests that wait for Loops' response, by `destination`.
pub const REQUESTS_IN_FLIGHT: &str = "segment_loops_requests_in_flight";
/// Lanes whose first message waits for its next attempt, by `destination`.
pub const LANES_RETRYING: &str = "segment_loops_lanes_retrying";
/// Pending messages, by `destination` and `class` (`event`, `live`, `bulk`).
pub const QUEUE_DEPTH: &str = "segment_loops_queue_depth_messages";
/// Messages that are held, by `destination`, not counting messages that wait behind them.
pub const HELD_MESSAGES: &str = "segment_loops_held_messages";
/// Age of the oldest pending message in seconds, by `destination` and `class`.
pub const QUEUE_OLDEST_SECONDS: &str = "segment_loops_queue_oldest_age_seconds";
/// How long the pending messages of a class and of those before it take to be sent, in seconds, by `destination` and
/// `class`: at the rate in force, with one request for each, without those that are held.
pub const QUEUE_DRAIN_SECONDS: &str = "segment_loops_queue_drain_seconds";
/// Requests per second in force, by `destination`.
pub const RATE_LIMIT: &str = "segment_loops_rate_limit_requests_per_second";
/// Requests per second that are allowed unless Loops slows us down, by `destination`.
pub const RATE_LIMIT_MAX: &str = "segment_loops_rate_limit_max_requests_per_second";
/// 1 while a destination is paused because Loops refuses its key or there is no Loops at its base URL, otherwise 0, by
/// `destination`.
pub const DESTINATION_PAUSED: &str = "segment_loops_destination_paused";
/// 1 while messages can be stored, otherwise 0.
pub const STORE_READY: &str = "segment_loops_store_ready";
/// Messages that are being stored: received or replayed ones whose transaction has not ended.
pub const STORE_WAITING: &str = "segment_loops_store_waiting_messages";
/// Duration of transactions that write messages and outcomes, in seconds; with PostgreSQL, only of transactions that
/// write messages.
pub const STORE_COMMIT_SECONDS: &str = "segment_loops_store_commit_seconds";
/// Messages that are accepted in one transaction.
pub const STORE_GROUP_MESSAGES: &str = "segment_loops_store_group_messages";
/// Free bytes for new messages on the disk of the database. Not with PostgreSQL.
pub const STORE_FREE_BYTES: &str = "segment_loops_store_free_bytes";
/// Size of the disk of the database in bytes. Not with PostgreSQL.
pub const STORE_DISK_BYTES: &str = "segment_loops_store_disk_bytes";
/// Size of the database file in bytes. Not with PostgreSQL.
pub const STORE_BYTES: &str = "segment_loops_store_bytes";
/// Size of the write-ahead log in bytes. Not with PostgreSQL.
pub const STORE_LOG_BYTES: &str = "segment_loops_store_wal_bytes";
/// When the last backup of the database was made, in seconds since 1970; absent before the first backup. Not with
/// PostgreSQL.
pub const BACKUP_TIMESTAMP: &str = "segment_loops_backup_timestamp_seconds";
/// 1 if the last reload of the configuration succeeded or there was none, otherwise 0.
pub const RELOAD_SUCCESSFUL: &str = "segment_loops_config_last_reload_successful";
/// When the configuration was last loaded without errors, in seconds since 1970.
pub const RELOAD_TIMESTAMP: &str = "segment_loops_config_last_reload_success_timestamp_seconds";
/// Always 1, with the `version` and the `revision` of the source code (empty unless the build was given one).
pub const BUILD_INFO: &str = "segment_loops_build_info";
/// When the process started, in seconds since 1970.
pub const PROCESS_START: &str = "process_start_time_seconds";
/// Resident memory of the process in bytes.
pub const PROCESS_MEMORY: &str = "process_resident_memory_bytes";
/// Processor time of the process in whole seconds.
pub const PROCESS_CPU: &str = "process_cpu_seconds_total";
/// Open files and connections of the process.
pub const PROCESS_OPEN_FILES: &str = "process_open_fds";
/// The most files and connections that the system allows the process to open.
pub const PROCESS_MAX_FILES: &str = "process_max_fds";
/// 1 while this process holds the lease of a destination, otherwise 0, by `destination`.
pub const LEASE_HELD: &str = "segment_loops_lease_held";
/// How often this process took the lease of a destination, by `destination`.
pub const LEASE_CHANGES: &str = "segment_loops_lease_changes_total";
/// How often this process lost the lease of a destination that it had not given back, by `destination`.
pub const FENCED: &str = "segment_loops_fenced_total";
/// When Loops last reported something by its webhooks, in seconds since 1970, by `destination`; there is none before the
/// first.
pub const LAST_FEEDBACK: &str = "segment_loops_last_feedback_timestamp_seconds";
/// Events that Loops reported by its webhooks, by `destination` and `event` (`other` if this release does not know it).
pub const FEEDBACK: &str = "segment_loops_feedback_total";
/// Webhooks to hand on, by `destination` and `outcome`: `handed_on`, `failed` (will be tried again), `given_up`,
/// `not_kept` (too many are waiting).
pub const FEEDBACK_FORWARDS: &str = "segment_loops_feedback_forwards_total";
/// The values of `outcome` of [`FEEDBACK_FORWARDS`].
pub const FORWARD_OUTCOMES: [&str; 4] = ["handed_on", "failed", "given_up", "not_kept"];
/// Log lines that were dropped because too many were waiting to be written.
pub const LOG_LINES_DROPPED: &str = "segment_loops_log_lines_dropped_total";
